//! How a command on this host asks the agent that runs here. What only those may ask who may read the agent's data comes with
//! a token that stands there, readable by its owner only, and is another one at each start.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use reqwest::Method;
use schema::{
    clock::{Ids, random},
    encoding::base64url,
    wire::problem::Problem,
};
use serde::de::DeserializeOwned;
use service::{
    files::{FileError, OWNER_ONLY, read_secret_line, write_atomic},
    outgoing::{self, Trust},
};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::config::Config;

/// The token of one life of an agent. Does not print.
pub struct LocalToken(Zeroizing<String>);

impl LocalToken {
    /// Makes one and writes it where commands find it.
    pub fn make(data_dir: &Path, ids: &dyn Ids) -> Result<Self, FileError> {
        let token = Self(Zeroizing::new(base64url(&*Zeroizing::new(random::<32>(ids)))));
        write_atomic(&path(data_dir), token.0.as_bytes(), OWNER_ONLY)?;
        Ok(token)
    }

    /// Whether this is it; constant time.
    pub fn is(&self, text: &str) -> bool {
        self.0.as_bytes().ct_eq(text.as_bytes()).into()
    }
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("local.token")
}

/// Asks the agent that runs with these settings.
pub async fn ask<T: DeserializeOwned>(config: &Config, method: Method, path: &str) -> anyhow::Result<T> {
    let (asked, url) = (request(config, method, path)?.send().await, address(config));
    let answer =
        asked.and_then(reqwest::Response::error_for_status).with_context(|| format!("no agent answers at {url}: is it running?"))?;
    Ok(answer.json().await?)
}

/// Asks it what only those may ask who may read its data. Refusals are errors that say why.
pub async fn ask_as_owner<T: DeserializeOwned>(config: &Config, method: Method, at: &str) -> anyhow::Result<T> {
    let token = read_secret_line(&path(&config.data_dir))?;
    let token = Zeroizing::new(String::from_utf8_lossy(&token).into_owned());
    let asked = request(config, method, at)?.bearer_auth(&*token).send().await;
    let answer = asked.with_context(|| format!("no agent answers at {}: is it running?", address(config)))?;
    if answer.status().is_success() {
        return Ok(answer.json().await?);
    }
    let status = answer.status();
    match answer.json::<Problem>().await {
        Ok(problem) => bail!("{} ({})", problem.detail, problem.code),
        Err(_) => bail!("the agent answered {status}"),
    }
}

fn request(config: &Config, method: Method, path: &str) -> anyhow::Result<reqwest::RequestBuilder> {
    let authority = config.tls_directory().join("authority.pem");
    let trust = match std::fs::read_to_string(&authority) {
        Ok(pem) if config.server.tls.certificate_file.is_none() => Trust::Only(pem),
        _ => Trust::System,
    };
    let client = outgoing::client(&config.control_plane.outgoing, &trust, None)?;
    Ok(client.request(method, format!("{}{path}", address(config))))
}

fn address(config: &Config) -> String {
    let scheme = if config.server.plain_http { "http" } else { "https" };
    format!("{scheme}://{}", config.server.listen)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use schema::clock::SystemIds;

    use super::*;

    #[test]
    fn a_token_is_for_its_owner_and_for_one_life() {
        let directory = tempfile::tempdir().unwrap();
        let first = LocalToken::make(directory.path(), &SystemIds).unwrap();
        let written = std::fs::read_to_string(path(directory.path())).unwrap();
        assert_eq!(std::fs::metadata(path(directory.path())).unwrap().mode() & 0o777, 0o600);
        assert!(first.is(&written) && !first.is("") && !first.is(&written[1..]));
        let second = LocalToken::make(directory.path(), &SystemIds).unwrap();
        assert!(!second.is(&written));
    }
}
