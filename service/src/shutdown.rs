//! Signals, cancellation, draining. The first SIGINT or SIGTERM asks everything to finish; the second ends the process.
//!
//! A server that stops answers what is in flight and nothing else. Idle HTTP/1.1 connections are closed by actix-web; idle
//! HTTP/2 connections it would keep until the drain limit, so [`InFlight`] says when nothing is left to wait for.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use actix_web::{
    Error,
    body::{BodySize, BoxBody, MessageBody},
    dev::{Server, ServiceRequest, ServiceResponse},
    http::ConnectionType,
    middleware::Next,
    web::{self, Bytes},
};
use schema::wire::problem::Problem;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::problem;

/// How long requests in flight have to finish, in seconds. For `HttpServer::shutdown_timeout`.
pub const DRAIN_SECONDS: u64 = 30;

/// For how long nothing was in flight when the rest of the connections is closed: what was answered last is on its way.
const QUIET: Duration = Duration::from_secs(1);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Gives a token that is cancelled by the first SIGINT or SIGTERM. A second one ends the process at once with code 130.
/// Call it inside of the runtime.
pub fn on_signals() -> io::Result<CancellationToken> {
    let mut signals = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let token = CancellationToken::new();
    let asked = token.clone();
    tokio::spawn(async move {
        let name = either(&mut signals).await;
        tracing::info!(signal = name, "shutting down: requests in flight may finish; a second signal ends at once");
        asked.cancel();
        either(&mut signals).await;
        tracing::warn!("ended by a second signal");
        std::process::exit(130);
    });
    Ok(token)
}

async fn either((interrupt, terminate): &mut (Signal, Signal)) -> &'static str {
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}

/// The requests that one server is answering. Clones share the count.
#[derive(Debug, Clone, Default)]
pub struct InFlight(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    count: AtomicUsize,
    /// It was asked to stop: connections end with the answer they carry.
    leaving: AtomicBool,
    /// Nothing new is begun.
    draining: AtomicBool,
}

impl InFlight {
    fn enter(&self) -> Counted {
        self.0.count.fetch_add(1, Ordering::AcqRel);
        Counted(self.0.clone())
    }

    /// Waits until nothing was in flight for [`QUIET`].
    async fn quiet(&self) {
        let mut since = Instant::now();
        while since.elapsed() < QUIET {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.0.count.load(Ordering::Acquire) > 0 {
                since = Instant::now();
            }
        }
    }
}

/// One request in flight, until it is dropped.
struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A body that counts as in flight until it was sent.
struct CountedBody {
    body: BoxBody,
    _counted: Counted,
}

impl MessageBody for CountedBody {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}

/// Middleware: `App::new().app_data(web::Data::new(in_flight)).wrap(from_fn(counted))`. Counts requests for [`serve`], and
/// turns those away that still come in over connections that were open when the server was asked to stop.
pub async fn counted<B: MessageBody + 'static>(request: ServiceRequest, next: Next<B>) -> Result<ServiceResponse<BoxBody>, Error> {
    let Some(in_flight) = request.app_data::<web::Data<InFlight>>().cloned() else {
        return Ok(next.call(request).await?.map_into_boxed_body());
    };
    if in_flight.0.draining.load(Ordering::Acquire) {
        let detail = "this server is shutting down; send the request again, over a new connection";
        let mut turned_away = request.into_response(problem::response(Problem::new(503, "shutting_down", "Shutting down", detail)));
        close(&mut turned_away);
        return Ok(turned_away);
    }
    let counted = in_flight.enter();
    let mut answered = next.call(request).await?;
    if in_flight.0.leaving.load(Ordering::Acquire) {
        close(&mut answered);
    }
    Ok(answered.map_body(|_, body| match body.size() {
        BodySize::None => body.boxed(),
        BodySize::Sized(_) | BodySize::Stream => match body.boxed().try_into_bytes() {
            Ok(bytes) => bytes.boxed(),
            Err(body) => CountedBody { body, _counted: counted }.boxed(),
        },
    }))
}

/// Tells an HTTP/1.1 client that no further request goes over this connection, and closes it.
fn close<B>(answer: &mut ServiceResponse<B>) {
    answer.response_mut().head_mut().set_connection_type(ConnectionType::Close);
}

