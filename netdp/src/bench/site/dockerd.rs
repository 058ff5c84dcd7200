//! Docker itself, with the network and the rules that it makes: a dockerd of the
//! bench's own, which shares no file, socket or container with one that the
//! machine may run.
//!
//! Its containers only hold their namespaces. Client and servers run in these, as
//! in every other mode, without a container's seccomp filter.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Context, bail, ensure};
use serde_json::json;

use super::{Inside, Site, Size, crowd};
use crate::bench::Mode;
use crate::netns::Namespace;
use crate::world::docker_bridge::PublishedPort;
use crate::world::process::{self, ProcessError};
use crate::world::{World, interrupt};

const BRIDGE: &str = "docker0";
const IMAGE: &str = "empty";
/// Each has a process of its own.
const MOST_PORTS: usize = 1_000;
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// A thousand ports are some thousand calls of iptables.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(300);

/// In a mount namespace: nothing that dockerd or its containerd writes by a fixed
/// path stays, and none of the machine's daemons is found. `$1` is a folder,
/// `$2` the settings.
const START: &str = r#"set -e
mount -t tmpfs run /run
mount -t tmpfs own "$1"
for folder in etc opt; do
    mkdir "$1/$folder" "$1/$folder.work"
    mount -t overlay -o "lowerdir=/$folder,upperdir=$1/$folder,workdir=$1/$folder.work" overlay "/$folder"
done
exec dockerd --config-file "$2"
"#;
/// Folders of a machine that a program may need. An empty image has them
/// mounted: no image has to be fetched.
const FILES: [&str; 6] = ["/bin", "/lib", "/lib64", "/usr", "/nix", "/gnu"];

pub(super) fn build(world: &mut World, size: &Size) -> anyhow::Result<Site> {
    for program in ["dockerd", "docker"] {
        ensure!(is_installed(program), "{program} is not installed");
    }
    ensure!(
        size.ports <= MOST_PORTS,
        "dockerd calls iptables for every rule: more than {MOST_PORTS} ports take minutes"
    );
    let host = world.add_host()?;
    let docker = Docker::start(world, &host.namespace)?;
    let (second, _) = docker.container("second", &[])?;
    let crowd = crowd(world, &host.namespace, size, |interface, _| {
        format!("link set {interface} master {BRIDGE} up\n")
    })?;
    let (first, address) = docker.container("first", &size.published())?;
    let inside = Inside {
        first,
        address,
        second,
    };
    Ok(Site {
        version: Some(docker.version()?),
        _crowd: crowd,
        ..Site::with_containers(world, Mode::Dockerd, host, inside, size)?
    })
}

fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// A dockerd, which ends with its world, as all that it starts.
struct Docker {
    daemon: Child,
    folder: PathBuf,
}

impl Docker {
    fn start(world: &World, host: &Namespace) -> anyhow::Result<Self> {
        let folder = world.dir().join("dockerd");
        let (own, settings) = (folder.join("own"), folder.join("settings.json"));
        fs::create_dir_all(&own)?;
        fs::write(&settings, Self::settings(world, &folder).to_string())?;
        let log = File::create(folder.join("log"))?;
        let mut command = world.within(host, "unshare");
        command
            .args(["--mount", "--propagation", "private"])
            .args(["sh", "-c", START, "dockerd"])
            .args([&own, &settings])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        process::end_with_this_thread(&mut command);
        let mut docker = Self {
            daemon: process::spawn(command)?,
            folder,
        };
        docker.wait()?;
        let nothing = docker.folder.join("nothing.tar");
        // Where a tar archive ends.
        fs::write(&nothing, [0; 1024])?;
        docker.ask(&["import", &nothing.to_string_lossy(), IMAGE])?;
        Ok(docker)
    }

    /// As it comes, but for where it keeps what.
    fn settings(world: &World, folder: &Path) -> serde_json::Value {
        json!({
            "data-root": folder.join("data"),
            "exec-root": folder.join("exec"),
            "pidfile": folder.join("pid"),
            "hosts": [Self::socket(folder)],
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "cgroup-parent": world.engine_cgroup(),
            // Lies on every file system, and there is nothing to copy.
            "storage-driver": "vfs",
            "log-level": "warn",
        })
    }

    fn socket(folder: &Path) -> String {
        format!("unix://{}/docker.sock", folder.display())
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        while self.ask(&["version"]).is_err() {
            if interrupt::received().is_some() {
                return Err(ProcessError::Interrupted.into());
            }
            let ended = self.daemon.try_wait()?;
            if ended.is_some() || began.elapsed() > START_TIMEOUT {
                let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                let last = log.trim().lines().last().unwrap_or("nothing");
                bail!("dockerd does not start; it said {last}");
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn version(&self) -> anyhow::Result<String> {
        self.ask(&["version", "-f", "{{.Server.Version}}"])
    }

    /// Starts a container; its namespace, and its address.
    fn container(
        &self,
        name: &str,
        ports: &[PublishedPort],
    ) -> anyhow::Result<(Namespace, std::net::Ipv4Addr)> {
        let mut words: Vec<String> = ["run", "-d", "--name", name].map(str::to_owned).into();
        for folder in FILES.into_iter().filter(|path| Path::new(path).exists()) {
            words.extend(["-v".into(), format!("{folder}:{folder}:ro")]);
        }
        for PublishedPort { protocol, port } in ports {
            words.extend(["-p".into(), format!("{port}:{port}/{protocol}")]);
        }
        words.extend([IMAGE, "sleep", "infinity"].map(str::to_owned));
        self.ask(&words)?;
        let format = "{{.State.Pid}} {{.NetworkSettings.Networks.bridge.IPAddress}}";
        let said = self.ask(&["inspect", "-f", format, name])?;
        let (pid, address) = said.split_once(' ').context("docker shows no address")?;
        let namespace = Namespace::open(Path::new(&format!("/proc/{pid}/ns/net")))?;
        Ok((namespace, address.parse()?))
    }

    /// What `docker WORDS` printed, whatever the user's own settings are.
    fn ask<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> anyhow::Result<String> {
        let mut docker = Command::new("docker");
        docker
            .env_remove("DOCKER_CONTEXT")
            .arg("--config")
            .arg(&self.folder)
            .args(["-H", &Self::socket(&self.folder)])
            .args(words);
        let output = process::output(docker, COMMAND_TIMEOUT)?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}
