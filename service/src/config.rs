//! One TOML file, the environment, and flags: parsed once, at the edge. Flags win over environment, environment over file.
//!
//! Sections derive `Deserialize` with `deny_unknown_fields`, so that a setting nobody knows is an error that names key and
//! source; and `JsonSchema`, so that [`schema`] can print them.

use std::{borrow::Cow, fmt, path::Path, str::FromStr, time::Duration};

use figment::{
    Figment, Metadata, Profile, Provider, Source,
    error::Kind,
    providers::{Format, Toml},
    value::{Dict, Map, Value},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, de::DeserializeOwned};

/// What every environment variable that is a setting begins with: `FREEHOLD_<SECTION>__<KEY>`, or `FREEHOLD_<KEY>` for
/// settings outside of any section.
pub const ENVIRONMENT_PREFIX: &str = "FREEHOLD_";
const ENVIRONMENT: &str = "the environment";

/// Reads settings. `environment` is the process's variables (`std::env::vars()` in `main`); see [`ENVIRONMENT_PREFIX`]. One
/// that is no setting but nearly the name of one is an error; others with the prefix are left alone, they may be somebody
/// else's. `flags` serialises to the same shape as the file; what is absent (`None`) in it changes nothing.
pub fn load<C: DeserializeOwned + JsonSchema>(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &impl Serialize,
) -> Result<C, ConfigError> {
    let mut figment = Figment::new();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.display().to_string(), source: source.into() })?;
        figment = figment.merge(FileText { path, text: &text });
    }
    let flags = Value::serialize(flags).map_err(|error| ConfigError::Invalid { problems: vec![error.to_string()] })?;
    figment = figment
        .merge(Pairs::from_environment(environment, &names(&schema::<C>()))?)
        .merge(Pairs { name: "the command line", dict: without_empty(flags).into_dict().unwrap_or_default() });
    figment
        .extract()
        .map_err(|errors| ConfigError::Invalid { problems: errors.into_iter().map(|error| describe(&figment, &error)).collect() })
}

/// The JSON Schema of a configuration.
pub fn schema<C: JsonSchema>() -> serde_json::Value {
    schemars::schema_for!(C).to_value()
}

/// Why settings could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or may not be read.
    #[error("the configuration file {path} cannot be read; check the path and its permissions")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        source: std::sync::Arc<std::io::Error>,
    },
    /// At least one setting is wrong.
    #[error("{}", .problems.join("\n"))]
    Invalid {
        /// Each names the setting, where it came from, and what is wrong.
        problems: Vec<String>,
    },
}

fn describe(figment: &Figment, error: &figment::Error) -> String {
    let key = error.path.join(".");
    let metadata = figment.find_metadata(&key).or(error.metadata.as_ref());
    let source = match metadata {
        Some(metadata) => match &metadata.source {
            Some(Source::File(path)) => path.display().to_string(),
            _ => metadata.name.to_string(),
        },
        None => "the configuration".to_owned(),
    };
    // In the environment a setting has another name than in the file: say the one that was typed.
    let key = match source.as_str() {
        ENVIRONMENT if !key.is_empty() => format!("{ENVIRONMENT_PREFIX}{}", key.replace('.', "__").to_ascii_uppercase()),
        _ => key,
    };
    match &error.kind {
        Kind::UnknownField(_, []) => format!("{source}: unknown setting {key}; this section has no settings"),
        Kind::UnknownField(_, known) => format!("{source}: unknown setting {key}; known here: {}", known.join(", ")),
        Kind::MissingField(field) if key.is_empty() => format!("setting {field} is missing; add it to the configuration file"),
        Kind::MissingField(field) => format!("setting {key}.{field} is missing; add it to the configuration file"),
        kind if key.is_empty() => format!("{source}: {kind}"),
        kind => format!("{source}: setting {key}: {kind}"),
    }
}

struct FileText<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Provider for FileText<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::from("the configuration file", self.path)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Toml::string(self.text).data()
    }
}

struct Pairs {
    name: &'static str,
    dict: Dict,
}

