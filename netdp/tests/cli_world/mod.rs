//! A host of its own for one test: a network namespace with an uplink, and a
//! daemon in it. Needs root.

#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test file uses a part of it"
)]

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use netdp::bpf::direct_cgroup;
use netdp::netns::Namespace;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// Where control groups of version 2 are, in a world's folder.
const CGROUPS: &str = "cgroup";

fn mount_cgroups(at: &Path) {
    fs::create_dir(at).unwrap();
    let options = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("cgroup2"), at, Some("cgroup2"), options, None::<&str>).unwrap();
}

/// The netdp that is tried: another one, such as an optimised one, by
/// `NETDP_BIN`.
fn binary() -> PathBuf {
    match std::env::var_os("NETDP_BIN") {
        Some(path) => path.into(),
        None => env!("CARGO_BIN_EXE_netdp").into(),
    }
}

pub struct World {
    daemon: Option<Child>,
    pub host: Namespace,
    pub folder: TempDir,
}

/// What a command did.
#[derive(Debug)]
pub struct Done {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl World {
    /// None, with a note, without the rights to make one.
    pub fn new() -> Option<Self> {
        Self::with_daemon(&[])
    }

    pub fn with_daemon(args: &[&str]) -> Option<Self> {
        let mut world = Self::without_daemon()?;
        world.start_daemon(args);
        Some(world)
    }

    pub fn without_daemon() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: making namespaces needs root");
            return None;
        }
        let folder = TempDir::with_prefix("netdp-cli-").unwrap();
        mount_cgroups(&folder.path().join(CGROUPS));
        let host = Namespace::create(&folder.path().join("netns"), "host").unwrap();
        let world = Self {
            daemon: None,
            host,
            folder,
        };
        fs::create_dir(world.cgroup()).unwrap();
        world.ip("link add up0 type veth peer name wire");
        world.ip("address add 192.0.2.2/24 dev up0");
        world.ip("link set wire up");
        world.ip("link set up0 up");
        world.ip("route add default via 192.0.2.1");
        Some(world)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The daemons' control group, so that their programs for local sockets see
    /// none of the machine's.
    fn cgroup(&self) -> PathBuf {
        self.path(CGROUPS)
            .join(self.folder.path().file_name().unwrap())
    }

    pub fn daemon_command(&self, args: &[&str]) -> Command {
        self.daemon_in("run", "state", args)
    }

    /// A daemon with the first one's `--bpffs`, and these folders of the world.
    pub fn daemon_in(&self, run: &str, state: &str, args: &[&str]) -> Command {
        self.daemon_with(run, state, "bpf", args)
    }

    /// A daemon with these folders of the world.
    pub fn daemon_with(&self, run: &str, state: &str, bpffs: &str, args: &[&str]) -> Command {
        let mut command = self.host.command(binary());
        command
            .arg("daemon")
            .arg("--run-dir")
            .arg(self.path(run))
            .arg("--state-dir")
            .arg(self.path(state))
            .arg("--bpffs")
            .arg(self.path(bpffs))
            .args(args);
        if !args.contains(&"--cgroup") {
            command.arg("--cgroup").arg(self.cgroup());
        }
        command
    }

    pub fn start_daemon(&mut self, args: &[&str]) {
        assert!(self.daemon.is_none(), "one daemon at a time");
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("daemon.log"))
            .unwrap();
        let daemon = self.daemon_command(args).stderr(log).spawn().unwrap();
        self.daemon = Some(daemon);
        self.wait_until("the daemon answers", || {
            self.netdp(&["ps"]).status == Some(0)
        });
    }

    pub fn daemon_pid(&self) -> i32 {
        self.daemon.as_ref().unwrap().id().cast_signed()
    }

    /// As a crash would.
    pub fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// As a service manager would; gives its exit status.
    pub fn stop_daemon(&mut self) -> Option<i32> {
        let mut daemon = self.daemon.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(daemon.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        daemon.wait().unwrap().code()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// A command in the host's namespace that finds the daemon.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.host.command(binary());
        command
            .args(args)
            .env("NETDP_RUN_DIR", self.path("run"))
            .stdin(Stdio::null());
        command
    }

    pub fn netdp(&self, args: &[&str]) -> Done {
        done(self.command(args).output().unwrap())
    }

    /// What the command printed; it has to succeed.
    pub fn ok(&self, args: &[&str]) -> String {
        let done = self.netdp(args);
        assert_eq!(done.status, Some(0), "{args:?}: {done:?}\n{}", self.log());
        done.stdout
    }

    /// What the command printed, as JSON.
    pub fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(args);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
    }

    /// The line on standard error; the command has to be refused with status 1.
    pub fn refused(&self, args: &[&str]) -> String {
        let done = self.netdp(args);
        assert_eq!(done.status, Some(1), "{args:?}: {done:?}");
        assert_eq!(done.stderr.lines().count(), 1, "{args:?}: {done:?}");
        done.stderr
    }

    /// `ip WORDS` in the host's namespace.
    pub fn ip(&self, words: &str) -> String {
        self.ip_in(&self.host, words)
    }

    pub fn ip_in(&self, namespace: &Namespace, words: &str) -> String {
        let output = namespace
            .command("ip")
            .args(words.split_whitespace())
            .output()
            .unwrap();
        let done = done(output);
        assert_eq!(done.status, Some(0), "ip {words}: {done:?}");
        done.stdout
    }

    /// A namespace as an engine would bring it.
    pub fn namespace(&self, name: &str) -> Namespace {
        Namespace::create(&self.path("netns"), name).unwrap()
    }

    /// Whether it has no sandbox, and the host none of its interfaces.
    pub fn is_empty(&self) -> bool {
        let listed = self.json(&["ps", "--format", "json"]);
        listed.as_array().unwrap().is_empty() && self.host_ends().is_empty()
    }

    /// Names of the host ends.
    pub fn host_ends(&self) -> Vec<String> {
        self.ip("-o link show type veth")
            .lines()
            .filter_map(|line| line.split(": ").nth(1)?.split('@').next())
            .filter(|name| name.starts_with("vn"))
            .map(str::to_owned)
            .collect()
    }

    #[track_caller]
    pub fn wait_until(&self, what: &str, condition: impl Fn() -> bool) {
        let started = Instant::now();
        while !condition() {
            assert!(started.elapsed() < PATIENCE, "not {what}\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends bytes to the daemon's socket and reads the answer to its end.
    pub fn raw(&self, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.path("run/netdp.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // A daemon that has read enough may close before it has read all.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// One request; gives status and body.
    pub fn http(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: netdp\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = self.raw(request.as_bytes());
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("{answer:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        // Ends what still runs in the sandboxes.
        let _ = umount2(&self.path("bpf"), MntFlags::MNT_DETACH);
        // The first is there where a daemon wasn't told to remove it.
        let _ = fs::remove_dir(direct_cgroup(&self.cgroup()));
        if let Err(error) = fs::remove_dir(self.cgroup()) {
            eprintln!("{} is left behind: {error}", self.cgroup().display());
        }
        let _ = umount2(&self.path(CGROUPS), MntFlags::MNT_DETACH);
        if thread::panicking() {
            eprintln!("the daemon said:\n{}", self.log());
        }
    }
}

/// A child that is ended with its owner.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn done(output: Output) -> Done {
    Done {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

pub fn exists(path: impl AsRef<Path>) -> bool {
    path.as_ref().exists()
}
