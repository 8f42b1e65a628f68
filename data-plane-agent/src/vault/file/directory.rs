//! The directory of a file vault: names, modes, atomic writes, and one user at a time.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use crate::vault::{VaultError, keeper::Bounds, sealed::Records};

/// A directory that only its owner may read, locked while this lives.
pub struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Takes the directory for this process; makes it when it is not there.
    pub(super) fn open_or_create(path: &Path) -> Result<Self, VaultError> {
        let io = |act| move |source| VaultError::Io { act, path: path.to_owned(), source };
        if !path.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io("making"))?;
        }
        let mode = fs::metadata(path).map_err(io("reading"))?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(VaultError::TooOpen { path: path.to_owned(), mode, wanted: 0o700 });
        }
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path.join("lock")).map_err(io("locking"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => VaultError::InUse(path.to_owned()),
            other => io("locking")(other.into()),
        })?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub fn as_path(&self) -> &Path {
        &self.path
    }

    /// Beside its place, synced, renamed, and the directory synced: after a crash the old file is there or the new one. What could
    /// not be written whole, for want of room, is removed.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), VaultError> {
        let beside = path.with_extension("new");
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&beside, path)?;
            self.sync()
        };
        write().map_err(|source| {
            let _ = fs::remove_file(&beside);
            VaultError::Io { act: "writing", path: path.to_owned(), source }
        })
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

impl Records for Directory {
    fn kind(&self) -> &'static str {
        "file"
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn bounds(&self) -> Bounds {
        Bounds::LOCAL
    }

    fn check(&self) -> Result<(), VaultError> {
        let io = |source| VaultError::Io { act: "reading", path: self.path.clone(), source };
        fs::metadata(&self.path).map(|_| ()).map_err(io)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn names(&self) -> Result<Vec<String>, VaultError> {
        let io = |source| VaultError::Io { act: "listing", path: self.path.clone(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(io)? {
            names.extend(entry.map_err(io)?.file_name().into_string());
        }
        Ok(names)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, VaultError> {
        let path = self.path(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(VaultError::Io { act: "reading", path, source }),
        }
    }

    fn create(&self, name: &str, bytes: &[u8]) -> Result<bool, VaultError> {
        let path = self.path(name);
        let free = !path.try_exists().map_err(|source| VaultError::Io { act: "reading", path: path.clone(), source })?;
        if free {
            self.write(&path, bytes)?;
        }
        Ok(free)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), VaultError> {
        self.write(&self.path(name), bytes)
    }

    /// Overwrites the file first. (On copy-on-write disks that does not reach the old blocks; what is left there is sealed.)
    fn remove(&self, name: &str) -> Result<(), VaultError> {
        let path = self.path(name);
        let io = |act| {
            let path = path.clone();
            move |source| VaultError::Io { act, path, source }
        };
        match OpenOptions::new().write(true).open(&path) {
            Ok(mut file) => {
                let length = file.metadata().map_err(io("reading"))?.len();
                file.write_all(&vec![0; usize::try_from(length).unwrap_or(0)]).and_then(|()| file.sync_all()).map_err(io("erasing"))?;
                fs::remove_file(&path).and_then(|()| self.sync()).map_err(io("removing"))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io("erasing")(error)),
        }
    }
}
