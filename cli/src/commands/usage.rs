//! What keys were used for, and what is still on an old one: from receipts. And the question before something ends.

use std::io::{BufRead, IsTerminal, Write};

use schema::clock::{Clock, SystemClock, Timestamp};
use serde_json::{Value, json};

use super::Session;
use crate::{
    error::{Error, Exit},
    graphql::{Client, documents::KEY},
    output,
};

const USES: &[output::Column] = &[
    ("caller", "/who"),
    ("operation", "/operation"),
    ("version", "/keyVersion"),
    ("uses", "/count"),
    ("first", "/firstAt"),
    ("last", "/lastAt"),
];

/// Who did what with a key or version: callers, operations, counts and times.
pub async fn uses(session: &Session, client: &Client, key: &str, since: Option<&str>) -> Result<(), Error> {
    let rows = usage(client, key, since).await?;
    output::list(session.output, USES, &rows)
}

async fn usage(client: &Client, key: &str, since: Option<&str>) -> Result<Vec<Value>, Error> {
    let report = client.one(KEY, "KeyUsage", json!({ "key": key, "since": since }), &format!("key '{key}'")).await?;
    if report["more"] == true {
        output::note("note: there is more than is shown; name a version, or a time with --since");
    }
    let mut rows = report["uses"].as_array().cloned().unwrap_or_default();
    for row in &mut rows {
        row["who"] = json!(who(row));
    }
    Ok(rows)
}

/// After a version was found to be in other hands: what it protected.
pub async fn protected(client: &Client, version: &str) -> Result<(), Error> {
    let rows = usage(client, version, None).await?;
    let protecting: Vec<&Value> = rows.iter().filter(|row| row["protects"] == true).collect();
    if protecting.is_empty() {
        output::note(&format!("no receipt says that {version} protected anything"));
        return Ok(());
    }
    output::note(&format!("what {version} protected, as receipts say, is to be protected anew and no longer trusted:"));
    for row in protecting {
        let text = |name: &str| output::cell(row.get(name));
        output::note(&format!(
            "  {} {} {} times, {} to {}",
            text("who"),
            text("operation"),
            text("count"),
            text("firstAt"),
            text("lastAt")
        ));
    }
    Ok(())
}

/// Links two keys, when a new one is named, and lists what is still on the old one.
pub async fn migrate(session: &Session, client: &Client, old: &str, new: Option<&str>, since: Option<&str>) -> Result<(), Error> {
    if new.is_some() {
        client.mutate(KEY, "SetKeySuccessor", json!({ "key": old, "successor": new })).await?;
    }
    let key = client.one(KEY, "Key", json!({ "reference": old }), &format!("key '{old}'")).await?;
    let successor = key.get("successor").filter(|successor| !successor.is_null());
    let Some(successor) = successor else {
        return Err(Error::new(Exit::Refused, "no_successor", format!("no key takes the place of '{old}' yet"))
            .hint("freehold key migrate OLD NEW says which"));
    };
    let name = format!("{}/{}", output::cell(successor.pointer("/project/name")), output::cell(successor.get("name")));
    let mut rows = usage(client, old, since).await?;
    for row in &mut rows {
        row["still"] = json!(if row["protects"] == true { "writes with it" } else { "reads with it" });
    }
    let writers = rows.iter().filter(|row| row["protects"] == true).count();
    let columns: Vec<output::Column> = [&[("still", "/still")], USES].concat();
    output::list(session.output, &columns, &rows)?;
    if session.output == output::Format::Table {
        output::note(&format!("{old} -> {name}: {writers} still write with the old key, {} read with it", rows.len() - writers));
        output::note(&match key["purpose"].as_str() {
            Some("SIGN" | "SIGN_DIGEST") => format!("sign again: freehold re-sign --key {old} --to {name}"),
            _ => format!("move what it sealed: freehold re-encrypt-message, or freehold re-encrypt for files, to {name}"),
        });
        output::note("then: freehold key deactivate, and later freehold key destroy, for each version of the old key");
    }
    Ok(())
}

/// Before a version ends: when it was last used and by whom; asks a person whether it shall end all the same.
pub async fn confirm(client: &Client, version: &str, act: &str, yes: bool) -> Result<(), Error> {
    let reference = version.rsplit_once('/').map_or(version, |(key, _)| key);
    let key = client.one(KEY, "Key", json!({ "reference": reference }), &format!("key '{reference}'")).await?;
    let number: Option<u64> = version.rsplit_once('/').and_then(|(_, number)| number.parse().ok());
    let versions = key["versions"].as_array().into_iter().flatten();
    let found = versions.into_iter().find(|found| found["number"].as_u64() == number);
    let said = match found.map(|found| &found["lastUse"]) {
        Some(last) if !last.is_null() => format!("{version} was {}", last_use(last, SystemClock.now())),
        Some(_) => format!("no receipt says that {version} was ever used"),
        None => return Ok(()),
    };
    if yes || !std::io::stdin().is_terminal() {
        output::note(&said);
        return Ok(());
    }
    let mut prompt = std::io::stderr().lock();
    let asked = write!(prompt, "{said}. {act} it? [y/N] ").and_then(|()| prompt.flush());
    asked.map_err(|source| Error::fault("could not ask", source))?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(|source| Error::fault("could not read the answer", source))?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Error::new(Exit::Refused, "not_confirmed", "nothing was done"))
}

/// `used 3 h ago by payments/app-7 (encrypt, version 2)`
pub fn last_use(last: &Value, now: Timestamp) -> String {
    let ago = last["at"].as_str().and_then(|at| at.parse::<Timestamp>().ok()).map_or_else(String::new, |at| {
        let seconds = now.since(at).as_secs();
        match seconds {
            0..=119 => format!("{seconds} s ago "),
            120..=7_199 => format!("{} min ago ", seconds / 60),
            7_200..=172_799 => format!("{} h ago ", seconds / 3_600),
            _ => format!("{} days ago ", seconds / 86_400),
        }
    });
    let number = last["keyVersion"].as_str().and_then(|version| version.rsplit_once('/')).map_or("?", |(_, number)| number);
    let operation = output::cell(last.get("operation")).to_lowercase().replace('_', "-");
    format!("used {ago}by {} ({operation}, version {number})", who(last))
}

/// A caller by name, where there is one still.
fn who(row: &Value) -> String {
    match row.get("caller").filter(|caller| !caller.is_null()) {
        Some(caller) => format!("{}/{}", output::cell(caller.pointer("/project/name")), output::cell(caller.get("name"))),
        None => match row.get("callerId") {
            Some(Value::String(id)) => id.clone(),
            _ => "an unknown caller".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_last_use_is_told_in_words() {
        let now = Timestamp::from_micros(1_767_225_600_000_000);
        let used = |seconds| {
            json!({
                "at": now.minus(Duration::from_secs(seconds)).to_string(), "operation": "GENERATE_DATA_KEY", "keyVersion": "key_x/2",
                "callerId": "clr_1", "caller": { "name": "app-7", "project": { "name": "payments" } },
            })
        };
        assert_eq!(last_use(&used(3 * 3_600 + 5), now), "used 3 h ago by payments/app-7 (generate-data-key, version 2)");
        assert!(last_use(&used(30), now).starts_with("used 30 s ago by "));
        assert!(last_use(&used(400), now).starts_with("used 6 min ago by "));
        assert!(last_use(&used(9 * 86_400), now).starts_with("used 9 days ago by "));
        let mut gone = used(1);
        gone["caller"] = Value::Null;
        assert!(last_use(&gone, now).contains("by clr_1 "));
    }
}
