//! How keys and their versions are printed.

use schema::clock::{Clock, SystemClock};
use serde_json::{Value, json};

use super::super::{Session, usage};
use crate::{error::Error, output};

pub(super) const LIST: &[output::Column] = &[
    ("id", "/id"),
    ("project", "/project/name"),
    ("name", "/name"),
    ("algorithm", "/algorithm/name"),
    ("purpose", "/purpose"),
    ("durability", "/durability"),
    ("protection", "/protection"),
    ("primary", "/primaryVersion"),
    ("state", "/state"),
    ("sites", "/placement"),
    ("labels", "/labels"),
];

pub(super) const SHOW: &[output::Column] = &[
    ("id", "/id"),
    ("project", "/project/name"),
    ("name", "/name"),
    ("state", "/state"),
    ("aliases", "/aliases"),
    ("description", "/description"),
    ("algorithm", "/algorithm/name"),
    ("purpose", "/purpose"),
    ("durability", "/durability"),
    ("protection", "/protection"),
    ("exportable", "/exportable"),
    ("origin", "/origin"),
    ("deletion protection", "/deletionProtection"),
    ("sites", "/placement"),
    ("labels", "/labels"),
    ("limits", "/limits"),
    ("rotation", "/rotation"),
    ("minimum versions", "/minimumVersions"),
    ("created", "/createdAt"),
    ("primary", "/primaryVersion"),
    ("versions", "/versionLines"),
    ("budgets", "/budgetLines"),
    ("last use", "/lastUseLines"),
    ("ends", "/endLines"),
    ("successor", "/successor/name"),
];

