//! How results look: a table for people, JSON and YAML for programs, names for pipes.

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

use crate::error::Error;

/// What to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// The whole answer as JSON.
    Json,
    /// The whole answer as YAML.
    Yaml,
    /// Only ids, one a line.
    Name,
}

/// A column: its heading, and where its value stands in a row (a JSON pointer).
pub type Column = (&'static str, &'static str);

/// Prints a list of objects.
pub fn list(format: Format, columns: &[Column], rows: &[Value]) -> Result<(), Error> {
    match format {
        Format::Json => print_json(&Value::Array(rows.to_vec())),
        Format::Yaml => print_yaml(&Value::Array(rows.to_vec())),
        Format::Name => rows.iter().try_for_each(|row| line(row.pointer("/id").and_then(Value::as_str).unwrap_or_default())),
        Format::Table if rows.is_empty() => line("nothing found"),
        Format::Table => {
            let mut table = Table::new();
            table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
            table.set_header(columns.iter().map(|(heading, _)| heading.to_uppercase()));
            for row in rows {
                table.add_row(columns.iter().map(|(_, pointer)| cell(row.pointer(pointer))));
            }
            table.lines().try_for_each(|text| line(text.trim_end()))
        }
    }
}

/// Prints one object.
pub fn object(format: Format, columns: &[Column], value: &Value) -> Result<(), Error> {
    match format {
        Format::Json => print_json(value),
        Format::Yaml => print_yaml(value),
        Format::Name => line(value.pointer("/id").and_then(Value::as_str).unwrap_or_default()),
        Format::Table => {
            let width = columns.iter().map(|(heading, _)| heading.len()).max().unwrap_or(0) + 2;
            for (heading, pointer) in columns {
                let text = cell(value.pointer(pointer));
                let text = text.replace('\n', &format!("\n{}", " ".repeat(width)));
                line(format!("{heading:width$}{text}").trim_end())?;
            }
            Ok(())
        }
    }
}

/// Prints one line to standard output.
pub fn line(text: &str) -> Result<(), Error> {
    use std::io::Write;
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.map_err(|source| Error::fault("could not write the answer", source)),
    }
}

/// Prints a word to standard error, for people only.
#[allow(clippy::print_stderr, reason = "notes go beside the answer, not into it")]
pub fn note(text: &str) {
    eprintln!("{text}");
}

fn print_json(value: &Value) -> Result<(), Error> {
    line(&serde_json::to_string_pretty(value).map_err(|source| Error::fault("could not write JSON", source))?)
}

fn print_yaml(value: &Value) -> Result<(), Error> {
    let text = serde_yaml_ng::to_string(value).map_err(|source| Error::fault("could not write YAML", source))?;
    line(text.trim_end())
}

/// A value as one cell: lists joined, pairs as `name=value`, nothing as `-`.
pub fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(yes)) => if *yes { "yes" } else { "no" }.to_owned(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Array(items)) if items.is_empty() => "-".to_owned(),
        Some(Value::Array(items)) => {
            let nested = items.iter().any(|item| item.is_object() && item.get("name").is_none());
            let parts: Vec<String> = items.iter().map(|item| cell(Some(item))).collect();
            parts.join(if nested { "\n" } else { "," })
        }
        Some(Value::Object(map)) => match (map.get("name"), map.get("value")) {
            (Some(name), Some(value)) if map.len() == 2 => format!("{}={}", cell(Some(name)), cell(Some(value))),
            (Some(name), None) => cell(Some(name)),
            _ => {
                let parts: Vec<String> =
                    map.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| format!("{name}={}", cell(Some(value)))).collect();
                if parts.is_empty() { "-".to_owned() } else { parts.join(" ") }
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cells_are_short() {
        assert_eq!(cell(None), "-");
        assert_eq!(cell(Some(&json!([{"name": "env", "value": "prod"}, {"name": "team", "value": "pay"}]))), "env=prod,team=pay");
        assert_eq!(cell(Some(&json!([{"id": "site_1", "name": "fra"}]))), "fra");
        assert_eq!(cell(Some(&json!(true))), "yes");
        assert_eq!(cell(Some(&json!({ "softUses": null }))), "-");
    }
}
