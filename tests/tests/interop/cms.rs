//! Old formats, which only others make: CMS that OpenSSL's command line seals to the agent's keys, and signs with them.

use std::path::Path;

use schema::encoding::base64url;
use serde_json::{Value, json};

use crate::{
    openssl::openssl,
    peer::{Answer, Peers},
    site::{Key, Site},
    table::{Made, Program, Table, What},
};

const CONTENT: &[u8] = b"what an old program protected";

fn write(directory: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(directory.join(name), bytes).unwrap();
}

/// A certificate for this public key, under an authority of its own.
fn certify(directory: &Path) {
    let authority = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=authority"];
    assert!(openssl(directory, &authority), "an authority");
    let issue =
        ["x509", "-new", "-force_pubkey", "public.pem", "-subj", "/CN=agent", "-CA", "ca.crt", "-CAkey", "ca.key", "-out", "agent.crt"];
    assert!(openssl(directory, &issue), "a certificate");
}

/// Runs `openssl cms` on the content; gives the message.
fn cms(directory: &Path, arguments: &[&str]) -> Vec<u8> {
    let first = ["cms", "-binary", "-in", "content", "-outform", "DER", "-out", "message"];
    assert!(openssl(directory, &[&first[..], arguments].concat()), "{arguments:?}");
    std::fs::read(directory.join("message")).unwrap()
}

fn directory(key: &Key) -> Option<tempfile::TempDir> {
    let curve = key.jwk["crv"].as_str();
    if key.jwk["kty"] != "RSA" && !matches!(curve, Some("P-256" | "P-384")) {
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "public.pem", key.pem.as_ref().expect("a public key in PEM").as_bytes());
    write(directory.path(), "content", CONTENT);
    certify(directory.path());
    Some(directory)
}

/// Content that was sealed to the key, in every way we open.
pub async fn sealed(site: &Site, key: &Key, table: &mut Table) {
    let Some(directory) = directory(key) else { return };
    let transports: &[&[&str]] = match key.jwk["kty"] == "RSA" {
        true => &[
            &[],
            &["-keyopt", "rsa_padding_mode:oaep"],
            &["-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256"],
            &["-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha512"],
        ],
        false => &[&[][..], &["-keyopt", "ecdh_kdf_md:sha256"], &["-keyopt", "ecdh_kdf_md:sha384"], &["-keyopt", "ecdh_kdf_md:sha512"]],
    };
    for cipher in ["-aes-128-gcm", "-aes-192-gcm", "-aes-256-gcm", "-aes-128-cbc", "-aes-256-cbc"] {
        // AES-192 is not wrapped with: its wrapping follows the cipher unless it is named.
        let wrap: &[&str] = if key.jwk["kty"] != "RSA" && cipher.contains("192") { &["-aes256-wrap"] } else { &[] };
        for transport in transports {
            let message = cms(directory.path(), &[&["-encrypt", cipher][..], wrap, &["-recip", "agent.crt"], *transport].concat());
            let open = |message: &[u8]| json!({ "key": key.name, "message": base64url(message) });
            let opened = site.call("/v1/cms/open", open(&message)).await;
            assert_eq!(opened["plaintext"], base64url(CONTENT), "{} {cipher} {transport:?}", key.algorithm);
            if cipher.ends_with("gcm") {
                let mut changed = message.clone();
                *changed.last_mut().unwrap() ^= 1;
                let (_, problem) = site.attempt("/v1/cms/open", open(&changed)).await;
                assert_eq!(problem["code"], "not_genuine", "{}: {problem}", key.algorithm);
            }
        }
    }
    table.checked(key.algorithm, What::SealedCms, Program::OpenSsl, Made::ByThem);
}

/// What was signed with the key, in every way we verify.
pub async fn signed(site: &Site, peers: &mut Peers, key: &Key, table: &mut Table) {
    let Some(directory) = directory(key) else { return };
    let Answer::Done(pem) = peers.python.ask(json!({ "op": "pem", "key": key.private })).await else {
        panic!("{}: no private key in PEM", key.algorithm)
    };
    write(directory.path(), "private.pem", pem["pem"].as_str().unwrap().as_bytes());
    let schemes: &[&[&str]] = if key.jwk["kty"] == "RSA" { &[&[][..], &["-keyopt", "rsa_padding_mode:pss"]] } else { &[&[]] };
    for hash in ["sha256", "sha384", "sha512"] {
        for scheme in schemes {
            for how in [&["-nodetach"][..], &["-nodetach", "-noattr", "-nocerts"], &[]] {
                let sign = ["-sign", "-signer", "agent.crt", "-inkey", "private.pem", "-md", hash];
                let message = cms(directory.path(), &[&sign[..], *scheme, how].concat());
                let attached = how.contains(&"-nodetach");
                let verify = |content: &[u8]| {
                    let content = if attached { Value::Null } else { base64url(content).into() };
                    json!({ "key": key.name, "message": base64url(&message), "content": content })
                };
                let verified = site.call("/v1/cms/verify", verify(CONTENT)).await;
                assert_eq!(verified["valid"], true, "{} {hash} {scheme:?} {how:?}: {verified}", key.algorithm);
                if !attached {
                    assert_eq!(site.call("/v1/cms/verify", verify(b"something else")).await["valid"], false);
                }
            }
        }
    }
    table.checked(key.algorithm, What::SignedCms, Program::OpenSsl, Made::ByThem);
}
