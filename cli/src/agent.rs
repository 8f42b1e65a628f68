//! Talks to an agent: messages as JSON, files as streams.

use std::path::Path;

use schema::{encoding::base64url, key::Pairs, wire::problem::Problem};
use serde_json::Value;

use crate::{
    error::{Error, Exit},
    http,
    profile::Profile,
    secret,
};

/// A client of one agent.
pub struct Client {
    http: reqwest::Client,
    url: url::Url,
    token: Option<zeroize::Zeroizing<String>>,
}

impl Client {
    /// Connects as the profile says.
    pub fn new(profile: &Profile) -> Result<Self, Error> {
        let agent = profile.agent.as_deref().ok_or_else(|| {
            Error::usage("no agent is named").hint("use --agent URL, or 'freehold profile set NAME --agent URL --caller-token-file FILE'")
        })?;
        let token = profile.caller_token_file.as_deref().map(|path: &Path| secret::read(path, "the caller token")).transpose()?;
        Ok(Self { http: http::client(profile.agent_ca_file.as_deref(), None)?, url: http::check_url(agent, "--agent")?, token })
    }

    /// Posts JSON, reads JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Error> {
        let answer = self.request(reqwest::Method::POST, path)?.json(body).send().await.map_err(|error| self.unreachable(error))?;
        self.json(answer).await
    }

    /// Reads JSON.
    pub async fn read(&self, path: &str) -> Result<Value, Error> {
        let answer = self.request(reqwest::Method::GET, path)?.send().await.map_err(|error| self.unreachable(error))?;
        self.json(answer).await
    }

    /// Reads text.
    pub async fn text(&self, path: &str) -> Result<String, Error> {
        let answer = self.request(reqwest::Method::GET, path)?.send().await.map_err(|error| self.unreachable(error))?;
        let answer = self.accepted(answer).await?;
        answer.text().await.map_err(|error| self.unreachable(error))
    }

    /// How the agent is.
    pub async fn status(&self) -> Result<Value, Error> {
        self.read("/v1/status").await
    }

    /// Streams a body through the agent; the answer's body is still to be read. Headers without a value are left out.
    pub async fn stream(
        &self,
        path: &str,
        headers: &[(&'static str, Option<String>)],
        body: reqwest::Body,
        length: Option<u64>,
    ) -> Result<reqwest::Response, Error> {
        let mut request = self.request(reqwest::Method::POST, path)?.header("content-type", "application/octet-stream").body(body);
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        for (name, value) in headers {
            if let Some(value) = value {
                request = request.header(*name, value);
            }
        }
        let answer = request.send().await.map_err(|error| self.unreachable(error))?;
        self.accepted(answer).await
    }

    /// Streams a body through the agent, reads JSON.
    pub async fn stream_for_json(
        &self,
        path: &str,
        headers: &[(&'static str, Option<String>)],
        body: reqwest::Body,
        length: Option<u64>,
    ) -> Result<Value, Error> {
        let answer = self.stream(path, headers, body, length).await?;
        answer.json().await.map_err(|source| Error::fault("the agent's answer is not JSON", source))
    }

    fn request(&self, method: reqwest::Method, path: &str) -> Result<reqwest::RequestBuilder, Error> {
        let url = self.url.join(path).map_err(|_| Error::usage(format!("'{path}' does not make a URL")))?;
        let request = self.http.request(method, url);
        Ok(match &self.token {
            Some(token) => request.bearer_auth(token.as_str()),
            None => request,
        })
    }

    async fn json(&self, answer: reqwest::Response) -> Result<Value, Error> {
        let answer = self.accepted(answer).await?;
        answer.json().await.map_err(|source| Error::fault("the agent's answer is not JSON", source))
    }

    /// The answer, or the problem it tells.
    async fn accepted(&self, answer: reqwest::Response) -> Result<reqwest::Response, Error> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let bytes = answer.bytes().await.map_err(|error| self.unreachable(error))?;
        match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => Err(Error::from_problem(problem)),
            Err(_) => Err(Error::new(Exit::Fault, "unexpected_answer", format!("{} answered {status}", self.url))),
        }
    }

    fn unreachable(&self, error: reqwest::Error) -> Error {
        http::unreachable(self.url.as_str(), error)
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
