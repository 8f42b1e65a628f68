//! The connection to KurrentDB: where it is, who we are there, and a client that is made anew when it has failed.

use std::{
    fmt,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use eventstore::{Client, ClientSettings, Credentials, Error as ClientError};
use service::tls::{TlsError, certificates_from_file};

use super::super::store::Cause;

/// How long the server may take to answer once, or to send the next of several events.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How often a read is tried, by a new client when the last one has failed.
const READ_ATTEMPTS: u32 = 6;
/// The pause after the first failure; every further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

const SCHEMES: [&str; 8] =
    ["kurrentdb", "kurrentdb+discover", "kurrent", "kurrent+discover", "kdb", "kdb+discover", "esdb", "esdb+discover"];

/// Where the server or cluster is, who we are there, and how our streams begin. Does not print what is secret.
#[derive(Clone)]
pub struct KurrentSettings {
    client: ClientSettings,
    credentials: Option<Credentials>,
    namespace: String,
}

impl fmt::Debug for KurrentSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<_> = self.client.hosts().iter().map(|host| format!("{}:{}", host.host, host.port)).collect();
        write!(f, "KurrentDB at {}, streams of {}", hosts.join(", "), self.namespace)
    }
}

/// Why the settings do not name a KurrentDB. Says nothing of what they hold.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSettings {
    /// The connection string cannot be read.
    #[error("expected kurrentdb://host:2113 or a list of hosts, with options such as ?tlsCaFile=/etc/freehold/kurrent-ca.pem")]
    Url,
    /// A secret stands in it.
    #[error("a password does not belong here; put it into a file and name that in store.password_file")]
    Password,
    /// A user, and no password.
    #[error("it names a user, whose password is missing: name its file in store.password_file")]
    NoPassword,
    /// A password, and no user.
    #[error("store.password_file is set, but no user is named: kurrentdb://user@host:2113")]
    NoUser,
    /// Names of streams could not be told apart.
    #[error("store.namespace: 1 to 40 of a-z, 0-9 and '_'")]
    Namespace,
    /// The authority cannot be used.
    #[error("tlsCaFile {} cannot be used", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: TlsError,
    },
}

impl KurrentSettings {
    /// Whether a URL names a KurrentDB.
    pub fn names(url: &str) -> bool {
        url.split_once("://").is_some_and(|(scheme, _)| SCHEMES.contains(&scheme))
    }

    /// A connection string without a password, and the password.
    pub fn parse(url: &str, password: Option<&str>, namespace: &str) -> Result<Self, InvalidSettings> {
        let (scheme, rest) = url.split_once("://").filter(|_| Self::names(url)).ok_or(InvalidSettings::Url)?;
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let (user, rest) = match authority.rsplit_once('@') {
            Some((user, _)) => (Some(user), &rest[user.len() + 1..]),
            None => (None, rest),
        };
        // Handed over call by call: the client does not decode what stands in its connection string, and prints it in errors.
        let credentials = match (user, password) {
            (Some(user), _) if user.contains(':') => return Err(InvalidSettings::Password),
            (Some(_), None) => return Err(InvalidSettings::NoPassword),
            (None, Some(_)) => return Err(InvalidSettings::NoUser),
            (Some(user), Some(password)) => Some(Credentials::new(user.to_owned(), password.to_owned())),
            (None, None) => None,
        };
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if namespace.is_empty() || namespace.len() > 40 || !namespace.chars().all(good) {
            return Err(InvalidSettings::Namespace);
        }
        // Only the leader knows the latest; a follower would answer with what it has.
        let separator = if rest.contains('?') { '&' } else { '?' };
        let preference =
            if rest.to_lowercase().contains("nodepreference=") { String::new() } else { format!("{separator}nodePreference=leader") };
        let client: ClientSettings = format!("{scheme}://{rest}{preference}").parse().map_err(|_| InvalidSettings::Url)?;
        if let Some(path) = client.tls_ca_file().map(PathBuf::from) {
            certificates_from_file(&path).map_err(|source| InvalidSettings::Authority { path, source })?;
        }
        Ok(Self { client, credentials, namespace: namespace.to_owned() })
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("KurrentDB did not answer within {} s", PATIENCE.as_secs())]
    TooLate,
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("making a client of KurrentDB failed: {0}")]
    Settings(String),
}

impl CallError {
    /// Whether the server has understood the call and will not do it: whoever asks again is told the same.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Client(ClientError::Grpc { code, .. }) => {
                // By their numbers: invalid argument, already exists, failed precondition, out of range.
                matches!(i32::from(*code), 3 | 6 | 9 | 11)
            }
            Self::Client(
                ClientError::AccessDenied
                | ClientError::ResourceNotFound
                | ClientError::ResourceDeleted
                | ClientError::ResourceAlreadyExists
                | ClientError::UnsupportedFeature
                | ClientError::WrongExpectedVersion { .. },
            ) => true,
            _ => false,
        }
    }

    /// Whether there was no connection that anything could have been sent over.
    pub(super) fn is_before_sending(&self) -> bool {
        matches!(self, Self::Settings(_) | Self::Client(ClientError::GrpcConnectionError(_) | ClientError::ConnectionClosed))
    }

    pub(super) fn into_cause(self) -> Cause {
        match self {
            Self::Client(ClientError::AccessDenied) => {
                "KurrentDB denies access; check the user in store.url and store.password_file".into()
            }
            Self::Client(ClientError::UnsupportedFeature) => {
                "the server cannot append in batches; EventStoreDB 21.10 or a later KurrentDB is needed".into()
            }
            other => Box::new(other),
        }
    }
}

