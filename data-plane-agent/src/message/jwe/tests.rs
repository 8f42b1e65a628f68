use proptest::prelude::*;
use schema::{
    encoding::{base64url, from_base64url},
    key::Operation,
};

use super::*;
use crate::message::tests::{ED25519, HYBRID, SYMMETRIC, World, algorithm_of, context, permit, world};

async fn sealed(world: &World, version: KeyVersion, plaintext: &[u8], form: Form) -> String {
    let permits = vec![permit(version, Operation::Encrypt)];
    encrypt(&world.vault, &world.ids, permits, plaintext, &context(&[("app", "test")]), form).await.unwrap()
}

async fn open(world: &World, version: KeyVersion, text: &str) -> Result<Vec<u8>, MessageError> {
    let (message, bound) = (Jwe::parse(text.as_bytes())?, context(&[("app", "test")]));
    let opened = message.decrypt(&world.vault, permit(version, Operation::Decrypt), &bound).await?;
    Ok(opened.plaintext.expose().to_vec())
}

#[tokio::test]
async fn every_form_and_algorithm_goes_round() {
    let world = world().await;
    for version in [SYMMETRIC, HYBRID] {
        for form in [Form::Compact, Form::Flattened, Form::General] {
            for plaintext in [b"".as_slice(), b"hello", &[7; 5000]] {
                let text = sealed(&world, version, plaintext, form).await;
                let message = Jwe::parse(text.as_bytes()).unwrap();
                assert_eq!((message.key_version().unwrap(), message.plaintext_bytes()), (version, plaintext.len()));
                assert_eq!(open(&world, version, &text).await.unwrap(), plaintext);
                if form == Form::Compact {
                    assert_eq!(text.split('.').count(), 5);
                } else {
                    serde_json::from_str::<serde_json::Value>(&text).unwrap();
                }
            }
        }
    }
}

#[tokio::test]
async fn the_protected_header_is_what_the_formats_page_says() {
    let world = world().await;
    let text = sealed(&world, SYMMETRIC, b"x", Form::Compact).await;
    let header = String::from_utf8(from_base64url(text.split('.').next().unwrap()).unwrap()).unwrap();
    let expected = format!("{{\"alg\":\"A256KW\",\"kid\":\"{SYMMETRIC}\",\"enc\":\"A256GCM\",\"ctx\":\"");
    assert!(header.starts_with(&expected), "{header}");
    assert_eq!(header.len(), expected.len() + 64 + 2);
    let text = sealed(&world, HYBRID, b"x", Form::Compact).await;
    let header: serde_json::Value = serde_json::from_slice(&from_base64url(text.split('.').next().unwrap()).unwrap()).unwrap();
    assert_eq!((header["alg"].as_str(), header["draft"].as_str()), (Some("HPKE-9-KE"), Some("draft-ietf-jose-hpke-pq-pqt-01")));
    assert_eq!(from_base64url(header["ek"].as_str().unwrap()).unwrap().len(), 1120);
    let permits = vec![permit(SYMMETRIC, Operation::Encrypt)];
    let text = encrypt(&world.vault, &world.ids, permits, b"x", &EncryptionContext::default(), Form::Compact).await.unwrap();
    assert!(!String::from_utf8(from_base64url(text.split('.').next().unwrap()).unwrap()).unwrap().contains("ctx"));
}

#[tokio::test]
async fn any_changed_character_is_refused() {
    let world = world().await;
    for (version, step) in [(SYMMETRIC, 1), (HYBRID, 37)] {
        for form in [Form::Compact, Form::General] {
            let text = sealed(&world, version, b"some plaintext", form).await;
            for index in (0..text.len()).step_by(step) {
                let mut changed = text.clone().into_bytes();
                changed[index] ^= 1;
                let Ok(changed) = String::from_utf8(changed) else { continue };
                // A member with another name is one that is missing.
                assert!(open(&world, version, &changed).await.is_err(), "{index}: {changed}");
            }
            for end in 0..text.len() {
                assert!(open(&world, version, &text[..end]).await.is_err(), "cut at {end}");
            }
        }
    }
}