/// Runs a server until `stopping` is cancelled, then lets requests in flight finish, and ends about a second after the
/// last. `notice` is how long it still accepts connections while `/readyz` says no, so that load balancers can turn away
/// first. The server needs `disable_signals()` and, around its routes, [`counted`] with the same `in_flight`.
pub async fn serve(server: Server, in_flight: InFlight, stopping: CancellationToken, notice: Duration) -> io::Result<()> {
    let handle = server.handle();
    let mut serving = std::pin::pin!(server);
    tokio::select! {
        ended = &mut serving => return ended,
        () = stopping.cancelled() => {}
    }
    in_flight.0.leaving.store(true, Ordering::Release);
    tokio::select! {
        ended = &mut serving => return ended,
        () = tokio::time::sleep(notice) => {}
    }
    in_flight.0.draining.store(true, Ordering::Release);
    let stopped = handle.stop(true);
    tokio::select! {
        (ended, ()) = async { tokio::join!(serving, stopped) } => ended,
        // Dropping the server closes what is left: idle connections.
        () = in_flight.quiet() => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use actix_web::{App, HttpResponse, HttpServer, middleware::from_fn, rt::task::JoinHandle};
    use futures::StreamExt as _;

    use super::*;
    use crate::{
        listen::bind,
        tls::{server_config, tests::development},
    };

    /// Answers after 400 ms, then sends a byte every 50 ms.
    async fn slow(count: web::Path<usize>) -> HttpResponse {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let bytes = futures::stream::iter(0..*count).then(|_| async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok::<_, Error>(Bytes::from_static(b"x"))
        });
        HttpResponse::Ok().streaming(bytes)
    }

    struct World {
        address: SocketAddr,
        stopping: CancellationToken,
        serving: JoinHandle<io::Result<()>>,
        _directory: tempfile::TempDir,
        http2: reqwest::Client,
        http1: reqwest::Client,
    }

    fn start() -> World {
        start_with(Duration::ZERO)
    }

    fn start_with(notice: Duration) -> World {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, _) = development(directory.path());
        let listener = bind("127.0.0.1:0", "test").unwrap();
        let address = listener.local_addr().unwrap();
        let in_flight = InFlight::default();
        let shared = in_flight.clone();
        let app = move || App::new().app_data(web::Data::new(shared.clone())).wrap(from_fn(counted)).route("/{count}", web::get().to(slow));
        let server = HttpServer::new(app).workers(1).disable_signals().shutdown_timeout(20);
        let server = server.listen_rustls_0_23(listener, server_config(certificate, None).unwrap()).unwrap().run();
        let stopping = CancellationToken::new();
        let serving = actix_web::rt::spawn(serve(server, in_flight, stopping.clone(), notice));
        let files = directory.path().join("authority.pem");
        let authority = || reqwest::Certificate::from_pem(&std::fs::read(&files).unwrap()).unwrap();
        let client = || reqwest::Client::builder().no_proxy().tls_certs_only([authority()]);
        let (http2, http1) = (client().build().unwrap(), client().http1_only().build().unwrap());
        World { address, stopping, serving, _directory: directory, http2, http1 }
    }

    impl World {
        async fn ask(client: &reqwest::Client, address: SocketAddr, count: usize) -> (reqwest::Version, String) {
            let answer = client.get(format!("https://localhost:{}/{count}", address.port())).send().await.unwrap();
            (answer.version(), answer.text().await.unwrap())
        }
    }

    #[actix_web::test]
    async fn what_is_in_flight_is_answered_to_its_end_before_the_server_ends() {
        let world = start();
        let address = world.address;
        let asking: Vec<_> = [world.http2.clone(), world.http1.clone()]
            .into_iter()
            .map(|client| actix_web::rt::spawn(async move { World::ask(&client, address, 40).await.1 }))
            .collect();
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.stopping.cancel();
        for asking in asking {
            assert_eq!(asking.await.unwrap(), "x".repeat(40));
        }
        world.serving.await.unwrap().unwrap();
        assert!(std::net::TcpStream::connect(address).is_err());
    }

    #[actix_web::test]
    async fn idle_connections_do_not_hold_the_end_up_and_begin_nothing_new() {
        let world = start();
        assert_eq!(World::ask(&world.http2, world.address, 1).await, (reqwest::Version::HTTP_2, "x".to_owned()));
        assert_eq!(World::ask(&world.http1, world.address, 1).await, (reqwest::Version::HTTP_11, "x".to_owned()));
        let started = Instant::now();
        world.stopping.cancel();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let url = format!("https://localhost:{}/1", world.address.port());
        let late = world.http2.get(&url).send().await.unwrap();
        assert_eq!(late.status(), 503);
        assert!(late.text().await.unwrap().contains("shutting_down"));
        world.serving.await.unwrap().unwrap();
        assert!(started.elapsed() < Duration::from_secs(3), "it took {:?}", started.elapsed());
    }

    #[actix_web::test]
    async fn during_the_notice_work_goes_on_and_connections_end_with_their_answers() {
        let world = start_with(Duration::from_millis(1500));
        let url = format!("https://localhost:{}/1", world.address.port());
        let kept = world.http1.get(&url).send().await.unwrap();
        assert!(kept.headers().get("connection").is_none());
        kept.bytes().await.unwrap();
        world.stopping.cancel();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (late, new) = (world.http1.get(&url).send().await.unwrap(), world.http2.get(&url).send().await.unwrap());
        assert_eq!((late.status().as_u16(), late.headers()["connection"].to_str().unwrap()), (200, "close"));
        assert_eq!((new.status().as_u16(), new.headers().get("connection")), (200, None), "HTTP/2 has no such header");
        assert_eq!((late.text().await.unwrap(), new.text().await.unwrap()), ("x".to_owned(), "x".to_owned()));
        world.serving.await.unwrap().unwrap();
    }
}
