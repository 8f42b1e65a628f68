use proptest::prelude::*;
use schema::key::Operation;

use super::{chunks::CHUNK_BYTES, *};
use crate::message::tests::{ED25519, HYBRID, SYMMETRIC, World, context, permit, world};

const SEALED_CHUNK_BYTES: usize = CHUNK_BYTES + 16;

async fn sealed(world: &World, versions: &[schema::id::KeyVersion], plaintext: &[u8], step: usize) -> Vec<u8> {
    let permits = versions.iter().map(|version| permit(*version, Operation::Encrypt)).collect();
    let mut sealer = FileSealer::begin(&world.vault, &world.ids, permits, &context(&[("app", "test")])).await.unwrap();
    let mut out = sealer.header();
    let header_bytes = out.len() as u64;
    for piece in plaintext.chunks(step) {
        sealer.push(piece, &mut out).unwrap();
    }
    sealer.finish(&mut out).unwrap();
    assert_eq!(out.len() as u64, FileSealer::sealed_bytes(header_bytes, plaintext.len() as u64));
    out
}

async fn open(world: &World, version: schema::id::KeyVersion, file: &[u8], step: usize) -> Result<Vec<u8>, (MessageError, usize)> {
    let mut reader = Some(HeaderReader::new());
    let mut opener: Option<FileOpener> = None;
    let mut out = Vec::new();
    for piece in file.chunks(step.max(1)) {
        let mut body = piece;
        if let Some(waiting) = &mut reader {
            let Some((header, taken)) = waiting.push(piece).map_err(|error| (error, 0))? else { continue };
            let bound = context(&[("app", "test")]);
            let opening = header.open(&world.vault, permit(version, Operation::Decrypt), &bound);
            opener = Some(opening.await.map_err(|error| (error, 0))?);
            reader = None;
            body = &piece[taken..];
        }
        if let Some(opener) = &mut opener {
            opener.push(body, &mut out).map_err(|error| (error, out.len()))?;
        }
    }
    match opener {
        None => Err((reader.unwrap_or_default().finish(), 0)),
        Some(opener) => opener.finish(&mut out).map_err(|error| (error, 0)).map(|()| out),
    }
}

fn plaintext(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 % 253) as u8).collect()
}

#[tokio::test]
async fn any_length_in_any_pieces_goes_round() {
    let world = world().await;
    for length in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 5 * CHUNK_BYTES + 77] {
        for version in [SYMMETRIC, HYBRID] {
            let file = sealed(&world, &[version], &plaintext(length), 9999).await;
            for step in [1 + length / 50, 3000, 1 << 20] {
                assert_eq!(open(&world, version, &file, step).await.unwrap(), plaintext(length));
            }
        }
    }
    let file = sealed(&world, &[SYMMETRIC], &plaintext(100), 1).await;
    assert_eq!(open(&world, SYMMETRIC, &file, 1).await.unwrap(), plaintext(100));
}

#[tokio::test]
async fn the_body_begins_on_a_page_and_the_header_can_be_read_without_keys() {
    let world = world().await;
    let file = sealed(&world, &[SYMMETRIC, HYBRID], b"x", 1).await;
    assert_eq!(&file[..4], b"FHF1");
    let (header, taken) = HeaderReader::new().push(&file).unwrap().unwrap();
    assert_eq!((taken % 4096, taken), (0, header.bytes_before_body()));
    assert_eq!(header.key_versions(), [SYMMETRIC, HYBRID]);
    assert!(header.matches(&context(&[("app", "test")])));
    assert!(!header.matches(&context(&[])));
    for version in [SYMMETRIC, HYBRID] {
        assert_eq!(open(&world, version, &file, 100).await.unwrap(), b"x");
    }
    let error = open(&world, ED25519, &file, 100).await.unwrap_err().0;
    assert_eq!(error.code(), "other_key");
    let other = header.open(&world.vault, permit(SYMMETRIC, Operation::Decrypt), &context(&[("app", "other")])).await;
    assert_eq!(other.err().unwrap().code(), "context_mismatch");
}

#[tokio::test]
async fn any_changed_byte_is_refused_and_nothing_after_it_comes_out() {
    let world = world().await;
    let file = sealed(&world, &[SYMMETRIC], &plaintext(2 * CHUNK_BYTES + 100), 5000).await;
    let body = HeaderReader::new().push(&file).unwrap().unwrap().1;
    let places = (0..body).step_by(5).chain((body..file.len()).step_by(977)).chain([file.len() - 1, file.len() - 17]);
    for index in places {
        let mut changed = file.clone();
        changed[index] ^= 1;
        let (_, released) = open(&world, SYMMETRIC, &changed, 4096).await.expect_err(&format!("byte {index} changed and nobody saw"));
        let whole_chunks_before = index.saturating_sub(body + 56) / SEALED_CHUNK_BYTES;
        assert!(released <= whole_chunks_before * CHUNK_BYTES, "byte {index}: {released} bytes came out");
    }
}

