//! The parsers. Where a message can be written again, what was read must come back the same.

use std::collections::BTreeMap;

use cli::material::Container;
use data_plane_agent::{
    material,
    message::{
        MAX_RECIPIENTS,
        cms::{enveloped::Enveloped, signed::Signed},
        file::{HeaderReader, chunks::ChunkOpener},
        header::Header,
        jwe::Jwe,
        jws::Jws,
        transit::Transit,
    },
    vault::secret::SecretBytes,
};
use schema::{
    catalogue::Algorithm,
    context::EncryptionContext,
    encoding::Base64,
    event::Record,
    key::KeyReference,
    public_key,
    token::{Token, TokenKind},
    wire::{
        agent::StatementSet,
        delta::StatementDelta,
        operation::{self, MaterialFormat},
    },
};
use serde::{Serialize, de::DeserializeOwned};
use trust::{
    accept::{AcceptedSet, Confirmed, accept, restore},
    dsse::Envelope,
    testing::World,
};
use zeroize::Zeroizing;

use super::{Target, seeds};

/// Large statements are refused before they are parsed; here a small bound shows that it holds.
const MAX_ENVELOPE_BYTES: usize = 1 << 20;

pub(super) const ALL: &[Target] = &[
    Target { name: "jwe", seeds: seeds::jwe, run: jwe },
    Target { name: "jws", seeds: seeds::jws, run: jws },
    Target { name: "jose-header", seeds: seeds::jose_header, run: jose_header },
    Target { name: "file-header", seeds: seeds::file, run: file_header },
    Target { name: "file-chunks", seeds: seeds::chunks, run: file_chunks },
    Target { name: "cms", seeds: seeds::cms, run: cms },
    Target { name: "transit", seeds: seeds::transit, run: transit },
    Target { name: "material", seeds: seeds::material, run: material },
    Target { name: "key-container", seeds: seeds::key_containers, run: key_container },
    Target { name: "transit-backup", seeds: seeds::transit_backups, run: transit_backup },
    Target { name: "public-key", seeds: seeds::public_keys, run: partners_key },
    Target { name: "context", seeds: seeds::context, run: context },
    Target { name: "requests", seeds: seeds::requests, run: requests },
    Target { name: "key-reference", seeds: seeds::references, run: key_reference },
    Target { name: "token", seeds: seeds::tokens, run: token },
    Target { name: "dsse", seeds: seeds::statements, run: dsse },
    Target { name: "statement-set", seeds: seeds::sets, run: statement_set },
    Target { name: "statement-delta", seeds: seeds::deltas, run: statement_delta },
    Target { name: "accepted-set", seeds: seeds::accepted_sets, run: accepted_set },
    Target { name: "record", seeds: seeds::records, run: record },
    Target { name: "certificate-request", seeds: seeds::certificate_requests, run: certificate_request },
    Target { name: "agent-configuration", seeds: seeds::agent_configuration, run: agent_configuration },
    Target { name: "control-plane-configuration", seeds: seeds::control_plane_configuration, run: control_plane_configuration },
    Target { name: "cedar", seeds: seeds::cedar, run: cedar },
];

fn jwe(bytes: &[u8]) {
    if let Ok(message) = Jwe::parse(bytes) {
        let _ = message.key_versions();
    }
}

fn jws(bytes: &[u8]) {
    for detached in [None, Some(&b"what was signed"[..])] {
        if let Ok(message) = Jws::parse(bytes, detached) {
            assert_eq!(message.key_versions().len(), message.signature_count());
            assert!(detached.is_none() || message.payload() == b"what was signed");
        }
    }
}

fn jose_header(bytes: &[u8]) {
    if let Ok(header) = Header::parse("header", bytes) {
        let _ = (header.understood(), header.key_version());
    }
}

