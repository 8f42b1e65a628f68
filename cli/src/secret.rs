//! Secrets come from files, standard input or a prompt; never from an argument.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use zeroize::Zeroizing;

use crate::error::{Error, Exit};

/// Reads a secret file. One that others may read is refused.
pub fn read(path: &Path, what: &str) -> Result<Zeroizing<String>, Error> {
    if path == Path::new("-") {
        let mut text = Zeroizing::new(String::new());
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|source| Error::fault(&format!("could not read {what} from standard input"), source))?;
        return Ok(Zeroizing::new(text.trim().to_owned()));
    }
    let metadata = fs::metadata(path)
        .map_err(|source| Error { exit: Exit::Usage, ..Error::fault(&format!("could not read {what} from {}", path.display()), source) })?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(Error::usage(format!("{} holds {what} and can be read by others", path.display()))
            .hint(format!("chmod 600 {}", path.display())));
    }
    let text =
        fs::read_to_string(path).map_err(|source| Error::fault(&format!("could not read {what} from {}", path.display()), source))?;
    Ok(Zeroizing::new(Zeroizing::new(text).trim().to_owned()))
}

/// Writes a secret to a new file that only its owner can read. An existing file is refused.
pub fn write_new(path: &Path, what: &str, text: &str) -> Result<(), Error> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(|source| Error::fault(&format!("could not make {}", parent.display()), source))?;
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|source| {
        let exists = source.kind() == std::io::ErrorKind::AlreadyExists;
        let error = Error { exit: Exit::Usage, ..Error::fault(&format!("could not write {what} to {}", path.display()), source) };
        if exists { error.hint("it exists already: name another file, or move it away first") } else { error }
    })?;
    file.write_all(text.as_bytes())
        .and_then(|()| if text.ends_with('\n') { Ok(()) } else { file.write_all(b"\n") })
        .and_then(|()| file.sync_all())
        .map_err(|source| Error::fault(&format!("could not write {what} to {}", path.display()), source))
}

/// Whether a secret could be written to this path later: checked before a server makes the secret, so that it is not lost.
pub fn check_new(path: &Path, what: &str) -> Result<(), Error> {
    if path.exists() {
        return Err(Error::usage(format!("{what} would go to {}, which exists already", path.display())).hint("name another file"));
    }
    Ok(())
}