/// Whether a version is active.
pub fn active(key: &Value, number: u64) -> bool {
    key["versions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|version| version["number"].as_u64() == Some(number) && version["state"] == "ACTIVE")
}

pub(super) fn show(session: &Session, mut key: Value) -> Result<(), Error> {
    if session.output == output::Format::Table {
        let origin = output::cell(key.get("origin"));
        let sites = key["placement"].as_array().map_or(&[][..], Vec::as_slice);
        let line = |version| version_line(version, &origin, sites);
        let lines: Vec<String> = key["versions"].as_array().into_iter().flatten().map(line).collect();
        key["versionLines"] = json!(lines.join("\n"));
        let budgets: Vec<String> = key["versions"].as_array().into_iter().flatten().flat_map(budget_lines).collect();
        key["budgetLines"] = json!(budgets.join("\n"));
        let of_versions = |line: fn(&Value) -> Option<String>| -> Value {
            let lines: Vec<String> = key["versions"].as_array().into_iter().flatten().filter_map(line).collect();
            json!(lines.join("\n"))
        };
        let (last_uses, ends) = (of_versions(last_use_line), of_versions(end_line));
        (key["lastUseLines"], key["endLines"]) = (last_uses, ends);
    }
    output::object(session.output, SHOW, &key)
}

/// The state of the newest version stands for the key in listings.
pub(super) fn summed(mut row: Value) -> Value {
    let primary = row["primaryVersion"].as_u64().unwrap_or(0);
    let versions = row["versions"].as_array().cloned().unwrap_or_default();
    let shown = versions.iter().find(|version| version["number"].as_u64() == Some(primary)).or(versions.last());
    row["state"] = shown.map_or(Value::Null, |version| version["state"].clone());
    row
}

/// How far each limit of a version is used up: what agents said they used, what they hold, what nobody holds.
fn budget_lines(version: &Value) -> Vec<String> {
    let line = |budget: &Value| {
        let text = |name: &str| output::cell(budget.get(name));
        let number = output::cell(version.get("number"));
        let of = if budget["hard"].is_null() { String::new() } else { format!(" of {}, {} left", text("hard"), text("left")) };
        format!("{number} {} used {}, held by agents {}{of}", text("counts"), text("used"), text("held"))
    };
    version["budgets"].as_array().into_iter().flatten().map(line).collect()
}

fn last_use_line(version: &Value) -> Option<String> {
    let last = version.get("lastUse").filter(|last| !last.is_null())?;
    Some(usage::last_use(last, SystemClock.now()))
}

/// How a version ends, or ended: each holder, and what is stated of backups.
fn end_line(version: &Value) -> Option<String> {
    let number = output::cell(version.get("number"));
    let Some(destruction) = version.get("destruction").filter(|destruction| !destruction.is_null()) else {
        let due = version.get("deactivationDueAt").filter(|due| !due.is_null())?;
        return Some(format!("{number} deactivated at {}", output::cell(Some(due))));
    };
    let text = |name: &str| output::cell(destruction.get(name));
    let is = |name: &str| destruction.get(name).is_some_and(|value| !value.is_null());
    let so_far = match (is("begunAt"), is("completedAt"), destruction["proven"] == true) {
        (false, _, _) => format!("destroyed from {} on, unless cancelled", text("dueAt")),
        (true, false, _) => format!("destruction begun {}, not complete", text("begunAt")),
        (true, true, true) => format!("destroyed {}, every holder has signed for it", text("completedAt")),
        (true, true, false) => format!("destroyed {}, as far as is known: not every holder could say so", text("completedAt")),
    };
    let holders = destruction["holders"].as_array().into_iter().flatten().map(|holder| {
        let said = match holder["said"].as_str() {
            Some("DESTROYED") => "has destroyed it".to_owned(),
            Some("LOST") => format!("is lost: {}", output::cell(holder.get("attestation"))),
            _ => "has not said that it is gone".to_owned(),
        };
        format!("{} {said}", output::cell(holder.get("agentId")))
    });
    let backups = if is("backupsExpireAt") {
        format!("backups may hold it until {}", text("backupsExpireAt"))
    } else {
        "nobody has stated until when backups may hold it".to_owned()
    };
    let parts: Vec<String> = std::iter::once(so_far).chain(holders).chain(std::iter::once(backups)).collect();
    Some(format!("{number} {}", parts.join("; ")))
}

fn version_line(version: &Value, origin: &str, sites: &[Value]) -> String {
    let text = |name: &str| output::cell(version.get(name));
    let told = version["holders"].as_array().map_or(&[][..], Vec::as_slice);
    let holders: Vec<String> =
        if sites.len() > 1 && !told.is_empty() { by_site(told, sites) } else { told.iter().map(holder_line).collect() };
    let holders = match holders.is_empty() {
        false => holders.join("\n"),
        true if origin == "EXTERNAL" => "  with the partner".to_owned(),
        true if origin == "IMPORTED" && version["state"] == "PRE_ACTIVATION" => match version["generator"]["id"].as_str() {
            Some(agent) => format!("  waits for its material, to be brought to {agent}"),
            None => "  waits for its material, and for an agent to take it".to_owned(),
        },
        true => "  no holder yet".to_owned(),
    };
    let backed_up = version["backups"].as_array().and_then(|backups| backups.first()).map_or_else(String::new, |backup| {
        let key: String = output::cell(backup.get("recoveryKey")).chars().take(12).collect();
        format!("\n  backed up by {}, sealed to {key}", output::cell(backup.get("agentId")))
    });
    format!("{} {} since {}\n{holders}{backed_up}", text("number"), text("state"), text("activatedAt"))
}

/// The holders at each site of a key, site by site: what is used where depends on who has it there.
fn by_site(holders: &[Value], sites: &[Value]) -> Vec<String> {
    let of = |site: &Value, holder: &&Value| holder["agent"]["siteId"] == site["id"];
    let mut lines = Vec::new();
    for site in sites {
        let here: Vec<&Value> = holders.iter().filter(|holder| of(site, holder)).collect();
        let ready = here.iter().filter(|holder| holder["reported"] == "READY").count();
        lines.push(match here.is_empty() {
            true => format!("  at {}: no agent", output::cell(site.get("name"))),
            false => format!("  at {}: {ready} of {} have it", output::cell(site.get("name")), here.len()),
        });
        lines.extend(here.into_iter().map(|holder| format!("  {}", holder_line(holder).replace('\n', "\n  "))));
    }
    let elsewhere = holders.iter().filter(|holder| !sites.iter().any(|site| of(site, holder)));
    lines.extend(elsewhere.map(holder_line));
    lines
}

/// What one agent should have and what it has reported; of one that does not report any more, when it last did.
fn holder_line(holder: &Value) -> String {
    let text = |name: &str| output::cell(holder.get(name));
    let agent = &holder["agent"];
    let name = ["displayName", "host"].iter().find_map(|name| agent[*name].as_str().filter(|name| !name.is_empty()));
    let mut line = format!("  {}", text("agentId"));
    if let Some(name) = name {
        line.push_str(&format!(" ({name})"));
    }
    line.push_str(&format!(": desired {}, reported {}", text("desired"), text("reported")));
    if !holder["reportedAt"].is_null() {
        line.push_str(&format!(" at {}", text("reportedAt")));
    }
    match agent["state"].as_str() {
        None | Some("ROSTERED") => {}
        Some(state) => line.push_str(&format!("; the agent is {state}")),
    }
    if holder["desired"] != holder["reported"] {
        match agent["lastSeenAt"].as_str() {
            Some(seen) => line.push_str(&format!("; last heard of at {seen}")),
            None => line.push_str("; nothing was heard of it yet"),
        }
    }
    for finding in holder["findings"].as_array().into_iter().flatten() {
        line.push_str(&format!("\n    {}", super::super::finding(finding)));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_key_at_several_sites_it_is_told_who_has_it_where() {
        let holder = |agent: &str, site: &str, reported: &str| json!({ "agentId": agent, "desired": "READY", "reported": reported, "agent": { "siteId": site, "state": "ROSTERED" } });
        let holders = [holder("agt_1", "sit_1", "READY"), holder("agt_2", "sit_2", "ABSENT"), holder("agt_3", "sit_1", "ABSENT")];
        let version = json!({ "number": 1, "state": "ACTIVE", "activatedAt": "then", "holders": holders });
        let sites = ["1", "2", "3"].map(|number| json!({ "id": format!("sit_{number}"), "name": format!("site-{number}") }));
        let line = |sites: &[Value]| version_line(&version, "GENERATED", sites);
        let expected = "1 ACTIVE since then\n  at site-1: 1 of 2 have it\n    agt_1: desired READY, reported READY\n    agt_3: desired READY, reported ABSENT; \
                        nothing was heard of it yet\n  at site-2: 0 of 1 have it\n    agt_2: desired READY, reported ABSENT; nothing was heard of it yet\n  \
                        at site-3: no agent";
        assert_eq!(line(&sites), expected);
        assert!(line(&sites[..1]).starts_with("1 ACTIVE since then\n  agt_1: desired"));
    }
}
