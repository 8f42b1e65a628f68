//! `/metrics` in the Prometheus text format: what the program counts, and the process itself.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use actix_web::{HttpResponse, web};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::layers::FanoutBuilder;

/// How often recorded values are folded into their buckets, so that they do not pile up when nobody reads.
pub const FOLD_EVERY: Duration = Duration::from_secs(1);

/// Bounds of histograms of seconds.
const SECONDS: &[f64] = &[0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

static INSTALLED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);

/// Why nothing can be counted.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The buckets are wrong.
    #[error("setting the metrics up failed")]
    Build(#[from] BuildError),
    /// Only one may.
    #[error("something else counts in this process already")]
    Taken,
}

/// What renders `/metrics`; app data of [`routes`].
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Makes this process record; calls after the first give the same recorder.
    pub fn install() -> Result<Self, MetricsError> {
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = &*installed {
            return Ok(Self(handle.clone()));
        }
        let recorder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?.build_recorder();
        let handle = recorder.handle();
        match crate::telemetry::recorder() {
            None => metrics::set_global_recorder(recorder).map_err(|_| MetricsError::Taken)?,
            Some(collected) => {
                let both = FanoutBuilder::default().add_recorder(recorder).add_recorder(collected).build();
                metrics::set_global_recorder(both).map_err(|_| MetricsError::Taken)?;
            }
        }
        *installed = Some(handle.clone());
        Ok(Self(handle))
    }

    /// Folds recorded values; call it every [`FOLD_EVERY`], or spawn [`Self::keep_folding`].
    pub fn fold(&self) {
        self.0.run_upkeep();
    }

    /// Folds until the task is dropped.
    pub async fn keep_folding(self) {
        loop {
            tokio::time::sleep(FOLD_EVERY).await;
            self.fold();
        }
    }

    /// The text of `/metrics`.
    pub fn render(&self) -> String {
        record_process();
        self.0.render()
    }
}

/// Adds `/metrics`; needs `web::Data<Metrics>`.
pub fn routes(config: &mut web::ServiceConfig) {
    config.route("/metrics", web::get().to(metrics));
}

async fn metrics(metrics: web::Data<Metrics>) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(metrics.render())
}

fn record_process() {
    let process = Process::now();
    metrics::gauge!("process_resident_memory_bytes").set(process.resident_bytes as f64);
    metrics::gauge!("process_threads").set(process.threads as f64);
    metrics::gauge!("process_open_fds").set(process.open_files as f64);
}

/// What the operating system says of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Process {
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Number of threads.
    pub threads: u64,
    /// Number of open files.
    pub open_files: u64,
}

impl Process {
    /// Now, from `/proc`; zeros where there is none.
    pub fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
        };
        Self {
            resident_bytes: field("VmRSS:") * 1024,
            threads: field("Threads:"),
            open_files: std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_and_histograms_are_shown() {
        let metrics = Metrics::install().unwrap();
        Metrics::install().unwrap();
        metrics::histogram!("sample_seconds").record(0.002);
        metrics.fold();
        let text = metrics.render();
        assert!(text.contains("sample_seconds_bucket{le=\"0.0025\"} 1"), "{text}");
        let resident: f64 = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes ")).unwrap().parse().unwrap();
        assert!(resident > 1e6, "{resident}");
    }
}
