//! The HTTPS server of `server.listen`.

use std::net::TcpListener;

use actix_web::{App, HttpServer, dev::Server, guard, middleware::from_fn, web};
use service::{
    health::{self, Readiness},
    log::{RequestIds, requests},
    metrics::{self, Metrics},
    problem,
    shutdown::{InFlight, counted},
};

use super::graphql::{self, Edge};

/// What the routes share.
#[derive(Clone)]
pub struct Shared {
    /// GraphQL.
    pub edge: web::Data<Edge>,
    /// `/readyz`.
    pub readiness: web::Data<Readiness>,
    /// `/metrics`.
    pub metrics: web::Data<Metrics>,
    /// Ids of requests.
    pub request_ids: web::Data<RequestIds>,
    /// Whether GraphiQL is served.
    pub development: bool,
}

/// Makes the server; it runs once it is awaited. Without `tls` it speaks plain HTTP.
pub fn server(
    listener: TcpListener,
    tls: Option<rustls::ServerConfig>,
    workers: usize,
    shutdown_seconds: u64,
    in_flight: InFlight,
    shared: Shared,
) -> std::io::Result<Server> {
    let server = HttpServer::new(move || {
        let shared = shared.clone();
        let upgrade = guard::fn_guard(|context| context.head().upgrade());
        let mut resource =
            web::resource(graphql::PATH).route(web::post().to(graphql::post)).route(web::get().guard(upgrade).to(graphql::subscribe));
        if shared.development {
            resource = resource.route(web::get().to(graphql::graphiql));
        }
        App::new()
            .app_data(shared.edge)
            .app_data(shared.readiness)
            .app_data(shared.metrics)
            .app_data(shared.request_ids)
            .app_data(web::Data::new(in_flight.clone()))
            .wrap(from_fn(counted))
            .wrap(from_fn(requests))
            .service(resource.default_service(web::to(problem::wrong_method)))
            .configure(health::routes)
            .configure(metrics::routes)
            .default_service(web::to(problem::not_found))
    })
    .workers(workers)
    // A client that has closed its side has hung up: nobody is there for what its query would find.
    .h1_allow_half_closed(false)
    .disable_signals()
    .shutdown_timeout(shutdown_seconds);
    let server = match tls {
        Some(tls) => server.listen_rustls_0_23(listener, tls)?,
        None => server.listen(listener)?,
    };
    Ok(server.run())
}
