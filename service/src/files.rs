//! Files that must be whole or not there, secrets in files, and the lock on a data directory.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// Only its owner may read and write.
pub const OWNER_ONLY: u32 = 0o600;
/// Everybody may read.
pub const READABLE: u32 = 0o644;

/// Why a file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("cannot {act} {path}{}", advice(.source))]
    Io {
        /// What was attempted.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read or change a secret.
    #[error("{path} holds a secret, but its permissions are {mode:04o}: others may open it; run chmod 600 {path}")]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A secret belongs to somebody else.
    #[error("{path} holds a secret, but belongs to user {owner}; it must belong to the user that runs this program, or to root")]
    ForeignOwner {
        /// The file.
        path: PathBuf,
        /// The numeric user id of its owner.
        owner: u32,
    },
    /// It is a directory, device or pipe.
    #[error("{path} is not a regular file")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// It is larger than anything that belongs there.
    #[error("{path} has more than {limit} bytes, and cannot be what is expected there")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most bytes that are read.
        limit: u64,
    },
    /// Another process uses the directory.
    #[error("{path} is in use by {holder}; stop it first, or choose another directory")]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Who holds it: `process 4711`, as far as it is known.
        holder: String,
    },
}

/// What to do about the usual causes; nothing for others. Begins with a semicolon.
pub fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; check the path",
        io::ErrorKind::AlreadyExists => "; something else is there: move it away, or choose another path",
        io::ErrorKind::PermissionDenied => "; give the user that runs this program the right to, or choose another path",
        io::ErrorKind::ReadOnlyFilesystem => "; choose a path on a file system that can be written to",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room there",
        _ => "",
    }
}

fn io_error(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_path_buf();
    move |source| FileError::Io { act, path, source }
}

/// Replaces a file: afterwards, also after a crash, it holds the old bytes or the new ones.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let directory = parent(path);
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = directory.join(name);
    let written = (|| {
        let _ = std::fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written.map_err(io_error("write", path))?;
    sync_directory(directory)
}

/// Makes renames and new names in a directory durable.
pub fn sync_directory(directory: &Path) -> Result<(), FileError> {
    File::open(directory).and_then(|handle| handle.sync_all()).map_err(io_error("sync", directory))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

/// Makes a directory, and those above it, that only its owner may enter.
pub fn create_private_directory(path: &Path) -> Result<(), FileError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("create the directory", path))
}

/// The most bytes of a secret file.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// Reads a secret. The file must be regular, belong to this user or root, and be closed to others. Credentials that
/// systemd passes (`$CREDENTIALS_DIRECTORY`) are kept by it, with an access list that shows as group bits; they are taken.
pub fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let metadata = file.metadata().map_err(io_error("examine", path))?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile { path: path.to_path_buf() });
    }
    let by_systemd = std::env::var_os("CREDENTIALS_DIRECTORY").is_some_and(|directory| path.starts_with(directory));
    let mode = metadata.mode() & 0o777;
    let open_to = if by_systemd { 0o007 } else { 0o077 };
    if mode & open_to != 0 {
        return Err(FileError::TooOpen { path: path.to_path_buf(), mode });
    }
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() != user && metadata.uid() != 0 {
        return Err(FileError::ForeignOwner { path: path.to_path_buf(), owner: metadata.uid() });
    }
    if metadata.len() > MAX_SECRET_BYTES {
        return Err(FileError::TooLarge { path: path.to_path_buf(), limit: MAX_SECRET_BYTES });
    }
    // The full capacity at once: a buffer that grows leaves copies behind.
    let capacity = usize::try_from(metadata.len()).unwrap_or(0) + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(MAX_SECRET_BYTES).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    Ok(bytes)
}

/// Reads a secret that is a line of text: as [`read_secret`], without the line's end.
pub fn read_secret_line(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let mut bytes = read_secret(path)?;
    while matches!(bytes.last(), Some(b'\n' | b'\r')) {
        bytes.pop();
    }
    Ok(bytes)
}

/// A data directory that no other process uses. The operating system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the directory, which must be there, or says which process has it.
    pub fn take(directory: &Path) -> Result<Self, FileError> {
        let path = directory.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(OWNER_ONLY)
            .open(&path)
            .map_err(io_error("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                let holder = match text.trim() {
                    "" => "another process".to_owned(),
                    process => format!("process {process}"),
                };
                return Err(FileError::Locked { path: directory.to_path_buf(), holder });
            }
            Err(std::fs::TryLockError::Error(source)) => return Err(io_error("lock", &path)(source)),
        }
        file.set_len(0).and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes())).map_err(io_error("write", &path))?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_atomic_write_replaces_and_sets_the_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        write_atomic(&path, b"one", READABLE).unwrap();
        write_atomic(&path, b"two", OWNER_ONLY).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, OWNER_ONLY);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file is left");
        let error = write_atomic(&directory.path().join("no/such"), b"x", READABLE).unwrap_err();
        assert!(error.to_string().contains("no/such"));
    }

    #[test]
    fn an_error_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let missing = read_secret(&path).unwrap_err().to_string();
        assert!(missing.ends_with("file; check the path"), "{missing}");
        write_atomic(&path, b"x", READABLE).unwrap();
        let in_the_way = create_private_directory(&path).unwrap_err().to_string();
        assert!(in_the_way.contains("move it away"), "{in_the_way}");
    }

    #[test]
    fn a_secret_open_to_others_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        write_atomic(&path, b"hunter2\n", OWNER_ONLY).unwrap();
        assert_eq!(read_secret_line(&path).unwrap().as_slice(), b"hunter2");
        for mode in [0o640, 0o604, 0o620] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = read_secret(&path).unwrap_err();
            assert!(matches!(error, FileError::TooOpen { .. }));
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
        assert!(matches!(read_secret(directory.path()), Err(FileError::NotAFile { .. })));
    }

    #[test]
    fn a_second_holder_is_told_which_process_has_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let first = DirectoryLock::take(directory.path()).unwrap();
        let error = DirectoryLock::take(directory.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
        drop(first);
        DirectoryLock::take(directory.path()).unwrap();
    }
}
