//! Somebody between a client and a server who cuts connections at a chosen moment, and may lead to another server later.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
};

/// How a connection is cut at what a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// It never reaches the server.
    Before,
    /// Half of it does.
    Half,
    /// All of it does, and the answer is kept back.
    After,
}

/// Passes on what a client sends after so many others, and cuts there.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Pieces that pass first.
    pub pass: usize,
    /// What happens to the next.
    pub cut: Cut,
}

/// The man in the middle. Clones share it.
#[derive(Clone)]
pub struct Cutting {
    port: u16,
    state: Arc<Mutex<State>>,
    /// The server's socket; all connections end when it changes.
    target: watch::Sender<PathBuf>,
}

#[derive(Default)]
struct State {
    plans: VecDeque<Plan>,
    /// Only pieces with these words count; all, when there are none.
    words: Option<&'static [u8]>,
    cuts: usize,
}

impl Cutting {
    /// Between a free port and this unix socket.
    pub async fn start(socket: PathBuf) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let cutting = Self { port: listener.local_addr()?.port(), state: Arc::default(), target: watch::Sender::new(socket) };
        let shared = cutting.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let cutting = shared.clone();
                tokio::spawn(async move { cutting.pass(client).await });
            }
        });
        Ok(cutting)
    }

    /// Where clients connect.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address of a database behind it.
    pub fn url(&self, database: &str, user: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// From now on, pieces are counted and connections cut, one plan after the other. Only pieces that hold `words` count.
    pub fn cut(&self, plans: impl IntoIterator<Item = Plan>, words: Option<&'static [u8]>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.plans, state.words) = (plans.into_iter().collect(), words);
    }

    /// How many connections were cut, since the start.
    pub fn cuts(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).cuts
    }

    /// How many plans are left.
    pub fn left(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).plans.len()
    }

    /// Leads to another server; connections to the one before end.
    pub fn lead_to(&self, socket: PathBuf) {
        self.target.send_replace(socket);
    }

    fn fate(&self, piece: &[u8]) -> Option<Cut> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.words.is_some_and(|words| memchr::memmem::find(piece, words).is_none()) {
            return None;
        }
        let plan = state.plans.front_mut()?;
        if plan.pass > 0 {
            plan.pass -= 1;
            return None;
        }
        let cut = plan.cut;
        state.plans.pop_front();
        state.cuts += 1;
        Some(cut)
    }

    async fn pass(self, mut client: TcpStream) {
        let mut target = self.target.subscribe();
        let socket = target.borrow_and_update().clone();
        let Ok(mut server) = UnixStream::connect(&socket).await else { return };
        let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        loop {
            tokio::select! {
                _ = target.changed() => return,
                read = client.read(&mut up) => {
                    let Ok(n @ 1..) = read else { return };
                    let fate = self.fate(&up[..n]);
                    let passed = match fate {
                        Some(Cut::Before) => return,
                        Some(Cut::Half) => n / 2,
                        _ => n,
                    };
                    if server.write_all(&up[..passed]).await.is_err() {
                        return;
                    }
                    match fate {
                        None => {}
                        // The answer says that it is done.
                        Some(Cut::After) => return drop(server.read(&mut down).await),
                        Some(_) => return,
                    }
                }
                read = server.read(&mut down) => {
                    let Ok(n @ 1..) = read else { return };
                    if client.write_all(&down[..n]).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}
