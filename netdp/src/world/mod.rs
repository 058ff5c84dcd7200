//! A small world of network namespaces, for the demo, measurements and tests: a client, a host that runs netdp, and
//! an outside behind the client's router.
//!
//! ```text
//!   outside                 client                      host
//!   198.19.0.2 ─────────── 198.19.0.1
//!                          198.18.0.1 ── wire ── eth0  198.18.0.2
//! ```
//!
//! The client is the host's default gateway and forwards to the outside, which
//! knows no way back to any container: only masqueraded traffic gets answers.
//! Everything is made below one temporary folder and one cgroup, both named
//! after the world, so that many worlds stand side by side; dropping a world
//! ends its processes and removes all of it. No device, rule or route of the
//! machine's own namespace is touched.

mod cgroup;
pub(crate) mod direct;
pub(crate) mod docker_bridge;
mod folder;
pub(crate) mod interrupt;
pub(crate) mod load;
pub(crate) mod process;
mod sweep;
mod wire;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::netns::{Namespace, NetnsError};
use cgroup::Cgroup;
use folder::Folder;
use process::ProcessError;

pub(crate) use wire::feed;
pub use wire::{
    CLIENT_ADDRESS, CLIENT_ADDRESS6, HOST_ADDRESS, HOST_ADDRESS6, OUTSIDE_ADDRESS,
    OUTSIDE_ADDRESS6, host_mac, ip, set_sysctls, wire_client_address, wire_host_address,
};

/// How long a command of netdp may take: longer than it waits itself for the
/// answer to a question.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// An emulated machine's kernel verifies the programs for a minute or two.
const DAEMON_START_TIMEOUT: Duration = Duration::from_secs(240);

/// Why a world could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    #[error(
        "network namespaces, cgroups and BPF need root; run this as root, for example with sudo"
    )]
    NotRoot,
    #[error("no cgroup v2 is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup/unified")]
    NoCgroup2,
    #[error(transparent)]
    Namespace(#[from] NetnsError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot make a folder: {0}; set TMPDIR to one that can be written to")]
    Folder(io::Error),
    #[error("{command}: {status}: {stderr}")]
    Refused {
        command: String,
        status: std::process::ExitStatus,
        stderr: String,
    },
    #[error("the daemon {what}; its log ends with:\n{log}")]
    Daemon { what: String, log: String },
    #[error("a world has room for {} hosts only", wire::MAX_WIRES)]
    TooManyHosts,
}

/// See the [module](self).
pub struct World {
    pub client: Namespace,
    /// The host that netdp runs on.
    pub host: Namespace,
    pub outside: Namespace,
    daemon: Option<Child>,
    netdp: PathBuf,
    wires: u8,
    cgroup: Cgroup,
    // Last: the namespaces are mounted within.
    folder: Folder,
}

/// A further host, with a wire of its own to the client.
pub struct Host {
    pub namespace: Namespace,
    /// Its address on its wire, on `eth0`.
    pub address: Ipv4Addr,
    /// The client's address on that wire.
    pub client_address: Ipv4Addr,
    /// The MAC address of `eth0`, and that of the client's end.
    pub macs: [String; 2],
}

impl World {
    /// A world whose netdp is the running program itself.
    ///
    /// # Errors
    /// When not run as root, or a namespace, link, mount or cgroup can't be
    /// made; what was made before is removed again.
    pub fn new(prefix: &str) -> Result<Self, WorldError> {
        let netdp = std::env::current_exe().map_err(|source| WorldError::Io {
            doing: "find",
            path: "/proc/self/exe".into(),
            source,
        })?;
        Self::with_netdp(prefix, netdp)
    }

