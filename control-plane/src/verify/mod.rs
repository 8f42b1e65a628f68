//! Walks through everything a store holds, and tells what is not as it should be. Reads only; on PostgreSQL and KurrentDB also
//! beside control planes that serve.
//!
//! - [`log`]: every record: bytes, seal, place, and the statements it tells of.
//! - [`rows`]: everything else that is sealed.
//! - The read model is compared with what the records give by [`crate::eventing::view::Checker`].

mod log;
mod rows;

use std::{collections::HashSet, sync::Arc};

use schema::{
    clock::{Clock, Ids},
    id::TenantId,
};
use sea_orm::{ConnectionTrait, DbBackend, DbErr};
use serde::Serialize;

use crate::{
    app::{StartError, kinds, kurrent_settings, owned},
    config::Config,
    database::{Database, Location, OpenError},
    eventing::{
        kurrent::{KurrentStore, SealedLog},
        sql::SqlStore,
        store::{EventStore, ReadError},
        view::{Checker, Difference, DifferenceKind, Kinds, RebuildError, Rebuilt, Views, rebuild},
    },
    sealing::{Keyring, SealingError, source::Sources},
};

/// As many findings are told one by one; the others are counted.
const TOLD: usize = 1000;

/// Why a store could not be walked through.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Settings, files or stores cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
    /// There is nothing.
    #[error("there is nothing to verify: no deployment was ever started on the store that settings name")]
    Nothing,
    /// The sealing key is missing or the wrong one.
    #[error(transparent)]
    Sealing(#[from] SealingError),
    /// A database could not be asked.
    #[error("{act} failed")]
    Database {
        /// What was tried.
        act: &'static str,
        /// Why.
        #[source]
        source: DbErr,
    },
    /// The log could not be read.
    #[error("reading the log failed")]
    Read(#[from] ReadError),
    /// The read model was not written anew.
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
}

impl From<OpenError> for VerifyError {
    fn from(error: OpenError) -> Self {
        Self::Start(error.into())
    }
}

pub(crate) fn asking(act: &'static str) -> impl FnOnce(DbErr) -> VerifyError {
    move |source| VerifyError::Database { act, source }
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A stable word for it.
    pub code: &'static str,
    /// Where: a table, and what names the row in it.
    pub place: String,
    /// What about it.
    pub what: String,
    /// What to do.
    pub advice: &'static str,
}

/// What was looked at, and what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StoreReport {
    /// The store.
    pub store: String,
    /// Tenants that have keys, and of them those that were erased.
    pub tenants: u64,
    /// Of them, those whose keys were destroyed: their records are counted, nobody can read them.
    pub erased_tenants: u64,
    /// Records, all of them opened and parsed but those of erased tenants.
    pub records: u64,
    /// Streams.
    pub streams: u64,
    /// The place of the last record.
    pub head: u64,
    /// How far the read model is.
    pub read_model: u64,
    /// Rows of the read model that were compared with what the records give.
    pub read_model_rows: u64,
    /// The same of terms.
    pub read_model_terms: u64,
    /// The same of handles.
    pub read_model_handles: u64,
    /// Published statements whose logged bytes were compared with what was recorded of them.
    pub statements: u64,
    /// Bodies beside the records.
    pub bodies: u64,
    /// Of them, those that no record names: of appends that came to nothing.
    pub bodies_unnamed: u64,
    /// Other sealed rows that were opened, of each table.
    pub sealed_rows: Vec<(String, u64)>,
    /// Tables with sealed rows that this program does not know how to open.
    pub not_looked_at: Vec<String>,
    /// How much was found.
    pub findings_count: u64,
    /// What was found, at most a thousand.
    pub findings: Vec<Finding>,
}

impl StoreReport {
    /// Whether everything is as it should be.
    pub fn is_sound(&self) -> bool {
        self.findings_count == 0
    }

    fn find(&mut self, code: &'static str, place: impl Into<String>, what: impl Into<String>, advice: &'static str) {
        self.findings_count += 1;
        if self.findings.len() < TOLD {
            self.findings.push(Finding { code, place: place.into(), what: what.into(), advice });
        }
    }

    fn find_differences(&mut self, differences: Vec<Difference>) {
        const REBUILD: &str = "run freehold-control-plane rebuild; --accept-difference puts the new copy in place";
        for Difference { kind, place, what } in differences {
            let code = match kind {
                DifferenceKind::Missing => "read_model_row_missing",
                DifferenceKind::Extra => "read_model_row_extra",
                DifferenceKind::Other => "read_model_row_differs",
                DifferenceKind::Sealed => "read_model_row_does_not_open",
            };
            self.find(code, place, what, REBUILD);
        }
    }
}

/// What a walk needs.
pub(crate) struct Look {
    pub(crate) database: Database,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) store: Arc<dyn EventStore>,
    /// The log in KurrentDB, when it is there.
    pub(crate) kurrent: Option<SealedLog>,
    pub(crate) kinds: Kinds,
    /// As people are told; without secrets.
    pub(crate) told: String,
}

