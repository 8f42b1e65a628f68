//! What was checked, as `docs/interop.md`.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use schema::catalogue::{Algorithm, CATALOGUE};
use serde_json::Value;

/// A program of others, in the order in which they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    Cryptography,
    Jwcrypto,
    Jose,
    Hpke,
    Noble,
    Node,
    OpenSsl,
}

impl Program {
    /// What the scripts call it.
    pub fn library(self) -> &'static str {
        match self {
            Self::Cryptography => "cryptography",
            Self::Jwcrypto => "jwcrypto",
            Self::Jose => "jose",
            Self::Hpke => "hpke",
            Self::Noble => "noble",
            Self::Node => "node",
            Self::OpenSsl => "openssl",
        }
    }
}

/// What is exchanged, in the order in which it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    PublicKey,
    Message,
    PartnersMessage,
    DataKey,
    File,
    Signature,
    DetachedSignature,
    CompositeSignature,
    DigestSignature,
    Mac,
    WrappedKey,
    Secret,
    DerivedKey,
    SealedCms,
    SignedCms,
    ImportedKey,
    ExportedKey,
    CertificateRequest,
    Certificate,
    Transit,
}

impl What {
    fn title(self) -> &'static str {
        match self {
            Self::PublicKey => "public key as PEM",
            Self::Message => "message",
            Self::PartnersMessage => "message to a partner's own key",
            Self::DataKey => "data key",
            Self::File => "file",
            Self::Signature => "signature",
            Self::DetachedSignature => "detached signature",
            Self::CompositeSignature => "signature in a composite",
            Self::DigestSignature => "signature over a digest",
            Self::Mac => "MAC",
            Self::WrappedKey => "wrapped key",
            Self::Secret => "agreed or encapsulated secret",
            Self::DerivedKey => "derived key",
            Self::SealedCms => "CMS, sealed",
            Self::SignedCms => "CMS, signed",
            Self::ImportedKey => "key brought in",
            Self::ExportedKey => "key taken out",
            Self::CertificateRequest => "certificate request",
            Self::Certificate => "self-signed certificate",
            Self::Transit => "ciphertext as of a transit engine",
        }
    }

    /// Whether it also comes from others: public keys, messages to partners, data keys, derived keys, exported keys and certificates are
    /// only ever ours.
    fn comes_back(self) -> bool {
        use What::{Certificate, CertificateRequest, DataKey, DerivedKey, ExportedKey, PartnersMessage, PublicKey};
        !matches!(self, PublicKey | PartnersMessage | DataKey | DerivedKey | ExportedKey | CertificateRequest | Certificate)
    }

    /// Whether it is made by us at all: of old formats we only open and verify what others made, and so are keys that come in.
    fn goes_out(self) -> bool {
        !matches!(self, Self::SealedCms | Self::SignedCms | Self::ImportedKey | Self::Transit)
    }
}

/// Who made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Made {
    ByUs,
    ByThem,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Checked,
    Unknown,
}

/// What was found, by place of the algorithm in the catalogue.
pub struct Table {
    versions: Value,
    found: BTreeMap<(usize, What, Program, Made), Found>,
}

impl Table {
    pub fn new(versions: Value) -> Self {
        Self { versions, found: BTreeMap::new() }
    }

    /// Both sides agree.
    pub fn checked(&mut self, algorithm: Algorithm, what: What, program: Program, made: Made) {
        self.put(algorithm, what, program, made, Found::Checked);
    }

    /// The program does not have the algorithm.
    pub fn unknown(&mut self, algorithm: Algorithm, what: What, program: Program, made: Made) {
        self.put(algorithm, what, program, made, Found::Unknown);
    }

    fn put(&mut self, algorithm: Algorithm, what: What, program: Program, made: Made, found: Found) {
        let place = CATALOGUE.iter().position(|entry| entry.name == algorithm.name()).unwrap();
        let before = self.found.insert((place, what, program, made), found);
        assert!(before.is_none_or(|before| before == found), "{algorithm} {what:?} {program:?} {made:?}: {before:?}, then {found:?}");
    }

    fn title(&self, program: Program) -> String {
        let version = |library: &str| self.versions[library].as_str().unwrap().to_owned();
        match program {
            Program::Cryptography => format!("Python `cryptography` {}", version("cryptography")),
            Program::Jwcrypto => format!("Python `jwcrypto` {}", version("jwcrypto")),
            Program::Jose => format!("npm `jose` {}, Node.js {}", version("jose"), version("node")),
            Program::Hpke => format!("npm `hpke` {}, `@panva/hpke-noble` {}", version("hpke"), version("@panva/hpke-noble")),
            Program::Noble => format!("npm `@noble/post-quantum` {}", version("@noble/post-quantum")),
            Program::Node => format!("Node.js {} (OpenSSL {})", version("node"), version("openssl")),
            Program::OpenSsl => "OpenSSL's command line".to_owned(),
        }
    }

