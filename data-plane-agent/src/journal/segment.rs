//! Segment files: written full of zeros beforehand and then in place, so that a sync has no metadata to write.
//!
//! A segment is a header, then groups; a group is a header and frames; a frame is a length (4 bytes, big-endian) and an
//! entry's bytes. Group headers carry the chain hash before and after their entries, and the segment's number, so that
//! what an earlier life of a recycled file left behind is never taken for a group. A group is written only when the one
//! before it is durable.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use schema::{
    encoding::Digest,
    id::IncarnationId,
    wire::agent::{chain, chain_start},
};

/// Bytes of a segment's header.
pub(super) const SEGMENT_HEADER_BYTES: usize = 64;
/// Bytes of a group's header.
pub(super) const GROUP_HEADER_BYTES: usize = 112;
/// Bytes before an entry.
pub(super) const FRAME_BYTES: usize = 4;

const SEGMENT_MAGIC: &[u8; 8] = b"FHJSEG1\n";
const GROUP_MAGIC: &[u8; 8] = b"FHJGRP1\n";
const CHECK_BYTES: usize = 16;

/// How bytes reach the disk. Tests put a failing disk in its place.
pub trait Disk: Send + Sync + 'static {
    /// Writes all bytes at this offset.
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes what was written durable.
    fn sync(&self, file: &File) -> io::Result<()>;
}

/// The real disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

/// A segment that may be written.
pub(super) struct Segment {
    /// Its number; never used again.
    pub(super) number: u64,
    /// Where it is.
    pub(super) path: PathBuf,
    /// Open for writing.
    pub(super) file: File,
}

/// The name of a segment.
pub(super) fn segment_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016x}.segment"))
}

/// The number in a segment's name.
pub(super) fn segment_number(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_suffix(".segment")?;
    if name.len() == 16 { u64::from_str_radix(name, 16).ok() } else { None }
}

/// Makes a segment ready: `recycled` is a file of the right size that holds nothing of worth; without one, a file full of
/// zeros is written. Durable when it returns; when it fails, nothing is left of it that takes up room.
pub(super) fn prepare(
    disk: &dyn Disk,
    directory: &Path,
    number: u64,
    incarnation: IncarnationId,
    size: u64,
    recycled: Option<PathBuf>,
) -> io::Result<Segment> {
    let path = segment_path(directory, number);
    let preparing = path.with_extension("preparing");
    let made = (|| {
        let recycling = recycled.is_some();
        if let Some(old) = recycled {
            std::fs::rename(old, &preparing)?;
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(!recycling).mode(0o600).open(&preparing)?;
        if !recycling {
            let zeros = vec![0; 256 * 1024];
            let mut at = 0;
            while at < size {
                let length = zeros.len().min(usize::try_from(size - at).unwrap_or(usize::MAX));
                disk.write_at(&file, &zeros[..length], at)?;
                at += length as u64;
            }
        }
        disk.write_at(&file, &segment_header(number, incarnation), 0)?;
        file.sync_all()?;
        std::fs::rename(&preparing, &path)?;
        Ok(file)
    })();
    let file = match made {
        Ok(file) => file,
        Err(error) => {
            let _ = std::fs::remove_file(&preparing);
            return Err(error);
        }
    };
    File::open(directory)?.sync_all()?;
    Ok(Segment { number, path, file })
}

fn segment_header(number: u64, incarnation: IncarnationId) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut header = [0; SEGMENT_HEADER_BYTES];
    header[..8].copy_from_slice(SEGMENT_MAGIC);
    header[8..16].copy_from_slice(&number.to_be_bytes());
    header[16..32].copy_from_slice(&incarnation.bits().to_be_bytes());
    let check = Digest::labelled("freehold-journal-segment-v1", &[&header[..32]]);
    header[32..32 + CHECK_BYTES].copy_from_slice(&check.0[..CHECK_BYTES]);
    header
}

/// The incarnation in a segment's header; none when it is not the header of the segment with this number.
pub(super) fn read_segment_header(bytes: &[u8], number: u64) -> Option<IncarnationId> {
    let incarnation = IncarnationId::from_bits(u128::from_be_bytes(bytes.get(16..32)?.try_into().ok()?));
    let expected = segment_header(number, incarnation);
    (bytes.get(..SEGMENT_HEADER_BYTES)? == expected).then_some(incarnation)
}

/// What a group's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group {
    /// The number of its first entry.
    pub(super) first_seq: u64,
    /// How many entries.
    pub(super) count: u32,
    /// Bytes of its frames.
    pub(super) length: u32,
    /// The chain hash before its first entry.
    pub(super) previous: Digest,
    /// The chain hash after its last entry.
    pub(super) last: Digest,
}

