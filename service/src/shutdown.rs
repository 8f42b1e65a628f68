//! Signals, cancellation, draining. The first SIGINT or SIGTERM asks everything to finish; the second ends the process.

use std::{io, time::Duration};

use actix_web::dev::Server;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long requests in flight have to finish, in seconds. For `HttpServer::shutdown_timeout`.
pub const DRAIN_SECONDS: u64 = 30;

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

/// Runs a server until `stopping` is cancelled, then lets requests in flight finish. `notice` is how long it still accepts
/// connections while `/readyz` says no, so that load balancers can turn away first. The server needs `disable_signals()`.
pub async fn serve(server: Server, stopping: CancellationToken, notice: Duration) -> io::Result<()> {
    let handle = server.handle();
    let mut serving = std::pin::pin!(server);
    tokio::select! {
        ended = &mut serving => return ended,
        () = stopping.cancelled() => {}
    }
    tokio::select! {
        ended = &mut serving => return ended,
        () = tokio::time::sleep(notice) => {}
    }
    let (ended, ()) = tokio::join!(serving, handle.stop(true));
    ended
}

#[cfg(test)]
mod tests {
    use actix_web::{App, HttpResponse, HttpServer, web};

    use super::*;
    use crate::listen::bind;

    #[actix_web::test]
    async fn a_request_in_flight_is_answered_before_the_server_ends() {
        let listener = bind("127.0.0.1:0", "test").unwrap();
        let address = listener.local_addr().unwrap();
        let slow = || async {
            tokio::time::sleep(Duration::from_millis(400)).await;
            HttpResponse::Ok().body("done")
        };
        let server = HttpServer::new(move || App::new().route("/", web::get().to(slow)))
            .workers(1)
            .disable_signals()
            .shutdown_timeout(10)
            .listen(listener)
            .unwrap()
            .run();
        let stopping = CancellationToken::new();
        let serving = actix_web::rt::spawn(serve(server, stopping.clone(), Duration::ZERO));
        crate::tls::install_provider();
        let asking = actix_web::rt::spawn(async move { reqwest::get(format!("http://{address}/")).await.unwrap().text().await.unwrap() });
        tokio::time::sleep(Duration::from_millis(150)).await;
        stopping.cancel();
        assert_eq!(asking.await.unwrap(), "done");
        serving.await.unwrap().unwrap();
        assert!(std::net::TcpStream::connect(address).is_err());
    }
}
