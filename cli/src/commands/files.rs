//! Files of any size, streamed through the agent. The result is written beside its target and renamed at success, so that
//! a broken end never leaves half a file under its name.

use std::{
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::io::{AsyncRead, AsyncWriteExt};

use super::Session;
use crate::{
    agent::context_header,
    error::{Error, Exit},
    output,
    upload::Source,
};

/// Seal standard input or a file.
#[derive(Debug, clap::Args)]
pub struct Encrypt {
    /// The key: id, or project/name; may be repeated: whoever may use any of them can open it
    #[arg(long = "key", required = true, value_name = "KEY")]
    keys: Vec<String>,
    #[command(flatten)]
    transfer: Transfer,
}

/// Open what 'encrypt' sealed.
#[derive(Debug, clap::Args)]
pub struct Decrypt {
    /// Write nothing before the agent has found the whole file genuine; it needs limits.spool for that
    #[arg(long, conflicts_with = "range")]
    verified: bool,
    /// Only these bytes, FIRST-LAST or FIRST-, counted from 0; the rest is not checked
    #[arg(long, value_name = "FIRST-LAST")]
    range: Option<String>,
    #[command(flatten)]
    transfer: Transfer,
}

/// Seal for other keys what 'encrypt' sealed. The old key must allow 're-encrypt', the new ones 'encrypt'; nothing is opened here.
#[derive(Debug, clap::Args)]
pub struct ReEncrypt {
    /// The key to seal it for: id, or project/name; may be repeated
    #[arg(long = "key", required = true, value_name = "KEY")]
    keys: Vec<String>,
    /// Another encryption context from now on; may be repeated [default: the same]
    #[arg(long, value_parser = super::pair, value_name = "NAME=VALUE")]
    new_context: Vec<(String, String)>,
    #[command(flatten)]
    transfer: Transfer,
}

/// From where to where, and in which context.
#[derive(Debug, clap::Args)]
pub struct Transfer {
    /// Encryption context; needed again, exactly, to decrypt; may be repeated
    #[arg(long, value_parser = super::pair, value_name = "NAME=VALUE")]
    context: Vec<(String, String)>,
    /// Read from here [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Write to here; an existing file is refused without --force [default: standard output]
    #[arg(long = "out", value_name = "FILE")]
    target: Option<PathBuf>,
    /// Replace an existing file
    #[arg(short, long)]
    force: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

impl Encrypt {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let path = with_query("/v1/stream/encrypt", self.keys.iter().map(|key| ("key", key.as_str())));
        self.transfer.run(session, &path, None, "encrypted").await
    }
}

impl Decrypt {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let release = self.verified.then_some(("release", "verified"));
        let range = self.range.as_deref().map(|range| ("range", range));
        let path = with_query("/v1/stream/decrypt", release.into_iter().chain(range));
        self.transfer.run(session, &path, None, "decrypted").await
    }
}

impl ReEncrypt {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let path = with_query("/v1/stream/re-encrypt", self.keys.iter().map(|key| ("key", key.as_str())));
        let new_context = context_header(&self.new_context.iter().cloned().collect())?;
        self.transfer.run(session, &path, new_context, "sealed again").await
    }
}

fn with_query<'a>(path: &str, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(format!("{path}?"));
    query.extend_pairs(pairs);
    query.finish()
}

/// A file or standard input on its way to the agent, and how far it is.
pub struct Upload {
    /// The bytes.
    pub source: Source,
    /// How many, when that is known.
    pub length: Option<u64>,
    /// Shows how far it is.
    pub progress: ProgressBar,
}

impl Upload {
    /// Opens the input.
    pub async fn open(input: Option<&Path>, quiet: bool) -> Result<Self, Error> {
        let (reader, length): (Box<dyn AsyncRead + Send + Unpin>, Option<u64>) = match input {
            Some(input) => {
                let file = tokio::fs::File::open(input).await.map_err(|source| unreadable(input, source))?;
                let metadata = file.metadata().await.map_err(|source| unreadable(input, source))?;
                (Box::new(file), metadata.is_file().then_some(metadata.len()))
            }
            None => (Box::new(standard(std::io::stdin())?), None),
        };
        let progress = progress(length, quiet);
        let shown = progress.clone();
        Ok(Self { source: Source::new(reader, move |bytes| shown.inc(bytes)), length, progress })
    }
}

