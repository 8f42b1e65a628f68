//! A load generator: each connection keeps one request in flight over HTTP/1.1 keep-alive. Written on raw sockets, so that
//! it takes as little as possible of the cores it shares with what it measures.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// Requests, in turn and again and again.
pub struct Shape {
    port: u16,
    tls: Option<TlsConnector>,
    requests: Arc<[Vec<u8>]>,
    /// The most requests a second, of all connections together.
    cap: Option<f64>,
}

impl Shape {
    /// One request: a JSON body to a path on a loopback port.
    pub fn new(port: u16, path: &str, token: &str, body: &str) -> Self {
        Self::several(port, [(path, token, body)])
    }

    /// Several, each with path, bearer token and body. Connections begin at different ones.
    pub fn several<'a>(port: u16, requests: impl IntoIterator<Item = (&'a str, &'a str, &'a str)>) -> Self {
        let bytes = |(path, token, body): (&str, &str, &str)| {
            let length = body.len();
            format!(
                "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n\
                 authorization: Bearer {token}\r\ncontent-length: {length}\r\n\r\n{body}"
            )
            .into_bytes()
        };
        Self { port, tls: None, requests: requests.into_iter().map(bytes).collect(), cap: None }
    }

    /// The same at a capped rate of requests a second.
    pub fn at_most(mut self, per_second: f64) -> Self {
        self.cap = Some(per_second);
        self
    }

    /// The same over TLS, believing the authority in this file.
    pub fn over_tls(mut self, authority: &Path) -> anyhow::Result<Self> {
        let roots = service::tls::certificates_from_file(authority)?;
        self.tls = Some(TlsConnector::from(Arc::new(service::tls::client_config(roots, None)?)));
        Ok(self)
    }
}

/// What came of it.
pub struct Load {
    /// Requests a second.
    pub rate: f64,
    latencies: Vec<f64>,
}

impl Load {
    /// Rate and latencies.
    pub fn json(&self) -> Value {
        let at = |part: f64| {
            let index = ((self.latencies.len() as f64 - 1.0) * part) as usize;
            self.latencies.get(index).map(|latency| (latency * 1000.0).round() / 1000.0)
        };
        json!({ "requests_per_s": self.rate.round(), "p50_ms": at(0.5), "p99_ms": at(0.99), "p99_9_ms": at(0.999) })
    }
}

/// Runs the shape on this many connections for this long.
pub async fn run(shape: &Shape, connections: usize, time: Duration) -> anyhow::Result<Load> {
    let started = Instant::now();
    let end = started + time;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..connections {
        let (requests, port, tls) = (shape.requests.clone(), shape.port, shape.tls.clone());
        let every = shape.cap.map(|cap| Duration::from_secs_f64(connections as f64 / cap));
        tasks.spawn(async move {
            let socket = TcpStream::connect(("127.0.0.1", port)).await?;
            socket.set_nodelay(true)?;
            let first = number * requests.len() / connections;
            match tls {
                None => one(socket, &requests, first, every, end).await,
                Some(tls) => one(tls.connect("localhost".try_into()?, socket).await?, &requests, first, every, end).await,
            }
        });
    }
    let mut latencies = Vec::new();
    while let Some(result) = tasks.join_next().await {
        latencies.extend(result??);
    }
    let rate = latencies.len() as f64 / started.elapsed().as_secs_f64();
    latencies.sort_by(f64::total_cmp);
    Ok(Load { rate, latencies })
}

async fn one(
    mut socket: impl AsyncRead + AsyncWrite + Unpin,
    requests: &[Vec<u8>],
    first: usize,
    every: Option<Duration>,
    end: Instant,
) -> anyhow::Result<Vec<f64>> {
    let mut requests = requests.iter().cycle().skip(first);
    let mut buffer = vec![0; 1024 * 1024];
    let mut latencies = Vec::with_capacity(1 << 16);
    while let Some(request) = requests.next().filter(|_| Instant::now() < end) {
        let sent = Instant::now();
        socket.write_all(request).await?;
        socket.flush().await?;
        answer(&mut socket, &mut buffer).await?;
        latencies.push(sent.elapsed().as_secs_f64() * 1000.0);
        if let Some(every) = every {
            tokio::time::sleep(every.saturating_sub(sent.elapsed())).await;
        }
    }
    Ok(latencies)
}

/// Reads one answer with a content length; anything but 200 is an error.
async fn answer(socket: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> anyhow::Result<()> {
    let mut filled = 0;
    loop {
        let read = socket.read(&mut buffer[filled..]).await?;
        ensure!(read > 0, "the server closed the connection");
        filled += read;
        let Some(head) = find(&buffer[..filled], b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(&buffer[..head])?;
        if !text.starts_with("HTTP/1.1 200") {
            bail!("{}", String::from_utf8_lossy(&buffer[..filled]));
        }
        let length = content_length(text).context("no content length")?;
        let whole = head + 4 + length;
        ensure!(whole <= buffer.len(), "the answer is too long");
        while filled < whole {
            let read = socket.read(&mut buffer[filled..]).await?;
            ensure!(read > 0, "the server closed the connection");
            filled += read;
        }
        return Ok(());
    }
}

fn content_length(head: &str) -> Option<usize> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Streams a file through an endpoint into another file; the time it took.
pub async fn stream(port: u16, path: &str, token: Option<&str>, from: &Path, to: &Path) -> anyhow::Result<Duration> {
    use futures::StreamExt;
    let length = std::fs::metadata(from)?.len();
    let file = tokio::fs::File::open(from).await?;
    let body = reqwest::Body::wrap_stream(futures::stream::unfold((file, vec![0; 256 * 1024]), |(mut file, mut buffer)| async move {
        match file.read(&mut buffer).await {
            Ok(0) => None,
            Ok(read) => Some((Ok::<_, std::io::Error>(bytes::Bytes::copy_from_slice(&buffer[..read])), (file, buffer))),
            Err(error) => Some((Err(error), (file, buffer))),
        }
    }));
    let mut request = reqwest::Client::new().post(format!("http://127.0.0.1:{port}{path}")).header("content-length", length).body(body);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let started = Instant::now();
    let response = request.send().await?;
    if !response.status().is_success() {
        bail!("{} {}", response.status(), response.text().await?);
    }
    let mut target = tokio::io::BufWriter::with_capacity(1 << 20, tokio::fs::File::create(to).await?);
    let mut answer = response.bytes_stream();
    while let Some(chunk) = answer.next().await {
        target.write_all(&chunk?).await?;
    }
    target.flush().await?;
    Ok(started.elapsed())
}