#[tokio::test]
async fn a_file_that_is_cut_off_is_told() {
    let world = world().await;
    let file = sealed(&world, &[SYMMETRIC], &plaintext(3 * CHUNK_BYTES), 5000).await;
    let body = HeaderReader::new().push(&file).unwrap().unwrap().1;
    for chunk in 0..=3 {
        let boundary = body + 56 + chunk * SEALED_CHUNK_BYTES;
        for end in [boundary, boundary + 1, boundary + 15] {
            let error = open(&world, SYMMETRIC, &file[..end], 8000).await.unwrap_err().0;
            assert_eq!(error.code(), "truncated", "cut at {end}");
        }
        let inside = if chunk == 0 { "truncated" } else { "not_genuine" };
        let error = open(&world, SYMMETRIC, &file[..boundary - 1], 8000).await.unwrap_err().0;
        assert_eq!(error.code(), inside, "cut inside chunk {chunk}");
    }
    for end in [0, 3, 4, 7, 8, 100, body - 1] {
        assert_eq!(open(&world, SYMMETRIC, &file[..end], 50).await.unwrap_err().0.code(), "truncated", "cut at {end}");
    }
    let longer = [file.as_slice(), b"more"].concat();
    assert!(open(&world, SYMMETRIC, &longer, 8000).await.is_err());
}

#[tokio::test]
async fn chunks_that_changed_places_or_files_are_refused() {
    let world = world().await;
    let file = sealed(&world, &[SYMMETRIC], &plaintext(3 * CHUNK_BYTES), 5000).await;
    let other = sealed(&world, &[SYMMETRIC], &plaintext(3 * CHUNK_BYTES), 5000).await;
    let start = HeaderReader::new().push(&file).unwrap().unwrap().1 + 56;
    let chunk = |index: usize| start + index * SEALED_CHUNK_BYTES..start + (index + 1) * SEALED_CHUNK_BYTES;
    let mut swapped = file.clone();
    swapped[chunk(0)].copy_from_slice(&file[chunk(1)]);
    swapped[chunk(1)].copy_from_slice(&file[chunk(0)]);
    let mut repeated = file.clone();
    repeated.splice(chunk(1), file[chunk(0)].iter().copied());
    let mut without = file.clone();
    without.drain(chunk(1));
    let mut foreign = file.clone();
    foreign[chunk(1)].copy_from_slice(&other[chunk(1)]);
    let mut body_of_another = file.clone();
    body_of_another.truncate(start - 56);
    body_of_another.extend_from_slice(&other[start - 56..]);
    for (what, changed) in
        [("swapped", swapped), ("repeated", repeated), ("left out", without), ("foreign", foreign), ("body", body_of_another)]
    {
        assert!(open(&world, SYMMETRIC, &changed, 8000).await.is_err(), "{what}");
    }
}

#[tokio::test]
async fn hostile_headers_are_refused_early() {
    let mut huge = b"FHF1".to_vec();
    huge.extend_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(HeaderReader::new().push(&huge).unwrap_err().code(), "too_long");
    assert_eq!(HeaderReader::new().push(b"PK\x03\x04").unwrap_err().code(), "malformed");
    assert_eq!(HeaderReader::new().push(b"FHF2").unwrap_err().code(), "malformed");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_file_in_any_pieces_goes_round_and_no_change_goes_unseen(
        length in 0..3 * CHUNK_BYTES + 5,
        sealing_step in 1000..50_000usize,
        opening_step in 1000..50_000usize,
        place: prop::sample::Index,
        bit in 0..8u8,
        cut: prop::sample::Index,
    ) {
        let (runtime, world) = crate::message::tests::shared();
        runtime.block_on(async {
            let file = sealed(world, &[SYMMETRIC], &plaintext(length), sealing_step).await;
            prop_assert_eq!(open(world, SYMMETRIC, &file, opening_step).await.unwrap(), plaintext(length));
            let mut changed = file.clone();
            changed[place.index(file.len())] ^= 1 << bit;
            prop_assert!(open(world, SYMMETRIC, &changed, opening_step).await.is_err());
            prop_assert!(open(world, SYMMETRIC, &file[..cut.index(file.len())], opening_step).await.is_err());
            Ok(())
        })?;
    }

    #[test]
    fn junk_never_panics(junk in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = HeaderReader::new().push(&junk);
        let length = u32::try_from(junk.len()).unwrap();
        let _ = HeaderReader::new().push(&[b"FHF1".as_slice(), &length.to_be_bytes(), &junk].concat());
    }
}
