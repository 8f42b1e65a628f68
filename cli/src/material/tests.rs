use schema::encoding::Digest;

use super::*;

// Made by keytool 17 of the JDK: keys `pay` (P-256) and `other` (P-384, under a password of its own), and a certificate.
const JKS: &[u8] = include_bytes!("fixtures/two.jks");
const JCEKS: &[u8] = include_bytes!("fixtures/old.jceks");
const P12: &[u8] = include_bytes!("fixtures/java.p12");
/// SHA-256 of the keys, as keytool and OpenSSL take them out.
const PAY: &str = "36186664eda3ca275976e245663fb42081fe9902dc07ca315f72d5c357c8bb0c";
const OTHER: &str = "2b7ca5ce9f955214963d370fbaa73e7eceb4239e093a21a6d3273bc7e3f6ce67";
const IN_P12: &str = "0a152df7a2351f758d65f17fe7a590bb5298ea606349a012683d14f900f582bc";

/// Takes a key out with these passwords, one after the other.
fn take(bytes: &[u8], container: Container, alias: Option<&str>, passwords: &[&str]) -> Result<String, NoKey> {
    let mut passwords = passwords.iter();
    let mut ask = |what: &str| {
        let next = passwords.next().ok_or_else(|| NoKey::Password(format!("no password for {what}")))?;
        Ok(Zeroizing::new((*next).to_owned()))
    };
    let found = read(bytes, container, alias, &mut ask)?;
    assert_eq!(found.format, MaterialFormat::Pkcs8);
    Ok(hex::encode(Digest::of(&found.bytes).0))
}

#[test]
fn java_key_stores_give_what_java_put_in() {
    assert_eq!(recognise(JKS), Some(Container::Jks));
    assert_eq!(take(JKS, Container::Jks, Some("pay"), &["changeit"]).unwrap(), PAY);
    assert_eq!(take(JKS, Container::Jks, Some("other"), &["changeit", "schlüssel-7"]).unwrap(), OTHER);
    let several = |names: &[&str]| Err(NoKey::Several(names.iter().map(|name| (*name).to_owned()).collect()));
    for alias in [None, Some("trusted"), Some("nobody")] {
        let mut taken = take(JKS, Container::Jks, alias, &["changeit"]);
        if let Err(NoKey::Several(names)) = &mut taken {
            names.sort();
        }
        assert_eq!(taken, several(&["other", "pay"]), "{alias:?}");
    }
    for passwords in [&["changeIt"][..], &[""], &["changeit "]] {
        assert_eq!(take(JKS, Container::Jks, Some("pay"), passwords), Err(NoKey::WrongPassword), "{passwords:?}");
    }
    assert_eq!(take(JKS, Container::Jks, Some("other"), &["changeit", "changeit"]), Err(NoKey::WrongPassword));
    assert!(matches!(take(JCEKS, Container::Jks, None, &["changeit"]), Err(NoKey::NotSupported(..))));
}

#[test]
fn pkcs12_of_java_opens_with_its_password_alone() {
    assert_eq!(recognise(P12), Some(Container::Pkcs12));
    assert_eq!(take(P12, Container::Pkcs12, None, &["changeit"]).unwrap(), IN_P12);
    assert_eq!(take(P12, Container::Pkcs12, Some("pay"), &["changeit"]).unwrap(), IN_P12);
    assert_eq!(take(P12, Container::Pkcs12, Some("nobody"), &["changeit"]), Err(NoKey::Several(vec!["pay".to_owned()])));
    assert_eq!(take(P12, Container::Pkcs12, None, &["wrong"]), Err(NoKey::WrongPassword));
}

