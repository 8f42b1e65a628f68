//! Messages that OpenSSL 3.0 made, whole, damaged and hostile. `vectors` holds them, with the keys they were made for.

use proptest::prelude::*;
use schema::{
    catalogue::Algorithm,
    encoding::Digest,
    id::{KeyId, KeyVersion},
    key::Operation,
};

use super::{enveloped::Enveloped, signed::Signed};
use crate::{algorithm::legacy, message::MessageError, policy::permit::UsePermit, vault::Held};

const CONTENT: &[u8] = b"what an old program protected\n";
const RSA: &[u8] = include_bytes!("vectors/rsa.pkcs8");

macro_rules! vector {
    ($name:literal) => {
        include_bytes!(concat!("vectors/", $name, ".cms"))
    };
}

fn decrypting() -> Algorithm {
    "RSA-OAEP-256-3072".parse().unwrap()
}

fn open(message: &[u8], place: Option<usize>) -> Result<Vec<u8>, MessageError> {
    Enveloped::parse(message)?.open_with_rsa(decrypting(), RSA, place)
}

fn held(algorithm: &str, public_key: &[u8]) -> Held {
    let version = KeyVersion::new(KeyId::from_bits(9), 1);
    let protection = schema::key::Protection::Software;
    Held { version, algorithm: algorithm.parse().unwrap(), fingerprint: Digest([0; 32]), public_key: Some(public_key.to_vec()), protection }
}

fn rsa() -> Held {
    held("RSA-PSS-3072", include_bytes!("vectors/rsa.public"))
}

fn ec() -> Held {
    held("ECDSA-P256", include_bytes!("vectors/ec.public"))
}

fn verify(message: &[u8], place: Option<usize>, held: &Held, detached: Option<&[u8]>) -> Result<(), MessageError> {
    let signed = Signed::parse(message)?;
    let permit = UsePermit::for_test(held.version, Operation::VerifyLegacy, held.algorithm);
    signed.verify(signed.signer(place)?, permit, held, detached)
}

#[test]
fn what_openssl_sealed_opens_and_says_what_is_legacy() {
    let cbc = "AES-CBC, which does not tell whether the content was changed";
    let cases: [(&[u8], Option<usize>, &[&str]); 5] = [
        (vector!("oaep256-gcm256"), None, &[]),
        (vector!("oaep1-gcm128"), None, &["RSAES-OAEP with SHA-1"]),
        (vector!("pkcs1-cbc128"), None, &["RSAES-PKCS1-v1_5", cbc]),
        (vector!("pkcs1-cbc256-stream"), Some(0), &["RSAES-PKCS1-v1_5", cbc]),
        (vector!("two-cbc192"), Some(1), &["RSAES-PKCS1-v1_5", cbc]),
    ];
    for (message, place, legacy) in cases {
        let parsed = Enveloped::parse(message).unwrap();
        assert_eq!(parsed.recipient(place).unwrap().legacy(), legacy);
        let opened = match open(message, place) {
            // The order of recipients is that of their encoding.
            Ok(opened) if opened == CONTENT => opened,
            _ if legacy.len() == 2 => open(message, Some(0)).unwrap(),
            other => other.unwrap(),
        };
        assert_eq!(opened, CONTENT);
    }
    assert_eq!(Enveloped::parse(vector!("two-cbc192")).unwrap().recipient(None).unwrap_err().code(), "malformed");
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    assert!(open(vector!("des3"), None).unwrap_err().to_string().contains("1.2.840.113549.3.7"));
    let agreed = Enveloped::parse(vector!("ec-cbc")).unwrap();
    let legacy = agreed.recipient(None).unwrap().legacy();
    assert_eq!(legacy[0], "ECDH with a key derived by SHA-1");
    assert_eq!(agreed.open_with_rsa(decrypting(), RSA, None).unwrap_err().code(), "not_genuine");
    assert_eq!(Enveloped::parse(vector!("pkcs1-sha256")).unwrap_err().code(), "malformed");
    assert_eq!(Signed::parse(vector!("pkcs1-cbc128")).unwrap_err().code(), "malformed");
}

#[test]
fn what_openssl_signed_verifies_and_says_what_is_legacy() {
    let cases: [(&[u8], Held, &[&str]); 7] = [
        (vector!("pkcs1-sha256"), rsa(), &["RSASSA-PKCS1-v1_5"]),
        (vector!("pkcs1-sha1"), rsa(), &["RSASSA-PKCS1-v1_5", "SHA-1"]),
        (vector!("pss-sha256"), rsa(), &[]),
        (vector!("pss-sha256-noattr"), rsa(), &[]),
        (vector!("ecdsa-sha256"), ec(), &[]),
        (vector!("ecdsa-stream"), ec(), &[]),
        (vector!("ecdsa-detached"), ec(), &[]),
    ];
    for (number, (message, held, legacy)) in cases.into_iter().enumerate() {
        let signed = Signed::parse(message).unwrap();
        assert_eq!(signed.signer(None).unwrap().legacy(held.algorithm), legacy, "{number}");
        let detached = signed.content().is_none().then_some(CONTENT);
        assert!(signed.content().is_none_or(|content| content == CONTENT));
        verify(message, None, &held, detached).unwrap_or_else(|error| panic!("{number}: {error}"));
    }
    let other = held("ECDSA-P256", &[&[4], [7; 64].as_slice()].concat());
    assert_eq!(verify(vector!("ecdsa-sha256"), None, &other, None).unwrap_err().code(), "not_genuine");
    assert_eq!(verify(vector!("ecdsa-sha256"), None, &rsa(), None).unwrap_err().code(), "other_algorithm");
    assert_eq!(verify(vector!("ecdsa-detached"), None, &ec(), Some(b"something else")).unwrap_err().code(), "not_genuine");
    assert_eq!(verify(vector!("ecdsa-detached"), None, &ec(), None).unwrap_err().code(), "malformed");
    assert_eq!(verify(vector!("ecdsa-sha256"), None, &ec(), Some(CONTENT)).unwrap_err().code(), "malformed");
}