impl Group {
    /// The number of its last entry.
    pub(super) fn last_seq(&self) -> u64 {
        self.first_seq + u64::from(self.count) - 1
    }

    /// Bytes of header and frames.
    pub(super) fn bytes(&self) -> usize {
        GROUP_HEADER_BYTES + self.length as usize
    }

    pub(super) fn header(&self, segment: u64) -> [u8; GROUP_HEADER_BYTES] {
        let mut header = [0; GROUP_HEADER_BYTES];
        header[..8].copy_from_slice(GROUP_MAGIC);
        header[8..16].copy_from_slice(&segment.to_be_bytes());
        header[16..24].copy_from_slice(&self.first_seq.to_be_bytes());
        header[24..28].copy_from_slice(&self.count.to_be_bytes());
        header[28..32].copy_from_slice(&self.length.to_be_bytes());
        header[32..64].copy_from_slice(&self.previous.0);
        header[64..96].copy_from_slice(&self.last.0);
        let check = Digest::labelled("freehold-journal-group-v1", &[&header[..96]]);
        header[96..].copy_from_slice(&check.0[..CHECK_BYTES]);
        header
    }

    /// Reads a header of the segment with this number; none when it is no whole one.
    pub(super) fn read(bytes: &[u8], segment: u64) -> Option<Self> {
        let header = bytes.get(..GROUP_HEADER_BYTES)?;
        if &header[..8] != GROUP_MAGIC || header[8..16] != segment.to_be_bytes() {
            return None;
        }
        let group = Self {
            first_seq: u64::from_be_bytes(header[16..24].try_into().ok()?),
            count: u32::from_be_bytes(header[24..28].try_into().ok()?),
            length: u32::from_be_bytes(header[28..32].try_into().ok()?),
            previous: Digest(header[32..64].try_into().ok()?),
            last: Digest(header[64..96].try_into().ok()?),
        };
        (group.count > 0 && group.header(segment) == header).then_some(group)
    }

    /// The entries, when frames hold exactly what the header says.
    pub(super) fn entries<'a>(&self, frames: &'a [u8]) -> Option<Vec<&'a [u8]>> {
        let mut entries = Vec::with_capacity(self.count as usize);
        let (mut hash, mut rest) = (self.previous, frames.get(..self.length as usize)?);
        while !rest.is_empty() {
            let (length, tail) = rest.split_first_chunk::<FRAME_BYTES>()?;
            let (entry, tail) = tail.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            hash = chain(&hash, entry);
            entries.push(entry);
            rest = tail;
        }
        (entries.len() == self.count as usize && hash == self.last).then_some(entries)
    }
}

/// Where the chain stands: the last entry's number, and the hash after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    /// The last entry; 0 before the first.
    pub(super) seq: u64,
    /// The chain hash after it.
    pub(super) hash: Digest,
}

impl Link {
    pub(super) fn start(incarnation: IncarnationId) -> Self {
        Self { seq: 0, hash: chain_start(incarnation) }
    }
}

/// The first whole group header at or after `from`, whatever lies before it.
pub(super) fn find_group(bytes: &[u8], from: usize, segment: u64) -> Option<usize> {
    const CHUNK: usize = 4096;
    let end_of_magic = GROUP_MAGIC.len() - 1;
    let mut at = from;
    while at < bytes.len() {
        let chunk = &bytes[at..bytes.len().min(at + CHUNK)];
        // The last byte of the magic stands in no entry: most chunks are passed over at once.
        if chunk.contains(&GROUP_MAGIC[end_of_magic]) {
            let ends = chunk.iter().enumerate().filter(|(_, byte)| **byte == GROUP_MAGIC[end_of_magic]);
            let starts = ends.filter_map(|(index, _)| (at + index).checked_sub(end_of_magic)).filter(|start| *start >= from);
            for start in starts {
                if Group::read(&bytes[start..], segment).is_some() {
                    return Some(start);
                }
            }
        }
        at += CHUNK;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_of_another_segment_or_with_a_flipped_bit_is_none() {
        let digest = Digest::of(b"x");
        let header = Group { first_seq: 5, count: 2, length: 10, previous: digest, last: digest }.header(7);
        assert_eq!(Group::read(&header, 7).unwrap().last_seq(), 6);
        assert!(Group::read(&header, 8).is_none());
        for at in 0..GROUP_HEADER_BYTES {
            let mut flipped = header;
            flipped[at] ^= 1;
            assert!(Group::read(&flipped, 7).is_none(), "{at}");
        }
        let id = IncarnationId::from_bits(9);
        let header = segment_header(3, id);
        assert_eq!(read_segment_header(&header, 3), Some(id));
        assert_eq!(read_segment_header(&header, 4), None);
    }
}
