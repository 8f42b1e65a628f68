//! The agent against programs that others wrote, in both directions: what it makes is opened and verified by them, and
//! what they make by it. What was checked with which version is written to `docs/interop.md`, which must be committed:
//! `FREEHOLD_BLESS=1` rewrites it.
//!
//! The programs are libraries behind a small script for each language (`tests/peers`), which `make setup-test` installs,
//! and the command line of OpenSSL. Secrets of the agent's keys are read from its vault by one of them, from the
//! description of the vault's format alone.

#[path = "interop/bare.rs"]
mod bare;
#[path = "interop/cms.rs"]
mod cms;
#[path = "interop/composites.rs"]
mod composites;
#[path = "interop/files.rs"]
mod files;
#[path = "interop/keys.rs"]
mod keys;
#[path = "interop/messages.rs"]
mod messages;
#[path = "interop/openssl.rs"]
mod openssl;
#[path = "interop/partners.rs"]
mod partners;
#[path = "interop/peer.rs"]
mod peer;
#[path = "interop/signatures.rs"]
mod signatures;
#[path = "interop/site.rs"]
mod site;
#[path = "interop/table.rs"]
mod table;

use schema::key::Purpose;

use self::{peer::Peers, site::Site, table::Table};

#[tokio::test(flavor = "multi_thread")]
async fn others_open_what_we_make_and_we_open_what_they_make() {
    let mut peers = Peers::start().await;
    let mut table = Table::new(peers.versions().await);
    let site = Site::start(&mut peers).await;
    peers.python.must(serde_json::json!({ "op": "golden" })).await;
    for key in &site.keys {
        signatures::public_key(&mut peers, key, &mut table).await;
        match key.purpose {
            Purpose::Encrypt => {
                messages::check(&site, &mut peers, key, &mut table).await;
                files::check(&site, &mut peers, key, &mut table).await;
                cms::sealed(&site, key, &mut table).await;
            }
            Purpose::Sign => {
                signatures::check(&site, &mut peers, key, &mut table).await;
                openssl::check(&site, &mut peers, key, &mut table).await;
                cms::signed(&site, &mut peers, key, &mut table).await;
            }
            Purpose::SignDigest => bare::digests(&site, &mut peers, key, &mut table).await,
            Purpose::Mac => bare::mac(&site, &mut peers, key, &mut table).await,
            Purpose::Wrap => bare::wrapping(&site, &mut peers, key, &mut table).await,
            Purpose::Agree => bare::secrets(&site, &mut peers, key, &mut table).await,
            Purpose::Derive => bare::deriving(&site, &mut peers, key, &mut table).await,
        }
    }
    keys::check(&site, &mut peers, &mut table).await;
    composites::check(&site, &mut peers, &mut table).await;
    partners::check(&site, &mut peers, &mut table).await;
    table.compare_with_the_committed_one();
}
