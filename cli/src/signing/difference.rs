//! What a statement changes, in words. Computed from the JSON of both payloads, member by member: what this file has no words
//! for is shown as it stands, so nothing that is signed stays unseen. Text from outside cannot move the cursor or turn around.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::{Map, Value};
use similar::TextDiff;

/// Members that the heading tells.
const HEAD: &[&str] =
    &["format", "tenant", "site", "project", "agent", "epoch", "serial", "issued", "not_before", "expires", "root_serial"];

/// What members stand for, in the order they are shown: what gives most power first.
const SECTIONS: &[(&str, &str)] = &[
    ("roles", "Who signs what"),
    ("signers", "Signers"),
    ("destructions", "DESTRUCTION of key versions, for good"),
    ("resumptions", "What may act AGAIN after a suspension or revocation"),
    ("compromises", "Versions confirmed as compromised"),
    ("cedar", "Who may do what (Cedar)"),
    ("callers", "Callers that agents let in"),
    ("caller_authorities", "Authorities of callers' certificates"),
    ("keys", "Keys"),
    ("composites", "Composites"),
    ("templates", "Templates of keys the control plane may make by itself"),
    ("vouching", "Who may vouch for new agents"),
    ("recovery", "The recovery key that backups are sealed to"),
    ("offline", "What goes on without the control plane"),
    ("ledger", "What is demanded of the ledger"),
    ("requires", "What agents must understand"),
    ("cedar_version", "Version of the Cedar language"),
];

/// What `new` changes in `old`, one line each, `+`, `-` or `~` in front; without `old`, everything is new. Empty when both say
/// the same, but for the heading.
pub fn difference(old: Option<&Value>, new: &Value) -> Vec<String> {
    let nothing = Map::new();
    let old = old.and_then(Value::as_object).unwrap_or(&nothing);
    let empty = Map::new();
    let new = new.as_object().unwrap_or(&empty);
    let names = names(old).into_iter().chain(names(new)).collect();
    let mut lines = Vec::new();
    let known = SECTIONS.iter().map(|(member, title)| (*member, (*title).to_owned()));
    let others = old
        .keys()
        .chain(new.keys())
        .filter(|member| !HEAD.contains(&member.as_str()) && !SECTIONS.iter().any(|(known, _)| known == member));
    let mut others: Vec<_> = others.map(|member| (member.as_str(), format!("\"{}\"", visible(member)))).collect();
    others.sort();
    others.dedup();
    for (member, title) in known.chain(others) {
        let found = section(old.get(member), new.get(member), &names);
        if !found.is_empty() {
            lines.push(format!("{title}:"));
            lines.extend(found.into_iter().map(|line| format!("  {line}")));
        }
    }
    lines
}

/// Names by id, so that people need not know ids by heart.
type Names = BTreeMap<String, String>;

fn names(statement: &Map<String, Value>) -> Names {
    let mut names = Names::new();
    for member in ["keys", "callers", "composites"] {
        for (id, value) in statement.get(member).and_then(Value::as_object).into_iter().flatten() {
            if let Some(name) = value.get("name").and_then(Value::as_str) {
                let project = value.get("project_name").and_then(Value::as_str).map(|project| format!("{project}/")).unwrap_or_default();
                names.insert(id.clone(), format!("{project}{name}"));
            }
        }
    }
    names
}

fn called(id: &str, names: &Names) -> String {
    let key = id.split('/').next().unwrap_or(id);
    match names.get(key) {
        Some(name) => format!("{} ({})", visible(id), visible(name)),
        None => visible(id),
    }
}

fn section(old: Option<&Value>, new: Option<&Value>, names: &Names) -> Vec<String> {
    if old == new {
        return Vec::new();
    }
    match (old, new) {
        (old @ (None | Some(Value::Object(_))), Some(Value::Object(new))) => {
            let empty = Map::new();
            members(old.and_then(Value::as_object).unwrap_or(&empty), new, names)
        }
        (Some(Value::Object(old)), None) => members(old, &Map::new(), names),
        (old @ (None | Some(Value::Array(_))), Some(Value::Array(new))) => {
            let empty = Vec::new();
            items(old.and_then(Value::as_array).unwrap_or(&empty), new, names)
        }
        (Some(Value::Array(old)), None) => items(old, &[], names),
        (old, new) => vec![format!("~ {} -> {}", shown(old, names), shown(new, names))],
    }
}

