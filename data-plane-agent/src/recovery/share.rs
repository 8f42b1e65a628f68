//! Shares of a recovery key: Shamir's scheme over GF(2^8), by `vsss-rs` (`docs/decisions/0230-shares-of-recovery-keys.md`).
//!
//! A share is one line of text for a person: `fh_share_` and, in base64url, version (1 byte), threshold (1), the first half of
//! the recovery key's id (16), the share's number (1), its value (32) and a CRC-32 of all that (4).

use std::{collections::BTreeSet, fmt};

use schema::{
    clock::Ids,
    encoding::{Digest, base64url, from_base64url},
};
use vsss_rs::Gf256;
use zeroize::{Zeroize, Zeroizing};

use super::secret::{RecoverySecret, SEED_BYTES};
use crate::{algorithm::hpke::Random, vault::secret::SecretBytes};

const PREFIX: &str = "fh_share_";
const VERSION: u8 = 1;
/// Of a key id: enough to tell keys apart.
const KEYID_BYTES: usize = 16;
const BYTES: usize = 2 + KEYID_BYTES + 1 + SEED_BYTES;

/// The most shares of one key.
pub const MAX_SHARES: u8 = 32;

/// Why shares are not made, read or put together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    /// The numbers.
    #[error("{threshold} of {shares} shares cannot be: at least 2 must be needed, and no more than there are; at most {MAX_SHARES}")]
    Numbers {
        /// How many were wanted.
        shares: u8,
        /// How many were to be needed.
        threshold: u8,
    },
    /// Not a share at all.
    #[error("this is not a share of a recovery key: it should begin with {PREFIX}")]
    NotAShare,
    /// A typing mistake, or the end is missing.
    #[error("this share is damaged or mistyped: its checksum does not fit; copy it again")]
    Damaged,
    /// Made by a newer program.
    #[error("this share has version {0}, and this program reads version {VERSION}; update it")]
    Version(u8),
    /// Of another key.
    #[error("these shares are of different recovery keys ({0} and {1}); bring those of one")]
    OtherKey(String, String),
    /// One share came twice.
    #[error("share {0} was given twice; shares of {1} different people are needed")]
    Twice(u8, u8),
    /// Too few.
    #[error("{needed} shares are needed, and {found} were given")]
    TooFew {
        /// How many there are.
        found: usize,
        /// How many are needed.
        needed: u8,
    },
    /// They were put together, and gave another key.
    #[error("these shares do not give the recovery key they name: one of them was changed; try with another one in its place")]
    Wrong,
    /// The library failed.
    #[error("splitting the recovery key failed")]
    Split,
}

/// One share. Does not print; wiped on drop.
pub struct Share {
    threshold: u8,
    keyid: [u8; KEYID_BYTES],
    number: u8,
    value: Zeroizing<[u8; SEED_BYTES]>,
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}(number {}, hidden)", self.number)
    }
}

impl Share {
    /// Its number, from 1.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// How many are needed.
    pub fn threshold(&self) -> u8 {
        self.threshold
    }

    /// The beginning of the recovery key's id: how people tell shares of several keys apart.
    pub fn key(&self) -> String {
        base64url(&self.keyid)
    }

