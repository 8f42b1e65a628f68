//! Talks to an agent: messages as JSON, files as streams.

use std::path::Path;

use schema::{encoding::base64url, key::Pairs, wire::problem::Problem};
use serde_json::Value;

use crate::{
    error::{Error, Exit},
    http, output,
    profile::Profile,
    secret,
    upload::Source,
};

/// A client of the agents of one site: the first that answers.
pub struct Client {
    http: reqwest::Client,
    urls: Vec<url::Url>,
    token: Option<zeroize::Zeroizing<String>>,
}

impl Client {
    /// Connects as the profile says.
    pub fn new(profile: &Profile) -> Result<Self, Error> {
        if profile.agent.is_empty() {
            return Err(Error::usage("no agent is named")
                .hint("use --agent URL, or 'freehold profile set NAME --agent URL --caller-token-file FILE'"));
        }
        let token = profile.caller_token_file.as_deref().map(|path: &Path| secret::read(path, "the caller token")).transpose()?;
        let urls = profile.agent.iter().map(|agent| http::check_url(agent, "--agent")).collect::<Result<_, _>>()?;
        Ok(Self { http: http::client(profile.agent_ca_file.as_deref(), None)?, urls, token })
    }

    /// Posts JSON, reads JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Error> {
        self.first(|url| async move {
            let answer = self.send(url, self.request(url, reqwest::Method::POST, path)?.json(body)).await?;
            self.json(url, answer).await
        })
        .await
    }

    /// Reads JSON.
    pub async fn read(&self, path: &str) -> Result<Value, Error> {
        self.first(|url| async move {
            let answer = self.send(url, self.request(url, reqwest::Method::GET, path)?).await?;
            self.json(url, answer).await
        })
        .await
    }

    /// Reads text.
    pub async fn text(&self, path: &str) -> Result<String, Error> {
        self.first(|url| async move {
            let answer = self.send(url, self.request(url, reqwest::Method::GET, path)?).await?;
            let answer = self.accepted(url, answer).await?;
            answer.text().await.map_err(|error| http::unreachable(url.as_str(), error).into())
        })
        .await
    }

    /// How the agent is.
    pub async fn status(&self) -> Result<Value, Error> {
        self.read("/v1/status").await
    }

    /// Streams a body through the agent; the answer's body is still to be read. Headers without a value are left out. Another
    /// agent is tried while the whole body can still be sent.
    pub async fn stream(
        &self,
        path: &str,
        headers: &[(&'static str, Option<String>)],
        body: &Source,
        length: Option<u64>,
    ) -> Result<reqwest::Response, Error> {
        self.first(|url| async move {
            let Some(body) = body.body().await else {
                let message = "too much of the input was gone to send it to another agent";
                return Err(Error::new(Exit::Unreachable, "cannot_send_again", message).hint("run the command again").into());
            };
            let mut request = self.request(url, reqwest::Method::POST, path)?.header("content-type", "application/octet-stream").body(body);
            if let Some(length) = length {
                request = request.header("content-length", length);
            }
            for (name, value) in headers {
                if let Some(value) = value {
                    request = request.header(*name, value);
                }
            }
            let answer = self.send(url, request).await?;
            self.accepted(url, answer).await
        })
        .await
    }

    /// Streams a body through the agent, reads JSON.
    pub async fn stream_for_json(
        &self,
        path: &str,
        headers: &[(&'static str, Option<String>)],
        body: &Source,
        length: Option<u64>,
    ) -> Result<Value, Error> {
        let answer = self.stream(path, headers, body, length).await?;
        answer.json().await.map_err(|source| Error::fault("the agent's answer is not JSON", source))
    }

    /// What the first agent says that is there and serves. Of several that do not, what the first said.
    async fn first<'a, T, F: Future<Output = Result<T, Failed>>>(&'a self, attempt: impl Fn(&'a url::Url) -> F) -> Result<T, Error> {
        let mut first = None;
        for url in &self.urls {
            match attempt(url).await {
                Ok(value) => return Ok(value),
                Err(Failed { error, elsewhere: false }) => return Err(first.unwrap_or(error)),
                Err(Failed { error, .. }) => {
                    if self.urls.len() > 1 {
                        output::note(&format!("{url} does not serve ({})", error.code));
                    }
                    first.get_or_insert(error);
                }
            }
        }
        Err(first.unwrap_or_else(|| Error::usage("no agent is named")))
    }

    fn request(&self, url: &url::Url, method: reqwest::Method, path: &str) -> Result<reqwest::RequestBuilder, Error> {
        let url = url.join(path).map_err(|_| Error::usage(format!("'{path}' does not make a URL")))?;
        let request = self.http.request(method, url);
        Ok(match &self.token {
            Some(token) => request.bearer_auth(token.as_str()),
            None => request,
        })
    }

    async fn send(&self, url: &url::Url, request: reqwest::RequestBuilder) -> Result<reqwest::Response, Failed> {
        request.send().await.map_err(|error| Failed { error: http::unreachable(url.as_str(), error), elsewhere: true })
    }

    async fn json(&self, url: &url::Url, answer: reqwest::Response) -> Result<Value, Failed> {
        let answer = self.accepted(url, answer).await?;
        Ok(answer.json().await.map_err(|source| Error::fault("the agent's answer is not JSON", source))?)
    }

    /// The answer, or the problem it tells.
    async fn accepted(&self, url: &url::Url, answer: reqwest::Response) -> Result<reqwest::Response, Failed> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let bytes = answer.bytes().await.map_err(|error| Failed { error: http::unreachable(url.as_str(), error), elsewhere: true })?;
        let error = match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => Error::from_problem(problem),
            Err(_) => Error::new(Exit::Fault, "unexpected_answer", format!("{url} answered {status}")),
        };
        // What one agent of a site does not have yet, another may.
        let elsewhere = status == reqwest::StatusCode::SERVICE_UNAVAILABLE || error.code == "key_version_not_held";
        Err(Failed { error, elsewhere })
    }
}

/// Why one agent did not do it, and whether another one may.
struct Failed {
    error: Error,
    elsewhere: bool,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, elsewhere: false }
    }
}

/// An encryption context as a header has it; none when it is empty.
pub fn context_header(context: &Pairs) -> Result<Option<String>, Error> {
    if context.is_empty() {
        return Ok(None);
    }
    let json = serde_json::to_vec(context).map_err(|source| Error::fault("could not write the context", source))?;
    Ok(Some(base64url(&json)))
}
