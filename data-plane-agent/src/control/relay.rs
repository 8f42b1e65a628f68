//! Runs the exchange of material with the other agents of the site: through the relay of the control plane, and through
//! errands of people beside this agent (`keys::errands`).

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use schema::wire::relay::{RelayAnswer, RelayAsk};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trust::accept::AcceptedSet;

use super::{
    Backoff,
    client::{CallError, Connection},
};
use crate::keys::{
    errands::Errands,
    movement::{Mover, Outcome, Relay},
};

/// How often errands are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The first pause while something is waited for, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(30));
/// The pause after something moved: more may follow.
const AT_ONCE: Duration = Duration::from_millis(50);

#[async_trait]
impl Relay for Connection {
    async fn exchange(&self, ask: &RelayAsk) -> Result<RelayAnswer, CallError> {
        self.client().relay(ask).await
    }
}

/// Keeps material moving.
pub struct Movement {
    /// The accepted set, and every one that follows.
    pub accepted: watch::Receiver<Option<Arc<AcceptedSet>>>,
    /// The control plane.
    pub connection: Arc<Connection>,
    /// Sends and takes.
    pub mover: Mover,
    /// What people beside this agent ask for.
    pub errands: Errands,
}

impl Movement {
    /// Moves what there is to move after each accepted set, again while something is waited for, and does errands, until
    /// `stopping` is cancelled.
    pub async fn run(mut self, stopping: CancellationToken) {
        let (first, longest) = PAUSES;
        let mut backoff = Backoff::new(first, longest);
        let mut next = tokio::time::Instant::now();
        let mut last_failure = None::<String>;
        loop {
            let set = self.accepted.borrow_and_update().clone();
            if self.connection.is_apart() {
                self.mover.rest().await;
            } else if let Some(set) = &set
                && (tokio::time::Instant::now() >= next || self.mover.is_due())
            {
                let outcome = tokio::select! {
                    () = stopping.cancelled() => return,
                    outcome = self.mover.round(set, &*self.connection) => outcome,
                };
                let pause = match outcome {
                    Ok(outcome) => {
                        last_failure = None;
                        match outcome {
                            Outcome { taken: 0, sent: 0, waiting: false, .. } => {
                                backoff.reset();
                                // Nothing to wait for: the next set says when there is.
                                longest * 3600
                            }
                            Outcome { taken: 0, sent: 0, .. } => backoff.pause(&**self.mover.ids()),
                            _ => {
                                backoff.reset();
                                AT_ONCE
                            }
                        }
                    }
                    Err(error) => {
                        let text = error.to_string();
                        metrics::counter!("freehold_movement_failures_total").increment(1);
                        // Once for each kind of failure: an outage of a day is not a line every minute.
                        if last_failure.as_ref() != Some(&text) {
                            tracing::warn!(
                                error = &error as &dyn std::error::Error,
                                "material could not be exchanged with the other agents"
                            );
                            last_failure = Some(text);
                        }
                        error.retry_after().unwrap_or_default().max(backoff.pause(&**self.mover.ids()))
                    }
                };
                next = tokio::time::Instant::now() + pause;
            }
            self.errands.run(set.as_deref(), &mut self.mover).await;
            tokio::select! {
                () = stopping.cancelled() => return,
                // Whoever joined, or reported, stands in the set: it is looked at again at once.
                changed = self.accepted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    backoff.reset();
                    next = tokio::time::Instant::now();
                }
                () = tokio::time::sleep_until(look_at(tokio::time::Instant::now(), next)) => {}
            }
        }
    }
}

/// When to look again, with the next round due then. Never at once: a round that is overdue is one that cannot be, because there are no
/// statements yet or no connection is wanted.
fn look_at(now: tokio::time::Instant, next: tokio::time::Instant) -> tokio::time::Instant {
    let look = now + LOOK_EVERY;
    if next > now { next.min(look) } else { look }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_overdue_is_no_reason_to_look_without_a_pause() {
        let now = tokio::time::Instant::now() + Duration::from_secs(60);
        for overdue in [Duration::ZERO, Duration::from_millis(1), Duration::from_secs(60)] {
            assert_eq!(look_at(now, now - overdue), now + LOOK_EVERY);
        }
        assert_eq!(look_at(now, now + AT_ONCE), now + AT_ONCE);
        assert_eq!(look_at(now, now + 2 * LOOK_EVERY), now + LOOK_EVERY);
    }
}