#[test]
fn of_several_signatures_the_one_that_is_named_counts() {
    let message = vector!("two");
    assert_eq!(Signed::parse(message).unwrap().signer(None).unwrap_err().code(), "malformed");
    assert_eq!(Signed::parse(message).unwrap().signer(Some(2)).unwrap_err().code(), "malformed");
    let genuine: Vec<bool> = [0, 1].map(|place| verify(message, Some(place), &ec(), None).is_ok()).into();
    assert_eq!(genuine.iter().filter(|genuine| **genuine).count(), 1);
    let other = genuine.iter().position(|genuine| !genuine);
    verify(message, other, &rsa(), None).unwrap();
}

/// Signed attributes of one message must not pass as the content of another that has none.
#[test]
fn attributes_do_not_pass_as_content() {
    use der::{Any, Decode as _, Encode as _, asn1::OctetString};
    let info = cms::content_info::ContentInfo::from_der(vector!("ecdsa-sha256")).unwrap();
    let mut data: cms::signed_data::SignedData = info.content.decode_as().unwrap();
    let mut signers = data.signer_infos.0.clone().into_vec();
    let attributes = signers[0].signed_attrs.take().unwrap().to_der().unwrap();
    data.encap_content_info.econtent = Some(Any::encode_from(&OctetString::new(attributes).unwrap()).unwrap());
    data.signer_infos = der::asn1::SetOfVec::try_from(signers).unwrap().into();
    let forged = cms::content_info::ContentInfo { content_type: info.content_type, content: Any::encode_from(&data).unwrap() };
    assert_eq!(verify(&forged.to_der().unwrap(), None, &ec(), None).unwrap_err().code(), "not_understood");
}

#[test]
fn a_guess_at_pkcs1_padding_is_answered_with_another_key_and_never_an_error() {
    let unwrap = |ciphertext: &[u8], length| {
        let transport = legacy::KeyTransport::Pkcs1V15;
        legacy::unwrap_rsa(decrypting(), RSA, &transport, ciphertext, length).unwrap().expose().to_vec()
    };
    let mut guess = [0x11; 384];
    let first = unwrap(&guess, 32);
    assert_eq!((first.len(), &first), (32, &unwrap(&guess, 32)), "the same for the same guess");
    guess[383] ^= 1;
    assert_ne!(first, unwrap(&guess, 32));
    for odd in [&guess[..383], &[], &[0xff; 384], &[0; 400]] {
        assert_eq!(unwrap(odd, 16).len(), 16, "also what cannot be decrypted at all");
    }
}

#[test]
fn changed_content_is_found_out_where_it_is_authenticated() {
    let message = vector!("oaep256-gcm256");
    for place in (message.len() - 60)..message.len() {
        let mut changed = message.to_vec();
        changed[place] ^= 1;
        assert!(open(&changed, None).is_err(), "byte {place}");
    }
}

#[test]
fn hostile_nesting_and_lengths_end_at_once() {
    let deep = [0x30, 0x80].repeat(300_000);
    let long: &[u8] = &[0x30, 0x84, 0x7f, 0xff, 0xff, 0xff, 0x06, 0x01];
    let bomb = [&[0x30, 0x80][..], &[0x24, 0x80].repeat(100_000)].concat();
    for message in [deep.as_slice(), long, &bomb, &[], &[0x30], &vec![0; crate::message::MAX_MESSAGE_BYTES + 1]] {
        assert!(Enveloped::parse(message).is_err());
        assert!(Signed::parse(message).is_err());
    }
}

/// There is no code that makes CMS, and nothing outside this folder and `algorithm/legacy.rs` names what is legacy.
#[test]
fn nothing_makes_what_is_legacy() {
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    let mut read = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") && !path.ends_with("cms/tests.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                read += 1;
                for word in ["Pkcs1PublicEncryptingKey", "RSA_PKCS1_SHA", "PaddedBlockEncryptingKey", "cms::builder"] {
                    assert!(!text.contains(word), "{word} in {}", path.display());
                }
            }
        }
    }
    assert!(read > 50, "only {read} files");
}

proptest! {
    #[test]
    fn any_damage_is_an_error_or_harmless(message in prop::sample::select(vec![
        vector!("oaep256-gcm256").to_vec(), vector!("pkcs1-cbc256-stream").to_vec(), vector!("two").to_vec(), vector!("ecdsa-stream").to_vec(),
    ]), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>()) {
        let mut damaged = message.clone();
        for (place, byte) in changes {
            let place = place.index(damaged.len());
            damaged[place] = byte;
        }
        let whole = damaged.clone();
        damaged.truncate(cut.index(damaged.len()) + 1);
        for message in [&whole, &damaged] {
            let _ = Enveloped::parse(message);
            if let Ok(signed) = Signed::parse(message) {
                let _ = signed.signer(Some(0));
            }
        }
    }

    #[test]
    fn anything_else_is_not_a_message(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Enveloped::parse(&bytes).is_err());
        prop_assert!(Signed::parse(&bytes).is_err());
    }
}