impl Pairs {
    /// `known` is every setting as it is called in the environment.
    fn from_environment(variables: impl IntoIterator<Item = (String, String)>, known: &[String]) -> Result<Self, ConfigError> {
        let (mut dict, mut problems) = (Dict::new(), Vec::new());
        for (name, text) in variables {
            let Some(rest) = name.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
            if !rest.contains("__") && !known.contains(&name) {
                problems.extend(nearest(&name, known).map(|near| {
                    format!("{ENVIRONMENT}: {name} is no setting; did you mean {near}? (two underscores stand between section and key)")
                }));
                continue;
            }
            let Ok(value) = text.parse::<Value>();
            let keys: Vec<String> = rest.split("__").map(str::to_ascii_lowercase).collect();
            insert(&mut dict, &keys, value);
        }
        if problems.is_empty() { Ok(Self { name: ENVIRONMENT, dict }) } else { Err(ConfigError::Invalid { problems }) }
    }
}

/// How many letters a name may be off to be taken for a slip.
const SLIP: usize = 2;

/// The setting that a variable nearly names.
fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a String> {
    let plain = name.to_ascii_uppercase();
    let distance = |known: &String| strsim::osa_distance(&plain, &known.replace("__", "_"));
    known.iter().map(|known| (distance(known), known)).filter(|(distance, _)| *distance <= SLIP).min().map(|(_, known)| known)
}

/// Every setting of a JSON Schema as it is called in the environment.
fn names(schema: &serde_json::Value) -> Vec<String> {
    fn walk(root: &serde_json::Value, section: &serde_json::Value, prefix: &str, names: &mut Vec<String>) {
        let Some(settings) = section["properties"].as_object() else { return };
        for (key, setting) in settings {
            let name = format!("{prefix}{}", key.to_ascii_uppercase());
            let reference = setting["$ref"].as_str().and_then(|reference| root.pointer(reference.trim_start_matches('#')));
            let setting = reference.unwrap_or(setting);
            match setting.get("properties") {
                Some(_) => walk(root, setting, &format!("{name}__"), names),
                None => names.push(name),
            }
        }
    }
    let mut found = Vec::new();
    walk(schema, schema, ENVIRONMENT_PREFIX, &mut found);
    found
}

fn insert(dict: &mut Dict, keys: &[String], value: Value) {
    match keys {
        [] => {}
        [key] => {
            dict.insert(key.clone(), value);
        }
        [key, rest @ ..] => {
            let inner = dict.entry(key.clone()).or_insert_with(|| Value::from(Dict::new()));
            if inner.as_dict().is_none() {
                *inner = Value::from(Dict::new());
            }
            if let Value::Dict(_, inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

impl Provider for Pairs {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name).interpolater(|_, keys| keys.join("."))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.dict.clone())]))
    }
}

/// Absent flags must not hide what file or environment say.
fn without_empty(value: Value) -> Value {
    match value {
        Value::Dict(tag, dict) => Value::Dict(
            tag,
            dict.into_iter()
                .filter(|(_, value)| !matches!(value, Value::Empty(..)))
                .map(|(key, value)| (key, without_empty(value)))
                .filter(|(_, value)| value.as_dict().is_none_or(|dict| !dict.is_empty()))
                .collect(),
        ),
        other => other,
    }
}

/// The certificate a listener shows. Absent: a development certificate is made on first start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// The certificate and the authorities above it, PEM. Read again when it changes.
    pub certificate_file: Option<std::path::PathBuf>,
    /// Its private key, PEM, readable by its owner only. Read again when it changes.
    pub key_file: Option<std::path::PathBuf>,
}

impl TlsConfig {
    /// Both files, or neither.
    pub fn files(&self) -> Result<Option<(&Path, &Path)>, ConfigError> {
        match (&self.certificate_file, &self.key_file) {
            (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
            (None, None) => Ok(None),
            (Some(_), None) => Err(one_of_two("key_file", "certificate_file")),
            (None, Some(_)) => Err(one_of_two("certificate_file", "key_file")),
        }
    }
}

fn one_of_two(missing: &str, given: &str) -> ConfigError {
    ConfigError::Invalid { problems: vec![format!("setting tls.{missing} is missing: tls.{given} needs it; set both or neither")] }
}

/// How logs are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `text` for people, `json` for machines.
    pub format: LogFormat,
    /// What is written: directives as `info,control_plane=debug`.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

/// The shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How outgoing connections are made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OutgoingConfig {
    /// An HTTP or HTTPS proxy, `http://proxy:3128`. The proxy variables of the environment are not read.
    #[schemars(with = "Option<String>")]
    pub proxy: Option<url::Url>,
    /// Certificate authorities to believe beside the system's, PEM.
    pub ca_file: Option<std::path::PathBuf>,
}

