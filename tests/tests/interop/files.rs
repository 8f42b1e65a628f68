//! Files: their header is ours, their body C2SP chunked encryption, which Python `cryptography` has.

use schema::{
    catalogue::Sealing,
    encoding::{base64url, from_base64url},
};
use serde_json::json;

use crate::{
    messages::context,
    peer::{Answer, Peers},
    site::{Key, Site},
    table::{Made, Program, Table, What},
};

/// Around the size of a chunk.
const SIZES: [usize; 5] = [0, 1, 16_383, 16_384, 100_000];

pub async fn check(site: &Site, peers: &mut Peers, key: &Key, table: &mut Table) {
    let program = Program::Cryptography;
    if key.algorithm.entry().sealing != Some(Sealing::ContentKey) {
        return; // such keys seal no files
    }
    let (context_text, seal) = (base64url(context().to_string().as_bytes()), format!("/v1/stream/encrypt?key={}", key.name));
    for size in SIZES {
        let plaintext: Vec<u8> = (0..size).map(|place| (place % 251) as u8).collect();
        let file = site.stream(&seal, &context_text, plaintext.clone()).await.expect("a sealed file");
        let request = |file: &[u8]| json!({ "op": "open_file", "key": key.private, "file": base64url(file), "context": context() });
        match peers.ask(program, request(&file)).await {
            Answer::Done(opened) => assert!(opened["plaintext"] == base64url(&plaintext), "{} {size}", key.algorithm),
            Answer::Unknown => {
                table.unknown(key.algorithm, What::File, program, Made::ByUs);
                return table.unknown(key.algorithm, What::File, program, Made::ByThem);
            }
            Answer::Refused(why) => panic!("{} {size}: {why}", key.algorithm),
        }
        let mut changed = file.clone();
        *changed.last_mut().unwrap() ^= 1;
        let answer = peers.ask(program, request(&changed)).await;
        assert!(matches!(answer, Answer::Refused(_)), "{}: a changed file was opened", key.algorithm);

        let request = json!({ "op": "seal_file", "key": key.jwk, "plaintext": base64url(&plaintext), "context": context() });
        let Answer::Done(sealed) = peers.ask(program, request).await else { panic!("{}: no file", key.algorithm) };
        let mut file = from_base64url(sealed["file"].as_str().unwrap()).unwrap();
        let opened = site.stream("/v1/stream/decrypt", &context_text, file.clone()).await;
        assert!(opened.as_ref() == Some(&plaintext), "{} {size}: the agent does not open it", key.algorithm);
        *file.last_mut().unwrap() ^= 1;
        assert!(site.stream("/v1/stream/decrypt", &context_text, file).await.is_none(), "{}: a changed file was opened", key.algorithm);
    }
    table.checked(key.algorithm, What::File, program, Made::ByUs);
    table.checked(key.algorithm, What::File, program, Made::ByThem);
}