    fn text(&self) -> String {
        let mut text = String::from(HEAD);
        let mut rows: Vec<(usize, What, Program)> = self.found.keys().map(|(place, what, program, _)| (*place, *what, *program)).collect();
        rows.dedup();
        for (place, what, program) in rows {
            let cell = |made| match self.found.get(&(place, what, program, made)) {
                Some(Found::Checked) => "checked",
                Some(Found::Unknown) => "unknown to it",
                None => "–",
            };
            let (ours, theirs, name, title) = (cell(Made::ByUs), cell(Made::ByThem), CATALOGUE[place].name, self.title(program));
            writeln!(text, "| `{name}` | {} | {title} | {ours} | {theirs} |", what.title()).unwrap();
        }
        text.push_str(NOBODY);
        let name = |place: usize| CATALOGUE[place].name;
        let missing = (0..CATALOGUE.len()).flat_map(|place| self.missing(place).into_iter().map(move |line| (name(place), line)));
        let lines: Vec<String> = missing.map(|(name, line)| format!("- `{name}`: {line}\n")).collect();
        text.push_str(&if lines.is_empty() { "Nothing.\n".to_owned() } else { lines.concat() });
        text
    }

    /// What no program checked of an algorithm.
    fn missing(&self, place: usize) -> Vec<String> {
        let tried: Vec<_> = self.found.iter().filter(|((at, ..), _)| *at == place).collect();
        if tried.is_empty() {
            return vec!["everything".to_owned()];
        }
        let mut kinds: Vec<What> = tried.iter().map(|((_, what, ..), _)| *what).collect();
        kinds.dedup();
        let checked = |what, made| tried.iter().any(|((_, at, _, by), found)| (*at, *by, **found) == (what, made, Found::Checked));
        let mut lines = Vec::new();
        for what in kinds {
            let title = what.title();
            match (!what.goes_out() || checked(what, Made::ByUs), !what.comes_back() || checked(what, Made::ByThem)) {
                (true, true) => {}
                (false, false) => lines.push(title.to_owned()),
                (true, false) => lines.push(format!("{title}, when others make it")),
                (false, true) => lines.push(format!("{title}, when we make it")),
            }
        }
        lines
    }

    /// Fails when the committed table says otherwise; rewrites it under `FREEHOLD_BLESS=1`.
    pub fn compare_with_the_committed_one(&self) {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/interop.md");
        let text = self.text();
        if std::env::var_os("FREEHOLD_BLESS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == text, "docs/interop.md is not what this run found: run it with FREEHOLD_BLESS=1 and look at the difference");
    }
}

const HEAD: &str = "# What other programs have checked

Written by a run of `tests/tests/interop.rs` (part of `make test`, which fails when this page says otherwise): a real agent over HTTP on one side, programs that others
wrote on the other. *Ours* was made by the agent and opened or verified by the program; *theirs* was made by the program and opened or verified by the agent. Each check
also changes a byte on the way and wants a refusal.

Messages and signatures go in every form that both sides have (compact, flattened and general JSON), empty and with 1000 bytes; `jwcrypto` opens no empty message. Two signatures of a
composite are one message in general JSON, of which a program verifies the one whose key it is given. Programs work with the agent's own keys: their secrets are read from its
vault by Python `cryptography`, from the text of [formats.md](formats.md) alone, and public keys come from the agent as JWK. The same script opens everything in
`schema/golden/formats`. Versions are pinned in `tests/peers`; OpenSSL is the system's, 3.0 or newer. SLH-DSA, whose signatures take a second, goes once each way. CMS is made by
others alone: in every key transport, content encryption and signature scheme that the agent takes. Keys come in as PKCS#8, JWK and bytes, by HPKE and by RSA-OAEP with AES-KWP, and
leave in the same forms, to keys of every kind.

Examples of standards are unit tests: RFC 7515 (A.3), RFC 7518 (C), RFC 8032, RFC 8037 and the HPKE drafts. Those of RFC 7516 and RFC 7520 are all of algorithms that are not in our catalogue
(RSA1_5, RSA-OAEP with SHA-1, 128-bit key wrap, AES-CBC, 2048-bit RSA).

| Algorithm | What | Program | Ours | Theirs |
| --- | --- | --- | --- | --- |
";

const NOBODY: &str = "
## What nobody else can check yet

Where this list names something, known answers of its standard and of Wycheproof, in the unit tests of the algorithm, are all there is.

";