/// A span of time written as `250ms`, `30s`, `10m`, `24h` or `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

/// A number of bytes written as `512B`, `64KiB`, `16MiB` or `1GiB`, or as a bare number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// The text is not a span of time or a number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found \"{found}\"")]
pub struct InvalidQuantity {
    expected: &'static str,
    found: String,
}

const PERIOD: &str = "a time like 250ms, 30s, 10m, 24h or 7d";
const SIZE: &str = "a size like 512B, 64KiB, 16MiB or 1GiB";
const PERIOD_UNITS: &[(&str, u64)] = &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const SIZE_UNITS: &[(&str, u64)] = &[("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

fn quantity(text: &str, units: &[(&str, u64)], expected: &'static str) -> Result<u64, InvalidQuantity> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    number
        .parse::<u64>()
        .ok()
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor))
        .ok_or_else(|| InvalidQuantity { expected, found: text.to_owned() })
}

fn shortest(number: u64, units: &[(&str, u64)]) -> String {
    let (unit, factor) = units.iter().find(|(_, factor)| number.is_multiple_of(*factor) && number > 0).unwrap_or(&units[units.len() - 1]);
    format!("{}{unit}", number / factor)
}

impl FromStr for Period {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        quantity(text, PERIOD_UNITS, PERIOD).map(|millis| Self(Duration::from_millis(millis)))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shortest(u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX), PERIOD_UNITS))
    }
}

impl FromStr for Size {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        quantity(text, SIZE_UNITS, SIZE).map(Self)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shortest(self.0, SIZE_UNITS))
    }
}

macro_rules! quantity_text {
    ($name:ident, $expected:expr, $pattern:literal, $bare:expr) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }

                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<$name, E> {
                        let bare: Option<fn(u64) -> $name> = $bare;
                        bare.map(|make| make(number)).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
                    }

                    fn visit_i64<E: de::Error>(self, number: i64) -> Result<$name, E> {
                        let positive = u64::try_from(number).map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))?;
                        self.visit_u64(positive)
                    }
                }
                deserializer.deserialize_any(Visitor)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "description": $expected, "pattern": $pattern })
            }
        }
    };
}

