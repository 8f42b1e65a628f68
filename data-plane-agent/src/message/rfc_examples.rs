//! The examples of the JOSE standards that our algorithms can have, by the private keys the standards print; and of the rest,
//! that a key which pins something else opens none of them.

use schema::{
    catalogue::Algorithm,
    encoding::from_base64url,
    id::{KeyId, KeyVersion},
    key::Operation,
};

use super::{
    jwe::Jwe,
    jws::Jws,
    tests::{World, context, world},
};
use crate::{
    policy::permit::UsePermit,
    vault::{Vault, secret::SecretBytes},
};

const KEY: KeyVersion = KeyVersion::new(KeyId::from_bits(90), 1);

/// A vault with this private key in it, and the key's algorithm.
async fn with(algorithm: &str, secret: &str) -> (World, Algorithm) {
    let (world, algorithm) = (world().await, algorithm.parse().unwrap());
    world.vault.import(KEY, algorithm, SecretBytes::new(from_base64url(secret).unwrap())).await.unwrap();
    (world, algorithm)
}

fn public(x: &str, y: &str) -> Vec<u8> {
    [vec![4], from_base64url(x).unwrap(), from_base64url(y).unwrap()].concat()
}

async fn verifies(world: &World, algorithm: Algorithm, text: &str) {
    let held = world.vault.held(KEY).await.unwrap();
    let verify = |text: &str| {
        let permit = UsePermit::for_test(KEY, Operation::Verify, algorithm);
        Jws::parse(text.as_bytes(), None)?.verify(0, permit, &held, &context(&[]))
    };
    verify(text).unwrap();
    let (rest, last) = text.split_at(text.len() - 4);
    let changed = format!("{rest}{}", if last.starts_with('A') { "BBBB" } else { "AAAA" });
    assert_eq!(verify(&changed).unwrap_err().code(), "not_genuine");
}

/// RFC 7515, appendix A.3.
#[tokio::test]
async fn jws_with_es256() {
    let (world, algorithm) = with("ECDSA-P256", "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI").await;
    let held = world.vault.held(KEY).await.unwrap();
    let expected = public("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0");
    assert_eq!(held.public_key.as_ref(), Some(&expected));
    let text = "eyJhbGciOiJFUzI1NiJ9.\
                eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
                DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    verifies(&world, algorithm, text).await;
}

/// RFC 8037, appendix A.4 and A.5. Such signatures are always the same.
#[tokio::test]
async fn jws_with_ed25519() {
    let (world, algorithm) = with("Ed25519", "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").await;
    let held = world.vault.held(KEY).await.unwrap();
    assert_eq!(held.public_key, Some(from_base64url("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap()));
    let signed = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    verifies(&world, algorithm, &format!("{signed}.{signature}")).await;
    let made = world.vault.sign(UsePermit::for_test(KEY, Operation::Sign, algorithm), signed.as_bytes()).await.unwrap();
    assert_eq!(made, from_base64url(signature).unwrap());
}

/// RFC 7520, section 4.4.
#[tokio::test]
async fn hmac_of_a_jws() {
    let (world, algorithm) = with("HMAC-SHA-256", "hJtXIZ2uSN5kbQfbtTNWbpdmhkV8FJG-Onbc6mxCcYg").await;
    let signed = "eyJhbGciOiJIUzI1NiIsImtpZCI6IjAxOGMwYWU1LTRkOWItNDcxYi1iZmQ2LWVlZjMxNGJjNzAzNyJ9.\
                  SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9h\
                  ZCwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3\
                  ZXB0IG9mZiB0by4";
    let tag = world.vault.mac(UsePermit::for_test(KEY, Operation::Mac, algorithm), signed.as_bytes()).await.unwrap();
    assert_eq!(tag, from_base64url("s0h6KThzkfBBBkLspW1h84VsJZFTsPPqMDA7g1Md7p0").unwrap());
}

/// RFC 7516, appendix A.1 is sealed by RSA-OAEP with SHA-1, and nothing of ours is: it is read, and no key is used.
#[tokio::test]
async fn a_jwe_of_an_algorithm_that_no_key_has() {
    let text = "eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ.\
                OKOawDo13gRp2ojaHV7LFpZcgV7T6DVZKTyKOMTYUmKoTCVJRgckCL9kiMT03JGeipsEdY3mx_etLbbWSrFr05kLzcSr4qKAq7YN7e9j\
                wQRb23nfa6c9d-StnImGyFDbSv04uVuxIp5Zms1gNxKKK2Da14B8S4rzVRltdYwam_lDp5XnZAYpQdb76FdIKLaVmqgfwX7XWRxv2322\
                i-vDxRfqNzo_tETKzpVLzfiwQyeyPGLBIO56YJ7eObdv0je81860ppamavo35UgoRdbYaBcoh9QcfylQr66oc6vFWXRcZ_ZT2LawVCWT\
                Iy3brGPi6UklfCpIMfIjf7iGdXKHzg.48V1_ALb6US04U3b.\
                5eym8TW_c8SuK0ltJ3rpYIzOeDQz7TALvtu6UG9oMo4vpzs9tX_EFShS8iB7j6jiSdiwkIr3ajwQzaBtQD_A.XFBoMYUZodetZdvTiFvSkQ";
    let message = Jwe::parse(text.as_bytes()).unwrap();
    assert_eq!(message.plaintext_bytes(), "The true sign of intelligence is not knowledge but imagination.".len());
    assert_eq!(message.key_version().unwrap_err().code(), "key_not_named");
    let world = world().await;
    for version in [super::tests::SYMMETRIC, super::tests::HYBRID] {
        let permit = super::tests::permit(version, Operation::Decrypt);
        let code = message.decrypt(&world.vault, permit, &context(&[])).await.err().unwrap().code();
        assert!(matches!(code, "other_key" | "other_algorithm"), "{code}");
    }
}
