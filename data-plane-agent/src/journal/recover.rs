//! What a journal's directory holds. A torn tail (a group that was being written when the machine stopped, and that nobody
//! was told of) is cut; anything else that does not fit is refused, with its position.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use schema::{clock::Timestamp, encoding::Digest, id::IncarnationId};
use serde::{Deserialize, Serialize};
use service::files::{FileError, OWNER_ONLY, write_atomic};

use super::segment::{
    GROUP_HEADER_BYTES, Group, Link, SEGMENT_HEADER_BYTES, find_group, read_segment_header, segment_number, segment_path,
};

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system refused.
    #[error("cannot {act} {path}{}", service::files::advice(source))]
    Io {
        /// What was attempted.
        act: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the journal's directory could not be used.
    #[error("the journal's directory cannot be used")]
    File(#[from] FileError),
    /// Bytes changed that had been durable.
    #[error(
        "the journal is damaged: {path}, byte {offset}: {what}; look at the disk, keep a copy, and restore the directory or \
         move it away (a new incarnation begins, and the control plane shows it)"
    )]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What does not fit.
        what: &'static str,
    },
    /// Entries are gone that the control plane has not taken.
    #[error("journal entries {from} to {to} are missing from {directory}; restore them, or move the directory away to begin anew")]
    Missing {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
        /// The journal's directory.
        directory: PathBuf,
    },
    /// The directory is an old copy.
    #[error(
        "the journal in {directory} ends at entry {last}, but the control plane has taken {acknowledged}: it is an old copy; \
         restore the newer one, or move the directory away to begin anew"
    )]
    Rewound {
        /// The last entry found.
        last: u64,
        /// The last entry the control plane has taken.
        acknowledged: u64,
        /// The journal's directory.
        directory: PathBuf,
    },
    /// A setting cannot be used.
    #[error("{0}")]
    Setting(String),
}

pub(super) fn io_error(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_path_buf();
    move |source| OpenError::Io { act, path, source }
}

/// How far the control plane has taken the entries, as kept beside the segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Acknowledged {
    pub(super) incarnation: IncarnationId,
    #[serde(with = "schema::encoding::u64_string")]
    pub(super) seq: u64,
    pub(super) hash: Digest,
}

const ACKNOWLEDGED: &str = "acknowledged.json";
/// Room to replace it on a disk that is full: without it nothing could be freed there.
const RESERVE: &str = "acknowledged.reserve";
const RESERVE_BYTES: usize = 4096;

impl Acknowledged {
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, OpenError> {
        let path = directory.join(ACKNOWLEDGED);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|_| OpenError::Corrupt {
                path,
                offset: 0,
                what: "it does not say how far the control plane has taken the entries",
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("read", &path)(error)),
        }
    }

    pub(super) fn write(&self, directory: &Path) -> Result<(), FileError> {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        let write = || write_atomic(&directory.join(ACKNOWLEDGED), &bytes, OWNER_ONLY);
        let written = write().or_else(|error| match &error {
            FileError::Io { source, .. } if is_full(source) && std::fs::remove_file(directory.join(RESERVE)).is_ok() => write(),
            _ => Err(error),
        });
        // What stood there before is free now: taken at once, before others do.
        reserve(directory);
        written
    }
}

/// Keeps room for the next [`Acknowledged::write`]. Without it that needs what the disk has left.
pub(super) fn reserve(directory: &Path) {
    let path = directory.join(RESERVE);
    let kept = std::fs::metadata(&path).is_ok_and(|file| file.len() == RESERVE_BYTES as u64);
    if !kept && std::fs::write(&path, [0; RESERVE_BYTES]).is_err() {
        let _ = std::fs::remove_file(&path);
    }
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A segment with entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filled {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    /// Its last entry.
    pub(super) last_seq: u64,
    /// Where the next group goes.
    pub(super) end: u64,
}

/// Where a reader stands: before the group at this place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) before: Link,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) incarnation: Option<IncarnationId>,
    /// Oldest first; the last one is written on.
    pub(super) filled: Vec<Filled>,
    /// Numbers of segments made ready, and not begun.
    pub(super) ready: Vec<u64>,
    /// The last entry.
    pub(super) last: Link,
    /// Intents without an outcome.
    pub(super) open: BTreeSet<u64>,
    /// Before the first group that the control plane has not wholly taken.
    pub(super) unacknowledged: Option<Place>,
    /// When the first entry was written that the control plane has not taken.
    pub(super) oldest_unacknowledged: Option<Timestamp>,
    /// Where a torn tail was cut.
    pub(super) torn: Option<(PathBuf, u64)>,
}

/// What recovery reads of an entry.
#[derive(Deserialize)]
struct Probe<'a> {
    #[serde(borrow)]
    seq: std::borrow::Cow<'a, str>,
    time: Timestamp,
    kind: std::borrow::Cow<'a, str>,
    intent: Option<std::borrow::Cow<'a, str>>,
}

