//! Hears of what others append: a catch-up subscription from the last known position, made anew from there when it ends.
//!
//! The subscription only makes it prompt. Beside it the head is asked for once a second, so a subscription that says nothing
//! (a half-dead connection, a proxy) delays followers and loses nothing. It runs on a thread of its own, because the client
//! never lets go of the thread again when a server ends a subscription without an error.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use eventstore::SubscriptionEvent;
use tokio::{sync::watch, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{
    super::store::Cursor,
    announce,
    connection::{CallError, Connection},
    log::Log,
};

/// How often the head is asked for.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The subscription's thread says so often that it lives, and is missed after so many polls.
const BEAT: Duration = Duration::from_secs(1);
const MISSED: u32 = 30;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Keeps `head` up to date until told to stop.
pub(super) fn start(log: Arc<Log>, head: watch::Sender<Cursor>, stop: CancellationToken) {
    let beats = Arc::new(AtomicU64::new(0));
    tokio::spawn(poll(Arc::clone(&log), head.clone(), Arc::clone(&beats), stop.clone()));
    let subscriber = thread::Builder::new().name("kurrent-subscription".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(subscribe(&log, &head, &beats, &stop)),
            Err(error) => tracing::error!(error = %error, "no subscription to KurrentDB; asking for its head once a second"),
        }
    });
    if let Err(error) = subscriber {
        tracing::error!(error = %error, "no subscription to KurrentDB; asking for its head once a second");
    }
}

async fn poll(log: Arc<Log>, head: watch::Sender<Cursor>, beats: Arc<AtomicU64>, stop: CancellationToken) {
    let mut interval = tokio::time::interval(POLL_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut last, mut missed) = (0, 0);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = stop.cancelled() => return,
        }
        match log.head().await {
            Ok(now) => announce(&head, now),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "KurrentDB does not say where its log ends"),
        }
        let beat = beats.load(Ordering::Relaxed);
        missed = if beat == last { missed + 1 } else { 0 };
        last = beat;
        if missed == MISSED {
            tracing::error!("the subscription to KurrentDB is stuck; followers hear of new records once a second. Restart this process");
        }
    }
}

async fn subscribe(log: &Log, head: &watch::Sender<Cursor>, beats: &AtomicU64, stop: &CancellationToken) {
    // Clients belong to the runtime they were made in.
    let connection = Connection::new(log.connection.settings().clone());
    let mut beat = tokio::time::interval(BEAT);
    let mut pause = FIRST_PAUSE;
    while !stop.is_cancelled() {
        let outcome = {
            let following = follow(log, &connection, head, &mut pause);
            let mut following = std::pin::pin!(following);
            loop {
                tokio::select! {
                    outcome = &mut following => break outcome,
                    _ = beat.tick() => { beats.fetch_add(1, Ordering::Relaxed); }
                    () = stop.cancelled() => return,
                }
            }
        };
        if let Err(error) = outcome {
            tracing::warn!(error = &error as &dyn std::error::Error, "the subscription to KurrentDB ended; subscribing again");
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        beats.fetch_add(1, Ordering::Relaxed);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One subscription, until it ends.
async fn follow(log: &Log, connection: &Connection, head: &watch::Sender<Cursor>, pause: &mut Duration) -> Result<(), CallError> {
    let after = *head.borrow();
    let connected = connection.connected()?;
    let failed = |error: eventstore::Error| {
        let error = CallError::Client(error);
        connection.failed(connected.generation, &error);
        error
    };
    let mut subscription = connected.client.subscribe_to_all(&log.subscription(after)).await;
    loop {
        // Waiting has no deadline: nothing may happen for days. Pings tell a dead connection.
        if let SubscriptionEvent::EventAppeared(event) = subscription.next_subscription_event().await.map_err(failed)? {
            announce(head, Cursor::at(event.get_original_event().position.commit));
        }
        *pause = FIRST_PAUSE;
    }
}
