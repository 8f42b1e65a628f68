//! The commands that talk to an agent, run against one.

use std::path::{Path, PathBuf};

use clap::Parser as _;
use cli::{
    args::Cli,
    error::{Error, Exit},
};
use schema::{encoding::base64url, id::KeyId, key::Purpose};

use super::super::*;

const WRAPPING_KEY: KeyId = KeyId::from_bits(61);
const OTHER_KEY: KeyId = KeyId::from_bits(62);

/// A person at a shell: an agent, and a folder with tokens and files.
struct Shell {
    site: Site,
    folder: tempfile::TempDir,
}

impl Shell {
    async fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut site = Site::start_with("[server]\nlisten = \"127.0.0.1:0\"\nplain_http = true\n[limits]\nspool = \"8MiB\"", START).await;
        site.define(WRAPPING_KEY, "wrapping", "A256KW+A256GCM", Purpose::Wrap).await;
        site.define(OTHER_KEY, "archive", "HPKE-9-KE", Purpose::Encrypt).await;
        site.publish();
        let folder = tempfile::tempdir().unwrap();
        for (name, token) in [("billing", &site.billing), ("auditor", &site.auditor)] {
            let path = folder.path().join(name);
            std::fs::write(&path, token).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        }
        Self { site, folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        std::fs::write(self.file(name), bytes).unwrap();
        self.path(name)
    }

    fn path(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.file(name)).unwrap()
    }

    /// Runs a command as this caller.
    async fn run(&self, who: &str, arguments: &[&str]) -> Result<(), Error> {
        let (url, token, config) = (format!("http://{}", self.site.agent().address), self.path(who), self.path("config.toml"));
        let connection = ["freehold", "--agent", &url, "--caller-token-file", &token, "--config", &config];
        let cli = Cli::try_parse_from(connection.iter().chain(arguments)).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
        cli::run(cli).await
    }

    async fn ok(&self, arguments: &[&str]) {
        if let Err(error) = self.run("billing", arguments).await {
            panic!("{arguments:?}: {error:?}");
        }
    }

    async fn exit(&self, who: &str, arguments: &[&str]) -> Exit {
        self.run(who, arguments).await.err().map(|error| error.exit).unwrap_or_else(|| panic!("{arguments:?} did not fail"))
    }
}