impl Transfer {
    async fn run(self, session: &Session, path: &str, new_context: Option<String>, done: &str) -> Result<(), Error> {
        let agent = session.agent()?;
        if let Some(target) = &self.target
            && target.exists()
            && !self.force
        {
            return Err(Error::usage(format!("{} exists already", target.display())).hint("name another file, or use --force"));
        }
        let Upload { source, length, progress } = Upload::open(self.input.as_deref(), self.quiet).await?;
        let context = context_header(&self.context.iter().cloned().collect())?;
        let answer = agent.stream(path, &[("freehold-context", context), ("freehold-new-context", new_context)], &source, length).await?;
        let warnings: Vec<String> =
            answer.headers().get_all("freehold-warning").iter().filter_map(|value| value.to_str().ok().map(str::to_owned)).collect();
        match &self.target {
            Some(target) => {
                let beside = beside(target);
                let result = match write_file(answer, &beside).await {
                    Ok(()) => tokio::fs::rename(&beside, target)
                        .await
                        .map_err(|source| Error::fault(&format!("could not rename {} to {}", beside.display(), target.display()), source)),
                    Err(error) => Err(error),
                };
                if result.is_err() {
                    let _ = tokio::fs::remove_file(&beside).await;
                }
                result?;
            }
            None => write_to(answer, &mut standard(std::io::stdout())?).await?,
        }
        progress.finish_and_clear();
        for warning in warnings {
            output::note(&format!("warning: {warning}"));
        }
        if let Some(target) = self.target.as_ref().filter(|_| !self.quiet) {
            output::note(&format!("{done} to {}", target.display()));
        }
        Ok(())
    }
}

fn progress(length: Option<u64>, quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let bar = match length {
        Some(length) => ProgressBar::new(length),
        None => ProgressBar::new_spinner(),
    };
    let template =
        if length.is_some() { "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}" } else { "{spinner} {bytes} {bytes_per_sec}" };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Standard input or output, without a buffer between it and the stream.
fn standard(handle: impl AsFd) -> Result<tokio::fs::File, Error> {
    let owned = handle.as_fd().try_clone_to_owned().map_err(|source| Error::fault("could not use standard input or output", source))?;
    Ok(tokio::fs::File::from_std(owned.into()))
}

/// A name beside a file, for what is not whole yet.
pub fn beside(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".part-{}", std::process::id()));
    target.with_file_name(name)
}

async fn write_file(answer: reqwest::Response, path: &Path) -> Result<(), Error> {
    let act = || format!("could not write {}", path.display());
    let mut options = tokio::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).await.map_err(|source| Error::fault(&act(), source))?;
    write_to(answer, &mut file).await?;
    file.sync_all().await.map_err(|source| Error::fault(&act(), source))
}

async fn write_to(answer: reqwest::Response, target: &mut (impl tokio::io::AsyncWrite + Unpin)) -> Result<(), Error> {
    let mut body = answer.bytes_stream();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|_| {
            Error::new(
                Exit::Unverified,
                "stream_aborted",
                "the agent broke the stream off before its end: the data was changed or cut off, or the agent stopped; nothing was kept",
            )
            .hint("'freehold receipt list --outcome failed' or the agent's log says why")
        })?;
        target.write_all(&chunk).await.map_err(|source| Error::fault("could not write", source))?;
    }
    target.flush().await.map_err(|source| Error::fault("could not write", source))
}

fn unreadable(path: &Path, source: std::io::Error) -> Error {
    Error { exit: Exit::Usage, ..Error::fault(&format!("could not read {}", path.display()), source) }
}