/// Whatever is done to a store: an error, and no key that was not in it.
#[test]
fn damaged_stores_give_nothing() {
    for (whole, container, known) in [(JKS, Container::Jks, PAY), (P12, Container::Pkcs12, IN_P12)] {
        for length in 0..whole.len() {
            assert!(take(&whole[..length], container, Some("pay"), &["changeit"]).is_err(), "{container} of {length} bytes");
        }
        for place in (0..whole.len()).step_by(7) {
            let mut changed = whole.to_vec();
            changed[place] ^= 0x41;
            if let Ok(key) = take(&changed, container, Some("pay"), &["changeit"]) {
                assert_eq!(key, known, "{container}, byte {place}");
            }
        }
    }
    // Lengths and counts that promise more than there is.
    let mut huge = JKS.to_vec();
    huge[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(matches!(take(&huge, Container::Jks, Some("pay"), &["changeit"]), Err(NoKey::Malformed { .. })));
    let mut long = JKS.to_vec();
    long[12 + 4 + 2 + 3 + 8..][..4].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(matches!(take(&long, Container::Jks, Some("pay"), &["changeit"]), Err(NoKey::Malformed { .. })));
}

#[test]
fn nothing_is_guessed_of_bytes_without_a_mark() {
    for bytes in [&[7; 32][..], b"", b"a key", b"{}x"] {
        assert!(matches!(recognise(bytes), None | Some(Container::Jwk)), "{bytes:?}");
    }
    assert_eq!(recognise(&[7; 32]), None);
    assert_eq!(recognise(br#" {"kty":"oct","k":"AA"}"#), Some(Container::Jwk));
    assert_eq!(recognise(b"Bag Attributes\n-----BEGIN PRIVATE KEY-----\n"), Some(Container::Pem));
}

#[test]
fn pem_that_is_not_one_key_is_refused_by_name() {
    let key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
    // RFC 8410, section 10.3.
    assert!(take(key.as_bytes(), Container::Pem, None, &[]).is_ok());
    let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(take(format!("{certificate}{key}{certificate}").as_bytes(), Container::Pem, None, &[]).is_ok());
    let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    for (text, expected) in [
        (format!("{key}{key}"), "several"),
        (certificate.to_owned(), "no private key"),
        (old.to_owned(), "not read here"),
        (key.replace("MC4C", "MC4D"), "this is not"),
        (key.replace("MC4C", "!!!!"), "this is not"),
        (key.replace("PRIVATE KEY", "OPENSSH PRIVATE KEY"), "not read here"),
        (key.replace("PRIVATE KEY", "RSA PRIVATE KEY"), ""),
        ("-----BEGIN PRIVATE KEY-----".to_owned(), "no private key"),
    ] {
        match take(text.as_bytes(), Container::Pem, None, &[]) {
            Ok(_) => assert!(expected.is_empty(), "{text}"),
            Err(error) => assert!(error.to_string().contains(expected), "{text}: {error}"),
        }
    }
}

#[test]
fn a_password_that_would_take_for_ever_is_not_tried() {
    // PBES2 with PBKDF2: the number of iterations is the only integer of four bytes.
    let encrypted = include_bytes!("fixtures/slow.der");
    let error = take(encrypted, Container::Der, None, &["x"]).unwrap_err();
    assert!(error.to_string().contains("longer than any honest file"), "{error}");
}

fn backup(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let mut json = serde_json::json!({
        "policy": {
            "name": "legacy", "type": 0, "derived": false, "convergent_encryption": false, "latest_version": 3, "min_available_version": 0,
            "keys": { "2": { "key": "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=" }, "3": { "key": "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=" } },
        },
        "archived_keys": { "keys": [{ "key": null }, { "key": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=" }] },
    });
    change(&mut json);
    serde_json::to_vec(&json).unwrap()
}

#[test]
fn every_version_of_a_backup_is_found_under_its_number() {
    let json = backup(|_| ());
    let text = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &json);
    for bytes in [&json, text.as_bytes()] {
        assert_eq!(recognise(bytes), Some(Container::Transit));
        let read = transit::read(bytes).unwrap();
        assert_eq!((read.name.as_str(), read.kind, read.algorithms), ("legacy", "aes256-gcm96", &["A256GCM"][..]));
        let versions: Vec<_> = read.versions.iter().map(|(number, found)| (*number, found.bytes[0], found.bytes.len())).collect();
        assert_eq!(versions, [(1, 1, 32), (2, 2, 32), (3, 3, 32)]);
    }
}

#[test]
fn backups_that_cannot_keep_their_promise_are_refused() {
    let refused = |change: &dyn Fn(&mut serde_json::Value)| transit::read(&backup(change)).err().expect("a refusal").to_string();
    let policy = |name: &'static str, value: serde_json::Value| {
        move |json: &mut serde_json::Value| {
            json["policy"][name] = value.clone();
        }
    };
    assert!(refused(&policy("derived", true.into())).contains("not derived by HKDF"));
    assert!(
        refused(&|json| (json["policy"]["derived"], json["policy"]["type"]) = (true.into(), 2.into())).contains("derived key of this kind")
    );
    // A convergent key is a derived one; of the first kind its ciphertexts hold no nonce, whoever of key and version says so.
    let convergent = |of_key: i64, of_version: i64| {
        backup(|json: &mut serde_json::Value| {
            let policy = &mut json["policy"];
            (policy["derived"], policy["kdf"], policy["convergent_encryption"]) = (true.into(), 1.into(), true.into());
            policy["convergent_version"] = of_key.into();
            policy["keys"]["3"]["convergent_version"] = of_version.into();
        })
    };
    for (of_key, of_version) in [(0, 0), (1, 0), (3, 1), (-1, 0)] {
        let said = transit::read(&convergent(of_key, of_version)).err().expect("a refusal").to_string();
        assert!(said.contains("first convergent encryption"), "{of_key} {of_version}: {said}");
    }
    let read = transit::read(&convergent(3, 3)).unwrap();
    assert_eq!((read.kind, read.algorithms, read.versions.len()), ("aes256-gcm96, derived", &["HKDF-SHA-256"][..], 3));
    assert!(refused(&policy("min_available_version", 2.into())).contains("trimmed"));
    assert!(refused(&policy("latest_version", 4.into())).contains("version 4 is missing"));
    assert!(refused(&policy("latest_version", u32::MAX.into())).contains("sensible"));
    for (kind, word) in [(3, "rsa-2048"), (7, "p521"), (8, "aes128"), (10, "kind"), (99, "kind")] {
        assert!(refused(&policy("type", kind.into())).contains(word), "{kind}");
    }
    assert!(refused(&policy("type", 1.into())).contains("no whole private key"));
    assert!(refused(&|json| json["policy"]["keys"]["2"]["key"] = "AQ==".into()).contains("no whole private key"));
    assert!(refused(&|json| json["archived_keys"] = serde_json::Value::Null).contains("version 1 is missing"));
    let said = refused(&|json| json["policy"]["keys"]["2"]["key"] = "not base64, but a secret".into());
    assert!(!said.contains("secret"), "{said}");
}
