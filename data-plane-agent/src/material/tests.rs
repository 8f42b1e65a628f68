use schema::{clock::ManualIds, key::Purpose};
use serde_json::{Value, json};

use super::{
    wrapping::{Recipient, open_rsa_aes_kwp},
    *,
};
use crate::{algorithm::LoadedKey, message::jwe::Jwe};

const FORMATS: [MaterialFormat; 3] = [MaterialFormat::Raw, MaterialFormat::Pkcs8, MaterialFormat::Jwk];

fn row(name: &str) -> Algorithm {
    name.parse().unwrap()
}

fn secret(algorithm: Algorithm) -> SecretBytes {
    serve(algorithm).test_secret(algorithm, &ManualIds::seeded(9)).unwrap()
}

/// What there is of a key in a format.
fn written(algorithm: Algorithm, format: MaterialFormat) -> Option<SecretBytes> {
    write(algorithm, format, &secret(algorithm)).ok()
}

#[test]
fn what_leaves_comes_in_again_as_the_same_key_and_as_no_other() {
    for algorithm in Algorithm::all() {
        let entry = algorithm.entry();
        for format in FORMATS {
            let Some(material) = written(algorithm, format) else {
                let rightly = match format {
                    MaterialFormat::Raw => entry.jose_kty == "RSA",
                    MaterialFormat::Pkcs8 => !entry.asymmetric || entry.oid.is_none(),
                    MaterialFormat::Jwk => false,
                };
                assert!(rightly, "{algorithm} cannot be written as {format}");
                continue;
            };
            assert!(read(algorithm, format, &material).unwrap().expose() == secret(algorithm).expose(), "{algorithm} as {format}");
            // Bytes say nothing of what they are; the other formats do.
            for other in Algorithm::all().filter(|other| format != MaterialFormat::Raw && *other != algorithm) {
                let alike = match format {
                    MaterialFormat::Pkcs8 => other.entry().oid == entry.oid && other.entry().classical_bits == entry.classical_bits,
                    // Neither HMAC, nor what is derived, nor a key for messages says in a JWK which it is, unless by `alg`.
                    _ => false,
                };
                if !alike && entry.jose_alg.is_some() {
                    assert!(read(other, format, &material).is_err(), "{algorithm} as {format} was read as {other}");
                }
            }
        }
    }
}

#[test]
fn halves_of_two_keys_are_refused() {
    let ids = ManualIds::seeded(77);
    for algorithm in Algorithm::all().filter(|algorithm| algorithm.entry().asymmetric && algorithm.entry().jose_kty != "RSA") {
        let mut jwk: Value = serde_json::from_slice(written(algorithm, MaterialFormat::Jwk).unwrap().expose()).unwrap();
        let other = serve(algorithm).generate(algorithm, &ids).unwrap();
        let other: Value = serde_json::from_slice(write(algorithm, MaterialFormat::Jwk, &other).unwrap().expose()).unwrap();
        let member = if algorithm.entry().jose_kty == "AKP" { "pub" } else { "x" };
        jwk[member] = other[member].clone();
        let error = read(algorithm, MaterialFormat::Jwk, &SecretBytes::new(jwk.to_string().into_bytes())).err().unwrap();
        assert!(error.detail.contains("another key"), "{algorithm}: {error}");
    }
    let rsa = row("RSA-PSS-3072");
    let mut jwk: Value = serde_json::from_slice(written(rsa, MaterialFormat::Jwk).unwrap().expose()).unwrap();
    for member in ["n", "d", "p", "dq", "qi"] {
        let kept = jwk[member].clone();
        let text = kept.as_str().unwrap();
        jwk[member] = json!(format!("{}{}", &text[..text.len() - 2], if text.ends_with("AA") { "BA" } else { "AA" }));
        assert!(read(rsa, MaterialFormat::Jwk, &SecretBytes::new(jwk.to_string().into_bytes())).is_err(), "a changed {member}");
        jwk[member] = kept;
    }
}

