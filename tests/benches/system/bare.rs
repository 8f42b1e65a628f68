//! Bare endpoints of the same shape as the agent's: they read the same bodies and answer as much, and do nothing else.

use std::{path::Path, sync::Arc};

use actix_web::{App, HttpResponse, HttpServer, web};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use service::tls::certificate::ReloadingCertificate;

#[derive(Deserialize)]
struct Request {
    key: String,
    plaintext: String,
}

#[derive(Serialize)]
struct Answer {
    message: String,
    key_version: String,
    algorithm: &'static str,
    policies: Vec<String>,
    warnings: Vec<String>,
}

async fn encrypt(request: web::Json<Request>) -> HttpResponse {
    let Request { key, plaintext } = request.into_inner();
    HttpResponse::Ok().json(Answer {
        message: plaintext,
        key_version: key,
        algorithm: "none",
        policies: vec!["none".to_owned()],
        warnings: vec![],
    })
}

async fn echo(body: web::Payload) -> HttpResponse {
    HttpResponse::Ok().content_type("application/octet-stream").streaming(body.map(|chunk| chunk.map_err(actix_web::Error::from)))
}

/// Serves on a free port of the loopback address, in threads of its own, until the process ends. With a certificate and its
/// key in PEM files it speaks TLS, with the settings of our own listeners.
pub fn start(tls: Option<(&Path, &Path)>) -> anyhow::Result<u16> {
    let tls = match tls {
        None => None,
        Some((certificate, key)) => Some(service::tls::server_config(Arc::new(ReloadingCertificate::open(certificate, key)?), None)?),
    };
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let system = actix_web::rt::System::new();
        system.block_on(async move {
            let workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
            let server = HttpServer::new(|| {
                App::new()
                    .app_data(web::JsonConfig::default().limit(2 << 20))
                    .route("/bare/encrypt", web::post().to(encrypt))
                    .route("/bare/echo", web::post().to(echo))
            })
            .workers(workers);
            let server = match tls {
                None => server.bind(("127.0.0.1", 0)),
                Some(tls) => server.bind_rustls_0_23(("127.0.0.1", 0), tls),
            };
            match server {
                Ok(server) => {
                    let port = server.addrs().first().map_or(0, std::net::SocketAddr::port);
                    let _ = sender.send(Ok(port));
                    let _ = server.run().await;
                }
                Err(error) => {
                    let _ = sender.send(Err(error));
                }
            }
        });
    });
    Ok(receiver.recv()??)
}
