//! The AppRole method and wrapped responses: logins by role id and secret id, secret ids that are good for so many uses, wrapping
//! tokens that open once, and the lock on roles that are tried too often.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use actix_web::{HttpResponse, http::Method};
use serde_json::{Value, json};

use super::{Content, Lease, Token, VaultServer, errors};

/// Where the AppRole method is mounted.
pub const APP_ROLE_MOUNT: &str = "approle";
/// So many failures in a row lock a role out.
const LOCKED_AFTER: u32 = 5;
/// For so long; failures that are older are forgotten.
const LOCKED_FOR: Duration = Duration::from_secs(15 * 60);

#[derive(Default)]
pub(super) struct Roles {
    roles: BTreeMap<String, Role>,
    /// Secret ids by their wrapping tokens, with where they were made.
    wrapped: BTreeMap<String, (String, String)>,
    logins: u64,
}

struct Role {
    /// With how many uses are left; none: any number.
    secret_ids: BTreeMap<String, Option<u32>>,
    lease: Lease,
    failures: u32,
    failed: Instant,
}

impl VaultServer {
    /// A role with one secret id, good for so many logins; its tokens live like this.
    pub fn set_role(&self, role_id: &str, secret_id: &str, uses: Option<u32>, lease: Lease) {
        let role = Role { secret_ids: [(secret_id.to_owned(), uses)].into(), lease, failures: 0, failed: Instant::now() };
        self.content().roles.roles.insert(role_id.to_owned(), role);
    }

    /// The role is gone, with its secret ids and its tokens.
    pub fn forget_role(&self, role_id: &str) {
        let mut content = self.content();
        content.roles.roles.remove(role_id);
        content.tokens.retain(|token, _| !token.starts_with(role_id));
    }

    /// Every token is gone, as when they were revoked.
    pub fn forget_tokens(&self) {
        self.content().tokens.clear();
    }

    /// A secret id that whoever shows this wrapping token is told, once.
    pub fn wrap(&self, wrapping: &str, secret_id: &str, made_at: &str) {
        self.content().roles.wrapped.insert(wrapping.to_owned(), (secret_id.to_owned(), made_at.to_owned()));
    }
}

/// What needs no token of the usual kind; none when the path is another.
pub(super) fn answer(content: &mut Content, method: &Method, path: &str, token: &str, body: &Value, now: Instant) -> Option<HttpResponse> {
    let not_valid = || errors(400, &["wrapping token is not valid or does not exist"]);
    match (method, path) {
        (&Method::POST, "sys/wrapping/lookup") => Some(match content.roles.wrapped.get(token) {
            Some((_, made_at)) => HttpResponse::Ok().json(json!({ "data": { "creation_path": made_at, "creation_ttl": 300 } })),
            None => not_valid(),
        }),
        (&Method::POST, "sys/wrapping/unwrap") => Some(match content.roles.wrapped.remove(token) {
            Some((secret_id, _)) => HttpResponse::Ok().json(json!({
                "auth": null, "wrap_info": null,
                "data": { "secret_id": secret_id, "secret_id_accessor": "accessor", "secret_id_num_uses": 0, "secret_id_ttl": 0 },
            })),
            None => not_valid(),
        }),
        (&Method::POST, path) if path == format!("auth/{APP_ROLE_MOUNT}/login") => Some(login(content, body, now)),
        // Whatever else below a method that is not mounted: it needs a token, and has none.
        (_, path) if path.starts_with("auth/") && path.ends_with("/login") => Some(errors(403, &["permission denied"])),
        _ => None,
    }
}

fn login(content: &mut Content, body: &Value, now: Instant) -> HttpResponse {
    let text = |name: &str| body[name].as_str().unwrap_or_default().trim().to_owned();
    let (role_id, secret_id) = (text("role_id"), text("secret_id"));
    if role_id.is_empty() {
        return errors(400, &["missing role_id"]);
    }
    let invalid = || errors(400, &["invalid role or secret ID"]);
    let Some(role) = content.roles.roles.get_mut(&role_id) else { return invalid() };
    if now >= role.failed + LOCKED_FOR {
        role.failures = 0;
    }
    if role.failures >= LOCKED_AFTER {
        return errors(403, &["permission denied"]);
    }
    if secret_id.is_empty() {
        return errors(400, &["missing secret_id"]);
    }
    match role.secret_ids.get_mut(&secret_id) {
        None => {
            (role.failures, role.failed) = (role.failures + 1, now);
            return invalid();
        }
        Some(Some(1)) => drop(role.secret_ids.remove(&secret_id)),
        Some(Some(uses)) => *uses -= 1,
        Some(None) => {}
    }
    role.failures = 0;
    content.roles.logins += 1;
    let name = format!("{role_id}-token-{}", content.roles.logins);
    let token = Token::new(role.lease);
    let auth = json!({
        "client_token": name, "accessor": "accessor", "policies": ["default", "freehold"], "token_policies": ["default", "freehold"],
        "metadata": { "role_name": "freehold" }, "lease_duration": token.left(now), "renewable": role.lease.renewable,
        "entity_id": "entity", "token_type": "service", "orphan": true, "num_uses": 0,
    });
    content.tokens.insert(name, token);
    HttpResponse::Ok().json(json!({ "data": null, "wrap_info": null, "auth": auth }))
}