#[test]
fn lattice_keys_come_with_their_seed() {
    for algorithm in [row("ML-DSA-44"), row("ML-DSA-65"), row("ML-DSA-87"), row("ML-KEM-768"), row("ML-KEM-1024")] {
        let seed = secret(algorithm);
        let expanded = match algorithm.entry().purposes.contains(&Purpose::Sign) {
            true => crate::algorithm::ml_dsa::expanded(algorithm, &seed),
            false => crate::algorithm::ml_kem::expanded(algorithm, &seed),
        };
        let mut expanded = expanded.unwrap().expose().to_vec();
        let length = |bytes: &[u8]| match bytes.len() {
            short @ ..=0x7f => vec![u8::try_from(short).unwrap()],
            long => [&[0x82][..], &u16::try_from(long).unwrap().to_be_bytes()].concat(),
        };
        let octets = |bytes: &[u8]| [&[0x04][..], &length(bytes), bytes].concat();
        let both = |expanded: &[u8]| {
            let inside = [octets(seed.expose()), octets(expanded)].concat();
            [&[0x30][..], &length(&inside), &inside].concat()
        };
        let read = |inner: &[u8]| {
            let der = pkcs8::wrap(algorithm, inner).unwrap();
            read(algorithm, MaterialFormat::Pkcs8, &der)
        };
        assert!(read(&both(&expanded)).unwrap().expose() == seed.expose(), "{algorithm}");
        assert!(read(&octets(&expanded)).err().unwrap().detail.contains("seed"), "{algorithm}");
        expanded[7] ^= 1;
        assert!(read(&both(&expanded)).err().unwrap().detail.contains("not the same key"), "{algorithm}");
        for bad in [&[][..], &[0x80], &[0x80, 33, 1], &[0x30, 0], &[0x31, 0]] {
            assert!(read(bad).is_err(), "{algorithm}: {bad:?}");
        }
    }
}

#[test]
fn what_is_damaged_or_weak_is_refused() {
    for algorithm in Algorithm::all() {
        for format in FORMATS {
            let Some(material) = written(algorithm, format) else { continue };
            for length in [0, 1, material.len() / 2, material.len() - 1] {
                let cut = SecretBytes::new(material.expose()[..length].to_vec());
                assert!(read(algorithm, format, &cut).is_err(), "{algorithm} as {format}, {length} bytes");
            }
            let longer = SecretBytes::new([material.expose(), b"x"].concat());
            assert!(read(algorithm, format, &longer).is_err(), "{algorithm} as {format}, a byte more");
        }
    }
    assert!(read(row("A256GCM"), MaterialFormat::Raw, &SecretBytes::new(vec![0; 32])).is_err());
    assert!(read(row("A256GCM"), MaterialFormat::Raw, &SecretBytes::new(vec![1; MAX_MATERIAL_BYTES + 1])).is_err());
    // Zero, and the order of the curve, are no private keys.
    let order = hex::decode("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551").unwrap();
    assert!(read(row("ECDSA-P256"), MaterialFormat::Raw, &SecretBytes::new(order)).is_err());
    let wrong = br#"{"kty":"oct","k":"c2VjcmV0IHRoYXQgbXVzdCBub3QgYmUgc2FpZA","alg":1}"#;
    let error = read(row("A256GCM"), MaterialFormat::Jwk, &SecretBytes::new(wrong.to_vec())).err().unwrap();
    assert!(!error.to_string().contains("c2VjcmV0"), "{error}");
}

