//! What receipts say of encryption contexts: the same under all agents of a site, each with a vault of its own.

use std::{collections::BTreeMap, path::Path};

use freehold_tests::world::until;
use schema::{
    encoding::base64url,
    wire::agent::{Intent, Receipt, ReceiptBody},
};
use serde_json::json;

use super::movement::Site;

/// Every intent with a context that stands in the journal of an agent, as it stands there.
fn intents(data_dir: &Path) -> Vec<Intent> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(data_dir.join("journal")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap_or_default();
        for start in bytes.windows(5).enumerate().filter(|(_, window)| *window == b"{\"v\":").map(|(place, _)| place) {
            let mut entries = serde_json::Deserializer::from_slice(&bytes[start..]).into_iter::<Receipt>();
            if let Some(Ok(Receipt { body: ReceiptBody::Intent(intent), .. })) = entries.next()
                && !intent.context.is_empty()
            {
                found.push(intent);
            }
        }
    }
    found
}

impl Site {
    /// One request with a context at an agent, and what its journal says of it.
    async fn hidden(&self, which: usize, order: &str) -> (BTreeMap<String, String>, String) {
        let body = json!({ "key": "payments/cards", "plaintext": base64url(b"4111"), "context": { "order": order } });
        self.world.until_allowed(self.agent(which), "/v1/encrypt", &self.token, &body).await;
        let last = intents(&self.configs[which].data_dir).pop().expect("it left no receipt");
        (last.context, last.context_key.expect("the receipt names no key"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_of_a_site_hide_a_context_alike_also_one_that_joins_later() {
    let mut site = Site::of(2).await;
    site.key("cards", "TWO_HOLDERS", None).await;
    until(|| async {
        let (one, two) = (site.hidden(0, "4711").await, site.hidden(1, "4711").await);
        if one == two { Ok(()) } else { Err(format!("{one:?} {two:?}")) }
    })
    .await;
    let before = site.hidden(0, "4711").await;
    assert_eq!(before.0.keys().collect::<Vec<_>>(), ["order"]);
    assert_ne!(site.hidden(1, "4712").await.0, before.0, "another value");
    assert_eq!(site.hidden(1, "4712").await.1, before.1);
    for config in &site.configs {
        for intent in intents(&config.data_dir) {
            assert!(!serde_json::to_string(&intent).unwrap().contains("4711"), "{intent:?}");
        }
    }
    let newcomer = site.join().await;
    until(|| async {
        let found = site.hidden(newcomer, "4711").await;
        if found == before { Ok(()) } else { Err(format!("{found:?}, and the site has {before:?}")) }
    })
    .await;
    assert_eq!(site.hidden(0, "4711").await, before, "the site's key stays");
}