/// In one piece and byte by byte: the same answer.
fn file_header(bytes: &[u8]) {
    let whole = HeaderReader::new().push(bytes);
    let mut reader = HeaderReader::new();
    let mut single = Ok(None);
    for byte in bytes {
        single = reader.push(std::slice::from_ref(byte));
        if !matches!(single, Ok(None)) {
            break;
        }
    }
    match (&whole, &single) {
        (Ok(Some((one, used))), Ok(Some((other, _)))) => {
            assert_eq!((one.file(), one.bytes_before_body()), (other.file(), other.bytes_before_body()));
            assert!(*used <= bytes.len());
            let _ = (one.key_versions(), one.key_version());
        }
        (one, other) => assert_eq!(one.is_err(), other.is_err(), "pieces change the answer"),
    }
}

/// Whatever comes out was sealed: nothing that was changed gives other plaintext.
fn file_chunks(bytes: &[u8]) {
    let plain = seeds::chunk_plaintext();
    for piece in [7, 4096, 1 << 20] {
        let mut opener = ChunkOpener::new(Zeroizing::new(seeds::CHUNK_KEY), seeds::CHUNK_CONTEXT);
        let mut out = Vec::new();
        let fed = bytes.chunks(piece).try_for_each(|piece| opener.push(piece, &mut out));
        assert!(plain.starts_with(&out), "something came out that was never sealed");
        if fed.is_ok() && opener.finish(&mut out).is_ok() {
            assert_eq!(out, plain, "a cut file passed for whole");
        }
    }
}

/// A message is one or the other, and says of each recipient or signer what is weak.
fn cms(bytes: &[u8]) {
    let (enveloped, signed) = (Enveloped::parse(bytes), Signed::parse(bytes));
    assert!(enveloped.is_err() || signed.is_err(), "sealed and signed at once");
    if let Ok(message) = enveloped {
        let read = (0..=MAX_RECIPIENTS).filter(|place| message.recipient(Some(*place)).is_ok_and(|recipient| recipient.legacy().len() < 3));
        assert!(read.count() <= MAX_RECIPIENTS && message.ciphertext_bytes() <= bytes.len());
    }
    if let Ok(message) = signed {
        assert!(message.content().is_none_or(|content| content.len() <= bytes.len()));
        for signer in (0..=MAX_RECIPIENTS).filter_map(|place| message.signer(Some(place)).ok()) {
            let _ = Algorithm::all().map(|algorithm| signer.legacy(algorithm).len()).max();
        }
    }
}

/// What it says of its version and length is in it.
fn transit(bytes: &[u8]) {
    if let Some(read) = text(bytes).and_then(|text| Transit::parse(text).ok()) {
        assert!(read.version() > 0 && read.plaintext_bytes() < bytes.len());
    }
}

/// Whatever is taken for the material of a key is one: it can be written and read again, and is the same.
fn material(bytes: &[u8]) {
    let secret = SecretBytes::new(bytes.to_vec());
    for algorithm in ["RSA-PSS-3072", "ECDSA-P256", "Ed25519", "ML-DSA-65", "A256GCM"].map(row) {
        for format in [MaterialFormat::Pkcs8, MaterialFormat::Jwk] {
            if let Ok(read) = material::read(algorithm, format, &secret)
                && let Ok(written) = material::write(algorithm, format, &read)
            {
                let again = material::read(algorithm, format, &written);
                assert!(again.is_ok_and(|again| again.expose() == read.expose()), "{algorithm} as {format}");
            }
        }
    }
}

fn row(name: &str) -> Algorithm {
    name.parse().unwrap_or_else(|error| panic!("{error}"))
}

/// A container gives a key, or a reason that does not repeat the password.
fn key_container(bytes: &[u8]) {
    let mut ask = |_: &str| Ok(Zeroizing::new("changeit".to_owned()));
    for container in [Container::Pem, Container::Der, Container::Pkcs12, Container::Jks] {
        if let Err(error) = cli::material::read(bytes, container, Some("pay"), &mut ask) {
            assert!(!error.to_string().contains("changeit"), "{error}");
        }
    }
    let _ = cli::material::recognise(bytes);
}