#[tokio::test]
async fn another_context_is_refused_before_the_key_is_used() {
    let world = world().await;
    let text = sealed(&world, SYMMETRIC, b"x", Form::Compact).await;
    let message = Jwe::parse(text.as_bytes()).unwrap();
    for other in [context(&[("app", "other")]), context(&[]), context(&[("app", "test"), ("more", "")])] {
        assert!(!message.matches(&other));
        // Were the key used, this permit for a key that is not there would be found first.
        let stranger =
            UsePermit::for_test(KeyVersion::new(schema::id::KeyId::from_bits(1), 1), Operation::Decrypt, algorithm_of(SYMMETRIC));
        let error = message.decrypt(&world.vault, stranger, &other).await.err().unwrap();
        assert_eq!(error.code(), "context_mismatch");
    }
}

#[tokio::test]
async fn a_key_pins_algorithm_and_encryption() {
    let world = world().await;
    let text = sealed(&world, SYMMETRIC, b"x", Form::Compact).await;
    let parts: Vec<&str> = text.split('.').collect();
    let header = String::from_utf8(from_base64url(parts[0]).unwrap()).unwrap();
    for (from, to, code) in [
        ("A256KW", "A128KW", "other_algorithm"),
        ("A256KW", "dir", "other_algorithm"),
        ("A256GCM", "A128GCM", "other_algorithm"),
        ("\"enc\"", "\"zip\":\"DEF\",\"enc\"", "not_understood"),
        ("\"enc\"", "\"crit\":[\"b64\"],\"enc\"", "not_understood"),
        ("\"enc\"", "\"crit\":[],\"enc\"", "not_understood"),
        ("\"enc\"", "\"enc\":\"A256GCM\",\"enc\"", "malformed"),
        ("\"enc\"", "\"ek\":\"AAAA\",\"enc\"", "malformed"),
        ("\"enc\"", "\"draft\":\"draft-x-99\",\"enc\"", "not_understood"),
    ] {
        let changed = header.replacen(from, to, 1);
        assert_ne!(changed, header);
        let text = format!("{}.{}", base64url(changed.as_bytes()), parts[1..].join("."));
        assert_eq!(open(&world, SYMMETRIC, &text).await.unwrap_err().code(), code, "{changed}");
    }
    let error = open(&world, HYBRID, &text).await.unwrap_err();
    assert_eq!(error.code(), "other_key");
}

#[tokio::test]
async fn several_recipients_share_one_message() {
    let world = world().await;
    let permits = vec![permit(SYMMETRIC, Operation::Encrypt), permit(HYBRID, Operation::Encrypt)];
    let text = encrypt(&world.vault, &world.ids, permits, b"for both", &context(&[("app", "test")]), Form::General).await.unwrap();
    assert_eq!(Jwe::parse(text.as_bytes()).unwrap().key_versions(), [SYMMETRIC, HYBRID]);
    for version in [SYMMETRIC, HYBRID] {
        assert_eq!(open(&world, version, &text).await.unwrap(), b"for both");
    }
    let permits = vec![permit(SYMMETRIC, Operation::Encrypt), permit(HYBRID, Operation::Encrypt)];
    let compact = encrypt(&world.vault, &world.ids, permits, b"x", &context(&[]), Form::Compact).await;
    assert_eq!(compact.unwrap_err().code(), "recipient_count");
    let classical = vec![permit(HYBRID, Operation::Encrypt), permit(ED25519, Operation::Encrypt)];
    let weak = encrypt(&world.vault, &world.ids, classical, b"x", &context(&[]), Form::General).await;
    assert_eq!(weak.unwrap_err().code(), "weakest_recipient");
}

#[tokio::test]
async fn one_mebibyte_and_not_a_byte_more() {
    let world = world().await;
    let plaintext = vec![1; MAX_PLAINTEXT_BYTES];
    for form in [Form::Compact, Form::General] {
        let text = sealed(&world, HYBRID, &plaintext, form).await;
        assert!(open(&world, HYBRID, &text).await.unwrap() == plaintext);
    }
    let permits = vec![permit(SYMMETRIC, Operation::Encrypt)];
    let too_long = encrypt(&world.vault, &world.ids, permits, &vec![1; MAX_PLAINTEXT_BYTES + 1], &context(&[]), Form::Compact).await;
    assert_eq!(too_long.unwrap_err().code(), "too_long");
    let long = vec![b'a'; MAX_MESSAGE_BYTES + 1];
    assert_eq!(Jwe::parse(&long).unwrap_err().code(), "too_long");
}

