//! Reads an agent's journal from its directory, by `docs/formats/journal.md` alone, and says what must hold of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

use schema::{
    encoding::Digest,
    id::IncarnationId,
    wire::agent::{OutcomeResult, Receipt, ReceiptBody, chain, chain_start},
};
use sha2::Digest as _;

const SEGMENT_HEADER_BYTES: usize = 64;
const GROUP_HEADER_BYTES: usize = 112;

/// What a journal's directory holds.
pub(crate) struct Receipts {
    /// In the order of their numbers.
    pub(crate) all: Vec<Receipt>,
    /// Where its groups are: segment and byte.
    pub(crate) groups: Vec<(PathBuf, usize)>,
    /// Whether it ends in a group that was not finished.
    pub(crate) torn: bool,
}

impl Receipts {
    /// Reads it; panics where numbers or chain do not join.
    pub(crate) fn read(directory: &Path) -> Self {
        let mut segments: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        segments.retain(|path| path.extension().is_some_and(|extension| extension == "segment"));
        // Sixteen digits: the order of the names is that of the numbers.
        segments.sort();
        let mut found = Self { all: Vec::new(), groups: Vec::new(), torn: false };
        let mut last: Option<Digest> = None;
        for path in segments {
            let bytes = fs::read(&path).unwrap();
            let number = u64::from_str_radix(path.file_stem().unwrap().to_str().unwrap(), 16).unwrap();
            if bytes[..8] != *b"FHJSEG1\n" || bytes[8..16] != number.to_be_bytes() {
                continue; // made ready no further
            }
            assert_eq!(bytes[32..48], check("freehold-journal-segment-v1", &bytes[..32]));
            let incarnation = IncarnationId::from_bits(u128::from_be_bytes(bytes[16..32].try_into().unwrap()));
            let mut at = SEGMENT_HEADER_BYTES;
            while let Some(header) = header(&bytes, at, number) {
                let Some(entries) = entries(header, &bytes[at + GROUP_HEADER_BYTES..]) else {
                    found.torn = true;
                    break;
                };
                let hash = last.unwrap_or_else(|| chain_start(incarnation));
                assert_eq!(header[32..64], hash.0, "the chain is broken before byte {at} of {}", path.display());
                let hash = entries.iter().fold(hash, |hash, entry| chain(&hash, entry));
                assert_eq!(header[64..96], hash.0);
                for entry in entries {
                    let receipt: Receipt = serde_json::from_slice(entry).unwrap();
                    assert_eq!(receipt.seq, found.all.len() as u64 + 1, "numbers have no gaps");
                    found.all.push(receipt);
                }
                last = Some(hash);
                found.groups.push((path.clone(), at));
                at += GROUP_HEADER_BYTES + number_at(header, 28..32) as usize;
            }
        }
        found
    }

    /// The intents of each request.
    pub(crate) fn intents(&self) -> HashMap<&str, Vec<&Receipt>> {
        let mut intents: HashMap<&str, Vec<&Receipt>> = HashMap::new();
        for receipt in &self.all {
            if let ReceiptBody::Intent(intent) = &receipt.body {
                intents.entry(&intent.request).or_default().push(receipt);
            }
        }
        intents
    }

    /// The outcome of each intent that has one. Panics where one has two, or nothing has one.
    pub(crate) fn outcomes(&self) -> BTreeMap<u64, OutcomeResult> {
        let (mut intents, mut outcomes) = (BTreeSet::new(), BTreeMap::new());
        for receipt in &self.all {
            match &receipt.body {
                ReceiptBody::Intent(_) => {
                    intents.insert(receipt.seq);
                }
                ReceiptBody::Outcome { intent, result, .. } => {
                    assert!(intents.contains(intent), "{}: the outcome of nothing", receipt.seq);
                    assert!(outcomes.insert(*intent, *result).is_none(), "{}: a second outcome of {intent}", receipt.seq);
                }
                ReceiptBody::Refusal { .. } | ReceiptBody::Host(_) => {}
            }
        }
        outcomes
    }
}

fn number_at(header: &[u8], place: std::ops::Range<usize>) -> u32 {
    u32::from_be_bytes(header[place].try_into().unwrap())
}

/// A whole group header of this segment.
fn header(bytes: &[u8], at: usize, segment: u64) -> Option<&[u8]> {
    let header = bytes.get(at..at + GROUP_HEADER_BYTES)?;
    let whole = header[..8] == *b"FHJGRP1\n"
        && header[8..16] == segment.to_be_bytes()
        && header[96..] == check("freehold-journal-group-v1", &header[..96]);
    whole.then_some(header)
}

/// The entries of a group, when they are those that its header counts and chains.
fn entries<'a>(header: &[u8], frames: &'a [u8]) -> Option<Vec<&'a [u8]>> {
    let mut rest = frames.get(..number_at(header, 28..32) as usize)?;
    let mut entries = Vec::new();
    let mut hash = Digest(header[32..64].try_into().unwrap());
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let (entry, tail) = tail.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        hash = chain(&hash, entry);
        entries.push(entry);
        rest = tail;
    }
    (entries.len() == number_at(header, 24..28) as usize && hash.0 == header[64..96]).then_some(entries)
}

fn check(label: &str, bytes: &[u8]) -> [u8; 16] {
    let mut hash = sha2::Sha256::new();
    for part in [label.as_bytes(), bytes] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize()[..16].try_into().unwrap()
}
