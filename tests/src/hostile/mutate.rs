//! Small changes of what is known to be read: most parsers fall over what is almost right.

use proptest::{collection::vec, prelude::*};

/// One change.
#[derive(Debug, Clone)]
enum Change {
    Flip { at: usize, bit: u8 },
    Set { at: usize, byte: u8 },
    Cut { at: usize },
    Remove { at: usize, length: usize },
    Repeat { at: usize, length: usize, times: usize },
    Insert { at: usize, what: &'static [u8] },
    Splice { at: usize, other: usize, from: usize },
}

/// Pieces that parsers give a meaning to.
const PIECES: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"null",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"\\u0000",
    b"\\ud800",
    b"\xff",
    b"\0",
    b".",
    b"..",
    b"=",
    b"\n",
    b"\r\n",
    b"-----BEGIN",
    b"-----END",
    b"{\"v\":2}",
    b"\"__proto__\":",
    b"\x30\x84\xff\xff\xff\xff",
    b"\x30\x80",
    b"\x02\x01\x00",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00",
    b"FHF1",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
];

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (any::<usize>(), 0u8..8).prop_map(|(at, bit)| Change::Flip { at, bit }),
        2 => (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Change::Set { at, byte }),
        1 => any::<usize>().prop_map(|at| Change::Cut { at }),
        2 => (any::<usize>(), 1usize..64).prop_map(|(at, length)| Change::Remove { at, length }),
        1 => (any::<usize>(), 1usize..32, 1usize..200).prop_map(|(at, length, times)| Change::Repeat { at, length, times }),
        3 => (any::<usize>(), 0..PIECES.len()).prop_map(|(at, piece)| Change::Insert { at, what: PIECES[piece] }),
        1 => (any::<usize>(), any::<usize>(), any::<usize>()).prop_map(|(at, other, from)| Change::Splice { at, other, from }),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change, known: &[Vec<u8>]) {
    let place = |at: usize, length: usize| if length == 0 { 0 } else { at % length };
    match *change {
        Change::Flip { at, bit } => {
            let at = place(at, bytes.len());
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << bit;
            }
        }
        Change::Set { at, byte } => {
            let at = place(at, bytes.len());
            if let Some(old) = bytes.get_mut(at) {
                *old = byte;
            }
        }
        Change::Cut { at } => bytes.truncate(place(at, bytes.len() + 1)),
        Change::Remove { at, length } => {
            let at = place(at, bytes.len() + 1);
            bytes.drain(at..(at + length).min(bytes.len()));
        }
        Change::Repeat { at, length, times } => {
            let at = place(at, bytes.len() + 1);
            let piece = bytes[at..(at + length).min(bytes.len())].repeat(times);
            bytes.splice(at..at, piece);
        }
        Change::Insert { at, what } => {
            let at = place(at, bytes.len() + 1);
            bytes.splice(at..at, what.iter().copied());
        }
        Change::Splice { at, other, from } => {
            let at = place(at, bytes.len() + 1);
            let other = &known[place(other, known.len())];
            bytes.truncate(at);
            bytes.extend_from_slice(&other[place(from, other.len() + 1)..]);
        }
    }
}

/// Known inputs with a few changes, and now and then bytes of no shape at all.
pub(super) fn mutated(known: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changed = (any::<usize>(), vec(change(), 1..6)).prop_map(move |(which, changes)| {
        let mut bytes = known[which % known.len()].clone();
        for change in &changes {
            apply(&mut bytes, change, &known);
        }
        bytes
    });
    prop_oneof![9 => changed, 1 => vec(any::<u8>(), 0..600)]
}