#[tokio::test]
async fn data_keys_are_messages_that_say_so() {
    use crate::message::data_key;
    let world = world().await;
    let bound = context(&[("table", "people")]);
    let permit_to_make = permit(SYMMETRIC, Operation::GenerateDataKey);
    let made = data_key::generate(&world.vault, &world.ids, permit_to_make, &bound, Form::Compact).await.unwrap();
    assert_eq!(made.key.len(), 32);
    let message = Jwe::parse(made.sealed.as_bytes()).unwrap();
    let opened = message.decrypt(&world.vault, permit(SYMMETRIC, Operation::Decrypt), &bound).await.unwrap();
    assert!(opened.plaintext.expose() == made.key.expose());
    assert_eq!(opened.typ.as_deref(), Some(data_key::TYP));
    let other = message.decrypt(&world.vault, permit(SYMMETRIC, Operation::Decrypt), &context(&[])).await;
    assert_eq!(other.err().unwrap().code(), "context_mismatch");
}

/// RFC 7516, appendix A.1's content (A256GCM) and RFC 7518's wrapping; the JOSE cookbook (RFC 7520, 5.8) uses A128KW,
/// which no key of ours has. So: the content of RFC 7516 A.1 under its own content key.
#[test]
fn rfc_7516_appendix_a_1() {
    let text = "eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ.AAAA.48V1_ALb6US04U3b.5eym8TW_c8SuK0ltJ3rpYIzOeDQz7TALvtu6UG9oMo4vpzs9tX_EFShS8iB7j6jiSdiwkIr3ajwQzaBtQD_A.XFBoMYUZodetZdvTiFvSkQ";
    let key = [
        177, 161, 244, 128, 84, 143, 225, 115, 63, 180, 3, 255, 107, 154, 212, 246, 138, 7, 110, 91, 112, 46, 34, 105, 47, 130, 203, 46,
        122, 234, 64, 252,
    ];
    let message = Jwe::parse(text.as_bytes()).unwrap();
    let plaintext = message.open(&ContentKey::from_slice(&key).unwrap()).unwrap();
    assert_eq!(plaintext.expose(), b"The true sign of intelligence is not knowledge but imagination.");
}

/// Messages that jwcrypto 1.6 sealed under the bytes 0 to 31.
#[test]
fn messages_of_jwcrypto_open() {
    use crate::algorithm;
    let compact = "eyJhbGciOiAiQTI1NktXIiwgImVuYyI6ICJBMjU2R0NNIiwgImtpZCI6ICJrZXlfMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDEvMSJ9.GFU-AQhDmIJhpyOcdV18rQqlbFApLaTXhjTfB8a6jr8QcL5mjFRVrw.77AtG5SFFx9NGStD.yLVUalfb_11ND6Kd5jH2aIa6H_Xi0tvxFA.qjIALhl3VDjL1rwljK38bw";
    let flattened = r#"{"ciphertext":"_6Nqny3IYIyUzDU3SzftmYoMGEWXbcITPg","encrypted_key":"VTN4TU36a-uSu4ZcAudIdlidaBv1Lbz29641pheOV_8G8QW6yZ_7Zg","header":{"alg":"A256KW","kid":"key_00000000000000000000000001/1"},"iv":"_TERtbYSq1mMWYCv","protected":"eyJlbmMiOiAiQTI1NkdDTSJ9","tag":"M9JUtG7RgNpWPVMMF9nvWg"}"#;
    let algorithm = algorithm_of(SYMMETRIC);
    let key = algorithm::serve(algorithm).load(algorithm, &SecretBytes::new((0..32).collect())).unwrap();
    for text in [compact, flattened] {
        let message = Jwe::parse(text.as_bytes()).unwrap();
        assert_eq!(message.key_version().unwrap(), SYMMETRIC);
        assert!(message.matches(&EncryptionContext::default()));
        pinned(&permit(SYMMETRIC, Operation::Decrypt), &message.recipients[0].header).unwrap();
        let wrapped =
            WrappedKey { encapsulated: None, encrypted_key: message.recipients[0].encrypted_key.clone(), ..WrappedKey::default() };
        let content = key.unwrap_key(&wrapped, ContentEncryption::A256Gcm).unwrap();
        assert_eq!(message.open(&content).unwrap().expose(), b"sealed by another program");
    }
}