    /// A world whose netdp is the program `netdp`. What others left that were
    /// killed is removed first.
    ///
    /// # Errors
    /// As [`World::new`].
    pub fn with_netdp(prefix: &str, netdp: impl Into<PathBuf>) -> Result<Self, WorldError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(WorldError::NotRoot);
        }
        sweep::sweep();
        let folder = Folder::create(prefix)?;
        let cgroup = Cgroup::create(folder.name())?;
        let namespaces = folder.path().join("netns");
        let [client, host, outside] =
            ["client", "host", "outside"].map(|name| Namespace::create(&namespaces, name));
        let world = Self {
            client: client?,
            host: host?,
            outside: outside?,
            daemon: None,
            netdp: netdp.into(),
            wires: 1,
            cgroup,
            folder,
        };
        wire::connect_host(&world.client, &world.host, 0)?;
        wire::connect_outside(&world.client, &world.outside)?;
        Ok(world)
    }

    /// The host that netdp runs on.
    pub(crate) fn first_host(&self) -> Host {
        Host {
            namespace: self.host.reference(),
            address: HOST_ADDRESS,
            client_address: CLIENT_ADDRESS,
            macs: [wire::mac(0, 2), wire::mac(0, 1)],
        }
    }

    /// Makes another host, which runs no netdp.
    ///
    /// # Errors
    /// When the namespace or its wire can't be made.
    pub fn add_host(&mut self) -> Result<Host, WorldError> {
        let wire = self.wires;
        if wire == wire::MAX_WIRES {
            return Err(WorldError::TooManyHosts);
        }
        self.wires += 1;
        let namespace = self.add_namespace(&format!("host{wire}"))?;
        wire::connect_host(&self.client, &namespace, wire)?;
        Ok(Host {
            namespace,
            address: wire_host_address(wire),
            client_address: wire_client_address(wire),
            macs: [wire::mac(wire, 2), wire::mac(wire, 1)],
        })
    }

    /// Gives client, host and outside IPv6 addresses and routes.
    ///
    /// # Errors
    /// When this kernel has no IPv6, or one can't be given.
    pub fn add_ipv6(&self) -> Result<(), WorldError> {
        wire::add_ipv6(&self.client, &self.host, &self.outside)
    }

    /// Makes a namespace without links.
    ///
    /// # Errors
    /// When the name is taken or the namespace can't be made.
    pub fn add_namespace(&self, name: &str) -> Result<Namespace, WorldError> {
        let namespace = Namespace::create(&self.folder.path().join("netns"), name)?;
        wire::prepare(&namespace)?;
        Ok(namespace)
    }

    /// A folder for files of the test's own, removed with the world.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    pub fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The mount point of the world's own BPF file system.
    pub fn bpffs(&self) -> PathBuf {
        self.folder.bpffs()
    }

    /// The cgroup that the daemon is given: that of [`World::on_host`].
    pub fn cgroup(&self) -> PathBuf {
        self.cgroup.host()
    }

    /// A control group of the world's for an engine's containers, as engines name
    /// it.
    pub fn engine_cgroup(&self) -> String {
        self.cgroup.of_engines()
    }

    /// The netdp binary of this world.
    pub fn netdp_path(&self) -> &Path {
        &self.netdp
    }

    /// A command on the host, inside the daemon's cgroup, that finds the daemon.
    pub fn on_host(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.host.command(program);
        command.env("NETDP_RUN_DIR", self.run_dir());
        self.cgroup.admit_to_host(&mut command);
        command
    }

    pub fn on_client(&self, program: impl AsRef<OsStr>) -> Command {
        self.on_another(&self.client, program)
    }

    pub fn on_outside(&self, program: impl AsRef<OsStr>) -> Command {
        self.on_another(&self.outside, program)
    }

    /// On another machine than the host.
    fn on_another(&self, namespace: &Namespace, program: impl AsRef<OsStr>) -> Command {
        let mut command = namespace.command(program);
        self.cgroup.admit_outside(&mut command);
        command
    }

    /// A command in any namespace, ended with the world, outside the daemon's
    /// cgroup.
    pub fn within(&self, namespace: &Namespace, program: impl AsRef<OsStr>) -> Command {
        let mut command = namespace.command(program);
        self.cgroup.admit_elsewhere(&mut command);
        command
    }

    /// The same inside the daemon's cgroup, as on a host where that is the root
    /// of all groups.
    pub fn within_reach(&self, namespace: &Namespace, program: impl AsRef<OsStr>) -> Command {
        let mut command = namespace.command(program);
        self.cgroup.admit_to_host(&mut command);
        command
    }

    /// Runs `netdp ARGS` on the host, to its end.
    ///
    /// # Errors
    /// When it can't be started or takes too long; its own refusal is in the
    /// output.
    pub fn netdp<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Output, WorldError> {
        let mut command = self.on_host(&self.netdp);
        command.args(args);
        Ok(process::output(command, COMMAND_TIMEOUT)?)
    }

    /// Runs `netdp ARGS` on the host and returns what it printed.
    ///
    /// # Errors
    /// As [`World::netdp`], and when it ends with another status than 0.
    pub fn netdp_ok<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<String, WorldError> {
        let output = self.netdp(args)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let words = args.iter().map(|arg| arg.as_ref().to_string_lossy());
        Err(WorldError::Refused {
            command: format!("netdp {}", words.collect::<Vec<_>>().join(" ")),
            status: output.status,
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// Starts the daemon on the host, with `eth0` as its uplink, and waits
    /// until it answers. After [`World::kill_daemon`] it starts again on the
    /// same state. It ends with the thread that starts it at the latest.
    ///
    /// # Errors
    /// When it ends or does not answer in time; the error holds its log's end.
    pub fn start_daemon<S: AsRef<OsStr>>(&mut self, extra_args: &[S]) -> Result<(), WorldError> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.daemon_log_path())
            .and_then(|log| Ok((log.try_clone()?, log)));
        let (stdout, stderr) = log.map_err(|source| WorldError::Io {
            doing: "open",
            path: self.daemon_log_path(),
            source,
        })?;
        let mut command = self.on_host(&self.netdp);
        command
            .args(["daemon", "--uplink", "eth0", "--state-dir"])
            .arg(self.state_dir())
            .arg("--bpffs")
            .arg(self.bpffs())
            .arg("--cgroup")
            .arg(self.cgroup())
            .args(extra_args)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr);
        process::end_with_this_thread(&mut command);
        self.daemon = Some(process::spawn(command)?);
        self.wait_for_daemon()
    }

    fn wait_for_daemon(&mut self) -> Result<(), WorldError> {
        let deadline = Instant::now() + DAEMON_START_TIMEOUT;
        loop {
            if let Some(Ok(Some(status))) = self.daemon.as_mut().map(Child::try_wait) {
                self.daemon = None;
                return Err(self.daemon_error(format!("ended ({status})")));
            }
            if self.netdp(&["ps"])?.status.success() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let seconds = DAEMON_START_TIMEOUT.as_secs();
                return Err(self.daemon_error(format!("did not answer within {seconds} s")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn daemon_error(&self, what: String) -> WorldError {
        let log = self.daemon_log();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(20)..].join("\n");
        WorldError::Daemon { what, log: end }
    }

    fn daemon_log_path(&self) -> PathBuf {
        self.folder.path().join("daemon.log")
    }

    /// All that the daemon wrote so far, over all its starts.
    pub fn daemon_log(&self) -> String {
        fs::read(self.daemon_log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The running daemon's process id.
    pub fn daemon_pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// Ends the daemon as `systemctl stop` would (SIGTERM), and waits.
    ///
    /// # Errors
    /// When it does not end in time; it is killed then.
    pub fn stop_daemon(&mut self) -> Result<(), WorldError> {
        let Some(mut daemon) = self.daemon.take() else {
            return Ok(());
        };
        if process::terminate(&mut daemon, Duration::from_secs(10)) {
            return Ok(());
        }
        Err(self.daemon_error("did not end within 10 s of SIGTERM".into()))
    }

    /// Ends the daemon as `kill -9` would, and waits.
    pub fn kill_daemon(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            process::kill(&mut daemon);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill_daemon();
        // Programs that the daemon or the test left running hold namespaces
        // and mounts; the fields are dropped after they have gone.
        self.cgroup.kill_all();
    }
}

fn make_folder(path: &Path) -> Result<(), WorldError> {
    fs::create_dir(path).map_err(|source| WorldError::Io {
        doing: "make",
        path: path.into(),
        source,
    })
}

#[cfg(test)]
mod tests;