    /// The text, to hand to one person once.
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(BYTES + 4));
        bytes.extend_from_slice(&[VERSION, self.threshold]);
        bytes.extend_from_slice(&self.keyid);
        bytes.push(self.number);
        bytes.extend_from_slice(&*self.value);
        let check = checksum(&bytes);
        bytes.extend_from_slice(&check);
        Zeroizing::new(format!("{PREFIX}{}", &*Zeroizing::new(base64url(&bytes))))
    }

    /// Reads one; white space around it is ignored.
    pub fn parse(text: &str) -> Result<Self, ShareError> {
        let text = text.trim().strip_prefix(PREFIX).ok_or(ShareError::NotAShare)?;
        let bytes = Zeroizing::new(from_base64url(text).map_err(|_| ShareError::Damaged)?);
        let (body, check) = bytes.split_last_chunk::<4>().ok_or(ShareError::Damaged)?;
        if *check != checksum(body) {
            return Err(ShareError::Damaged);
        }
        match body.first() {
            Some(&VERSION) => {}
            Some(version) => return Err(ShareError::Version(*version)),
            None => return Err(ShareError::Damaged),
        }
        let body: &[u8; BYTES] = body.try_into().map_err(|_| ShareError::Damaged)?;
        let (mut keyid, mut value) = ([0; KEYID_BYTES], Zeroizing::new([0; SEED_BYTES]));
        keyid.copy_from_slice(&body[2..2 + KEYID_BYTES]);
        value.copy_from_slice(&body[3 + KEYID_BYTES..]);
        let (threshold, number) = (body[1], body[2 + KEYID_BYTES]);
        if threshold < 2 || number == 0 {
            return Err(ShareError::Damaged);
        }
        Ok(Self { threshold, keyid, number, value })
    }
}

/// Splits a recovery key: `threshold` of the `shares` give it back, fewer tell nothing of it.
pub fn split(secret: &RecoverySecret, shares: u8, threshold: u8, ids: &dyn Ids) -> Result<Vec<Share>, ShareError> {
    if threshold < 2 || threshold > shares || shares > MAX_SHARES {
        return Err(ShareError::Numbers { shares, threshold });
    }
    let mut parts =
        Gf256::split_bytes(threshold.into(), shares.into(), secret.seed().expose(), Random(ids)).map_err(|_| ShareError::Split)?;
    let keyid = short(&secret.keyid());
    let share = |part: &Vec<u8>| {
        let (number, value) = part.split_first()?;
        Some(Share { threshold, keyid, number: *number, value: Zeroizing::new(value.try_into().ok()?) })
    };
    let made: Option<Vec<Share>> = parts.iter().map(share).collect();
    parts.iter_mut().for_each(Zeroize::zeroize);
    made.filter(|made| made.iter().all(|share| share.number != 0)).ok_or(ShareError::Split)
}

/// Puts the recovery key together again. More shares than are needed must agree.
pub fn combine(shares: &[Share]) -> Result<RecoverySecret, ShareError> {
    let first = shares.first().ok_or(ShareError::TooFew { found: 0, needed: 2 })?;
    let mut numbers = BTreeSet::new();
    for share in shares {
        if (share.keyid, share.threshold) != (first.keyid, first.threshold) {
            return Err(ShareError::OtherKey(first.key(), share.key()));
        }
        if !numbers.insert(share.number) {
            return Err(ShareError::Twice(share.number, first.threshold));
        }
    }
    if shares.len() < usize::from(first.threshold) {
        return Err(ShareError::TooFew { found: shares.len(), needed: first.threshold });
    }
    let mut parts: Vec<Vec<u8>> = shares.iter().map(|share| [&[share.number][..], &*share.value].concat()).collect();
    let seed = Gf256::combine_bytes(&parts).map(SecretBytes::new);
    parts.iter_mut().for_each(Zeroize::zeroize);
    let secret = seed.ok().and_then(|seed| RecoverySecret::from_seed(seed).ok()).ok_or(ShareError::Wrong)?;
    if short(&secret.keyid()) == first.keyid { Ok(secret) } else { Err(ShareError::Wrong) }
}

fn short(keyid: &Digest) -> [u8; KEYID_BYTES] {
    let mut short = [0; KEYID_BYTES];
    short.copy_from_slice(&keyid.0[..KEYID_BYTES]);
    short
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(b"share");
    hasher.update(bytes);
    hasher.finalize().to_be_bytes()
}

#[cfg(test)]
mod tests {
    use schema::clock::ManualIds;

    use super::*;

