//! `--wait` of every command that holds something back: how long it took until every agent enforced it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    error::{Error, Exit},
    graphql::{Client, documents::CONTAINMENT},
    output,
};

/// How often the control plane is asked.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Whether to wait until every agent enforces it.
#[derive(Debug, clap::Args)]
pub struct Contain {
    /// Wait until every agent concerned has said that it enforces this, and show how long each took
    #[arg(long)]
    wait: bool,
    /// How long to wait at most, e.g. 60s
    #[arg(long, value_parser = super::seconds, value_name = "SPAN", default_value = "60s", requires = "wait")]
    wait_at_most: u64,
}

/// Runs from the moment a command was sent.
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

impl Contain {
    /// After the mutation: waits, if asked to, and tells agent by agent how long it took.
    pub async fn finish(&self, client: &Client, watch: &Stopwatch, (kind, reference): (&str, &str), payload: &Value) -> Result<(), Error> {
        if !self.wait {
            return Ok(());
        }
        let variables = json!({ kind: reference, "position": payload.get("position") });
        let mut told = Vec::<String>::new();
        loop {
            let containment = client.one(CONTAINMENT, "Containment", variables.clone(), reference).await?;
            let agents = containment["agents"].as_array().cloned().unwrap_or_default();
            let took = watch.elapsed();
            for agent in agents.iter().filter(|agent| agent["enforced"] == true) {
                let name = output::cell(agent.get("agentId"));
                if !told.contains(&name) {
                    output::note(&format!("{name} at {} enforces it after {}", output::cell(agent.pointer("/site/name")), seconds(took)));
                    told.push(name);
                }
            }
            if containment["complete"] == true {
                output::note(&format!("contained at {} of {} agents after {}", told.len(), agents.len(), seconds(took)));
                return Ok(());
            }
            if took >= Duration::from_secs(self.wait_at_most) {
                return Err(not_contained(&agents, took));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn not_contained(agents: &[Value], took: Duration) -> Error {
    if agents.is_empty() {
        return Error::new(Exit::Fault, "nothing_to_contain", "it is recorded, but there is no agent that could enforce it");
    }
    let missing = agents.iter().filter(|agent| agent["enforced"] != true);
    let missing: Vec<String> = missing
        .map(|agent| format!("{} (last seen {})", output::cell(agent.get("agentId")), output::cell(agent.get("lastSeenAt"))))
        .collect();
    let enforced = agents.len() - missing.len();
    let message = format!("{enforced} of {} agents enforce it after {}; not yet: {}", agents.len(), seconds(took), missing.join(", "));
    let hint = "what an agent that cannot be reached may still do ends with its grace; on its host 'freehold-agent lock' stops it at once";
    Error::new(Exit::Fault, "not_contained_yet", message).hint(hint)
}

fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_missing_is_named() {
        let agents =
            [json!({ "agentId": "agt_a", "enforced": true }), json!({ "agentId": "agt_b", "enforced": false, "lastSeenAt": null })];
        let error = not_contained(&agents, Duration::from_millis(1_230));
        assert_eq!(error.code, "not_contained_yet");
        assert!(error.message.contains("1 of 2 agents enforce it after 1.2 s; not yet: agt_b"), "{}", error.message);
        assert_eq!(not_contained(&[], Duration::ZERO).code, "nothing_to_contain");
    }
}