/// What is done with the schema of a PostgreSQL.
enum Schema {
    /// It must be that of this program.
    AsItIs,
    /// It is made that of this program.
    UpToDate,
}

/// Walks through the store that settings name.
pub async fn verify_store(config: &Config, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Result<StoreReport, VerifyError> {
    // Beside control planes that serve, the schema is theirs to change.
    let look = Look::open(config, Schema::AsItIs, clock, ids).await?;
    let report = look.walk().await;
    look.close().await;
    report
}

/// Writes the read model of the store that settings name anew, beside control planes that serve where the database is PostgreSQL,
/// and puts it in place when it is the same as the one there was, or a difference is accepted.
pub async fn rebuild_read_model(config: &Config, accept: bool, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Result<Rebuilt, VerifyError> {
    let look = Look::open(config, Schema::UpToDate, clock, ids).await?;
    let (_views, mut projector) = Views::open(look.database.clone(), look.keyring.clone(), look.store.clone(), look.kinds.clone());
    let rebuilt = rebuild(&mut projector, accept).await;
    look.close().await;
    Ok(rebuilt?)
}

impl Look {
    /// Opens the store that settings name.
    async fn open(config: &Config, schema: Schema, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Result<Self, VerifyError> {
        service::tls::install_provider();
        let (location, access) = owned(config)?;
        let settings = kurrent_settings(config)?;
        let told = match &settings {
            Some(settings) => format!("{settings:?}, and {location:?}"),
            None => format!("{location:?}"),
        };
        let database = match (&location, schema) {
            (Location::Postgres(_), Schema::AsItIs) => Database::beside(&location).await?,
            _ => Database::open_with(&location, &access).await?,
        };
        Keyring::expected(&database).await?.ok_or(VerifyError::Nothing)?;
        let keyring = Arc::new(Keyring::open_from(database.clone(), Sources::new(config)?, clock, ids).await?);
        let store: Arc<dyn EventStore> = match settings.clone() {
            Some(settings) => Arc::new(KurrentStore::open(settings, database.clone(), keyring.clone()).await?),
            None => Arc::new(SqlStore::open(database.clone(), keyring.clone()).await?),
        };
        Ok(Self { database, keyring, store, kurrent: settings.map(SealedLog::new), kinds: kinds(), told })
    }

    pub(crate) async fn close(self) {
        self.store.close().await;
        if let Err(error) = self.database.close().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "closing the database failed");
        }
    }

    /// Walks through everything.
    pub(crate) async fn walk(&self) -> Result<StoreReport, VerifyError> {
        let mut report = StoreReport { store: self.told.clone(), ..StoreReport::default() };
        let tenants = self.tenants(&mut report).await?;
        let checker =
            Checker::begin(self.database.clone(), self.kinds.clone()).await.map_err(asking("reading how far the read model is"))?;
        report.read_model = checker.upto().position();
        let (checker, named) = log::walk(self, &tenants, checker, &mut report).await?;
        let mut differences = Vec::new();
        let compared = checker.finish(&tenants, &mut differences).await.map_err(asking("comparing the read model"))?;
        (report.read_model_rows, report.read_model_terms, report.read_model_handles) = (compared.rows, compared.terms, compared.handles);
        report.find_differences(differences);
        rows::walk(self, &tenants, &named, &mut report).await?;
        Ok(report)
    }

    /// The tenants whose keys open.
    async fn tenants(&self, report: &mut StoreReport) -> Result<HashSet<TenantId>, VerifyError> {
        let act = "listing the keys of tenants";
        let sql = "SELECT DISTINCT tenant FROM tenant_keys ORDER BY tenant";
        let mut tenants = HashSet::new();
        for row in self.database.read().query_all_raw(self.database.sql(sql, vec![])).await.map_err(asking(act))? {
            let text: String = row.try_get_by_index(0).map_err(asking(act))?;
            let place = format!("tenant_keys {text}");
            report.tenants += 1;
            let Ok(tenant) = text.parse() else {
                report.find("tenant_key_damaged", place, "the id of the tenant is none", RESTORE);
                continue;
            };
            match self.keyring.tenant(tenant).await {
                Ok(_) => drop(tenants.insert(tenant)),
                Err(SealingError::TenantErased(_)) => report.erased_tenants += 1,
                Err(error @ SealingError::Database { .. }) => return Err(error.into()),
                Err(error) => report.find("tenant_key_damaged", place, crate::eventing::view::with_cause(&error), RESTORE),
            }
        }
        Ok(tenants)
    }

    fn is_postgres(&self) -> bool {
        self.database.backend() == DbBackend::Postgres
    }
}

/// What helps where something that nobody can compute again is damaged.
const RESTORE: &str = "restore a backup into another place, verify it there, and compare: docs/control-plane-recovery.md";
