//! Checks a Cedar text against the published schema, and takes it apart into single policies.

use std::{collections::BTreeMap, sync::LazyLock};

use cedar_policy::{Effect, PolicySet, Schema, ValidationMode, Validator};
use miette::Diagnostic;
use schema::obligation::Obligations;

/// What policies of an agent may talk about.
pub const SCHEMA: &str = include_str!("../../../schema/contracts/policy.cedarschema");

/// The most bytes of the text of one document.
pub const MAX_BYTES: u64 = 1024 * 1024;

#[allow(clippy::expect_used, reason = "the schema is part of the program, and a test parses it")]
static VALIDATOR: LazyLock<Validator> =
    LazyLock::new(|| Validator::new(Schema::from_cedarschema_str(SCHEMA).expect("the policy schema parses").0));

/// A text without errors.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// Its single policies, in the order of the text.
    pub policies: Vec<Single>,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Problem>,
}

/// One policy of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Single {
    /// The value of its `@id` annotation, or its place in the text from 1.
    pub id: String,
    /// Its text, as it was written.
    pub text: String,
    /// Whether it permits; otherwise it forbids.
    pub permits: bool,
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The text cannot be published.
    Error,
    /// It can, but it probably does not do what was meant.
    Warning,
}

/// One thing wrong in a Cedar text. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// The policy it is in, when it is in one.
    pub policy: Option<String>,
    /// Where it begins and ends, when that is known.
    pub place: Option<Place>,
}

/// A stretch of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line it begins in.
    pub line: u32,
    /// The column it begins in.
    pub column: u32,
    /// The line it ends in.
    pub end_line: u32,
    /// The column after its end.
    pub end_column: u32,
}

impl Problem {
    /// Whether it stops the text from being published.
    pub const fn is_error(&self) -> bool {
        matches!(self.severity, Severity::Error)
    }
}

/// Checks a text against the schema (strict mode) and takes it apart; or says everything that is wrong with it, warnings
/// included, in the order of the text.
pub fn check(text: &str) -> Result<Checked, Vec<Problem>> {
    if text.len() as u64 > MAX_BYTES {
        return Err(vec![error(format!("the text has {} bytes; at most {MAX_BYTES} are allowed", text.len()), None, None)]);
    }
    let set: PolicySet = text.parse().map_err(|errors: cedar_policy::ParseErrors| {
        errors.iter().map(|parse| diagnose(text, parse, Severity::Error, None)).collect::<Vec<_>>()
    })?;
    let mut found = Vec::new();
    let mut policies: Vec<_> = set.policies().collect();
    // Cedar numbers the policies of a text: policy0, policy1, …
    policies.sort_by_key(|policy| policy.id().to_string().trim_start_matches("policy").parse::<usize>().unwrap_or(usize::MAX));

    let names = names(&policies, &mut found);
    for template in set.templates() {
        let mut problem =
            error("a policy of a document has no ?principal or ?resource slots".to_owned(), None, place_of(text, &template.to_string()));
        problem.help = Some("name the principal or resource, or use `principal in Project::\"prj_…\"`".to_owned());
        found.push(problem);
    }
    let validation = VALIDATOR.validate(&set, ValidationMode::Strict);
    let name = |id: &cedar_policy::PolicyId| names.get(&id.to_string()).cloned();
    found.extend(validation.validation_errors().map(|problem| diagnose(text, problem, Severity::Error, name(problem.policy_id()))));
    found.extend(validation.validation_warnings().map(|problem| diagnose(text, problem, Severity::Warning, name(problem.policy_id()))));
    for policy in &policies {
        found.extend(foreign_names(text, policy, name(policy.id())));
        if let Err(wrong) = Obligations::read(policy.effect() == Effect::Permit, policy.annotations()) {
            found.push(error(wrong.to_string(), name(policy.id()), place_of(text, &policy.to_string())));
        }
    }
    found.sort_by_key(|problem| problem.place);
    if found.iter().any(Problem::is_error) {
        return Err(found);
    }
    let single = |policy: &&cedar_policy::Policy| Single {
        id: name(policy.id()).unwrap_or_default(),
        text: policy.to_string(),
        permits: policy.effect() == Effect::Permit,
    };
    Ok(Checked { policies: policies.iter().map(single).collect(), warnings: found })
}

