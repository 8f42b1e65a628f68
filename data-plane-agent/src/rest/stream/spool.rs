//! "Verify whole, then release": a file is kept as it came, sealed, until all of it was found genuine; then it is opened a
//! second time, from there. Nothing in clear is ever on the disk, and a bad file gives a problem instead of an aborted stream.

use std::{
    io::{self, SeekFrom},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use actix_web::web::Bytes;
use schema::{
    clock::{Ids, random_id},
    id::FileId,
    wire::problem::Problem,
};
use tokio::{
    fs::{File, OpenOptions},
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
};

/// Bytes that are read at once.
const READ_BYTES: usize = 64 * 1024;

/// A directory for files that wait to be found genuine.
pub struct Spool {
    directory: PathBuf,
    /// The most bytes of all of them together; none: the mode is switched off.
    limit_bytes: Option<u64>,
    used_bytes: AtomicU64,
}

/// One file that waits. It has no name, so nothing is left of it, whatever happens.
pub struct Spooled {
    spool: Arc<Spool>,
    file: File,
    bytes: u64,
}

impl Spool {
    /// A spool in this directory, which is made when it is first used.
    pub fn new(directory: PathBuf, limit_bytes: Option<u64>) -> Self {
        Self { directory, limit_bytes, used_bytes: AtomicU64::new(0) }
    }

    /// Begins a file.
    pub async fn begin(self: &Arc<Self>, ids: &dyn Ids) -> Result<Spooled, Problem> {
        if self.limit_bytes.is_none() {
            let detail = "this agent keeps nothing back: leave release out, or set limits.spool";
            return Err(Problem::new(400, "spool_off", "The mode is switched off", detail).field("release"));
        }
        let path = self.directory.join(random_id::<FileId>(ids).to_string());
        let file = unnamed(&self.directory, &path).await.map_err(|error| failed(&error))?;
        Ok(Spooled { spool: self.clone(), file, bytes: 0 })
    }
}

async fn unnamed(directory: &Path, path: &Path) -> io::Result<File> {
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path).await?;
    tokio::fs::remove_file(path).await?;
    Ok(file)
}

impl Spooled {
    /// Keeps sealed bytes.
    pub async fn push(&mut self, sealed: &[u8]) -> Result<(), Problem> {
        let more = sealed.len() as u64;
        let before = self.spool.used_bytes.fetch_add(more, Ordering::Relaxed);
        self.bytes += more;
        if self.spool.limit_bytes.is_none_or(|limit| before + more > limit) {
            let detail = "files that wait to be found genuine fill limits.spool: send this one later, or without release";
            return Err(Problem::new(507, "spool_full", "No room to wait in", detail));
        }
        self.file.write_all(sealed).await.map_err(|error| failed(&error))
    }

    /// Goes back to the beginning, to be read.
    pub async fn rewind(&mut self) -> Result<(), Problem> {
        let rewound = async {
            self.file.flush().await?;
            self.file.seek(SeekFrom::Start(0)).await
        };
        rewound.await.map(drop).map_err(|error| failed(&error))
    }

    /// The next bytes; none at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let mut buffer = vec![0; READ_BYTES];
        let length = self.file.read(&mut buffer).await.map_err(|error| failed(&error))?;
        buffer.truncate(length);
        Ok((length > 0).then(|| buffer.into()))
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        self.spool.used_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn failed(error: &io::Error) -> Problem {
    tracing::error!(error = error as &dyn std::error::Error, "the spool cannot be used");
    Problem::new(503, "spool_failed", "No room to wait in", "the agent's spool cannot be used; its log says why")
}