/// A client, and which one in a row it is.
#[derive(Clone)]
pub(super) struct Connected {
    pub(super) generation: u64,
    pub(super) client: Client,
}

/// The client of this process.
pub(super) struct Connection {
    settings: KurrentSettings,
    current: Mutex<(u64, Option<Client>)>,
}

impl Connection {
    pub(super) fn new(settings: KurrentSettings) -> Self {
        Self { settings, current: Mutex::new((0, None)) }
    }

    pub(super) fn settings(&self) -> &KurrentSettings {
        &self.settings
    }

    /// Whom every call is made as.
    pub(super) fn credentials(&self) -> Option<Credentials> {
        self.settings.credentials.clone()
    }

    /// The client, made when there is none. This connects nothing yet.
    pub(super) fn connected(&self) -> Result<Connected, CallError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.1.is_none() {
            let client = Client::new(self.settings.client.clone()).map_err(|report| CallError::Settings(report.to_string()))?;
            *current = (current.0 + 1, Some(client));
        }
        match &current.1 {
            Some(client) => Ok(Connected { generation: current.0, client: client.clone() }),
            None => Err(CallError::Settings("there is none".to_owned())),
        }
    }

    /// What a failure means for the client: one that has lost its connection never finds another node, so it is given up.
    /// Another leader it finds by itself.
    pub(super) fn failed(&self, generation: u64, error: &CallError) {
        // An error with a code has been answered by the server.
        let answered = matches!(error, CallError::Client(ClientError::NotLeaderException(_) | ClientError::Grpc { .. }));
        if answered || error.is_refusal() {
            return;
        }
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 == generation {
            current.1 = None;
        }
    }

    /// Something that may be done again, done until it succeeds, is refused, or has failed too often.
    pub(super) async fn read<T, F>(&self, call: impl Fn(Client) -> F) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, CallError>>,
    {
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        loop {
            let connected = self.connected()?;
            match call(connected.client).await {
                Ok(value) => return Ok(value),
                Err(error) if error.is_refusal() || attempt == READ_ATTEMPTS => {
                    self.failed(connected.generation, &error);
                    return Err(error);
                }
                Err(error) => self.failed(connected.generation, &error),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
            attempt += 1;
        }
    }
}

/// One step of a call, within our patience.
pub(super) async fn within<T>(step: impl Future<Output = eventstore::Result<T>>) -> Result<T, CallError> {
    match tokio::time::timeout(PATIENCE, step).await {
        Ok(outcome) => outcome.map_err(CallError::Client),
        Err(_) => Err(CallError::TooLate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str, password: Option<&str>) -> Result<KurrentSettings, InvalidSettings> {
        KurrentSettings::parse(url, password, "freehold")
    }

    #[test]
    fn passwords_are_kept_apart_and_print_nowhere() {
        let settings = parse("kurrentdb://ops@one:2113,two:2114,three:2115?tls=true", Some("hunter2@:/?")).unwrap();
        assert_eq!(format!("{settings:?}"), "KurrentDB at one:2113, two:2114, three:2115, streams of freehold");
        assert!(!format!("{:?}", settings.client).contains("hunter2"));
        assert!(settings.credentials.is_some() && settings.client.default_authenticated_user().is_none());
        let told = parse("esdb://ops:hunter2@one:2113", None).unwrap_err();
        assert!(matches!(told, InvalidSettings::Password) && !format!("{told} {told:?}").contains("hunter2"));
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(matches!(parse("kurrentdb://ops@one:2113", None), Err(InvalidSettings::NoPassword)));
        assert!(matches!(parse("kurrentdb://one:2113", Some("x")), Err(InvalidSettings::NoUser)));
        assert!(matches!(parse("postgres://one/two", None), Err(InvalidSettings::Url)));
        assert!(matches!(parse("kurrentdb://", None), Err(InvalidSettings::Url)));
        assert!(matches!(KurrentSettings::parse("esdb://one", None, "A-b"), Err(InvalidSettings::Namespace)));
        let missing = parse("esdb://one:2113?tlsCaFile=/nowhere/ca.pem", None).unwrap_err();
        assert!(missing.to_string().contains("/nowhere/ca.pem"), "{missing}");
    }

    #[test]
    fn the_leader_is_asked_unless_told_otherwise() {
        for (url, leader) in
            [("esdb://one:2113", true), ("kurrentdb://one:2113?tls=false", true), ("esdb://one:2113?nodePreference=follower", false)]
        {
            let preference = parse(url, None).unwrap().client.node_preference();
            assert_eq!(preference == eventstore::NodePreference::Leader, leader, "{url}");
        }
    }
}
