use proptest::prelude::*;
use schema::encoding::{base64url, from_base64url};

use super::*;
use crate::message::tests::{ED25519, HYBRID, ML_DSA, World, context, permit, world};

async fn signed(world: &World, versions: &[KeyVersion], payload: &[u8], form: Form) -> String {
    let permits = versions.iter().map(|version| permit(*version, Operation::Sign)).collect();
    sign(&world.vault, &world.ids, permits, payload, &context(&[("app", "test")]), form).await.unwrap()
}

async fn verified(world: &World, version: KeyVersion, text: &[u8], detached: Option<&[u8]>) -> Result<Vec<u8>, MessageError> {
    let message = Jws::parse(text, detached)?;
    let held = world.vault.held(version).await.unwrap();
    let index = message.key_versions().iter().position(|named| *named == Some(version)).unwrap_or(0);
    message.verify(index, permit(version, Operation::Verify), &held, &context(&[("app", "test")]))?;
    Ok(message.payload().to_vec())
}

#[tokio::test]
async fn every_form_and_algorithm_goes_round() {
    let world = world().await;
    for version in [ED25519, ML_DSA] {
        for payload in [b"".as_slice(), b"pay", &[9; 3000]] {
            for form in [Form::Compact, Form::Flattened, Form::General] {
                let text = signed(&world, &[version], payload, form).await;
                assert_eq!(verified(&world, version, text.as_bytes(), None).await.unwrap(), payload);
            }
            let text = signed(&world, &[version], payload, Form::Detached).await;
            assert!(text.contains(".."));
            assert_eq!(verified(&world, version, text.as_bytes(), Some(payload)).await.unwrap(), payload);
            assert_eq!(verified(&world, version, text.as_bytes(), Some(b"another")).await.unwrap_err().code(), "not_genuine");
        }
    }
}

#[tokio::test]
async fn any_changed_character_is_refused() {
    let world = world().await;
    for (version, step) in [(ED25519, 1), (ML_DSA, 61)] {
        for form in [Form::Compact, Form::General] {
            let text = signed(&world, &[version], b"some payload", form).await;
            for index in (0..text.len()).step_by(step) {
                let mut changed = text.clone().into_bytes();
                changed[index] ^= 1;
                assert!(verified(&world, version, &changed, None).await.is_err(), "{index}");
            }
        }
    }
}

#[tokio::test]
async fn a_key_pins_its_algorithm_and_a_message_its_context() {
    let world = world().await;
    let text = signed(&world, &[ED25519], b"x", Form::Compact).await;
    let held = world.vault.held(ED25519).await.unwrap();
    let message = Jws::parse(text.as_bytes(), None).unwrap();
    let error = message.verify(0, permit(ED25519, Operation::Verify), &held, &context(&[])).unwrap_err();
    assert_eq!(error.code(), "context_mismatch");
    let error = message.verify(0, permit(ED25519, Operation::Sign), &held, &context(&[("app", "test")])).unwrap_err();
    assert_eq!(error.code(), "permit_other_operation");
    assert_eq!(verified(&world, ML_DSA, text.as_bytes(), None).await.unwrap_err().code(), "other_key");
    let (header, rest) = text.split_once('.').unwrap();
    let header = String::from_utf8(from_base64url(header).unwrap()).unwrap();
    for (from, to, code) in [
        ("EdDSA", "none", "other_algorithm"),
        ("EdDSA", "HS256", "other_algorithm"),
        ("{", "{\"crit\":[\"b64\"],\"b64\":false,", "not_understood"),
        ("{", "{\"typ\":\"freehold-manifest+jws\",", "malformed"),
        ("{", "{\"alg\":\"none\",", "malformed"),
        ("{", "{\"new\":\"parameter\",", "not_genuine"),
    ] {
        let changed = format!("{}.{rest}", base64url(header.replacen(from, to, 1).as_bytes()));
        assert_eq!(verified(&world, ED25519, changed.as_bytes(), None).await.unwrap_err().code(), code, "{to}");
    }
    let encrypting = sign(&world.vault, &world.ids, vec![permit(HYBRID, Operation::Sign)], b"x", &context(&[]), Form::Compact).await;
    assert_eq!(encrypting.unwrap_err().code(), "operation_not_served");
}

