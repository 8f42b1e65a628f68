//! The program itself: keys that are replaced while another process of it serves, and a key that comes by the environment.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use schema::encoding::base64url;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_freehold-control-plane");
const VARIABLE: &str = "FREEHOLD_SEALING_KEY";

fn program(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).arg("--data-dir").arg(folder).env_clear();
    command
}

/// A control plane that serves; killed when dropped.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(folder: &Path, change: impl FnOnce(&mut Command)) -> Serving {
    let mut command = program(folder, &["serve", "--listen", "127.0.0.1:0", "--agents-listen", "127.0.0.1:0"]);
    change(&mut command);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut serving = Serving(child);
    let (out, err) = (serving.0.stdout.take().unwrap(), serving.0.stderr.take().unwrap());
    let (sender, lines) = std::sync::mpsc::channel();
    for stream in [Box::new(out) as Box<dyn std::io::Read + Send>, Box::new(err)] {
        let sender = sender.clone();
        std::thread::spawn(move || BufReader::new(stream).lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
    }
    drop(sender);
    let (started, mut seen) = (Instant::now(), Vec::new());
    loop {
        match lines.recv_timeout(Duration::from_secs(60)) {
            Ok(line) if line.contains("serving") && line.contains("graphql") => return serving,
            Ok(line) => seen.push(line),
            Err(_) => panic!("it did not start: {seen:?}"),
        }
        assert!(started.elapsed() < Duration::from_secs(60), "it did not start: {seen:?}");
    }
}

fn sealing(folder: &Path, arguments: &[&str], change: impl FnOnce(&mut Command)) -> Result<Value, String> {
    let mut command = program(folder, &[&["sealing"], arguments].concat());
    change(&mut command);
    let ended = command.output().unwrap();
    match ended.status.success() {
        true => Ok(serde_json::from_slice(&ended.stdout).unwrap()),
        false => Err(String::from_utf8(ended.stderr).unwrap()),
    }
}

#[test]
fn keys_are_replaced_beside_a_process_that_serves_and_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let refused = sealing(&data, &["status"], |_| {}).unwrap_err();
    assert!(refused.contains("database"), "{refused}");
    let serving = serve(&data, |_| {});
    let status = sealing(&data, &["status"], |_| {}).unwrap();
    let first = status["sealing_keys"][0]["fingerprint"].as_str().unwrap().to_owned();
    assert_eq!((&status["sealing_keys"][0]["source"], &status["sealing_keys"][0]["problem"]), (&"file".into(), &Value::Null));
    let rotated = sealing(&data, &["rotate"], |_| {}).unwrap();
    assert_ne!(rotated["sealing_key"], first.as_str());
    let keys = sealing(&data, &["rotate-data-keys", "--all"], |_| {}).unwrap();
    assert_eq!(keys.as_array().unwrap().len(), 1, "the deployment's own: {keys}");
    let unknown = sealing(&data, &["rotate-data-keys", "ten_00000000000000000000000007"], |_| {}).unwrap_err();
    assert!(unknown.contains("there is no tenant ten_00000000000000000000000007"), "{unknown}");
    drop(serving);
    // Killed, and started again with both keys, and with the new one alone.
    drop(serve(&data, |_| {}));
    assert_eq!(sealing(&data, &["retire"], |_| {}).unwrap(), Value::from(vec![first]));
    drop(serve(&data, |_| {}));
    assert_eq!(fs::read_to_string(data.join("sealing.key")).unwrap().lines().count(), 1);
}

#[test]
fn a_key_from_the_environment_is_taken_out_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let (one, two) = (base64url(&[0x11; 32]), base64url(&[0x22; 32]));
    let source = |text: &str| {
        let text = text.to_owned();
        move |command: &mut Command| {
            command.env("FREEHOLD_SEALING__SOURCE", "environment").env(VARIABLE, text);
        }
    };
    let serving = serve(&data, source(&one));
    let environment = fs::read(format!("/proc/{}/environ", serving.0.id())).unwrap();
    let holds = |bytes: &[u8], what: &str| bytes.windows(what.len()).any(|window| window == what.as_bytes());
    assert!(holds(&environment, "FREEHOLD_SEALING__SOURCE"), "this is its environment");
    assert!(!holds(&environment, &one) && !holds(&environment, "FREEHOLD_SEALING_KEY="), "{}", String::from_utf8_lossy(&environment));
    assert!(!holds(&fs::read(format!("/proc/{}/cmdline", serving.0.id())).unwrap(), &one));
    assert!(!data.join("sealing.key").exists());
    let nothing_new = sealing(&data, &["rotate"], source(&one)).unwrap_err();
    assert!(nothing_new.contains("no key but those in use") && !nothing_new.contains(&one), "{nothing_new}");
    drop(serving);
    let serving = serve(&data, source(&format!("{one} {two}")));
    assert_eq!(sealing(&data, &["rotate"], source(&format!("{one} {two}"))).unwrap()["source"], "environment");
    drop(serving);
    drop(serve(&data, source(&two)));
    let wrong = sealing(&data, &["status"], source(&one)).unwrap_err();
    assert!(wrong.contains("this is the wrong sealing key"), "{wrong}");
}