quantity_text!(Period, PERIOD, "^[0-9]+(ms|s|m|h|d)$", None);
quantity_text!(Size, SIZE, "^[0-9]+(B|KiB|MiB|GiB)$", Some(Size));

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        server: Server,
        #[serde(default)]
        log: LogConfig,
        name: Option<String>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Server {
        address: String,
        timeout: Period,
        limit: Size,
    }

    #[derive(Serialize, Default)]
    struct Flags {
        server: ServerFlags,
    }

    #[derive(Serialize, Default)]
    struct ServerFlags {
        address: Option<String>,
    }

    const FILE: &str = "[server]\naddress = \"a:1\"\ntimeout = \"30s\"\nlimit = \"64MiB\"\n";

    fn read(file: &str, environment: &[(&str, &str)], flags: Flags) -> Result<Sample, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("freehold.toml");
        std::fs::write(&path, file).unwrap();
        load(Some(&path), environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())), &flags)
    }

    #[test]
    fn flags_win_over_environment_over_file() {
        let none = Flags::default;
        assert_eq!(read(FILE, &[], none()).unwrap().server.address, "a:1");
        let environment =
            [("FREEHOLD_SERVER__ADDRESS", "b:2"), ("FREEHOLD_SERVER__TIMEOUT", "10m"), ("FREEHOLD_TOKEN", "x"), ("PATH", "/")];
        let read_environment = read(FILE, &environment, none()).unwrap();
        assert_eq!(read_environment.server.address, "b:2");
        assert_eq!(read_environment.server.timeout, Period(Duration::from_secs(600)));
        assert_eq!(read_environment.server.limit, Size(64 << 20));
        let flags = Flags { server: ServerFlags { address: Some("c:3".to_owned()) } };
        assert_eq!(read(FILE, &environment, flags).unwrap().server.address, "c:3");
    }

    #[test]
    fn an_unknown_key_names_key_and_source() {
        let error = read(&format!("{FILE}adress = 1\n"), &[], Flags::default()).unwrap_err().to_string();
        assert!(error.contains("freehold.toml: unknown setting server.adress; known here: address, timeout, limit"), "{error}");
        let error = read(&format!("{FILE}[servers]\nx = 1\n"), &[], Flags::default()).unwrap_err().to_string();
        assert!(error.contains("freehold.toml: unknown setting servers"), "{error}");
        let error = read(FILE, &[("FREEHOLD_SERVER__ADRESS", "x")], Flags::default()).unwrap_err().to_string();
        assert!(error.contains("the environment: unknown setting FREEHOLD_SERVER__ADRESS"), "{error}");
    }

    #[test]
    fn a_variable_that_nearly_names_a_setting_is_not_ignored() {
        for (slip, meant) in [
            ("FREEHOLD_SERVER_ADDRESS", "FREEHOLD_SERVER__ADDRESS"),
            ("FREEHOLD_SERVER_ADRES", "FREEHOLD_SERVER__ADDRESS"),
            ("FREEHOLD_LOG_FORMAT", "FREEHOLD_LOG__FORMAT"),
            ("FREEHOLD_NAEM", "FREEHOLD_NAME"),
        ] {
            let error = read(FILE, &[(slip, "x")], Flags::default()).unwrap_err().to_string();
            assert!(error.contains(&format!("{slip} is no setting; did you mean {meant}?")), "{error}");
        }
        // Those of other programs, and of those who run them.
        for other in ["FREEHOLD_TOKEN_FILE", "FREEHOLD_SERVER", "FREEHOLD_SERVER_PORT_7400_TCP_ADDR", "FREEHOLD_BIN"] {
            read(FILE, &[(other, "x")], Flags::default()).unwrap();
        }
        assert_eq!(read(FILE, &[("FREEHOLD_NAME", "outside")], Flags::default()).unwrap().name.as_deref(), Some("outside"));
    }

    #[test]
    fn a_bad_value_names_setting_and_what_is_expected() {
        let error = read(&FILE.replace("30s", "30 seconds"), &[], Flags::default()).unwrap_err().to_string();
        assert!(error.contains("setting server.timeout: expected a time like 250ms, 30s, 10m, 24h or 7d, found \"30 seconds\""), "{error}");
        let error = read("[server]\naddress = \"a\"\nlimit = \"1MiB\"\n", &[], Flags::default()).unwrap_err().to_string();
        assert!(error.contains("timeout is missing"), "{error}");
        let error = read("[server\n", &[], Flags::default()).unwrap_err().to_string();
        assert!(error.contains("freehold.toml"), "{error}");
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let error = load::<Sample>(Some(Path::new("/nowhere/freehold.toml")), [], &Flags::default()).unwrap_err();
        assert!(error.to_string().contains("/nowhere/freehold.toml"));
    }

    #[test]
    fn quantities_survive_their_text() {
        for text in ["0ms", "250ms", "30s", "10m", "24d", "5h"] {
            assert_eq!(text.parse::<Period>().unwrap().to_string(), text);
        }
        for text in ["0B", "1B", "64KiB", "3MiB", "2GiB"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        for bad in ["", "s", "1.5s", "-1s", "1 s", "99999999999999999999s", "18446744073709551615d"] {
            assert!(bad.parse::<Period>().is_err(), "{bad}");
        }
    }

    #[test]
    fn half_a_certificate_is_refused() {
        let half = TlsConfig { certificate_file: Some("c.pem".into()), key_file: None };
        assert!(half.files().unwrap_err().to_string().contains("tls.key_file is missing"));
    }

    #[test]
    fn the_schema_lists_sections() {
        let schema = schema::<Sample>();
        assert!(schema["properties"]["server"].is_object());
        assert_eq!(schema["additionalProperties"], false);
    }
}
