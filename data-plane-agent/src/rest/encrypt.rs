//! `POST /v1/encrypt`: seal a message.

use schema::{
    encoding::push_json_text,
    key::Operation,
    wire::{
        operation::{Batch, BatchAnswer, EncryptAnswer, EncryptRequest, Format, SecretBytes},
        problem::Problem,
    },
};

use super::{
    Shared,
    act::{Act, Done, Grants, KeyUse, operation},
};
use crate::message::{
    MAX_RECIPIENTS, MessageError,
    jwe::{self, Form},
};

operation! {
    /// Seals a message of at most 1 MiB under a key, bound to an encryption context.
    encrypt, encrypt_batch: EncryptRequest => EncryptAnswer, at "/v1/encrypt" and "/v1/batch/encrypt", "messages", "The sealed message."
}

impl Act for EncryptRequest {
    type Work = (SecretBytes, Form);
    type Answer = EncryptAnswer;

    fn plan(self, _: &Shared) -> Result<(Vec<KeyUse>, Self::Work), Problem> {
        let Self { key, also_for, plaintext, context, format } = self;
        let form = match (also_for.len(), format) {
            (0, format) => jwe_form(format),
            (1..MAX_RECIPIENTS, None | Some(Format::Json)) => Form::General,
            (1..MAX_RECIPIENTS, Some(Format::Compact)) => {
                let detail = "a message for several keys is JSON: leave format out, or also_for";
                return Err(Problem::new(400, "invalid_body", "Invalid body", detail).field("format"));
            }
            _ => {
                let detail = format!("a message is for at most {MAX_RECIPIENTS} keys");
                return Err(Problem::new(400, "recipient_count", "Too many recipients", detail).field("also_for"));
            }
        };
        let (size, count) = (plaintext.0.len(), 1 + also_for.len());
        let uses = std::iter::once(&key).chain(&also_for);
        let uses =
            uses.map(|key| Ok(KeyUse::of(Operation::Encrypt, key, context.clone(), size)?.for_keys(count))).collect::<Result<_, _>>()?;
        Ok((uses, (plaintext, form)))
    }

    async fn run(shared: &Shared, (plaintext, form): Self::Work, mut grants: Grants) -> Result<Done<EncryptAnswer>, MessageError> {
        let first = grants.take()?;
        let (mut permits, mut also_for) = (vec![first.permit], Vec::new());
        while let Ok(next) = grants.take() {
            permits.push(next.permit);
            also_for.push(next.used);
        }
        let message = jwe::encrypt(&*shared.vault, &*shared.ids, permits, &plaintext.0, &first.context, form).await?;
        Ok(Done::new(EncryptAnswer { message, also_for, used: first.used }, first.size))
    }

    /// The message is most of it, and has nothing to escape in its compact form.
    fn write(answer: &EncryptAnswer, out: &mut Vec<u8>) -> serde_json::Result<()> {
        let EncryptAnswer { message, also_for, used } = answer;
        out.extend_from_slice(b"{\"message\":");
        push_json_text(out, message);
        if !also_for.is_empty() {
            out.extend_from_slice(b",\"also_for\":");
            serde_json::to_writer(&mut *out, also_for)?;
        }
        // The members of the rest follow those: its brace becomes a comma.
        let brace = out.len();
        serde_json::to_writer(&mut *out, used)?;
        out[brace] = b',';
        Ok(())
    }
}

pub(super) const fn jwe_form(format: Option<Format>) -> Form {
    match format {
        None | Some(Format::Compact) => Form::Compact,
        Some(Format::Json) => Form::Flattened,
    }
}

#[cfg(test)]
mod tests {
    use schema::{
        id::{KeyId, KeyVersion},
        wire::operation::{Used, Warning},
    };

    use super::*;

    #[test]
    fn an_answer_is_written_as_serde_writes_it() {
        let used = |warnings| Used {
            asked_for: "billing/cards".to_owned(),
            key_version: KeyVersion::new(KeyId::from_bits(7), 3),
            algorithm: "A256KW+A256GCM".to_owned(),
            policies: vec!["main/\"quoted\"".to_owned()],
            warnings,
        };
        let warning = Warning { code: "statements_stale".to_owned(), detail: "line\nbreak".to_owned() };
        for message in ["a.b.c.d.e", "", "{\"protected\":\"a\"}", "back\\slash", "\u{7}", "ü"] {
            for (also_for, warnings) in [(vec![], vec![]), (vec![used(vec![])], vec![warning.clone()])] {
                let answer = EncryptAnswer { message: message.to_owned(), also_for, used: used(warnings) };
                let mut written = Vec::new();
                EncryptRequest::write(&answer, &mut written).unwrap();
                assert_eq!(String::from_utf8(written).unwrap(), serde_json::to_string(&answer).unwrap());
            }
        }
    }
}
