//! The tools of PostgreSQL: `pg_dump` and `pg_restore`. A password travels in their environment, never in an argument.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use service::files::{OWNER_ONLY, write_atomic};
use url::Url;

use super::BackupError;

/// The most of a tool's complaint that is told.
const MAX_COMPLAINT: usize = 2000;

/// Where they are, and the server.
#[derive(Clone)]
pub(super) struct Tools {
    folder: Option<PathBuf>,
    /// Without the password.
    url: Url,
    password: Option<zeroize::Zeroizing<String>>,
}

impl Tools {
    /// `url` as the store is opened with: the options that only the driver knows are left out.
    pub(super) fn new(folder: Option<&Path>, url: &str) -> Result<Self, BackupError> {
        let wrong = |_| BackupError::Setting { setting: "store.url", what: "expected postgres://user@host/database".to_owned() };
        let mut url: Url = url.parse().map_err(wrong)?;
        let password = url.password().map(|password| zeroize::Zeroizing::new(decoded(password)));
        let _ = url.set_password(None);
        // Names that libpq knows; the driver's are those with dashes as well.
        let known = ["host", "port", "user", "dbname", "sslmode", "sslrootcert", "sslcert", "sslkey", "application_name", "options"];
        let options: Vec<(String, String)> = url
            .query_pairs()
            .map(|(name, value)| (name.replace("ssl-root-cert", "sslrootcert").replace("ssl-mode", "sslmode"), value.into_owned()))
            .collect();
        url.set_query(None);
        for (name, value) in options.iter().filter(|(name, _)| known.contains(&name.as_str())) {
            url.query_pairs_mut().append_pair(name, value);
        }
        Ok(Self { folder: folder.map(Path::to_owned), url, password })
    }

    fn program(&self, tool: &'static str) -> Command {
        Command::new(self.folder.as_ref().map_or_else(|| PathBuf::from(tool), |folder| folder.join(tool)))
    }

    fn command(&self, tool: &'static str) -> Command {
        let mut command = self.program(tool);
        command.arg(format!("--dbname={}", self.url)).arg("--no-password");
        if let Some(password) = &self.password {
            command.env("PGPASSWORD", password.as_str());
        }
        command
    }

    /// Writes an archive of the whole database, as it is at one moment, while others go on.
    pub(super) fn dump(&self, out: &mut impl Write) -> Result<(), BackupError> {
        let tool = "pg_dump";
        let failed = |said: String| BackupError::Tool { tool, said };
        let mut command = self.command(tool);
        command.args(["--format=custom", "--no-owner", "--no-privileges", "--compress=6"]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let (mut archive, mut complaint) = (child.stdout.take(), child.stderr.take());
        let listening = std::thread::spawn(move || complaints(complaint.as_mut()));
        let copied = archive.as_mut().map_or(Ok(0), |archive| std::io::copy(archive, out));
        drop(archive);
        let status = child.wait().map_err(|error| failed(error.to_string()))?;
        let said = listening.join().unwrap_or_default();
        copied.map_err(BackupError::Writing)?;
        if status.success() { Ok(()) } else { Err(failed(if said.is_empty() { status.to_string() } else { said })) }
    }

    /// Restores an archive into an empty database: everything or nothing. Policies of row-level security name roles, which may be
    /// others here or not there at all: they are left out, and whoever prepares the database makes them.
    pub(super) fn restore(&self, archive: &Path) -> Result<(), BackupError> {
        let tool = "pg_restore";
        let failed = |said: String| BackupError::Tool { tool, said };
        let listed =
            self.program(tool).arg("--list").arg(archive).stdin(Stdio::null()).output().map_err(|error| failed(error.to_string()))?;
        if !listed.status.success() {
            return Err(failed(complaints(Some(&mut listed.stderr.as_slice()))));
        }
        let list = archive.with_extension("list");
        write_atomic(&list, without_policies(&String::from_utf8_lossy(&listed.stdout)).as_bytes(), OWNER_ONLY)?;
        let mut command = self.command(tool);
        command.args(["--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", "--use-list"]).arg(&list).arg(archive);
        let done = command.stdin(Stdio::null()).output().map_err(|error| failed(error.to_string()))?;
        let _ = std::fs::remove_file(&list);
        let said = complaints(Some(&mut done.stderr.as_slice()));
        if done.status.success() { Ok(()) } else { Err(failed(if said.is_empty() { done.status.to_string() } else { said })) }
    }
}

/// The list of an archive, without what belongs to roles. A line is `id; table oid TYPE schema name owner`.
fn without_policies(list: &str) -> String {
    let kept = |line: &&str| {
        let mut words = line.split_whitespace().skip(3);
        !matches!((words.next(), words.next()), (Some("POLICY"), _) | (Some("ROW"), Some("SECURITY")))
    };
    list.lines().filter(|line| line.starts_with(';') || kept(line)).map(|line| format!("{line}\n")).collect()
}

fn decoded(text: &str) -> String {
    // What a URL holds of a password is escaped.
    url::form_urlencoded::parse(format!("p={}", text.replace('+', "%2B")).as_bytes())
        .next()
        .map_or_else(String::new, |(_, value)| value.into_owned())
}

fn complaints(input: Option<&mut impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(input) = input {
        let _ = input.read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes);
    let text: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_COMPLAINT).collect();
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_roles_is_left_out_of_an_archive() {
        let list = ";\n; Archive created at 2026\n212; 1259 16400 TABLE public records owner\n\
                    3390; 3256 16452 POLICY public records w_rows owner\n3389; 0 16400 ROW SECURITY public records owner\n\
                    3391; 0 16400 TABLE DATA public policy owner\n";
        let kept = without_policies(list);
        assert_eq!(kept.lines().filter(|line| !line.starts_with(';')).count(), 2, "{kept}");
        assert!(kept.contains("TABLE public records") && kept.contains("TABLE DATA public policy") && kept.starts_with(";\n"));
    }

    #[test]
    fn a_password_is_no_argument() {
        let tools = Tools::new(None, "postgres://me:s%3Aec+ret@db/x?ssl-mode=verify-full&statement-cache-capacity=1").unwrap();
        let command = tools.command("pg_dump");
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect();
        assert!(arguments.iter().all(|argument| !argument.contains("ret") && !argument.contains("statement-cache")), "{arguments:?}");
        assert!(arguments[0].contains("sslmode=verify-full"), "{arguments:?}");
        let password = command.get_envs().find(|(name, _)| *name == "PGPASSWORD").unwrap().1.unwrap();
        assert_eq!(password, "s:ec+ret");
    }
}
