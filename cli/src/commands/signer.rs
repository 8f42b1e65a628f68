//! Signers: pairs that never leave their holders.

use std::path::PathBuf;

use clap::Subcommand;
use schema::clock::{Clock, SystemClock, SystemIds, Timestamp};
use serde_json::json;
use trust::{
    pair::Pair,
    passphrase::{PublicSigner, SealedPair},
};

use crate::{
    error::Error,
    output::{self, Format},
    secret,
    signing::{
        file::{self, Memory, PassphraseSource},
        token::{TokenChoice, TokenSigner},
    },
};

/// Signers: people who sign root and policy, so that a stolen control plane can grant nothing.
#[derive(Debug, Subcommand)]
pub enum Signer {
    /// Make a pair (Ed25519 and ML-DSA-65) in a file of yours, sealed under a passphrase, or on a PKCS#11 token; nothing is sent anywhere
    ///
    /// Keep a copy of the file, and the passphrase elsewhere: without both the pair cannot sign, and nobody can make it again.
    Init {
        /// The new file; an existing one is refused
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        #[command(flatten)]
        token: TokenChoice,
        #[command(flatten)]
        passphrase: PassphraseSource,
    },
    /// Print the public half, which is what to hand in: 'freehold root propose --signer' reads it
    Public {
        /// The signer's file
        file: PathBuf,
    },
    /// Show a signer: its key id, and what it remembers to have signed
    Show {
        /// The signer's file, or what 'signer public' printed
        file: PathBuf,
    },
    /// Seal a signer's file under another passphrase
    Passphrase {
        /// The signer's file
        file: PathBuf,
        #[command(flatten)]
        passphrase: PassphraseSource,
        /// File with the new passphrase [default: asked for]
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
    },
}

const COLUMNS: &[output::Column] = &[
    ("key id", "/keyid"),
    ("file", "/file"),
    ("guarded by", "/guarded"),
    ("made", "/created"),
    ("known roots", "/roots"),
    ("signed", "/signed"),
];

impl Signer {
    /// Runs the command. No server is asked.
    pub fn run(self, output: Format) -> Result<(), Error> {
        match self {
            Self::Init { out, token, passphrase } => {
                secret::check_new(&out, "the signer")?;
                if token.pkcs11.is_some() {
                    let (signer, _) = TokenSigner::make(&token, &passphrase, SystemClock.now(), &SystemIds)?;
                    secret::write_new(&out, "the signer", &signer.to_text()?)?;
                    output::note(
                        "This token holds the classical half only. The post-quantum half is sealed by a key of the token, stands in the file, and \
                         is in this program's memory while it signs: both halves must sign, so the pair counts as any other, and neither the \
                         file nor the token signs alone. Keep a copy of the file; without the token nobody can make the pair again.",
                    );
                    return show(output, &out, &signer.public, Some(signer.created), &signer.guarded());
                }
                let passphrase = passphrase.choose(&out)?;
                let pair = Pair::generate(&SystemIds);
                let sealed =
                    SealedPair::seal(&pair, &passphrase, SystemClock.now(), &SystemIds).map_err(|error| Error::usage(error.to_string()))?;
                // Before anybody relies on it.
                file::open(&out, &sealed, &passphrase)?;
                secret::write_new(&out, "the signer", &sealed.to_text())?;
                output::note("Keep a copy of the file, and the passphrase apart from it. Hand in what 'freehold signer public' prints.");
                show(output, &out, &sealed.public, Some(sealed.created), PASSPHRASE)
            }
            Self::Public { file } => {
                let public = file::public(&file)?;
                let text = serde_json::to_string_pretty(&public).map_err(|source| Error::fault("could not write JSON", source))?;
                output::line(&text)
            }
            Self::Show { file } => {
                let public = file::public(&file)?;
                if let Some(signer) = file::token(&file)? {
                    return show(output, &file, &public, Some(signer.created), &signer.guarded());
                }
                let sealed = file::read(&file).ok();
                let guarded = if sealed.is_some() { PASSPHRASE } else { "" };
                show(output, &file, &public, sealed.map(|sealed| sealed.created), guarded)
            }
            Self::Passphrase { file, passphrase, new_passphrase_file } => {
                if file::token(&file)?.is_some() {
                    return Err(Error::usage("this signer is on a token: change the token's PIN with the tool of its maker"));
                }
                let sealed = file::read(&file)?;
                let pair = file::open(&file, &sealed, &passphrase.read(&file)?)?;
                let chosen = PassphraseSource { passphrase_file: new_passphrase_file, pin_file: None }.choose(&file)?;
                let resealed =
                    SealedPair::seal(&pair, &chosen, sealed.created, &SystemIds).map_err(|error| Error::usage(error.to_string()))?;
                file::open(&file, &resealed, &chosen)?;
                file::replace(&file, resealed.to_text().as_bytes())
                    .map_err(|source| Error::fault(&format!("could not write {}", file.display()), source))?;
                output::note("Copies of the old file still open with the old passphrase: destroy them.");
                show(output, &file, &resealed.public, Some(resealed.created), PASSPHRASE)
            }
        }
    }
}

const PASSPHRASE: &str = "a passphrase, in the file";

fn show(output: Format, file: &std::path::Path, public: &PublicSigner, created: Option<Timestamp>, guarded: &str) -> Result<(), Error> {
    let memory = Memory::read(file)?;
    let signed: Vec<_> = memory.tenants.values().flat_map(|known| &known.signed).collect();
    let told = signed
        .iter()
        .map(|signed| format!("{} {} number {} on {} ({})", signed.kind, signed.scope, signed.serial, signed.at, signed.sha256));
    let value = json!({
        "id": public.keyid, "keyid": public.keyid, "file": file.display().to_string(), "created": created,
        "guarded": guarded,
        "roots": memory.tenants.iter().map(|(tenant, known)| format!("{tenant} {}", known.root)).collect::<Vec<_>>(),
        "signed": match output { Format::Table => json!(told.collect::<Vec<_>>().join("\n")), _ => json!(signed) },
    });
    output::object(output, COLUMNS, &value)
}
