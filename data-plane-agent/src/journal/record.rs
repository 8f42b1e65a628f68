//! Receipts as text, written straight into a buffer: no tree, no allocation per entry. The bytes are those that
//! `serde_json` makes of [`schema::wire::agent::Receipt`]; a test holds the two together.

use std::io::Write;

use schema::{
    clock::Timestamp,
    encoding::push_json_text,
    wire::agent::{HostAct, Intent, OutcomeResult},
};

/// The most bytes of an entry; the control plane takes no longer ones.
pub(super) const MAX_ENTRY_BYTES: usize = 32 * 1024;

/// The beginning of every entry, up to its number. The rest follows: [`intent`], [`outcome`] or [`refusal`].
pub(super) fn head(out: &mut Vec<u8>, seq: u64) {
    out.extend_from_slice(b"{\"v\":1,\"seq\":\"");
    number(out, seq);
    out.extend_from_slice(b"\",");
}

/// Everything of an intent behind its number.
pub(super) fn intent(out: &mut Vec<u8>, time: Timestamp, intent: &Intent) {
    begin(out, time, "intent");
    request(out, intent);
    out.push(b'}');
}

/// Everything of an outcome behind its number.
pub(super) fn outcome(out: &mut Vec<u8>, time: Timestamp, intent: u64, result: OutcomeResult, code: Option<&str>, size: Option<u64>) {
    begin(out, time, "outcome");
    out.extend_from_slice(b",\"intent\":\"");
    number(out, intent);
    out.extend_from_slice(b"\",\"result\":\"");
    out.extend_from_slice(result_word(result).as_bytes());
    out.push(b'"');
    if let Some(code) = code {
        out.extend_from_slice(b",\"code\":");
        push_json_text(out, code);
    }
    optional_number(out, b",\"size\":\"", size);
    out.push(b'}');
}

/// Everything of a refusal behind its number.
pub(super) fn refusal(out: &mut Vec<u8>, time: Timestamp, intent: &Intent, code: &str, count: u64) {
    begin(out, time, "refusal");
    request(out, intent);
    out.extend_from_slice(b",\"code\":");
    push_json_text(out, code);
    out.extend_from_slice(b",\"count\":\"");
    number(out, count);
    out.extend_from_slice(b"\"}");
}

/// Everything of an act on the host behind its number.
pub(super) fn host(out: &mut Vec<u8>, time: Timestamp, act: &HostAct) {
    begin(out, time, "host");
    out.extend_from_slice(b",\"act\":\"");
    out.extend_from_slice(act.act.as_str().as_bytes());
    out.extend_from_slice(b"\",\"done\":\"");
    timestamp(out, act.done);
    // Writing to memory cannot fail.
    let _ = write!(out, "\",\"user\":{}", act.user);
    optional_text(out, b",\"what\":", act.what.as_deref());
    optional_text(out, b",\"reason\":", act.reason.as_deref());
    out.push(b'}');
}

fn begin(out: &mut Vec<u8>, time: Timestamp, kind: &str) {
    out.extend_from_slice(b"\"time\":\"");
    timestamp(out, time);
    out.extend_from_slice(b"\",\"kind\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.push(b'"');
}

fn request(out: &mut Vec<u8>, intent: &Intent) {
    optional_text(out, b",\"caller\":", intent.caller.as_deref());
    out.extend_from_slice(b",\"operation\":\"");
    out.extend_from_slice(intent.operation.as_str().as_bytes());
    out.push(b'"');
    if let Some(version) = intent.key_version {
        // Writing to memory cannot fail.
        let _ = write!(out, ",\"key_version\":\"{version}\"");
    }
    optional_text(out, b",\"algorithm\":", intent.algorithm.as_deref());
    optional_number(out, b",\"size\":\"", intent.size);
    if !intent.context.is_empty() {
        out.extend_from_slice(b",\"context\":{");
        for (index, (name, mac)) in intent.context.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            push_json_text(out, name);
            out.push(b':');
            push_json_text(out, mac);
        }
        out.push(b'}');
    }
    optional_text(out, b",\"context_key\":", intent.context_key.as_deref());
    out.extend_from_slice(b",\"request\":");
    push_json_text(out, &intent.request);
    optional_text(out, b",\"trace\":", intent.trace.as_deref());
    out.extend_from_slice(b",\"statements\":");
    push_json_text(out, &intent.statements);
    out.extend_from_slice(b",\"policies\":[");
    for (index, policy) in intent.policies.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        push_json_text(out, policy);
    }
    out.push(b']');
}

