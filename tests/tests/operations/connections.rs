//! Connections as they are outside of a laboratory: through a proxy, and left open.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use clap::Parser as _;
use cli::error::{Error, Exit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::super::*;

/// An HTTP proxy that tunnels (CONNECT), remembers where to, and everything that clients sent.
#[derive(Default)]
struct Proxy {
    asked: Mutex<Vec<String>>,
    seen: Mutex<Vec<u8>>,
    refuses: AtomicUsize,
}

impl Proxy {
    async fn start() -> (Arc<Self>, String) {
        let (proxy, listener) = (Arc::new(Self::default()), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::clone(&proxy);
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(Arc::clone(&shared).tunnel(client));
            }
        });
        (proxy, address)
    }

    async fn tunnel(self: Arc<Self>, mut client: TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.unwrap());
        }
        self.seen.lock().unwrap().extend(&head);
        let head = String::from_utf8(head).unwrap();
        let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap_or_default().to_owned();
        self.asked.lock().unwrap().push(target.clone());
        if self.refuses.load(Ordering::SeqCst) > 0 {
            client.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            return;
        }
        let server = TcpStream::connect(target).await.unwrap();
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (client.into_split(), server.into_split());
        tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = from_client.read(&mut piece).await {
            self.seen.lock().unwrap().extend(&piece[..length]);
            if to_server.write_all(&piece[..length]).await.is_err() {
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_goes_through_a_proxy_that_learns_nothing() {
    let world = World::new();
    let mut config = world.control_plane_config();
    config.server.plain_http = false;
    let plane = ControlPlane::start(config, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap();
    let (proxy, address) = Proxy::start().await;
    let text = |path: &Path| path.display().to_string();
    let server = format!("https://{}", plane.graphql_address());
    let (authority, token) = (text(plane.development_authority().unwrap()), text(plane.operator_token_file()));
    let profiles = text(&world.path("cli.toml"));
    let freehold = async |arguments: &[&str]| -> Result<(), Error> {
        let command = ["freehold", "--config", &profiles].into_iter().chain(arguments.iter().copied());
        cli::run(cli::args::Cli::try_parse_from(command).unwrap()).await
    };
    let connection = ["--server", &server, "--ca-file", &authority, "--token-file", &token, "--proxy", &address];
    freehold(&[&connection[..], &["whoami"]].concat()).await.unwrap();
    assert_eq!(*proxy.asked.lock().unwrap(), [plane.graphql_address().to_string()], "it went through the proxy");

    // A profile remembers it.
    freehold(&[&connection[..], &["profile", "set", "far"]].concat()).await.unwrap();
    freehold(&["whoami"]).await.unwrap();
    assert_eq!(proxy.asked.lock().unwrap().len(), 2);
    let secret = fs::read_to_string(plane.operator_token_file()).unwrap();
    let seen = proxy.seen.lock().unwrap().clone();
    assert!(seen.len() > 1000 && memmem::find(&seen, b"CONNECT").is_some(), "{} bytes went by", seen.len());
    assert_eq!(memmem::find(&seen, secret.trim().as_bytes()), None, "what the proxy sees is sealed");

    // There is no way around a proxy that says no, or is not there.
    proxy.refuses.store(1, Ordering::SeqCst);
    assert_eq!(freehold(&["whoami"]).await.unwrap_err().exit, Exit::Unreachable);
    let nobody = format!("http://{}", std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    assert_eq!(freehold(&["--proxy", &nobody, "whoami"]).await.unwrap_err().exit, Exit::Unreachable);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_stops_although_clients_keep_their_connections_open() {
    let world = World::new();
    let config = world.agent_config(&[("plain_http = true\n", "")]);
    let agent = Agent::start(config, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap();
    let pem = fs::read(agent.development_authority().unwrap()).unwrap();
    let url = format!("https://{}/livez", agent.address);
    let client = || reqwest::Client::builder().no_proxy().tls_certs_only([reqwest::Certificate::from_pem(&pem).unwrap()]);
    let (new, old) = (client().build().unwrap(), client().http1_only().build().unwrap());
    for (client, version) in [(&new, reqwest::Version::HTTP_2), (&old, reqwest::Version::HTTP_11)] {
        let answer = client.get(&url).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, version));
        answer.bytes().await.unwrap();
    }
    // And one that shook hands and says nothing, and one that never shook hands.
    let roots = service::tls::certificates_from_pem(&pem, Path::new("authority")).unwrap();
    let tls = rustls::ClientConnection::new(Arc::new(service::tls::client_config(roots, None).unwrap()), "127.0.0.1".try_into().unwrap());
    let (mut tls, mut tcp) = (tls.unwrap(), std::net::TcpStream::connect(agent.address).unwrap());
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp).unwrap();
    }
    let silent = std::net::TcpStream::connect(agent.address).unwrap();

    let started = Instant::now();
    tokio::time::timeout(Duration::from_secs(10), agent.stop()).await.expect("the agent stops").unwrap();
    assert!(started.elapsed() < Duration::from_secs(10));
    drop((new, old, tls, tcp, silent));
}