#[tokio::test]
async fn several_signatures_and_their_rules() {
    let world = world().await;
    let text = signed(&world, &[ED25519, ML_DSA], b"both", Form::General).await;
    let message = Jws::parse(text.as_bytes(), None).unwrap();
    assert_eq!(message.key_versions(), [Some(ED25519), Some(ML_DSA)]);
    for version in [ED25519, ML_DSA] {
        assert_eq!(verified(&world, version, text.as_bytes(), None).await.unwrap(), b"both");
    }
}

#[tokio::test]
async fn two_keys_sign_together_and_both_say_so() {
    let world = world().await;
    let composite = CompositeId::from_bits(9);
    let bound = context(&[("deal", "7")]);
    for (form, beside) in [(Form::General, None), (Form::DetachedGeneral, Some(b"both".as_slice()))] {
        let permits = [ED25519, ML_DSA].map(|key| permit(key, Operation::Sign)).into();
        let text = sign_together(&world.vault, &world.ids, permits, b"both", &bound, form, composite).await.unwrap();
        assert_eq!(text.contains("payload"), beside.is_none());
        let message = Jws::parse(text.as_bytes(), beside).unwrap();
        assert_eq!(message.composites(), [composite].into());
        for (place, version) in [ED25519, ML_DSA].into_iter().enumerate() {
            let held = world.vault.held(version).await.unwrap();
            assert_eq!(message.places_of(version.key, held.algorithm), [(place, Some(version))]);
            message.verify(place, permit(version, Operation::Verify), &held, &bound).unwrap();
            let error = message.verify(1 - place, permit(version, Operation::Verify), &held, &bound).unwrap_err();
            assert_eq!(error.code(), "other_key");
        }
    }
    let compact = sign_together(
        &world.vault,
        &world.ids,
        [ED25519, ML_DSA].map(|key| permit(key, Operation::Sign)).into(),
        b"both",
        &bound,
        Form::Compact,
        composite,
    );
    assert_eq!(compact.await.unwrap_err().code(), "recipient_count");
}

/// RFC 8037, appendix A.4 and A.5: Ed25519 over the payload of the example.
#[test]
fn rfc_8037_appendix_a() {
    let text = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let public_key = from_base64url("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
    let held = Held {
        version: ED25519,
        algorithm: "Ed25519".parse().unwrap(),
        fingerprint: schema::encoding::Digest([0; 32]),
        public_key: Some(public_key),
        protection: schema::key::Protection::Software,
    };
    let message = Jws::parse(text.as_bytes(), None).unwrap();
    message.verify(0, permit(ED25519, Operation::Verify), &held, &EncryptionContext::default()).unwrap();
    assert_eq!(message.payload(), b"Example of Ed25519 signing");
}

#[test]
fn rfc_7515_appendix_a_3() {
    let text = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    let jwk = br#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
    let algorithm: Algorithm = "ECDSA-P256".parse().unwrap();
    let public_key = schema::public_key::ForeignJwk::parse(algorithm, jwk).unwrap().bytes(algorithm).unwrap();
    let held = Held {
        version: ED25519,
        algorithm,
        fingerprint: schema::encoding::Digest([0; 32]),
        public_key: Some(public_key),
        protection: schema::key::Protection::Software,
    };
    let message = Jws::parse(text.as_bytes(), None).unwrap();
    let permit = UsePermit::for_test(ED25519, Operation::Verify, algorithm);
    message.verify(0, permit, &held, &EncryptionContext::default()).unwrap();
    assert!(message.payload().starts_with(b"{\"iss\":\"joe\""));
}

proptest! {
    #[test]
    fn any_payload_goes_round_and_no_other_verifies(
        payload in proptest::collection::vec(any::<u8>(), 0..600),
        other in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        let (runtime, world) = crate::message::tests::shared();
        runtime.block_on(async {
            for form in [Form::Compact, Form::Flattened, Form::General] {
                let text = signed(world, &[ED25519], &payload, form).await;
                prop_assert_eq!(&verified(world, ED25519, text.as_bytes(), None).await.unwrap(), &payload);
            }
            let text = signed(world, &[ED25519], &payload, Form::Detached).await;
            prop_assert_eq!(verified(world, ED25519, text.as_bytes(), Some(&other)).await.is_ok(), payload == other);
            Ok(())
        })?;
    }

    #[test]
    fn junk_never_panics(junk in proptest::collection::vec(any::<u8>(), 0..200), text in "[A-Za-z0-9_.{}\":,-]{0,120}") {
        let _ = Jws::parse(&junk, None);
        let _ = Jws::parse(text.as_bytes(), Some(&junk));
    }
}