fn result_word(result: OutcomeResult) -> &'static str {
    match result {
        OutcomeResult::Ok => "ok",
        OutcomeResult::Failed => "failed",
        OutcomeResult::Aborted => "aborted",
        OutcomeResult::Unknown => "unknown",
    }
}

fn optional_text(out: &mut Vec<u8>, name: &[u8], value: Option<&str>) {
    if let Some(value) = value {
        out.extend_from_slice(name);
        push_json_text(out, value);
    }
}

fn optional_number(out: &mut Vec<u8>, name: &[u8], value: Option<u64>) {
    if let Some(value) = value {
        out.extend_from_slice(name);
        number(out, value);
        out.push(b'"');
    }
}

fn number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// RFC 3339 with six decimals, as [`Timestamp`] displays itself, without going through a formatter.
fn timestamp(out: &mut Vec<u8>, time: Timestamp) {
    let (days, micros) = (time.micros().div_euclid(86_400_000_000), time.micros().rem_euclid(86_400_000_000));
    // Days since 1970-01-01 to a date: counting from 0000-03-01, the leap day is the last of its year, and 400 years repeat.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);

    let mut written = *b"0000-00-00T00:00:00.000000Z";
    let mut put = |at: usize, width: usize, mut value: i64| {
        for slot in written[at..at + width].iter_mut().rev() {
            *slot = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(0, 4, year);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, seconds / 3600);
    put(14, 2, seconds / 60 % 60);
    put(17, 2, seconds % 60);
    put(20, 6, fraction);
    out.extend_from_slice(&written);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use schema::{
        id::{KeyId, KeyVersion},
        key::Operation,
        wire::agent::{HostActKind, Receipt, ReceiptBody},
    };

    use super::*;

    fn any_intent() -> impl Strategy<Value = Intent> {
        let text = || prop_oneof!["[a-z0-9_.-]{0,20}", any::<String>()];
        let context = prop::collection::btree_map(text(), text(), 0..4);
        let version = prop::option::of((any::<u128>(), 1u32..).prop_map(|(bits, number)| KeyVersion::new(KeyId::from_bits(bits), number)));
        let first = (prop::option::of(text()), prop::sample::select(Operation::ALL), version, prop::option::of(text()));
        let second = (
            any::<Option<u64>>(),
            (context, prop::option::of(text())),
            text(),
            prop::option::of(text()),
            text(),
            prop::collection::vec(text(), 0..3),
        );
        (first, second).prop_map(
            |((caller, operation, key_version, algorithm), (size, (context, context_key), request, trace, statements, policies))| Intent {
                caller,
                operation,
                key_version,
                algorithm,
                size,
                context,
                context_key,
                request,
                trace,
                statements,
                policies,
            },
        )
    }

    fn check(receipt: &Receipt, write: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        head(&mut bytes, receipt.seq);
        write(&mut bytes);
        assert_eq!(String::from_utf8_lossy(&bytes), serde_json::to_string(receipt).unwrap());
        assert_eq!(&serde_json::from_slice::<Receipt>(&bytes).unwrap(), receipt);
    }

    proptest! {
        #[test]
        fn entries_are_what_serde_writes(wanted in any_intent(), seq: u64, micros in -62_135_596_800_000_000i64..253_402_300_799_999_999,
                                         code in any::<Option<String>>(), count: u64, size: Option<u64>) {
            let time = Timestamp::from_micros(micros);
            let receipt = |body| Receipt { v: 1, seq, time, body };
            check(&receipt(ReceiptBody::Intent(wanted.clone())), |out| intent(out, time, &wanted));
            let body = ReceiptBody::Outcome { intent: count, result: OutcomeResult::Failed, code: code.clone(), size };
            check(&receipt(body), |out| outcome(out, time, count, OutcomeResult::Failed, code.as_deref(), size));
            let code = code.unwrap_or_default();
            let body = ReceiptBody::Refusal { intent: wanted.clone(), code: code.clone(), count };
            check(&receipt(body), |out| refusal(out, time, &wanted, &code, count));
            for kind in HostActKind::ALL {
                let (what, reason) = ((count % 3 == 0).then(|| code.clone()), (count % 2 == 0).then(|| code.clone()));
                let act = HostAct { act: *kind, done: time, user: count as u32, what, reason };
                check(&receipt(ReceiptBody::Host(act.clone())), |out| host(out, time, &act));
            }
        }
    }
}