fn transit_backup(bytes: &[u8]) {
    if let Ok(backup) = cli::material::transit::read(bytes) {
        assert!(!backup.versions.is_empty() && !backup.algorithms.is_empty());
        assert!(backup.versions.keys().copied().eq(1..=u32::try_from(backup.versions.len()).unwrap_or_default()), "versions have gaps");
    }
}

/// Nothing with a private half is ever read as a public key.
fn partners_key(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    for algorithm in Algorithm::all() {
        if let Ok(key) = public_key::read(algorithm, text) {
            assert!(!public_key::holds_secret(text), "a private half was taken");
            let _ = data_plane_agent::algorithm::serve(algorithm).check_public_key(algorithm, &key);
        }
    }
}

fn context(bytes: &[u8]) {
    if let Ok(context) = serde_json::from_slice::<EncryptionContext>(bytes) {
        assert!(context.canonical().len() <= 64 * 1024);
        let commitment = context.commit([1; 16]);
        assert!(context.matches(commitment.as_deref()));
        again(&context);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = EncryptionContext::default().matches(Some(text));
    }
}

fn requests(bytes: &[u8]) {
    round::<operation::EncryptRequest>(bytes);
    round::<operation::DecryptRequest>(bytes);
    round::<operation::SignRequest>(bytes);
    round::<operation::VerifyRequest>(bytes);
    round::<operation::DataKeyRequest>(bytes);
    round::<operation::RandomRequest>(bytes);
    round::<operation::RewrapRequest>(bytes);
    round::<operation::ReEncryptRequest>(bytes);
    round::<operation::ReSignRequest>(bytes);
    round::<operation::MacRequest>(bytes);
    round::<operation::VerifyMacRequest>(bytes);
    round::<operation::SignDigestRequest>(bytes);
    round::<operation::VerifyDigestRequest>(bytes);
    round::<operation::WrapRequest>(bytes);
    round::<operation::UnwrapRequest>(bytes);
    round::<operation::AgreeRequest>(bytes);
    round::<operation::EncapsulateRequest>(bytes);
    round::<operation::DecapsulateRequest>(bytes);
    round::<operation::DeriveRequest>(bytes);
    round::<operation::CanRequest>(bytes);
    round::<operation::CmsOpenRequest>(bytes);
    round::<operation::CmsVerifyRequest>(bytes);
    round::<operation::ImportKeyRequest>(bytes);
    round::<operation::ImportRequest>(bytes);
    round::<operation::ExportRequest>(bytes);
    round::<operation::CertifyRequest>(bytes);
    round::<operation::TransitOpenRequest>(bytes);
    round::<operation::Batch<operation::EncryptRequest>>(bytes);
    round::<operation::Batch<operation::DecryptRequest>>(bytes);
    round::<operation::Batch<operation::CmsOpenRequest>>(bytes);
    round::<schema::wire::agent::Report>(bytes);
}

fn key_reference(bytes: &[u8]) {
    if let Some(reference) = text(bytes).and_then(|text| text.parse::<KeyReference>().ok()) {
        assert_eq!(reference.to_string().parse::<KeyReference>().ok(), Some(reference));
    }
}

fn token(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    for kind in [TokenKind::Api, TokenKind::Enrolment, TokenKind::Caller] {
        if let Err(error) = Token::parse(kind, text) {
            let said = error.to_string();
            assert!(text.len() < 12 || !said.contains(text), "the error repeats a secret");
        }
    }
}

fn dsse(bytes: &[u8]) {
    let _ = Envelope::parse(bytes, MAX_ENVELOPE_BYTES);
    assert!(bytes.len() < 4 || Envelope::parse(bytes, 3).is_err(), "the limit does not hold");
}

