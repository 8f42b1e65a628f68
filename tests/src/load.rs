//! A small HTTP/1.1 load generator: keep-alive connections on raw TCP, each with one request in flight, on one thread of its
//! own. What it costs itself is little, and the same for every server it measures.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// What to send, and how.
#[derive(Debug, Clone)]
pub struct Load {
    /// The server, plain HTTP.
    pub address: SocketAddr,
    /// The exact bytes of the request.
    pub request: Vec<u8>,
    /// Connections at once.
    pub connections: usize,
    /// Before counting begins.
    pub warm_up: Duration,
    /// While counting.
    pub duration: Duration,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Connections at once.
    pub connections: usize,
    /// Answers with status 200.
    pub answers: u64,
    /// Seconds in which they came.
    pub seconds: f64,
    /// Answers a second.
    pub per_second: f64,
    /// Half of the answers came within so many microseconds.
    pub p50_micros: u64,
    /// 99 of 100.
    pub p99_micros: u64,
    /// 999 of 1000.
    pub p999_micros: u64,
}

/// The bytes of a `POST` of JSON.
pub fn post_json(path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// Puts a load on a server; an answer that is not 200 is an error that shows it.
pub fn run(load: &Load) -> io::Result<Measured> {
    let load = load.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, measure(load))
    });
    thread.join().map_err(|_| io::Error::other("the load generator stopped"))?
}

async fn measure(load: Load) -> io::Result<Measured> {
    let (counting, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let mut connections = Vec::new();
    for _ in 0..load.connections {
        let stream = TcpStream::connect(load.address).await?;
        stream.set_nodelay(true)?;
        connections.push(tokio::task::spawn_local(connection(stream, load.request.clone(), counting.clone(), stop.clone())));
    }
    tokio::time::sleep(load.warm_up).await;
    counting.store(true, Ordering::Relaxed);
    let started = Instant::now();
    tokio::time::sleep(load.duration).await;
    stop.store(true, Ordering::Relaxed);
    let seconds = started.elapsed().as_secs_f64();
    let mut micros = Vec::new();
    for connection in connections {
        micros.extend(connection.await.map_err(io::Error::other)??);
    }
    micros.sort_unstable();
    let at = |share: f64| micros.get(((micros.len() as f64 * share) as usize).min(micros.len().saturating_sub(1))).copied().unwrap_or(0);
    let answers = micros.len() as u64;
    Ok(Measured {
        connections: load.connections,
        answers,
        seconds,
        per_second: answers as f64 / seconds,
        p50_micros: u64::from(at(0.5)),
        p99_micros: u64::from(at(0.99)),
        p999_micros: u64::from(at(0.999)),
    })
}

/// One connection until it is told to stop; gives the microseconds of each counted answer.
async fn connection(mut stream: TcpStream, request: Vec<u8>, counting: Arc<AtomicBool>, stop: Arc<AtomicBool>) -> io::Result<Vec<u32>> {
    let mut micros = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    while !stop.load(Ordering::Relaxed) {
        let started = Instant::now();
        stream.write_all(&request).await?;
        let mut filled = 0;
        loop {
            let read = stream.read(&mut buffer[filled..]).await?;
            if read == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
            }
            filled += read;
            if complete(&buffer[..filled])? {
                break;
            }
        }
        if counting.load(Ordering::Relaxed) {
            micros.push(u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
    }
    Ok(micros)
}

/// Whether a whole answer with status 200 is there.
fn complete(answer: &[u8]) -> io::Result<bool> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(false) };
    let head = std::str::from_utf8(&answer[..end]).map_err(io::Error::other)?;
    let length = head
        .split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok())
        .ok_or_else(|| io::Error::other(format!("an answer without a length: {head}")))?;
    if answer.len() < end + 4 + length {
        return Ok(false);
    }
    if !head.starts_with("HTTP/1.1 200") {
        return Err(io::Error::other(format!("an answer that is not 200: {}", String::from_utf8_lossy(answer))));
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    use super::*;

    #[test]
    fn answers_are_counted_also_when_they_come_in_pieces() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    while stream.read(&mut [0; 1024]).is_ok_and(|read| read > 0) {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Le");
                        let _ = stream.write_all(b"ngth: 2\r\n\r\no");
                        let _ = stream.write_all(b"k");
                    }
                });
            }
        });
        let load = Load {
            address,
            request: post_json("/", &[], "{}"),
            connections: 3,
            warm_up: Duration::from_millis(20),
            duration: Duration::from_millis(100),
        };
        let measured = run(&load).unwrap();
        assert!(measured.answers > 10 && measured.p50_micros <= measured.p99_micros, "{measured:?}");
    }

    #[test]
    fn other_statuses_are_errors() {
        assert!(complete(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").is_err());
        assert!(!complete(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc").unwrap());
    }
}