    fn made(shares: u8, threshold: u8) -> (RecoverySecret, Vec<Share>) {
        let ids = ManualIds::seeded(11);
        let secret = RecoverySecret::generate(&ids).unwrap();
        let shares = split(&secret, shares, threshold, &ids).unwrap();
        (secret, shares)
    }

    fn read(share: &Share) -> Share {
        Share::parse(&format!(" {}\n", &*share.reveal())).unwrap()
    }

    #[test]
    fn every_choice_of_enough_shares_gives_the_key_back() {
        let (secret, shares) = made(5, 3);
        let mut tried = 0;
        for chosen in 0u8..32 {
            let some: Vec<Share> =
                shares.iter().enumerate().filter(|(place, _)| chosen & (1 << place) != 0).map(|(_, share)| read(share)).collect();
            match combine(&some) {
                Ok(again) => assert!(some.len() >= 3 && again.seed().expose() == secret.seed().expose()),
                Err(error) => assert!(some.len() < 3 && matches!(error, ShareError::TooFew { .. }), "{error}"),
            }
            tried += 1;
        }
        assert_eq!(tried, 32);
        let (secret, shares) = made(2, 2);
        assert_eq!(combine(&shares).unwrap().keyid(), secret.keyid());
    }

    /// With one share less than is needed, every value of the secret is as likely as before: for one byte, all 256 values of
    /// the missing share give all 256 values of the byte.
    #[test]
    fn too_few_shares_tell_nothing() {
        let (_, shares) = made(3, 2);
        let known = [&[shares[0].number][..], &*shares[0].value].concat();
        let mut possible = BTreeSet::new();
        for guess in 0..=255 {
            let other = [&[shares[1].number][..], &[guess; SEED_BYTES]].concat();
            possible.insert(Gf256::combine_bytes(vec![known.clone(), other]).unwrap()[0]);
        }
        assert_eq!(possible.len(), 256);
    }

    #[test]
    fn wrong_shares_are_told_apart() {
        let (_, shares) = made(5, 3);
        let text = shares[0].reveal();
        for (place, letter) in text.char_indices().skip(PREFIX.len()) {
            let other = if letter == 'A' { 'B' } else { 'A' };
            let typo = format!("{}{other}{}", &text[..place], &text[place + 1..]);
            assert!(matches!(Share::parse(&typo), Err(ShareError::Damaged | ShareError::Version(_))), "{place}");
        }
        assert_eq!(Share::parse(&text[..text.len() - 3]).unwrap_err(), ShareError::Damaged);
        assert_eq!(Share::parse("fh_api_AAAA").unwrap_err(), ShareError::NotAShare);
        assert_eq!(Share::parse("").unwrap_err(), ShareError::NotAShare);
        assert_eq!(format!("{:?}", shares[0]), "fh_share_(number 1, hidden)");

        let of = |places: &[usize]| places.iter().map(|place| read(&shares[*place])).collect::<Vec<_>>();
        assert_eq!(combine(&of(&[0, 1, 1])).err(), Some(ShareError::Twice(2, 3)));
        assert_eq!(combine(&of(&[0, 1])).err(), Some(ShareError::TooFew { found: 2, needed: 3 }));
        let mut changed = of(&[0, 1, 2]);
        changed[2].value[5] ^= 1;
        assert_eq!(combine(&changed).err(), Some(ShareError::Wrong));
        let other = split(&RecoverySecret::generate(&ManualIds::seeded(12)).unwrap(), 5, 3, &ManualIds::seeded(13)).unwrap();
        let mixed = vec![read(&shares[0]), read(&shares[1]), read(&other[2])];
        assert!(matches!(combine(&mixed), Err(ShareError::OtherKey(..))));
        for (shares, threshold) in [(5, 1), (3, 4), (0, 0), (33, 2)] {
            let secret = RecoverySecret::generate(&ManualIds::seeded(1)).unwrap();
            assert_eq!(split(&secret, shares, threshold, &ManualIds::seeded(1)).err(), Some(ShareError::Numbers { shares, threshold }));
        }
    }
}