/// Only the set that was signed is ever accepted.
fn statement_set(bytes: &[u8]) {
    let Ok(set) = serde_json::from_slice::<StatementSet>(bytes) else { return };
    let world = World::new();
    if let Ok(accepted) = accept(None, &set, &world.identity(), &Confirmed::default(), world.now()) {
        only_signed(&accepted, &seeds::signed_statements(&world));
    }
}

/// Nor does what was held become anything else by a delta to it.
fn statement_delta(bytes: &[u8]) {
    let Ok(delta) = serde_json::from_slice::<StatementDelta>(bytes) else { return };
    let (world, later) = (World::new(), seeds::a_minute_later());
    let identity = world.identity();
    let Ok(held) = accept(None, &world.set(), &identity, &Confirmed::default(), world.now()) else { return };
    let Ok(set) = delta.complete(&held.statements()) else { return };
    if let Ok(accepted) = accept(Some(&held), &set, &identity, &Confirmed::default(), later.now()) {
        only_signed(&accepted, &[seeds::signed_statements(&world), seeds::signed_statements(&later)].concat());
    }
}

fn only_signed(accepted: &AcceptedSet, known: &[String]) {
    for part in accepted.statements().envelopes() {
        assert!(known.contains(&payload(part)), "a statement was accepted that nobody signed");
    }
}

fn accepted_set(bytes: &[u8]) {
    let world = World::new();
    if let Ok(set) = restore(bytes, &world.identity()) {
        assert!(restore(&set.to_bytes(), &world.identity()).is_ok());
    }
}

/// What was signed; envelopes may differ in spaces.
pub(super) fn payload(envelope: &Base64) -> String {
    let parsed: BTreeMap<String, serde_json::Value> = serde_json::from_slice(envelope.as_ref()).unwrap_or_default();
    parsed.get("payload").and_then(|payload| payload.as_str()).unwrap_or_default().to_owned()
}

fn record(bytes: &[u8]) {
    if let Ok(record) = Record::read(bytes) {
        assert_eq!(&**record.bytes(), bytes, "the stored bytes changed");
        let _ = record.leaf_hash();
    }
}

fn certificate_request(bytes: &[u8]) {
    if let Some(text) = text(bytes)
        && let Ok(request) = control_plane::pki::authority::SigningRequest::parse(text)
    {
        assert!(!request.public_key().is_empty() && !request.der().is_empty());
    }
}

fn agent_configuration(bytes: &[u8]) {
    let flags = data_plane_agent::config::Flags::default();
    with_file(bytes, |file| {
        let _ = data_plane_agent::config::Config::load(Some(file), [], &flags).map_err(|error| error.to_string());
    });
}

fn control_plane_configuration(bytes: &[u8]) {
    with_file(bytes, |file| {
        let none: BTreeMap<String, String> = BTreeMap::new();
        let _ = control_plane::config::Config::load(Some(file), [], &none).map_err(|error| error.to_string());
    });
}

fn cedar(bytes: &[u8]) {
    // Cedar's own parser recurses; what reaches it is bounded like every text of a policy.
    if let Some(text) = text(bytes).filter(|text| text.len() <= 64 * 1024) {
        let _ = control_plane::policies::cedar::check(text);
    }
}

fn with_file(bytes: &[u8], run: impl FnOnce(&std::path::Path)) {
    let mut file = tempfile::NamedTempFile::new().unwrap_or_else(|error| panic!("a temporary file: {error}"));
    std::io::Write::write_all(&mut file, bytes).unwrap_or_else(|error| panic!("writing a temporary file: {error}"));
    run(file.path());
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn round<T: DeserializeOwned + Serialize>(bytes: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(bytes) {
        again(&value);
    }
}

/// Written and read, and written again: the same text.
fn again<T: DeserializeOwned + Serialize>(value: &T) {
    let text = serde_json::to_string(value).unwrap_or_else(|error| panic!("what was read cannot be written: {error}"));
    let read: T = serde_json::from_str(&text).unwrap_or_else(|error| panic!("what was written cannot be read: {error}"));
    assert_eq!(serde_json::to_string(&read).ok(), Some(text));
}