fn absent(path: &Path) -> bool {
    !path.exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_through_the_command_line() {
    let shell = Shell::start().await;
    let clear: Vec<u8> = (0..200_000u32).flat_map(|number| number.to_be_bytes()).collect();
    let (input, sealed, moved) = (shell.write("clear", &clear), shell.path("sealed"), shell.path("moved"));
    let context = ["--context", "a=1", "--quiet"];
    let with = |arguments: &[&str]| -> Vec<String> { arguments.iter().chain(&context).map(|text| (*text).to_owned()).collect() };
    let run = |arguments: Vec<String>| {
        let shell = &shell;
        async move { shell.run("billing", &arguments.iter().map(String::as_str).collect::<Vec<_>>()).await }
    };
    let encrypt = ["encrypt", "--key", "payments/card-data", "--key", "payments/archive", "-i", &input, "--out", &sealed];
    run(with(&encrypt)).await.unwrap();
    for (number, how) in [vec![], vec!["--verified"], vec!["--range", "70000-"]].into_iter().enumerate() {
        let out = shell.path(&format!("out-{number}"));
        let arguments = [vec!["decrypt", "-i", &sealed, "--out", &out], how].concat();
        run(with(&arguments)).await.unwrap();
    }
    assert!(shell.read("out-0") == clear && shell.read("out-1") == clear);
    assert!(shell.read("out-2") == clear[70_000..]);
    run(with(&["re-encrypt", "--key", "payments/archive", "-i", &sealed, "--out", &moved])).await.unwrap();
    run(with(&["decrypt", "-i", &moved, "--out", &shell.path("out-3")])).await.unwrap();
    assert!(shell.read("out-3") == clear);

    let mut flipped = shell.read("sealed");
    let end = flipped.len() - 3;
    flipped[end] ^= 1;
    let flipped = shell.write("flipped", flipped);
    let error = run(with(&["decrypt", "-i", &flipped, "--out", &shell.path("never")])).await.unwrap_err();
    assert_eq!(error.exit, Exit::Unverified);
    assert!(absent(&shell.file("never")), "a broken end leaves nothing under the name");
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_of_any_size_go_through_the_command_line() {
    let shell = Shell::start().await;
    let large = shell.write("large", vec![7; 3 << 20]);
    let (signature, small) = (shell.path("large.jws"), shell.write("small", b"a contract"));
    shell.ok(&["sign", "--key", "payments/documents", "--stream", "--quiet", "--signature", &signature, &large]).await;
    shell.ok(&["verify", "--signature", &signature, "--quiet", &large]).await;
    assert_eq!(shell.exit("auditor", &["verify", "--signature", &signature, "--quiet", &small]).await, Exit::Unverified);
    let again = ["re-sign", "--key", "payments/documents", "--signature", &signature, "--quiet"];
    shell.ok(&[again.as_slice(), &[&large]].concat()).await;
    let error = shell.run("billing", &[again.as_slice(), &[&small]].concat()).await.unwrap_err();
    assert_eq!(error.code, "not_genuine");
    assert_eq!(shell.exit("billing", &["sign", "--key", "payments/documents", &large]).await, Exit::Usage, "larger than a message");
    let signature = shell.path("small.jws");
    shell.ok(&["sign", "--key", "payments/documents", "--signature", &signature, &small]).await;
    shell.ok(&["verify", "--signature", &signature, &small]).await;
    shell.ok(&["re-sign", "--key", "payments/documents", "--signature", &signature, &small]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_go_into_files_of_their_own() {
    let shell = Shell::start().await;
    let (_, wrapped) =
        shell.site.call("/v1/wrap", &shell.site.billing, json!({ "key": "payments/wrapping", "plaintext": base64url(&[9; 32]) })).await;
    let input = shell.write("wrapped", wrapped["wrapped"].as_str().unwrap());
    let (version, secret) = (wrapped["key_version"].as_str().unwrap(), shell.path("secret"));
    shell.ok(&["unwrap", "--key", version, "--secret-file", &secret, &input]).await;
    assert_eq!(String::from_utf8(shell.read("secret")).unwrap().trim(), base64url(&[9; 32]));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(shell.file("secret")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(shell.exit("billing", &["unwrap", "--key", version, "--secret-file", &secret, &input]).await, Exit::Usage, "it exists");
    assert_eq!(shell.exit("billing", &["unwrap", "--key", version, "--secret-file", &shell.path("new"), &secret]).await, Exit::Unverified);
    assert!(absent(&shell.file("new")), "nothing was unwrapped");
    let raw = shell.write("raw", [9; 32]);
    shell.ok(&["wrap", "--key", "payments/wrapping", &raw]).await;
    shell.ok(&["rewrap", "--wrapped-by", version, &input]).await;
    shell.ok(&["data-key", "--key", "payments/card-data"]).await;
    shell.ok(&["data-key", "--key", "payments/card-data", "--plaintext-file", &shell.path("data-key")]).await;
    assert_eq!(from_base64url(String::from_utf8(shell.read("data-key")).unwrap().trim()).unwrap().len(), 32);

    let (_, sealed) = shell.site.encrypt(&shell.site.billing).await;
    let message = shell.write("message", sealed["message"].as_str().unwrap());
    shell.ok(&["rewrap", "--context", "a=1", &message]).await;
    shell.ok(&["rewrap", "--of", "payments/card-data", "--context", "a=1", &message]).await;
    let error = shell.run("billing", &["rewrap", "--of", "payments/archive", "--context", "a=1", &message]).await.unwrap_err();
    assert_eq!(error.code, "other_key");
    let jwk = shell.write("jwk", r#"{"kty":"OKP","crv":"X25519","x":"AA"}"#);
    shell.ok(&["re-encrypt-message", "--key", "payments/archive", "--context", "a=1", "--new-context", "b=2", &message]).await;
    for arguments in [
        vec!["mac", "--key", "payments/card-data", &raw],
        vec!["verify-mac", "--key", "payments/card-data", "--tag", "AA", &raw],
        vec!["sign-digest", "--key", "payments/documents", "00ff"],
        vec!["verify-digest", "--key", "payments/documents", "00ff", "--signature", &input],
        vec!["derive", "--key", "payments/card-data", "--info", "x", "--secret-file", "/nonexistent/never"],
        vec!["agree", "--key", "payments/card-data", "--public-key", "AA", "--secret-file", "/nonexistent/never"],
        vec!["agree", "--key", "payments/card-data", "--public-key-file", &jwk, "--secret-file", "/nonexistent/never"],
        vec!["agree", "--key", "payments/card-data", "--their-key", "payments/documents", "--secret-file", "/nonexistent/never"],
        vec!["encapsulate", "--key", "payments/archive", "--secret-file", "/nonexistent/never"],
        vec!["decapsulate", "--key", "payments/archive", "--secret-file", "/nonexistent/never", &input],
    ] {
        let error = shell.run("billing", &arguments).await.unwrap_err();
        assert_eq!((error.exit, error.code.as_str()), (Exit::Usage, "wrong_purpose"), "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_asked_for_on_the_command_line() {
    let shell = Shell::start().await;
    shell.ok(&["can", "me", "decrypt", "payments/card-data", "--context", "a=1", "--why"]).await;
    let error = shell.run("auditor", &["can", "me", "decrypt", "payments/card-data", "--why"]).await.unwrap_err();
    assert_eq!((error.exit, error.code.as_str()), (Exit::Refused, "not_allowed_by_policy"));
    shell.ok(&["can", "payments/auditor", "verify", "payments/documents"]).await;
    let about = CALLER.to_string();
    assert_eq!(shell.exit("auditor", &["can", &about, "decrypt", "payments/card-data"]).await, Exit::Refused);
    for arguments in [vec!["keys"], vec!["keys", "--project", "payments", "-o", "json"], vec!["algorithms"], vec!["jwks"]] {
        shell.ok(&arguments).await;
    }
    shell.ok(&["public-key", "payments/documents", "--format", "jwks"]).await;
    assert!(Cli::try_parse_from(["freehold", "can", "me", "fly", "payments/card-data"]).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn composites_sign_and_are_verified_on_the_command_line() {
    let mut shell = Shell::start().await;
    super::composites::compose_contracts(&mut shell.site, schema::composite::VerificationRule::All).await;
    let (small, changed, signature) = (shell.write("small", b"a contract"), shell.write("changed", b"a contrast"), shell.path("both.jws"));
    for more in [[].as_slice(), &["--stream", "--quiet"]] {
        let sign = [&["sign", "--key", "payments/contracts", "--signature", &signature], more, &[&small]].concat();
        shell.ok(&sign).await;
        shell.ok(&["verify", "--signature", &signature, "--key", "payments/contracts", &small]).await;
        shell.ok(&["verify", "--signature", &signature, &small]).await;
        assert_eq!(shell.exit("auditor", &["verify", "--signature", &signature, &changed]).await, Exit::Unverified);
        let mut message: Value = serde_json::from_slice(&shell.read("both.jws")).unwrap();
        message["signatures"].as_array_mut().unwrap().pop();
        let stripped = shell.write("stripped.jws", message.to_string());
        for key in [[].as_slice(), &["--key", "payments/contracts"]] {
            let verify = [&["verify", "--signature", &stripped], key, &[&small]].concat();
            assert_eq!(shell.exit("auditor", &verify).await, Exit::Unverified);
        }
    }
    shell.ok(&["can", "me", "sign", "payments/contracts", "--why"]).await;
    shell.ok(&["keys"]).await;
    shell.ok(&["public-key", "payments/contracts", "--format", "jwks"]).await;
    assert_eq!(shell.exit("billing", &["sign-digest", "--key", "payments/contracts", "00ff"]).await, Exit::Usage);
}
