//! OpenSSL's command line: signatures with the agent's public keys in PEM.

use std::{path::Path, process::Command};

use schema::encoding::{base64url, from_base64url};
use serde_json::json;

use crate::{
    messages::{changed, payloads},
    peer::{Answer, Peers},
    site::{Key, Site},
    table::{Made, Program, Table, What},
};

/// Runs `openssl`; whether it was content.
pub fn openssl(directory: &Path, arguments: &[&str]) -> bool {
    let output = Command::new("openssl").args(arguments).current_dir(directory).output();
    output.expect("OpenSSL's command line; make setup-test installs it").status.success()
}

pub async fn check(site: &Site, peers: &mut Peers, key: &Key, table: &mut Table) {
    let (name, program) = (key.algorithm, Program::OpenSsl);
    if key.jwk["crv"] != "Ed25519" {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).unwrap();
    write("public.pem", key.pem.as_ref().expect("a public key in PEM").as_bytes());
    let Answer::Done(pem) = peers.python.ask(json!({ "op": "pem", "key": key.private })).await else {
        panic!("{name}: no private key in PEM")
    };
    write("private.pem", pem["pem"].as_str().unwrap().as_bytes());
    assert!(openssl(directory.path(), &["pkey", "-pubin", "-in", "public.pem", "-noout"]), "{name}: the public key in PEM");
    table.checked(name, What::PublicKey, program, Made::ByUs);

    let verify = ["pkeyutl", "-verify", "-pubin", "-inkey", "public.pem", "-rawin", "-in", "signed", "-sigfile", "signature"];
    let sign = ["pkeyutl", "-sign", "-inkey", "private.pem", "-rawin", "-in", "signed", "-out", "signature"];
    // It cannot read an empty file with -rawin, but a signing input is never empty.
    for payload in payloads() {
        let signature = site.call("/v1/sign", json!({ "key": key.name, "payload": base64url(&payload) })).await;
        let (signed, signature) = signature["signature"].as_str().unwrap().rsplit_once('.').unwrap();
        write("signed", signed.as_bytes());
        let mut signature = from_base64url(signature).unwrap();
        write("signature", &signature);
        assert!(openssl(directory.path(), &verify), "{name}: our signature");
        signature[0] ^= 1;
        write("signature", &signature);
        assert!(!openssl(directory.path(), &verify), "{name}: a changed signature");

        let header = json!({ "alg": key.jwk["alg"], "kid": key.jwk["kid"] }).to_string();
        let signed = format!("{}.{}", base64url(header.as_bytes()), base64url(&payload));
        write("signed", signed.as_bytes());
        assert!(openssl(directory.path(), &sign), "{name}: signing");
        let signature = std::fs::read(directory.path().join("signature")).unwrap();
        let message = format!("{signed}.{}", base64url(&signature));
        assert_eq!(site.call("/v1/verify", json!({ "signature": message })).await["valid"], true, "{name}: its signature");
        assert_eq!(site.call("/v1/verify", json!({ "signature": changed(&message, 2) })).await["valid"], false);
    }
    table.checked(name, What::Signature, program, Made::ByUs);
    table.checked(name, What::Signature, program, Made::ByThem);
}
