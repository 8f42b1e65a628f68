//! Whoever has a signer's pair: a file that a passphrase opens, or a token.

use std::path::Path;

use schema::encoding::Digest;
use trust::{
    pair::Pair,
    signing::{Part, Signable},
};

use super::{
    file::{self, PassphraseSource},
    token::TokenPair,
};
use crate::error::Error;

/// A pair, ready to sign.
pub enum Holder {
    /// In memory, for the length of this command.
    File(Box<Pair>),
    /// On a token, as far as it holds it.
    Token(TokenPair),
}

impl Holder {
    /// Opens what a signer's file names.
    pub fn open(path: &Path, passphrase: &PassphraseSource) -> Result<Self, Error> {
        if let Some(signer) = file::token(path)? {
            return Ok(Self::Token(signer.open(path, passphrase)?));
        }
        let sealed = file::read(path)?;
        Ok(Self::File(Box::new(file::open(path, &sealed, &passphrase.read(path)?)?)))
    }

    /// The key id of the pair.
    pub fn keyid(&self) -> Digest {
        match self {
            Self::File(pair) => pair.keyid(),
            Self::Token(pair) => pair.keyid(),
        }
    }

    /// Signs a payload with both keys.
    pub fn sign(&self, what: Signable, payload: &[u8]) -> Result<Part, Error> {
        Part::sign_with(what, payload, self.keyid(), |context, message| match self {
            Self::File(pair) => Ok(pair.sign(context, message)),
            Self::Token(pair) => pair.sign(context, message),
        })
    }
}
