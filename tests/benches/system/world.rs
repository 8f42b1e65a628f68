//! A control plane and an agent as a user would run them, set up by the command line.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

/// Running programs; they end with this value.
pub struct World {
    /// Everything is below.
    pub directory: tempfile::TempDir,
    /// The agent's port (plain HTTP).
    pub rest: u16,
    /// A caller's token.
    pub token: String,
    /// The key's id.
    pub key: String,
    bin: PathBuf,
    control_plane: Child,
    agent: Child,
    caller: String,
}

impl Drop for World {
    fn drop(&mut self) {
        for child in [&mut self.agent, &mut self.control_plane] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

impl World {
    /// Starts both and sets them up: a key, a caller, a policy that is enforced.
    pub fn start() -> anyhow::Result<Self> {
        let bin = PathBuf::from(std::env::var("FREEHOLD_BIN").context("set FREEHOLD_BIN to the folder with the programs")?);
        let directory = tempfile::Builder::new().prefix("freehold-bench").tempdir()?;
        let at = |name: &str| directory.path().join(name);
        let (api, agents, rest) = (free_port()?, free_port()?, free_port()?);
        std::fs::write(
            at("control-plane.toml"),
            format!(
                "data_dir = {:?}\ndevelopment = true\n[server]\nlisten = \"127.0.0.1:{api}\"\n[agents]\nlisten = \"127.0.0.1:{agents}\"\n",
                at("control-plane")
            ),
        )?;
        let control_plane = spawn(&bin, "freehold-control-plane", "serve", &at("control-plane.toml"), &at("control-plane.log"))?;
        let authority = at("control-plane/tls/authority.pem");
        let operator = at("control-plane/operator.token");
        let server = format!("https://127.0.0.1:{api}");
        let mut world = Self {
            bin: bin.clone(),
            rest,
            token: String::new(),
            key: String::new(),
            caller: String::new(),
            agent: spawn_nothing()?,
            control_plane,
            directory,
        };
        let path = |path: &Path| path.display().to_string();
        world.until("the control plane", || {
            operator.exists() && authority.exists() && std::net::TcpStream::connect(("127.0.0.1", api)).is_ok()
        })?;
        let at = |name: &str| path(&world.directory.path().join(name));
        world.cli(&[
            "profile",
            "set",
            "operator",
            "--server",
            &server,
            "--ca-file",
            &path(&authority),
            "--token-file",
            &path(&operator),
        ])?;
        world.cli(&["tenant", "create", "bench", "--admin-token-file", &at("admin.token")])?;
        world.cli(&["profile", "set", "admin", "--server", &server, "--ca-file", &path(&authority), "--token-file", &at("admin.token")])?;
        world.cli(&["project", "create", "bench"])?;
        world.cli(&["site", "create", "here"])?;
        world.cli(&["agent", "invite", "--site", "here", "--enrolment-file", &at("enrolment")])?;
        let passphrase = at("passphrase");
        std::fs::write(&passphrase, "a passphrase only for this measurement")?;
        std::fs::set_permissions(&passphrase, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let config = at("agent.toml");
        std::fs::write(
            &config,
            format!(
                "data_dir = {:?}\n[server]\nlisten = \"127.0.0.1:{rest}\"\nplain_http = true\n[vault]\nkind = \"file\"\npassphrase_file = {passphrase:?}\n[journal]\nlimit = \"16GiB\"\n",
                at("agent")
            ),
        )?;
        world.program("freehold-agent", &["enrol", "--config", &config, "--token-file", &at("enrolment")])?;
        let agent = spawn(&bin, "freehold-agent", "run", Path::new(&config), Path::new(&at("agent.log")))?;
        let mut nothing = std::mem::replace(&mut world.agent, agent);
        let _ = nothing.wait();
        world.until("the agent", || std::net::TcpStream::connect(("127.0.0.1", rest)).is_ok())?;
        world.key = world.create_key("bench")?;
        world.caller = world.register("bench")?;
        world.cli(&["policy", "create", "main", "--project", "bench", "-o", "name"])?;
        let caller = world.caller.clone();
        world.publish_to_enforced(&caller)?;
        world.token = std::fs::read_to_string(world.token_file(&caller))?.trim().to_owned();
        Ok(world)
    }

    /// The JSON body of an encrypt request.
    pub fn encrypt_body(&self, bytes: usize) -> anyhow::Result<String> {
        Ok(encrypt_body(&self.key, bytes))
    }

    /// Stops the control plane from running until the value is dropped: the agent has the machine for itself.
    pub fn without_control_plane(&self) -> anyhow::Result<Paused> {
        let paused = Paused(self.control_plane.id());
        paused.signal("-STOP")?;
        Ok(paused)
    }

    /// Starts the agent again with TLS on its listener; the file of the authority to believe.
    pub fn speak_tls(&mut self) -> anyhow::Result<PathBuf> {
        let config = self.directory.path().join("agent.toml");
        std::fs::write(&config, std::fs::read_to_string(&config)?.replace("plain_http = true\n", ""))?;
        signal(self.agent.id(), "-TERM")?;
        self.agent.wait()?;
        self.agent = spawn(&self.bin, "freehold-agent", "run", &config, &self.directory.path().join("agent.log"))?;
        // It makes its certificate after it has taken its port.
        let authority = self.directory.path().join("agent/tls/authority.pem");
        self.until("the agent", || {
            authority.with_file_name("certificate.pem").exists() && std::net::TcpStream::connect(("127.0.0.1", self.rest)).is_ok()
        })?;
        Ok(authority)
    }

    /// A crowd: so many keys and callers, and four policies for each caller. Gives keys, and tokens.
    pub fn crowd(&self, keys: usize, callers: usize) -> anyhow::Result<(Vec<String>, Vec<String>)> {
        let keys: Vec<String> = (0..keys).map(|number| self.create_key(&format!("crowd-{number}"))).collect::<Result<_, _>>()?;
        let callers: Vec<String> = (0..callers).map(|number| self.register(&format!("crowd-{number}"))).collect::<Result<_, _>>()?;
        let mut text = format!("permit (principal == Caller::\"{}\", action, resource);\n", self.caller);
        for caller in &callers {
            for action in ["encrypt", "decrypt", "sign", "verify"] {
                text.push_str(&format!("permit (principal == Caller::\"{caller}\", action == Action::\"{action}\", resource) when {{ context has size && context.size < 65536 }};\n"));
            }
        }
        self.publish(&text)?;
        let last = callers.last().context("no callers")?;
        self.until("the policy to be enforced", || self.allowed(last))?;
        let tokens = callers.iter().map(|caller| Ok(std::fs::read_to_string(self.token_file(caller))?.trim().to_owned()));
        Ok((keys, tokens.collect::<anyhow::Result<_>>()?))
    }

    /// Registers a caller and makes its token.
    pub fn register(&self, name: &str) -> anyhow::Result<String> {
        let caller = self.cli(&["caller", "register", name, "--project", "bench", "--token-site", "here", "-o", "name"])?;
        let config = self.directory.path().join("agent.toml").display().to_string();
        self.program("freehold-agent", &["caller", "add", "--config", &config, &caller, "--token-file", &self.token_file(&caller)])?;
        Ok(caller)
    }

    /// Publishes a policy that lets this caller (and the first one) in; milliseconds until it is let in.
    pub fn publish_to_enforced(&self, caller: &str) -> anyhow::Result<f64> {
        let mut text = String::new();
        for caller in [&self.caller, &caller.to_owned()] {
            text.push_str(&format!("permit (principal == Caller::\"{caller}\", action, resource);\n"));
        }
        let started = self.publish(&text)?;
        self.until("the policy to be enforced", || self.allowed(caller))?;
        Ok(started.elapsed().as_secs_f64() * 1000.0)
    }

    /// When the command began.
    fn publish(&self, text: &str) -> anyhow::Result<Instant> {
        let file = self.directory.path().join("policy.cedar");
        std::fs::write(&file, text)?;
        let started = Instant::now();
        self.cli(&["policy", "publish", "bench/main", "--file", &file.display().to_string(), "-o", "name"])?;
        Ok(started)
    }

    fn create_key(&self, name: &str) -> anyhow::Result<String> {
        let fixed = ["--algorithm", "A256KW+A256GCM", "--purpose", "encrypt", "--durability", "single-copy", "--wait", "-o", "name"];
        self.cli(&[["key", "create", name, "--project", "bench", "--site", "here"].as_slice(), &fixed].concat())
    }

    /// Revokes a caller; milliseconds until it is refused.
    pub fn revoke_to_enforced(&self, caller: &str) -> anyhow::Result<f64> {
        let started = Instant::now();
        self.cli(&["caller", "revoke", caller, "--reason", "superseded", "-o", "name"])?;
        self.until("the revocation to be enforced", || !self.allowed(caller))?;
        Ok(started.elapsed().as_secs_f64() * 1000.0)
    }

    /// Resident memory of the agent, MiB.
    pub fn agent_rss_mib(&self) -> u64 {
        status_mib(&self.agent, "VmRSS:")
    }

    /// The most it ever was.
    pub fn agent_peak_mib(&self) -> u64 {
        status_mib(&self.agent, "VmHWM:")
    }

    /// Resident memory of the control plane, MiB.
    pub fn control_plane_rss_mib(&self) -> u64 {
        status_mib(&self.control_plane, "VmRSS:")
    }

    fn token_file(&self, caller: &str) -> String {
        self.directory.path().join(format!("{caller}.token")).display().to_string()
    }

    /// Whether the agent answers an encrypt request of this caller; straight on a socket, because a process takes longer.
    fn allowed(&self, caller: &str) -> bool {
        use std::io::{Read, Write};
        let attempt = || -> anyhow::Result<bool> {
            let token = std::fs::read_to_string(self.token_file(caller))?;
            let body = self.encrypt_body(16)?;
            let mut socket = std::net::TcpStream::connect(("127.0.0.1", self.rest))?;
            write!(
                socket,
                "POST /v1/encrypt HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-type: application/json\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
                token.trim(),
                body.len()
            )?;
            let mut head = [0; 12];
            socket.read_exact(&mut head)?;
            Ok(&head == b"HTTP/1.1 200")
        };
        attempt().unwrap_or(false)
    }

    fn cli(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.program("freehold", arguments)
    }

    fn program(&self, name: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(self.bin.join(name))
            .args(arguments)
            .env("FREEHOLD_CONFIG", self.directory.path().join("freehold.toml"))
            .output()
            .with_context(|| format!("could not run {name}"))?;
        if !output.status.success() {
            bail!("{name} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    fn until(&self, what: &str, done: impl Fn() -> bool) -> anyhow::Result<()> {
        let end = Instant::now() + Duration::from_secs(60);
        while !done() {
            if Instant::now() > end {
                let log = |name: &str| std::fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
                bail!("waited 60 s for {what}\n{}\n{}", log("control-plane.log"), log("agent.log"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

/// The control plane stands still.
pub struct Paused(u32);

impl Paused {
    fn signal(&self, which: &str) -> anyhow::Result<()> {
        signal(self.0, which)
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        let _ = self.signal("-CONT");
    }
}

fn signal(process: u32, which: &str) -> anyhow::Result<()> {
    anyhow::ensure!(Command::new("kill").args([which, &process.to_string()]).status()?.success(), "kill {which} failed");
    Ok(())
}

/// The JSON body of an encrypt request for this key.
pub fn encrypt_body(key: &str, bytes: usize) -> String {
    serde_json::json!({ "key": key, "plaintext": schema::encoding::base64url(&vec![7; bytes]) }).to_string()
}

fn spawn(bin: &Path, program: &str, command: &str, config: &Path, log: &Path) -> anyhow::Result<Child> {
    let log = std::fs::File::create(log)?;
    let child = Command::new(bin.join(program)).arg(command).arg("--config").arg(config).stdout(log.try_clone()?).stderr(log).spawn();
    child.with_context(|| format!("could not start {program}"))
}

/// Stands in for the agent until it is started.
fn spawn_nothing() -> anyhow::Result<Child> {
    Ok(Command::new("true").stdout(Stdio::null()).spawn()?)
}

fn status_mib(child: &Child, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// A file of this many MiB that does not compress.
pub fn write_file(path: &Path, mib: u64) -> anyhow::Result<()> {
    use std::io::Write;
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..mib * 1024 * 128 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes())?;
    }
    file.flush()?;
    Ok(())
}