/// Reads a journal's directory. Changes nothing in it.
pub(super) fn scan(directory: &Path, size: u64) -> Result<Found, OpenError> {
    let acknowledged = Acknowledged::read(directory)?;
    let mut found = Found {
        incarnation: acknowledged.map(|acknowledged| acknowledged.incarnation),
        filled: Vec::new(),
        ready: Vec::new(),
        last: Link { seq: 0, hash: Digest([0; 32]) },
        open: BTreeSet::new(),
        unacknowledged: None,
        oldest_unacknowledged: None,
        torn: None,
    };
    let taken = acknowledged.map_or(0, |acknowledged| acknowledged.seq);
    for number in numbers(directory)? {
        found.read_segment(directory, number, size, taken)?;
    }
    let (first, last) = (found.unacknowledged.map(|place| place.before.seq + 1), found.last.seq);
    if last < taken {
        return Err(OpenError::Rewound { last, acknowledged: taken, directory: directory.to_path_buf() });
    }
    if let Some(first) = first.filter(|first| *first > taken + 1) {
        return Err(OpenError::Missing { from: taken + 1, to: first - 1, directory: directory.to_path_buf() });
    }
    Ok(found)
}

fn numbers(directory: &Path) -> Result<Vec<u64>, OpenError> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io_error("list", directory))? {
        let entry = entry.map_err(io_error("list", directory))?;
        numbers.extend(segment_number(&entry.path()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

impl Found {
    fn read_segment(&mut self, directory: &Path, number: u64, size: u64, taken: u64) -> Result<(), OpenError> {
        let path = segment_path(directory, number);
        let bytes = std::fs::read(&path).map_err(io_error("read", &path))?;
        let corrupt = |offset: usize, what| OpenError::Corrupt { path: path.clone(), offset: offset as u64, what };
        let Some(incarnation) = read_segment_header(&bytes, number) else {
            return match find_group(&bytes, 0, number) {
                Some(_) => Err(corrupt(0, "the header is not that of this segment, but entries follow")),
                // A segment that was never begun: nothing is lost with it.
                None => Ok(()),
            };
        };
        if bytes.len() as u64 > size {
            return Err(OpenError::Setting(format!(
                "the journal's segments have {} bytes, but journal.segment says {size}; it cannot be made smaller while entries wait",
                bytes.len()
            )));
        }
        if *self.incarnation.get_or_insert(incarnation) != incarnation {
            return Err(corrupt(0, "it belongs to another incarnation"));
        }
        if self.filled.is_empty() {
            self.last = Link::start(incarnation);
        }
        let mut at = SEGMENT_HEADER_BYTES;
        let mut begun = false;
        while let Some(group) = bytes.get(at..).and_then(|rest| Group::read(rest, number)) {
            let Some(entries) = bytes.get(at + GROUP_HEADER_BYTES..).and_then(|frames| group.entries(frames)) else { break };
            let oldest = self.filled.is_empty() && !begun;
            if oldest && group.first_seq > 1 {
                // What came before was taken and freed.
                self.last = Link { seq: group.first_seq - 1, hash: group.previous };
            }
            let joins = Link { seq: group.first_seq - 1, hash: group.previous } == self.last;
            if !joins {
                return Err(corrupt(at, "the entries before this place are missing or are not those that were written"));
            }
            if group.last_seq() > taken && self.unacknowledged.is_none() {
                self.unacknowledged = Some(Place { segment: number, offset: at as u64, before: self.last });
            }
            for (seq, entry) in (group.first_seq..).zip(entries) {
                self.note(seq, entry, taken).ok_or_else(|| corrupt(at, "an entry does not read"))?;
            }
            self.last = Link { seq: group.last_seq(), hash: group.last };
            begun = true;
            at += group.bytes();
        }
        // A header at this very place may belong to a group that was not finished; one further on may not.
        if find_group(&bytes, at + 1, number).is_some() {
            return Err(corrupt(at, "bytes changed after they were written: entries that follow are whole"));
        }
        // A whole header before frames that are not. (What an older life of the file left has another number.)
        if bytes.get(at..).and_then(|rest| Group::read(rest, number)).is_some() {
            self.torn = Some((path.clone(), at as u64));
        }
        if begun {
            self.filled.push(Filled { number, path, last_seq: self.last.seq, end: at as u64 });
            // A segment is begun only when those before it are.
            self.ready.clear();
        } else {
            self.ready.push(number);
        }
        Ok(())
    }

    fn note(&mut self, seq: u64, entry: &[u8], taken: u64) -> Option<()> {
        let probe: Probe<'_> = serde_json::from_slice(entry).ok()?;
        if probe.seq.parse::<u64>().ok()? != seq {
            return None;
        }
        match &*probe.kind {
            "intent" => {
                self.open.insert(seq);
            }
            "outcome" => {
                self.open.remove(&probe.intent?.parse().ok()?);
            }
            _ => {}
        }
        if seq > taken && self.oldest_unacknowledged.is_none() {
            self.oldest_unacknowledged = Some(probe.time);
        }
        Some(())
    }
}