fn members(old: &Map<String, Value>, new: &Map<String, Value>, names: &Names) -> Vec<String> {
    let mut lines = Vec::new();
    let mut all: Vec<&String> = old.keys().chain(new.keys()).collect();
    all.sort();
    all.dedup();
    for member in all {
        match (old.get(member), new.get(member)) {
            (Some(before), Some(after)) if before == after => {}
            (Some(Value::String(before)), Some(Value::String(after))) if before.contains('\n') || after.contains('\n') => {
                lines.push(format!("~ {}", called(member, names)));
                let diff = TextDiff::from_lines(before.as_str(), after.as_str());
                let unified = diff.unified_diff().context_radius(3).to_string();
                lines.extend(unified.lines().map(|line| format!("    {}", visible(line))));
            }
            (Some(before @ Value::Object(_)), Some(after @ Value::Object(_))) => {
                lines.push(format!("~ {}", called(member, names)));
                lines.extend(section(Some(before), Some(after), names).into_iter().map(|line| format!("    {line}")));
            }
            (Some(before), Some(after)) => {
                lines.push(format!("~ {}: {} -> {}", called(member, names), shown(Some(before), names), shown(Some(after), names)));
            }
            (None, Some(value)) => whole('+', &called(member, names), value, names, &mut lines),
            (Some(value), None) => whole('-', &called(member, names), value, names, &mut lines),
            (None, None) => {}
        }
    }
    lines
}

fn items(old: &[Value], new: &[Value], names: &Names) -> Vec<String> {
    let gone = old.iter().filter(|item| !new.contains(item)).map(|item| format!("- {}", shown(Some(item), names)));
    let come = new.iter().filter(|item| !old.contains(item)).map(|item| format!("+ {}", shown(Some(item), names)));
    let mut lines: Vec<String> = gone.chain(come).collect();
    if lines.is_empty() {
        // The same items otherwise ordered, or one of them more often.
        lines.push(format!("~ in another order: {} -> {}", shown(Some(&Value::from(old)), names), shown(Some(&Value::from(new)), names)));
    }
    lines
}

/// Something that came or went, with everything in it.
fn whole(sign: char, title: &str, value: &Value, names: &Names, lines: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            lines.push(format!("{sign} {title}"));
            lines.extend(map.iter().map(|(member, value)| format!("    {}: {}", visible(member), shown(Some(value), names))));
        }
        Value::String(text) if text.contains('\n') || text.len() > 60 => {
            lines.push(format!("{sign} {title}"));
            lines.extend(text.lines().map(|line| format!("    {sign} {}", visible(line))));
        }
        other => lines.push(format!("{sign} {title}: {}", shown(Some(other), names))),
    }
}

fn shown(value: Option<&Value>, names: &Names) -> String {
    match value {
        None => "nothing".to_owned(),
        Some(Value::String(text)) => called(text, names),
        Some(Value::Array(items)) if items.is_empty() => "none".to_owned(),
        Some(Value::Array(items)) => items.iter().map(|item| shown(Some(item), names)).collect::<Vec<_>>().join(", "),
        Some(Value::Object(map)) if map.is_empty() => "none".to_owned(),
        Some(Value::Object(map)) => {
            let members = map.iter().map(|(member, value)| format!("{} {}", called(member, names), shown(Some(value), names)));
            members.collect::<Vec<_>>().join(", ")
        }
        Some(other) => other.to_string(),
    }
}