/// The compact example of draft-ietf-jose-hpke-pq-pqt-01, appendix A: another program's message under a key we hold.
#[test]
fn hpke_9_ke_of_the_draft() {
    use crate::algorithm::{self, LoadedKey};
    let vector = include_str!("../../algorithm/vectors/hpke-9-ke.txt");
    let seed = from_base64url(vector.lines().nth(2).unwrap()).unwrap();
    let key: Box<dyn LoadedKey> = algorithm::serve(algorithm_of(HYBRID)).load(algorithm_of(HYBRID), &SecretBytes::new(seed)).unwrap();
    let text = include_str!("../../algorithm/vectors/hpke-9-ke.compact.txt").trim();
    let message = Jwe::parse(text.as_bytes()).unwrap();
    let recipient = &message.recipients[0];
    let wrapped = WrappedKey {
        encapsulated: Some(from_base64url(recipient.header.ek.as_ref().unwrap()).unwrap()),
        encrypted_key: recipient.encrypted_key.clone(),
        ..WrappedKey::default()
    };
    let content = key.unwrap_key(&wrapped, ContentEncryption::A256Gcm).unwrap();
    assert!(key.unwrap_key(&wrapped, ContentEncryption::Cobblestone256).is_err());
    let plaintext = message.open(&content).unwrap();
    assert!(std::str::from_utf8(plaintext.expose()).unwrap().contains("Frodo"), "{:?}", std::str::from_utf8(plaintext.expose()));
    let expected = vector.lines().last().unwrap();
    assert_eq!(schema::encoding::Digest::of(content.expose()).to_string(), expected);
}

proptest! {
    #[test]
    fn any_plaintext_under_any_context_goes_round_and_no_other_context_opens_it(
        plaintext in proptest::collection::vec(any::<u8>(), 0..600),
        made in proptest::collection::btree_map("[a-z]{1,3}", ".{0,6}", 0..3),
        other in proptest::collection::btree_map("[a-z]{1,3}", ".{0,6}", 0..3),
        form in prop_oneof![Just(Form::Compact), Just(Form::Flattened), Just(Form::General)],
        place: prop::sample::Index,
    ) {
        let (runtime, world) = crate::message::tests::shared();
        let (made, other) = (EncryptionContext::new(made).unwrap(), EncryptionContext::new(other).unwrap());
        runtime.block_on(async {
            let permits = vec![permit(SYMMETRIC, Operation::Encrypt)];
            let text = encrypt(&world.vault, &world.ids, permits, &plaintext, &made, form).await.unwrap();
            let message = Jwe::parse(format!("{text}\n").as_bytes()).unwrap();
            let opened = message.decrypt(&world.vault, permit(SYMMETRIC, Operation::Decrypt), &made).await.unwrap();
            prop_assert_eq!(opened.plaintext.expose(), plaintext);
            let by_other = message.decrypt(&world.vault, permit(SYMMETRIC, Operation::Decrypt), &other).await;
            prop_assert_eq!(by_other.is_ok(), made == other);
            let mut changed = text.into_bytes();
            let place = place.index(changed.len());
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            let opened = match Jwe::parse(&changed) {
                Ok(message) => message.decrypt(&world.vault, permit(SYMMETRIC, Operation::Decrypt), &made).await.is_ok(),
                Err(_) => false,
            };
            prop_assert!(!opened, "character {} changed and nobody saw", place);
            Ok(())
        })?;
    }

    #[test]
    fn junk_never_panics(junk in proptest::collection::vec(any::<u8>(), 0..200), text in "[A-Za-z0-9_.{}\":,-]{0,120}") {
        let _ = Jwe::parse(&junk);
        let _ = Jwe::parse(text.as_bytes());
    }
}