/// Names every policy after its `@id` annotation or its place; doubles and odd names are errors.
fn names(policies: &[&cedar_policy::Policy], found: &mut Vec<Problem>) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    let mut taken = std::collections::BTreeSet::new();
    for (place, policy) in policies.iter().enumerate() {
        let name = policy.annotation("id").map_or_else(|| (place + 1).to_string(), str::to_owned);
        let plain =
            (1..=63).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        if !plain {
            let message = format!("the @id of policy {} must have 1 to 63 characters of A-Z, a-z, 0-9, '-', '_' and '.'", place + 1);
            found.push(error(message, Some(name.clone()), None));
        } else if !taken.insert(name.clone()) {
            found.push(error(format!("two policies are called {name:?}; give each another @id"), Some(name.clone()), None));
        }
        names.insert(policy.id().to_string(), name);
    }
    names
}

/// Entities are named by id. `Caller::"billing"` matches nothing, ever.
fn foreign_names(text: &str, policy: &cedar_policy::Policy, name: Option<String>) -> Vec<Problem> {
    use schema::id::{CallerId, KeyId, ProjectId, SiteId};
    let warn = |uid: &cedar_policy::EntityUid| {
        let (kind, id) = (uid.type_name().to_string(), uid.id().unescaped().to_owned());
        let (fits, prefix) = match kind.as_str() {
            "Caller" => (id.parse::<CallerId>().is_ok(), CallerId::PREFIX),
            "Key" => (id.parse::<KeyId>().is_ok(), KeyId::PREFIX),
            "Project" => (id.parse::<ProjectId>().is_ok(), ProjectId::PREFIX),
            "Site" => (id.parse::<SiteId>().is_ok(), SiteId::PREFIX),
            _ => return None,
        };
        let attribute = match kind.as_str() {
            "Caller" => "; to go by name, write `principal.name == \"…\"`",
            "Key" => "; to go by name, write `resource.name == \"…\"`",
            _ => "",
        };
        (!fits).then(|| Problem {
            severity: Severity::Warning,
            message: format!("{kind}::{id:?} matches nothing: entities are named by their id"),
            help: Some(format!("write {kind}::\"{prefix}_…\"{attribute}")),
            policy: name.clone(),
            place: place_of(text, &format!("{kind}::\"{id}\"")),
        })
    };
    policy.entity_literals().iter().filter_map(warn).collect()
}

fn error(message: String, policy: Option<String>, place: Option<Place>) -> Problem {
    Problem { severity: Severity::Error, message, help: None, policy, place }
}

fn diagnose(text: &str, diagnostic: &(impl Diagnostic + ?Sized), severity: Severity, policy: Option<String>) -> Problem {
    let label = diagnostic.labels().and_then(|mut labels| labels.next());
    let place = label.as_ref().map(|label| place(text, label.offset(), label.len()));
    let policy = policy.filter(|policy| !policy.is_empty());
    Problem {
        severity,
        message: plain(&diagnostic.to_string(), policy.as_deref()),
        help: diagnostic.help().map(|help| help.to_string()),
        policy,
        place,
    }
}

/// Cedar's messages name policies by its own numbering; ours go by their names, which stand in `policy`.
fn plain(message: &str, policy: Option<&str>) -> String {
    match (message.strip_prefix("for policy `").and_then(|rest| rest.split_once("`, ")), policy) {
        (Some((_, rest)), Some(_)) => rest.to_owned(),
        _ => message.to_owned(),
    }
}

fn place_of(text: &str, part: &str) -> Option<Place> {
    text.find(part).map(|offset| place(text, offset, part.len()))
}

fn place(text: &str, offset: usize, length: usize) -> Place {
    let (line, column) = position(text, offset);
    let (end_line, end_column) = position(text, offset.saturating_add(length));
    Place { line, column, end_line, end_column }
}

/// Line and column of a byte, both from 1.
fn position(text: &str, offset: usize) -> (u32, u32) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line = before.matches('\n').count();
    let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count());
    (u32::try_from(line + 1).unwrap_or(u32::MAX), u32::try_from(column + 1).unwrap_or(u32::MAX))
}