/// Text as a terminal may be given it: no control characters, nothing that is invisible or turns the line around.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        let unseen = matches!(character, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
        if (character.is_control() && character != '\t') || unseen {
            let _ = write!(shown, "\\u{{{:x}}}", u32::from(character));
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy() -> Value {
        json!({
            "format": "f", "serial": "4", "requires": [],
            "cedar": { "pol_1/a": "permit(principal, action, resource)\nwhen { true };\n" },
            "callers": { "cal_1": { "name": "billing", "labels": {} } },
            "keys": { "key_1": { "name": "cards", "project_name": "payments", "algorithm": "A256KW+A256GCM", "limits": { "hard_uses": "5" } } },
            "resumptions": [], "destructions": [], "vouching": { "agents": true, "agents_needed": 1 },
        })
    }

    fn changed(change: impl FnOnce(&mut Value)) -> String {
        let mut new = policy();
        change(&mut new);
        difference(Some(&policy()), &new).join("\n")
    }

    #[test]
    fn the_same_differs_in_nothing_and_a_new_number_is_no_change() {
        assert_eq!(changed(|_| ()), "");
        assert_eq!(changed(|new| new["serial"] = json!("5")), "");
    }

    #[test]
    fn cedar_is_compared_line_by_line() {
        let text = changed(|new| new["cedar"]["pol_1/a"] = json!("permit(principal, action, resource);\n"));
        assert!(text.contains("Who may do what (Cedar):\n  ~ pol_1/a"), "{text}");
        assert!(text.contains("-when { true };") && text.contains("+permit(principal, action, resource);"), "{text}");
    }

    #[test]
    fn destructions_and_resumptions_stand_first_and_name_what_they_mean() {
        let text = changed(|new| {
            new["destructions"] = json!(["key_1/3"]);
            new["resumptions"] = json!([{ "subject": { "kind": "caller", "id": "cal_1" }, "up_to_state_serial": { "site_1": "7" } }]);
            new["keys"]["key_1"]["limits"]["hard_uses"] = json!("6");
        });
        let destruction = text.find("+ key_1/3 (payments/cards)").unwrap();
        assert!(destruction < text.find("AGAIN").unwrap() && text.contains("id cal_1 (billing)"), "{text}");
        assert!(text.contains("~ key_1 (payments/cards)\n      ~ limits\n          ~ hard_uses: 5 -> 6"), "{text}");
    }

    #[test]
    fn what_comes_and_goes_is_shown_whole() {
        let text = changed(|new| {
            new["callers"] = json!({ "cal_2": { "name": "evil", "labels": { "a": "b" } } });
        });
        assert!(text.contains("- cal_1 (billing)") && text.contains("+ cal_2 (evil)") && text.contains("labels: a b"), "{text}");
        let all = difference(None, &policy()).join("\n");
        for part in ["+ pol_1/a", "when { true };", "cal_1 (billing)", "A256KW+A256GCM", "hard_uses 5", "agents: true"] {
            assert!(all.contains(part), "{part}: {all}");
        }
    }

    #[test]
    fn what_there_are_no_words_for_is_shown_as_it_stands() {
        let text = changed(|new| new["surprise"] = json!({ "power": ["everything"] }));
        assert!(text.contains("\"surprise\":") && text.contains("power: everything"), "{text}");
        let text = changed(|new| new["vouching"]["agents_needed"] = json!(0));
        assert!(text.contains("~ agents_needed: 1 -> 0"), "{text}");
        assert!(changed(|new| drop(new.as_object_mut().unwrap().remove("vouching"))).contains("- agents"), "what went is shown");
    }

    #[test]
    fn every_member_that_differs_is_seen() {
        // Whatever is changed, at whatever depth, something is shown.
        let paths =
            ["/requires", "/cedar/pol_1~1a", "/callers/cal_1/name", "/callers/cal_1/labels", "/keys/key_1/limits", "/vouching/agents"];
        for path in paths {
            let text = changed(|new| *new.pointer_mut(path).unwrap() = json!(["changed"]));
            assert!(text.contains("changed"), "{path}: {text}");
        }
        let doubled = difference(Some(&json!({ "requires": ["a", "b"] })), &json!({ "requires": ["b", "a"] }));
        assert!(doubled[1].contains("in another order"), "{doubled:?}");
    }

    #[test]
    fn text_cannot_move_the_cursor_or_turn_around() {
        assert_eq!(visible("a\u{1b}[2Kb\u{202e}c\u{200b}\rd\te"), "a\\u{1b}[2Kb\\u{202e}c\\u{200b}\\u{d}d\te");
        let text = changed(|new| new["cedar"]["pol_1/a"] = json!("permit\u{1b}[1A;\n// \u{202e}\n"));
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'), "{text}");
    }
}