/// A recipient of each kind, and its private key.
fn recipients() -> Vec<(Recipient, Box<dyn LoadedKey>)> {
    let names =
        ["HPKE-9-KE", "HPKE-9", "RSA-OAEP-256-4096", "RSA-OAEP-256-3072", "ECDH-ES-P256", "ECDH-ES-P384", "X25519", "HPKE-4-KE", "HPKE-4"];
    let of = |name: &&str| {
        let algorithm = row(name);
        let key = serve(algorithm).load(algorithm, &secret(algorithm)).unwrap();
        let jwk = crate::algorithm::public_key::jwk(
            schema::id::KeyVersion::new(schema::id::KeyId::from_bits(1), 1),
            algorithm,
            key.public_key().unwrap(),
        );
        let jwk = serde_json::to_value(jwk.unwrap()).unwrap();
        let recipient = Recipient::read(Some(&jwk), None).unwrap();
        assert_eq!(recipient.algorithm, algorithm);
        (recipient, key)
    };
    names.iter().map(of).collect()
}

#[test]
fn what_is_exported_opens_with_the_recipients_key() {
    let ids = ManualIds::seeded(3);
    let material = SecretBytes::new((0..=255).collect());
    for (recipient, key) in recipients() {
        let text = recipient.jwe(&material, MaterialFormat::Pkcs8, &ids).unwrap();
        let jwe = Jwe::parse(text.as_bytes()).unwrap();
        match recipient.algorithm.entry().sealing {
            Some(schema::catalogue::Sealing::Direct) => assert!(jwe.open_with(&*key).unwrap().expose() == material.expose()),
            // Those around a content key, other programs open (tests/tests/interop).
            _ => assert!(jwe.open_with(&*key).is_err()),
        }
        if recipient.algorithm.entry().jose_kty != "RSA" {
            assert!(recipient.rsa_aes_kwp(&material, &ids).is_err());
            continue;
        }
        let modulus_bytes = if recipient.algorithm == row("RSA-OAEP-256-4096") { 512 } else { 384 };
        let wrapped = recipient.rsa_aes_kwp(&material, &ids).unwrap();
        assert!(open_rsa_aes_kwp(&*key, modulus_bytes, &wrapped).unwrap().expose() == material.expose());
        for place in [0, modulus_bytes - 1, modulus_bytes, wrapped.len() - 1] {
            let mut changed = wrapped.clone();
            changed[place] ^= 1;
            assert_eq!(open_rsa_aes_kwp(&*key, modulus_bytes, &changed).err().unwrap().code(), "not_genuine", "byte {place}");
        }
        for length in [0, 1, modulus_bytes, modulus_bytes + 15] {
            assert_eq!(open_rsa_aes_kwp(&*key, modulus_bytes, &wrapped[..length]).err().unwrap().code(), "malformed", "{length} bytes");
        }
        assert_eq!(open_rsa_aes_kwp(&*key, modulus_bytes, &wrapped[..wrapped.len() - 8]).err().unwrap().code(), "not_genuine");
    }
}

#[test]
fn a_recipient_is_a_strong_public_key_and_nothing_else() {
    let (jwk, rsa) = (|jwk: Value| Recipient::read(Some(&jwk), None).map(|_| ()).err(), row("RSA-OAEP-256-3072"));
    let private: Value = serde_json::from_slice(written(rsa, MaterialFormat::Jwk).unwrap().expose()).unwrap();
    let mut short = private.clone();
    for member in ["d", "p", "q", "dp", "dq", "qi"] {
        short.as_object_mut().unwrap().remove(member);
    }
    assert!(jwk(short.clone()).is_none());
    short["n"] = json!(&short["n"].as_str().unwrap()[..342]);
    for bad in
        [private, short, json!({ "kty": "oct", "k": "AAAA" }), json!({ "kty": "OKP", "crv": "X25519", "x": "AAAA" }), json!(1), json!({})]
    {
        assert!(jwk(bad.clone()).is_some(), "{bad}");
    }
    // A point that is not on its curve.
    let off =
        json!({ "kty": "EC", "crv": "P-256", "x": schema::encoding::base64url(&[1; 32]), "y": schema::encoding::base64url(&[1; 32]) });
    assert!(jwk(off).is_some());
    assert!(Recipient::read(None, None).is_err() && Recipient::read(Some(&json!({})), Some("x")).is_err());
}
