//! The post-quantum algorithms of RustCrypto, which are generic over their parameter sets, instantiated once: what is
//! generic is compiled where it is used, and a hash-based signature without optimisation takes minutes. This crate is
//! optimised in every profile.
//!
//! Bytes in, bytes out, as the standards encode them: FIPS 203 (seeds of 64 bytes), FIPS 204 (seeds of 32 bytes),
//! FIPS 205 (secret keys of four hashes). `None` where the input has another length or is none of the algorithm's.

pub mod ml_dsa;
pub mod ml_kem;
pub mod slh_dsa;
