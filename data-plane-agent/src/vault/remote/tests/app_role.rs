//! Getting in by a role: what is presented, what is kept alive, and what is said when it fails, and goes on when it is put right.

use std::path::PathBuf;

use devices::remote::login::AppRole;

use super::*;

const ROLE: &str = "role-1";
const MADE_AT: &str = "auth/approle/role/freehold/secret-id";
/// Servers lock a role out for as long as this, at the least.
const QUARTER: Duration = Duration::from_secs(17 * 60);

/// A server with a role, and files that name it.
struct Roles(Bench);

impl Roles {
    fn new(secret_id: &str, uses: Option<u32>, lease: Lease) -> Self {
        let bench = Bench::new();
        bench.server.forget_tokens();
        bench.server.set_role(ROLE, secret_id, uses, lease);
        let roles = Self(bench);
        roles.write("role", ROLE);
        roles
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.place.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), format!("{text}\n")).unwrap();
        fs::set_permissions(self.file(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn login(&self, wrapped: bool) -> Login {
        Login::AppRole(AppRole {
            mount: vault_contract::APP_ROLE_MOUNT.to_owned(),
            role_id_file: self.file("role"),
            secret_id_file: self.file("secret"),
            wrapped,
        })
    }

    fn settings(&self, wrapped: bool) -> RemoteSettings {
        let settings = self.0.settings();
        RemoteSettings { server: ServerSettings { login: self.login(wrapped), ..settings.server }, ..settings }
    }

    fn client(&self, wrapped: bool) -> Arc<Client> {
        Arc::new(Client::new(self.settings(wrapped).server).unwrap())
    }

    /// How often somebody asked for this since it was last asked.
    fn asked(&self, what: &str) -> usize {
        self.0.server.asked().iter().filter(|asked| asked.contains(what)).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_logs_in_by_a_role_conforms() {
    let roles = Roles::new("secret-1", None, LEASE);
    roles.write("secret", "secret-1");
    conformance::suite(|| async { connect(roles.settings(false)).await.unwrap() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_log_in_is_told_what_to_do_and_goes_on_when_it_is_done() {
    let roles = Roles::new("secret-1", None, LEASE);
    let client = roles.client(false);
    let refused = asks(&client).await.unwrap_err();
    assert!(refused.starts_with("vault_locked") && refused.contains("its secret id cannot be read"), "{refused}");
    roles.write("secret", "");
    assert!(asks(&client).await.unwrap_err().contains("is empty: write the secret id into it"));

    roles.write("secret", "wrong-secret");
    roles.0.server.asked();
    for _ in 0..20 {
        let refused = asks(&client).await.unwrap_err();
        assert!(
            refused.starts_with("vault_refused") && refused.contains("did not let the role in: invalid role or secret ID"),
            "{refused}"
        );
        assert!(refused.contains("write another secret id into") && !refused.contains("wrong-secret"), "{refused}");
    }
    assert_eq!(roles.asked("approle/login"), 1, "whoever tries again and again is locked out");
    roles.write("secret", "secret-1");
    asks(&client).await.unwrap();

    // Another role id; one that is gone, and comes back as it was.
    roles.write("role", "role-2");
    let client = roles.client(false);
    assert!(asks(&client).await.unwrap_err().starts_with("vault_refused"));
    roles.write("role", ROLE);
    asks(&client).await.unwrap();
    roles.0.server.forget_role(ROLE);
    assert!(asks(&client).await.unwrap_err().contains("did not let the role in"));
    roles.0.server.set_role(ROLE, "secret-1", None, LEASE);
    assert!(asks(&client).await.is_err(), "the same two are not tried again at once");
    roles.write("secret", "secret-1 ");
    asks(&client).await.unwrap();

    // By itself, when nothing was written: in its time.
    let client = roles.client(false);
    roles.write("secret", "secret-9");
    assert!(asks(&client).await.is_err());
    roles.0.server.set_role(ROLE, "secret-9", None, LEASE);
    tend(&client, QUARTER / 2).await;
    assert!(asks(&client).await.is_err());
    tend(&client, QUARTER).await;
    asks(&client).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_is_not_there_and_a_role_that_is_locked_out_are_named() {
    let roles = Roles::new("secret-1", None, LEASE);
    roles.write("secret", "secret-1");
    let Login::AppRole(role) = roles.login(false) else { unreachable!() };
    let login = Login::AppRole(AppRole { mount: "elsewhere".to_owned(), ..role });
    let client = Arc::new(Client::new(ServerSettings { login, ..roles.0.settings().server }).unwrap());
    let refused = asks(&client).await.unwrap_err();
    assert!(refused.starts_with("vault_refused") && refused.contains("auth/elsewhere/login is forbidden"), "{refused}");

    // Five others try.
    for n in 0..5 {
        roles.write("secret", &format!("guess-{n}"));
        assert!(asks(&roles.client(false)).await.is_err());
    }
    roles.write("secret", "secret-1");
    let refused = asks(&roles.client(false)).await.unwrap_err();
    assert!(refused.starts_with("vault_refused") && refused.contains("locked out"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_of_a_role_is_renewed_and_the_role_logs_in_again_when_that_ends() {
    let roles = Roles::new("secret-1", None, LEASE);
    roles.write("secret", "secret-1");
    let client = roles.client(false);
    asks(&client).await.unwrap();
    assert_eq!(roles.asked("lookup-self"), 0, "the login told how long it lives");
    tend(&client, HOUR / 2).await;
    assert_eq!(roles.asked("self"), 0);
    tend(&client, HOUR * 5 / 4).await;
    assert_eq!(roles.asked("renew-self"), 1);

    // Renewing is not allowed at all, or gives too little: it logs in again before the end, and nobody has to do anything.
    let short = Some(Duration::from_secs(3));
    for (lease, later) in [(Lease { renewable: false, ..LEASE }, HOUR * 5 / 4), (Lease { ttl: short, max: short, ..LEASE }, Duration::ZERO)]
    {
        let roles = Roles::new("secret-1", None, lease);
        roles.write("secret", "secret-1");
        let client = roles.client(false);
        asks(&client).await.unwrap();
        assert_eq!((roles.asked("approle/login"), advice(&client, Duration::ZERO)), (1, String::new()));
        if later.is_zero() {
            tokio::time::sleep(Duration::from_millis(1_800)).await;
        }
        tend(&client, later).await;
        assert_eq!((roles.asked("approle/login"), advice(&client, later)), (1, String::new()));
    }

    // Every token is revoked: whoever calls next logs in.
    roles.0.server.forget_tokens();
    roles.0.server.asked();
    asks(&client).await.unwrap();
    assert_eq!(roles.asked("approle/login"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_id_that_is_used_up_is_told_of_before_the_token_ends() {
    let roles = Roles::new("secret-1", Some(1), Lease { renewable: false, ..LEASE });
    roles.write("secret", "secret-1");
    // Many at once: one logs in, for all.
    let client = roles.client(false);
    let many: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn({
                let client = client.clone();
                async move { asks(&client).await }
            })
        })
        .collect();
    for one in many {
        one.await.unwrap().unwrap();
    }
    assert_eq!(roles.asked("approle/login"), 1);
    tend(&client, HOUR * 5 / 4).await;
    let said = advice(&client, HOUR * 5 / 4);
    assert!(said.contains("it cannot be renewed, and logging in again failed") && said.contains("write another secret id into"), "{said}");
    asks(&client).await.expect("the token lives");
    roles.0.server.forget_tokens();
    assert!(asks(&client).await.unwrap_err().starts_with("vault_refused"));
    roles.0.server.set_role(ROLE, "secret-2", Some(1), LEASE);
    roles.write("secret", "secret-2");
    asks(&client).await.unwrap();
    assert_eq!(advice(&client, HOUR), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_role_may_not_do_is_no_reason_to_log_in_again() {
    let roles = Roles::new("secret-1", None, Lease { hidden: true, ..LEASE });
    roles.write("secret", "secret-1");
    let client = roles.client(false);
    asks(&client).await.unwrap();
    roles.0.server.asked();
    let forbidden = || on_client(&client, |client| client.call(reqwest::Method::GET, "auth/token/lookup-self", None).map(|_| ()));
    // The first time nobody knows yet that its policy hides what it asks.
    for _ in 0..5 {
        assert_eq!(forbidden().await.unwrap_err().kind.code(), "vault_refused");
    }
    assert_eq!(roles.asked("approle/login"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrapped_secret_id_is_opened_once_and_one_that_somebody_else_opened_is_named() {
    let roles = Roles::new("secret-1", None, LEASE);
    roles.0.server.wrap("wrap-1", "secret-1", MADE_AT);
    roles.write("secret", "wrap-1");
    let client = roles.client(true);
    asks(&client).await.unwrap();
    roles.0.server.forget_tokens();
    asks(&client).await.expect("what was unwrapped is kept");
    assert_eq!(roles.asked("sys/wrapping/unwrap"), 1);

    // Another start with the same file, or somebody who was quicker.
    let second = roles.client(true);
    for _ in 0..3 {
        let refused = asks(&second).await.unwrap_err();
        assert!(refused.starts_with("vault_refused") && refused.contains("somebody else may have"), "{refused}");
        assert!(!refused.contains("wrap-1"), "{refused}");
    }
    // Something else that somebody wrapped: it is not opened.
    roles.0.server.wrap("wrap-2", "secret-1", "sys/wrapping/wrap");
    roles.write("secret", "wrap-2");
    roles.0.server.asked();
    let refused = asks(&second).await.unwrap_err();
    assert!(refused.starts_with("vault_refused") && refused.contains("is of sys/wrapping/wrap"), "{refused}");
    assert_eq!(roles.asked("sys/wrapping/unwrap"), 0);
    roles.0.server.wrap("wrap-3", "secret-1", MADE_AT);
    roles.write("secret", "wrap-3");
    asks(&second).await.unwrap();
}

/// A real server that is named, as who may do everything there.
struct Real {
    url: String,
    token: String,
    http: reqwest::Client,
}

impl Real {
    fn named() -> Option<Self> {
        let (url, token) = (std::env::var("FREEHOLD_TEST_BAO_ADDR").ok()?, std::env::var("FREEHOLD_TEST_BAO_TOKEN").ok()?);
        Some(Self { url, token, http: reqwest::Client::new() })
    }

    async fn ask(&self, method: reqwest::Method, path: &str, body: serde_json::Value, wrap: bool) -> serde_json::Value {
        let request = self.http.request(method, format!("{}/v1/{path}", self.url)).header("X-Vault-Token", &self.token).json(&body);
        let request = if wrap { request.header("X-Vault-Wrap-TTL", "300") } else { request };
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    async fn post(&self, path: &str, body: serde_json::Value) -> serde_json::Value {
        self.ask(reqwest::Method::POST, path, body, false).await
    }

    async fn secret_id(&self, role: &str, uses: u32) -> String {
        let made = self.post(&format!("{role}/secret-id"), serde_json::json!({ "num_uses": uses })).await;
        made["data"]["secret_id"].as_str().unwrap().to_owned()
    }
}

/// The same on a real server where one is named: what it says is what the contract server says.
#[tokio::test(flavor = "multi_thread")]
async fn roles_of_a_real_server_where_one_is_named() {
    use serde_json::json;
    let Some(real) = Real::named() else { return };
    let unique = hex::encode(SecretBytes::random(8, &SystemIds).expose());
    let (mount, path) = (format!("approle-{unique}"), format!("freehold-test/{unique}"));
    let transit = path.replace('/', "-");
    real.post(&format!("sys/auth/{mount}"), json!({ "type": "approle" })).await;
    // The policy that the documentation names.
    let policy = format!(
        r#"path "secret/data/{path}/*" {{ capabilities = ["create", "read", "update"] }}
           path "secret/metadata/{path}" {{ capabilities = ["list"] }}
           path "secret/metadata/{path}/*" {{ capabilities = ["delete", "list"] }}
           path "transit/encrypt/{transit}" {{ capabilities = ["update"] }}
           path "transit/decrypt/{transit}" {{ capabilities = ["update"] }}
           path "transit/keys/{transit}" {{ capabilities = ["read", "create", "update"] }}"#
    );
    real.post(&format!("sys/policies/acl/{mount}"), json!({ "policy": policy })).await;
    let role = format!("auth/{mount}/role/freehold");
    let settings = json!({ "token_policies": [mount], "token_ttl": "4s", "token_max_ttl": "8s" });
    real.post(&role, settings.clone()).await;
    let role_id = real.ask(reqwest::Method::GET, &format!("{role}/role-id"), json!({}), false).await["data"]["role_id"].clone();
    let files = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        fs::write(files.path().join(name), text).unwrap();
        fs::set_permissions(files.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("role", role_id.as_str().unwrap());
    let login = |mount: &str, wrapped: bool| AppRole {
        mount: mount.to_owned(),
        role_id_file: files.path().join("role"),
        secret_id_file: files.path().join("secret"),
        wrapped,
    };
    let made = |role: AppRole| {
        let settings = super::settings(&real.url, "", &path, files.path());
        RemoteSettings { server: ServerSettings { login: Login::AppRole(role), ..settings.server }, ..settings }
    };
    let client = |role: AppRole| Arc::new(Client::new(made(role).server).unwrap());
    let says = async |client: &Arc<Client>| {
        let asked = on_client(client, |client| client.call(reqwest::Method::GET, "auth/token/lookup-self", None).map(|_| ())).await;
        asked.map_err(|trouble| format!("{} {trouble}", trouble.kind.code())).err().unwrap_or_default()
    };

    write("secret", &real.secret_id(&role, 0).await);
    conformance::suite(|| async { connect(made(login(&mount, false))).await.unwrap() }).await;
    // Its tokens live for eight seconds at most: it logs in anew, and nobody is told anything.
    let kept = client(login(&mount, false));
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(11) {
        assert_eq!(says(&kept).await, "");
        on_client(&kept, |client| client.tend(Instant::now())).await;
        assert_eq!(advice(&kept, Duration::ZERO), "");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    write("secret", "no-such-secret-id");
    let wrong = client(login(&mount, false));
    let refused = says(&wrong).await;
    assert!(refused.starts_with("vault_refused") && refused.contains("invalid role or secret ID"), "{refused}");
    let elsewhere = says(&client(login(&format!("{mount}-none"), false))).await;
    assert!(elsewhere.starts_with("vault_refused") && elsewhere.contains("is forbidden"), "{elsewhere}");
    // Good for one login.
    write("secret", &real.secret_id(&role, 1).await);
    assert_eq!(says(&wrong).await, "");
    assert!(says(&client(login(&mount, false))).await.contains("invalid role or secret ID"));
    // Wrapped: opened once, and something else that was wrapped is not opened.
    let wrap = async |path: &str, body: serde_json::Value| {
        let wrapped = real.ask(reqwest::Method::POST, path, body, true).await;
        wrapped["wrap_info"]["token"].as_str().unwrap().to_owned()
    };
    write("secret", &wrap(&format!("{role}/secret-id"), json!({})).await);
    assert_eq!(says(&client(login(&mount, true))).await, "");
    let used = says(&client(login(&mount, true))).await;
    assert!(used.starts_with("vault_refused") && used.contains("does not open"), "{used}");
    write("secret", &wrap("sys/wrapping/wrap", json!({ "secret_id": "planted" })).await);
    let planted = says(&client(login(&mount, true))).await;
    assert!(planted.starts_with("vault_refused") && planted.contains("is of sys/wrapping/wrap"), "{planted}");
    // The role is gone: its tokens cannot be renewed, and nobody logs in.
    write("secret", &real.secret_id(&role, 0).await);
    let last = client(login(&mount, false));
    assert_eq!(says(&last).await, "");
    real.ask(reqwest::Method::DELETE, &role, json!({}), false).await;
    let gone = says(&client(login(&mount, false))).await;
    assert!(gone.starts_with("vault_refused") && gone.contains("invalid role or secret ID"), "{gone}");
    real.ask(reqwest::Method::DELETE, &format!("sys/auth/{mount}"), json!({}), false).await;
}
