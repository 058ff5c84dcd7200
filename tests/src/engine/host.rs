//! Where an engine runs: a host with the files of unpacked packages.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use netdp::netns::Namespace;
use nix::sys::signal::Signal;

use crate::Topology;

/// By this variable the tests find what `cargo xtask test engines` unpacked.
const ENGINES: &str = "NETDP_ENGINES";

const PREPARE: &str = include_str!("prepare.sh");
/// How long an engine may take for what it is asked: two processors have many
/// of them at once.
const LIMIT: Duration = Duration::from_secs(180);

/// Packages of engines that know no control groups of version 1, and refuse
/// hosts that have them.
const ONLY_VERSION_2: [&str; 2] = ["newest-podman", "debian-12-crun"];
const CGROUPS: &str = "/sys/fs/cgroup";

/// netdp's host of a [`Topology`], with mounts and processes of its own. All
/// that runs there ends with it: the kernel kills a PID namespace as a whole.
pub struct EngineHost {
    pub topology: Topology,
    /// The process that waits for the namespace's first.
    parent: Child,
    /// The first process, in this process's own PID namespace.
    first: u32,
    /// What is [`CGROUPS`] there.
    cgroups: PathBuf,
}

impl EngineHost {
    /// With the files of the folder `packages`; none, with the reason printed,
    /// where they could not be had.
    pub fn start(name: &str, packages: &str) -> Option<Self> {
        let folder = match unpacked(packages) {
            Ok(folder) => folder,
            Err(reason) => {
                println!("skipped: {reason}");
                return None;
            }
        };
        let topology = Topology::without_daemon(name)?;
        let world = &topology.world;
        let cgroups = match ONLY_VERSION_2.contains(&packages) {
            true => own_cgroup(&topology)
                .parent()
                .expect("the root of all")
                .to_owned(),
            false => PathBuf::from(CGROUPS),
        };
        let mount = world.dir().join("engine");
        fs::create_dir(&mount).expect("make a folder");
        let log = File::create(world.dir().join("prepare.log")).expect("make a log");
        let mut command = world.on_host("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child"])
            .args(["--propagation", "private", "sh", "-c", PREPARE, "prepare"])
            .args([&folder, &mount, world.netdp_path(), &cgroups])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second descriptor"))
            .stderr(log);
        end_with_this_thread(&mut command);
        let mut host = Self {
            parent: command.spawn().expect("start unshare"),
            first: 0,
            cgroups,
            topology,
        };
        if let Err(why) = host.wait_until_prepared() {
            let log = host.topology.world.dir().join("prepare.log");
            let said = fs::read_to_string(log).unwrap_or_default();
            let said = said.trim().replace('\n', "; ");
            println!("skipped: this machine can't have a host for engines: it {why}: {said}");
            return None;
        }
        let runs = host.output(host.command("netdp").arg("--version"));
        if !runs.status.success() {
            println!(
                "skipped: netdp doesn't run on the C library of {packages}: {}",
                String::from_utf8_lossy(&runs.stderr).trim()
            );
            return None;
        }
        Some(host)
    }

    fn wait_until_prepared(&mut self) -> Result<(), String> {
        let began = Instant::now();
        let parent = self.parent.id();
        let children = format!("/proc/{parent}/task/{parent}/children");
        while began.elapsed() < LIMIT {
            if let Ok(Some(status)) = self.parent.try_wait() {
                return Err(format!("ended ({status})"));
            }
            let child = fs::read_to_string(&children).unwrap_or_default();
            if let Ok(child) = child.trim().parse::<u32>()
                && Path::new(&format!("/proc/{child}/root/run/prepared")).exists()
            {
                self.first = child;
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err("was not prepared in time".into())
    }

    /// A path of this host, for this process.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        let inside = inside.strip_prefix("/").unwrap_or(inside);
        Path::new(&format!("/proc/{}/root", self.first)).join(inside)
    }

    /// A command on this host.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.topology.world.on_host("nsenter");
        command
            .args(["--target", &self.first.to_string()])
            .args(["--mount", "--pid", "--"])
            .arg(program)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", "/root")
            .env("PODMAN_IGNORE_CGROUPSV1_WARNING", "1")
            .current_dir("/")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command of [`EngineHost::command`] to its end.
    #[track_caller]
    pub fn output(&self, command: &mut Command) -> Output {
        let program = format!("{command:?}");
        let stdout = tempfile::tempfile().expect("a file");
        let stderr = tempfile::tempfile().expect("a file");
        let copy = |file: &File| file.try_clone().expect("a second descriptor");
        end_with_this_thread(command);
        let mut child = command
            .stdout(copy(&stdout))
            .stderr(copy(&stderr))
            .spawn()
            .expect("start nsenter");
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = child.try_wait().expect("wait") {
                break status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                let stuck = self.stuck();
                panic!("{program} took longer than {} s{stuck}", LIMIT.as_secs());
            }
            thread::sleep(Duration::from_millis(5));
        };
        Output {
            status,
            stdout: contents(stdout),
            stderr: contents(stderr),
        }
    }

    /// What dockerd, if it runs here, has been waiting in for a minute and longer.
    fn stuck(&self) -> String {
        const STACKS: &str = "cd /run/docker && kill -USR1 $(cat /tmp/dockerd.pid) && sleep 2 && \
                              cat goroutine-stacks-*.log && rm goroutine-stacks-*.log";
        let stacks = self.command("sh").args(["-c", STACKS]).output();
        let stacks = stacks.map_or_else(|error| error.to_string().into(), |it| it.stdout);
        let stacks = String::from_utf8_lossy(&stacks);
        // A paragraph each, whose first line says for how long.
        let waits = stacks.split("\n\n").filter(|it| {
            let first = it.lines().next().unwrap_or_default();
            first.contains(" minutes") && it.contains("/daemon.(*Daemon)")
        });
        waits
            .map(|stack| format!("; dockerd waits in\n{stack}"))
            .collect()
    }

    /// What a line for the shell printed; it has to succeed.
    #[track_caller]
    pub fn sh(&self, line: &str) -> String {
        self.try_sh(line)
            .unwrap_or_else(|said| panic!("{line}: {said}"))
    }

    /// What a line for the shell said on standard error; it has to fail.
    #[track_caller]
    pub fn refused(&self, line: &str) -> String {
        match self.try_sh(line) {
            Ok(printed) => panic!("{line}: {printed}"),
            Err(said) => said,
        }
    }

    /// # Errors
    /// What was said on standard error.
    #[track_caller]
    pub fn try_sh(&self, line: &str) -> Result<String, String> {
        let output = self.output(self.command("sh").args(["-c", line]));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }

    /// Runs a line for the shell so many times at once, with a number from 1 on
    /// as `$i`; each has to succeed.
    #[track_caller]
    pub fn at_once(&self, count: u16, line: &str) {
        let numbers: Vec<String> = (1..=count).map(|number| number.to_string()).collect();
        let numbers = numbers.join(" ");
        self.sh(&format!(
            "for i in {numbers}; do ({line}) >/tmp/said$i 2>&1 || : >/tmp/failed$i & done; wait; \
             for i in {numbers}; do test ! -e /tmp/failed$i || {{ cat /tmp/said$i >&2; exit 1; }}; done"
        ));
    }

    /// Starts a daemon; its log is `/tmp/NAME.log`.
    #[track_caller]
    pub fn spawn(&self, name: &str, line: &str) {
        // Its standard input is not the shell's, and it is nobody's child but
        // that of the first process.
        self.sh(&format!(
            "setsid sh -c 'echo $$ >/tmp/{name}.pid; exec {line}' </dev/null >>/tmp/{name}.log 2>&1 & \
             while ! test -s /tmp/{name}.pid; do sleep 0.01; done"
        ));
    }

    /// Ends what [`EngineHost::spawn`] started, as `kill -9` does, and waits.
    #[track_caller]
    pub fn kill(&self, name: &str) {
        self.sh(&format!(
            "pid=$(cat /tmp/{name}.pid); kill -9 $pid; while test -d /proc/$pid; do sleep 0.01; done; \
             rm /tmp/{name}.pid"
        ));
    }

    /// Tells a daemon to end, as service managers do, and waits.
    #[track_caller]
    pub fn end(&self, name: &str) {
        self.sh(&format!(
            "pid=$(cat /tmp/{name}.pid); kill $pid; while test -d /proc/$pid; do sleep 0.01; done; \
             rm /tmp/{name}.pid"
        ));
    }

    /// What a daemon said.
    pub fn log(&self, name: &str) -> String {
        let bytes = fs::read(self.path(format!("/tmp/{name}.log"))).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until a daemon answers: until a line for the shell succeeds.
    #[track_caller]
    pub fn wait_for(&self, name: &str, line: &str) {
        let alive = format!("test -e /tmp/{name}.pid && kill -0 $(cat /tmp/{name}.pid)");
        self.wait_until(&format!("{name} answers"), || {
            let answers = self.try_sh(line).is_ok();
            assert!(answers || self.try_sh(&alive).is_ok(), "{name} has ended");
            answers
        });
    }

    /// Waits until a line for the shell succeeds.
    #[track_caller]
    pub fn wait_for_line(&self, what: &str, line: &str) {
        self.wait_until(what, || self.try_sh(line).is_ok());
    }

    #[track_caller]
    pub fn wait_until(&self, what: &str, condition: impl Fn() -> bool) {
        let began = Instant::now();
        while !condition() {
            assert!(began.elapsed() < LIMIT, "not {what}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts netdp's daemon as its users do.
    #[track_caller]
    pub fn start_netdp(&self) {
        let cgroup = self.cgroup();
        let below = cgroup.strip_prefix(&self.cgroups).expect("it is below");
        let cgroup = Path::new(CGROUPS).join(below);
        self.spawn(
            "netdp",
            &format!("netdp daemon --cgroup {}", cgroup.display()),
        );
        self.wait_for("netdp", "netdp ps");
    }

    /// What `netdp WORDS` printed.
    #[track_caller]
    pub fn netdp(&self, words: &str) -> String {
        self.sh(&format!("netdp {words}"))
    }

    /// The control group (v2) of everything here.
    fn cgroup(&self) -> PathBuf {
        own_cgroup(&self.topology)
    }

    /// The network namespace of a process, by its number on this host.
    #[track_caller]
    pub fn namespace_of(&self, process: &str) -> Namespace {
        let path = self.path(format!("/proc/{process}/ns/net"));
        Namespace::open(&path).expect("a process's namespace")
    }
}

impl Drop for EngineHost {
    fn drop(&mut self) {
        if thread::panicking() {
            for name in ["netdp", "dockerd", "containerd"] {
                let log = self.log(name);
                let lines: Vec<&str> = log.lines().collect();
                let end = lines[lines.len().saturating_sub(40)..].join("\n");
                if !end.is_empty() {
                    eprintln!("{name} said:\n{end}");
                }
            }
        }
        // With it goes the first process, and with that all others.
        let _ = self.parent.kill();
        let _ = self.parent.wait();
    }
}

fn own_cgroup(topology: &Topology) -> PathBuf {
    let own = topology.world.cgroup();
    own.parent().expect("it lies in the world's").to_owned()
}

/// The folder of these packages.
fn unpacked(packages: &str) -> Result<PathBuf, String> {
    let Some(folder) = env::var_os(ENGINES).map(PathBuf::from) else {
        return Err("container engines are fetched by `cargo xtask test engines`".into());
    };
    if folder.join(format!("{packages}.made")).exists() {
        return Ok(folder.join(packages));
    }
    let missing = folder.join(format!("{packages}.missing"));
    let reason = fs::read_to_string(missing).unwrap_or_else(|error| error.to_string());
    Err(format!("{packages} could not be fetched: {reason}"))
}

/// The files of an application's image: nginx and redis.
///
/// # Errors
/// Why they could not be had.
pub fn application() -> Result<PathBuf, String> {
    unpacked("application")
}

/// A test that is killed leaves nothing running.
fn end_with_this_thread(command: &mut Command) {
    // SAFETY: one system call; nothing allocates or locks between fork and exec.
    unsafe {
        command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?));
    }
}

fn contents(mut file: File) -> Vec<u8> {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind().expect("rewind");
    file.read_to_end(&mut bytes).expect("read");
    bytes
}
