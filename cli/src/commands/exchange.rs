//! Files of agents that are connected to nothing: handed in at the control plane's agent listener as they are, which judges them as if the
//! agent had called. What comes back goes into a file. The files prove themselves: whoever carries them needs no right of their own.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use schema::wire::{
    agent::{EnrolRequest, EnrolResponse, EnrolmentToken, StatementSet, path},
    exchange::{
        CarriedFile, EXCHANGE, EnrolmentAnswerFile, EnrolmentRequestFile, ExchangeAnswer, ExchangeAsk, InboxFile, MAX_ASK_BYTES,
        OutboxFile, read_carried,
    },
    problem::Problem,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use trust::enrolment::open_request;

use super::Session;
use crate::{
    error::{Error, Exit},
    graphql::documents::{AGENT, RECOVERY},
    http, output, secret,
};

/// How often to look for the first statements of a site.
const TRIES: u32 = 30;
/// The largest answer: a set of statements, and what goes with it.
const MAX_ANSWER_BYTES: usize = 512 << 20;

/// Where files of agents are handed in, when it is not where the agent thinks.
#[derive(Debug, clap::Args)]
pub struct Listener {
    /// The control plane's agent listener, e.g. https://control.example.net:7420 [default: as the file says]
    #[arg(long, value_name = "URL")]
    pub agents_url: Option<String>,
    /// File with the certificate authority of that listener, PEM [default: as the file says]
    #[arg(long, value_name = "FILE")]
    pub agents_ca_file: Option<PathBuf>,
}

impl Listener {
    async fn post<A: DeserializeOwned>(
        &self,
        session: &Session,
        (url, ca_pem): (&str, Option<&str>),
        path: &str,
        body: &impl Serialize,
    ) -> Result<A, Error> {
        let url = self.agents_url.as_deref().unwrap_or(url);
        let base = http::check_url(url, "--agents-url")?;
        let proxy = session.connection.proxy.as_ref();
        let client = match (&self.agents_ca_file, ca_pem) {
            (None, Some(pem)) => http::client_of(pem.as_bytes(), "the authority that the file names", proxy)?,
            (file, _) => http::client(file.as_deref(), proxy)?,
        };
        let target = base.join(path).map_err(|_| Error::usage(format!("'{url}' is not the URL of an agent listener")))?;
        let request = client.post(target).json(body).timeout(Duration::from_secs(300));
        let unreachable = |error: reqwest::Error| {
            http::unreachable(url, error).hint("this is the agents' listener, not the API: name it with --agents-url and --agents-ca-file")
        };
        let mut answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
            if bytes.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(Error::new(Exit::Fault, "answer_too_large", "the control plane's answer is larger than any that makes sense"));
            }
            bytes.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            let problem = serde_json::from_slice::<Problem>(&bytes);
            let stranger = |_| Error::new(Exit::Fault, "http_status", format!("HTTP status {status}: is {url} an agent listener?"));
            return Err(problem.map_or_else(stranger, Error::from_problem));
        }
        serde_json::from_slice(&bytes).map_err(|source| Error::fault("the control plane's answer cannot be read", source))
    }
}

/// Hands in what an agent asks that wants to join.
pub async fn enrol(session: &Session, request: &Path, enrolment_file: &Path, answer: &Path, listener: &Listener) -> Result<(), Error> {
    secret::check_new(answer, "the answer")?;
    let file: EnrolmentRequestFile = read(request, "`freehold-agent enrol --request`")?;
    let token = secret::read(enrolment_file, "the enrolment")?;
    let token: EnrolmentToken = serde_json::from_str(&token)
        .map_err(|_| Error::usage(format!("{} is no enrolment file of 'freehold agent invite'", enrolment_file.display())))?;
    let asked = open_request(&token.token, &file).map_err(|refusal| Error::new(Exit::Unverified, refusal.code(), refusal.to_string()))?;
    // Before the token is spent: who may not fetch the statements would have an answer without them.
    let client = session.control_plane()?;
    let (agent, site) = (token.agent.to_string(), token.site.to_string());
    client.one(AGENT, "Agent", json!({ "id": agent }), &format!("agent '{agent}'")).await?;
    let body = EnrolRequest {
        token: token.token.clone(),
        csr_pem: asked.csr_pem,
        roster_entry: asked.roster_entry,
        agent_version: asked.agent_version,
        host: asked.host,
    };
    let at = (token.control_plane.as_str(), token.ca_pem.as_deref());
    let enrolled: EnrolResponse = listener.post(session, at, path::ENROL, &body).await?;
    let mut statements = None;
    for attempt in 0..TRIES {
        if attempt > 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        match client.one(RECOVERY, "SiteStatementSet", json!({ "site": site }), "a set of statements of the site").await {
            Ok(set) => {
                let set = serde_json::from_str::<StatementSet>(set.as_str().unwrap_or_default());
                statements = Some(set.map_err(|source| Error::fault("the statements of the site cannot be read", source))?);
                break;
            }
            Err(error) if error.exit == Exit::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let file = EnrolmentAnswerFile { format: EnrolmentAnswerFile::FORMAT.to_owned(), v: 1, answer: enrolled, statements };
    write(answer, &file)?;
    output::note(&format!("bring {0} to the agent's host and run 'freehold-agent enrol --answer {0}'", answer.display()));
    output::line(&format!("{agent} has joined"))
}

/// Hands in what an agent has to say.
pub async fn exchange(session: &Session, outbox: &Path, answer: &Path, listener: &Listener) -> Result<(), Error> {
    secret::check_new(answer, "the answer")?;
    let file: OutboxFile = read(outbox, "`freehold-agent exchange write`")?;
    let ask = ExchangeAsk { outbox: file.outbox };
    // The file says where to, and nobody signed that: a person sees it before anything leaves.
    let place = listener.agents_url.as_deref().unwrap_or(&file.control_plane);
    output::note(&format!("handing it in at {place}"));
    let at = (file.control_plane.as_str(), file.ca_pem.as_deref());
    let answered: ExchangeAnswer = listener.post(session, at, EXCHANGE, &ask).await?;
    write(answer, &InboxFile { format: InboxFile::FORMAT.to_owned(), v: 1, answer: answered })?;
    output::note(&format!("bring {0} to the agent's host and run 'freehold-agent exchange take {0}'", answer.display()));
    output::line("the control plane has taken it")
}

fn read<T: CarriedFile + DeserializeOwned>(path: &Path, writer: &str) -> Result<T, Error> {
    let failed = |source| Error { exit: Exit::Usage, ..Error::fault(&format!("could not read {}", path.display()), source) };
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > MAX_ASK_BYTES as u64 {
        let message = format!("{} has {length} bytes; what is handed in has at most {MAX_ASK_BYTES}", path.display());
        return Err(Error::new(Exit::Usage, "file_too_large", message));
    }
    let other = || Error::new(Exit::Usage, "other_file", format!("{} is no file of {writer}", path.display()));
    read_carried(&fs::read(path).map_err(failed)?).ok_or_else(other)
}

fn write(path: &Path, file: &impl Serialize) -> Result<(), Error> {
    let act = format!("could not write {}", path.display());
    let bytes = serde_json::to_vec(file).map_err(|source| Error::fault(&act, source))?;
    let mut open = fs::OpenOptions::new();
    let opened = open.write(true).create_new(true).mode(0o644).open(path);
    let written = opened.and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()));
    written.map_err(|source| Error::fault(&act, source))
}
