//! Reading everything again, as a follower that starts from nothing does.

use std::time::Instant;

use control_plane::eventing::store::{Cursor, EventStore};
use serde_json::{Value, json};

/// Records a question.
const PAGE: usize = 1000;
const ROUNDS: usize = 3;

/// Records a second from the first to the head; the median of three rounds.
pub async fn measure(store: &dyn EventStore) -> anyhow::Result<Value> {
    let mut rates = Vec::new();
    let mut records = 0;
    for _ in 0..ROUNDS {
        records = 0;
        let start = Instant::now();
        let mut after = Cursor::START;
        loop {
            let batch = store.read_all(after, PAGE).await?;
            if batch.records.is_empty() {
                break;
            }
            records += batch.records.len();
            after = batch.upto;
        }
        rates.push(records as f64 / start.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    Ok(json!({ "records": records, "page": PAGE, "records_per_s": rates[ROUNDS / 2].round() }))
}
