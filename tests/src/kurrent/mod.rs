//! A KurrentDB for tests: an in-memory log behind the published gRPC protocol, spoken to the unmodified client.
//!
//! What the event store relies on is here as servers do it: `$all` positions with gaps and events of the server's own in
//! between, optimistic concurrency, appends repeated under the same ids answered without a position, reads that include where
//! they begin, catch-up subscriptions that exclude it, appends whole or not at all. What is not here: clusters, disks, users,
//! limits of size. [`Fault`]s are what networks and servers do to an append.

mod log;
mod service;

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub(crate) mod wire {
    pub(crate) mod streams {
        tonic::include_proto!("event_store.client.streams");
    }
    pub(crate) mod server_features {
        tonic::include_proto!("event_store.client.server_features");
    }
}

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{DuplexStream, copy_bidirectional, duplex},
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use log::Log;
pub use log::Recorded;
use service::{Features, Service};
use wire::{server_features::server_features_server::ServerFeaturesServer, streams::streams_server::StreamsServer};

/// What happens to an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Every connection breaks before it is made.
    CutBefore,
    /// It is made, and every connection breaks before it is answered.
    CutAfter,
    /// It is made, and never answered.
    Unanswered,
    /// It is made so much later.
    Late(Duration),
    /// The server says no (invalid argument).
    Refused,
}

/// A server on a free loopback port, stopped when this is dropped.
pub struct KurrentServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

struct Shared {
    log: Mutex<Log>,
    /// How many events there are.
    length: watch::Sender<usize>,
    faults: Mutex<VecDeque<Fault>>,
    refusing: AtomicBool,
    connections: AtomicUsize,
    cut: Mutex<CancellationToken>,
    subscriptions: AtomicUsize,
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self) -> Option<Fault> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Breaks every connection there is.
    fn cut(&self) {
        let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *cut).cancel();
    }

    fn cutting(&self) -> CancellationToken {
        self.cut.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl KurrentServer {
    /// Starts an empty one, on the runtime this is called in.
    pub fn start() -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            log: Mutex::new(Log::default()),
            length: watch::Sender::new(0),
            faults: Mutex::default(),
            refusing: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            cut: Mutex::default(),
            subscriptions: AtomicUsize::new(0),
        });
        let stop = CancellationToken::new();
        let (connections, incoming) = mpsc::channel(16);
        tokio::spawn(accept(listener, Arc::clone(&shared), connections, stop.clone()));
        let server = tonic::transport::Server::builder()
            .add_service(StreamsServer::new(Service(Arc::clone(&shared))))
            .add_service(ServerFeaturesServer::new(Features));
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = server.serve_with_incoming(ReceiverStream::new(incoming)) => {}
                () = stopped.cancelled() => {}
            }
        });
        Ok(Self { address, shared, stop })
    }

    /// Its connection string.
    pub fn url(&self) -> String {
        format!("kurrentdb://{}?tls=false", self.address)
    }

    /// What happens to the next appends, one each.
    pub fn inject(&self, faults: impl IntoIterator<Item = Fault>) {
        self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner).extend(faults);
    }

    /// How many faults are still to come.
    pub fn faults_left(&self) -> usize {
        self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Breaks every connection there is.
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// Refuses new connections, or no longer; breaks those that are there.
    pub fn refuse(&self, refuse: bool) {
        self.shared.refusing.store(refuse, Ordering::SeqCst);
        self.shared.cut();
    }

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many subscriptions were made.
    pub fn subscriptions(&self) -> usize {
        self.shared.subscriptions.load(Ordering::SeqCst)
    }

    /// Everything in it, events of its own included.
    pub fn events(&self) -> Vec<Recorded> {
        self.shared.log().all().to_vec()
    }

    /// Appends an event as somebody with access to the server could.
    pub fn plant(&self, stream: &str, event: Recorded) {
        self.shared.log().plant(stream, event);
        self.shared.length.send_modify(|length| *length += 1);
    }
}

impl Drop for KurrentServer {
    fn drop(&mut self) {
        self.stop.cancel();
        self.shared.cut();
    }
}

/// Passes the bytes of every connection on, until connections are cut.
async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    connections: mpsc::Sender<std::io::Result<DuplexStream>>,
    stop: CancellationToken,
) {
    loop {
        let mut outside = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => return,
            },
            () = stop.cancelled() => return,
        };
        if shared.refusing.load(Ordering::SeqCst) {
            continue;
        }
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let (mut inside, served) = duplex(1 << 16);
        if connections.send(Ok(served)).await.is_err() {
            return;
        }
        let cut = shared.cutting();
        tokio::spawn(async move {
            tokio::select! {
                _ = copy_bidirectional(&mut outside, &mut inside) => {}
                () = cut.cancelled() => {}
            }
        });
    }
}
