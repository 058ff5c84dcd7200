//! `netdp install`, and what a service manager then does with the daemon: its
//! socket is passed, and it tells when it is ready.

mod cli_world;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::{Read, Write},
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStringExt,
            fs::PermissionsExt,
            net::{UnixDatagram, UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use cli_world::{Done, Running, World, done};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

fn netdp() -> Command {
    Command::new(env!("CARGO_BIN_EXE_netdp"))
}

fn ran(command: &mut Command) -> Done {
    done(command.output().unwrap())
}

/// A root folder with systemd, and nothing else.
fn root() -> TempDir {
    let root = TempDir::with_prefix("netdp-install-").unwrap();
    fs::create_dir_all(root.path().join("etc/systemd/system")).unwrap();
    root
}

fn install(root: &Path, words: &[&str]) -> Value {
    let mut command = netdp();
    command.args(["install", "docker", "--format", "json", "--root"]);
    let done = ran(command.arg(root).args(words));
    assert_eq!(done.status, Some(0), "{}", done.stderr);
    serde_json::from_str(&done.stdout).unwrap()
}

fn paths_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(paths_below(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

#[test]
fn installed_and_removed_again_it_leaves_no_difference() {
    let root = root();
    let before = paths_below(root.path());
    let report = install(root.path(), &[]);
    assert_eq!(report["running"], false);
    let states: Vec<_> = report["files"].as_array().unwrap().iter().collect();
    assert_eq!(states.len(), 4);
    assert!(states.iter().all(|it| it["what"] == "written"), "{report}");
    assert_eq!(paths_below(root.path()).len(), before.len() + 6);
    let again = install(root.path(), &[]);
    assert_eq!(again["files"][0]["what"], "unchanged");
    install(root.path(), &["--remove"]);
    assert_eq!(paths_below(root.path()), before);
}

#[test]
fn a_runtime_for_direct_ports_is_entered_and_taken_out() {
    let root = root();
    fs::create_dir_all(root.path().join("etc/docker")).unwrap();
    let settings = root.path().join("etc/docker/daemon.json");
    let text = "{\n\t\"log-level\": \"warn\"\n}\n";
    fs::write(&settings, text).unwrap();
    fs::set_permissions(&settings, fs::Permissions::from_mode(0o600)).unwrap();
    let report = install(root.path(), &["--direct-ports"]);
    assert_eq!(report["files"].as_array().unwrap().len(), 6, "{report}");
    let next = report["next"].as_str().unwrap();
    assert!(next.contains("docker run --runtime netdp"), "{next}");
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let settled: Value = serde_json::from_str(&read(&settings)).unwrap();
    assert_eq!(settled["log-level"], "warn");
    let runtime = settled["runtimes"]["netdp"]["path"].as_str().unwrap();
    let mode = fs::metadata(&settings).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let link = root.path().join(runtime.trim_start_matches('/'));
    assert_eq!(
        fs::read_link(&link).unwrap(),
        Path::new(env!("CARGO_BIN_EXE_netdp"))
    );
    // It is what dockerd may start: netdp, which looks for runc, or crun.
    let mut command = Command::new(&link);
    let done = ran(command.env("PATH", "/nowhere").arg("--version"));
    let is_runc = done.stdout.contains("runc");
    assert!(
        is_runc || done.stderr.contains("netdp-runc: can't run runc"),
        "{}",
        done.stderr
    );
    install(root.path(), &["--direct-ports", "--remove"]);
    assert_eq!(read(&settings), text);
    assert!(fs::symlink_metadata(&link).is_err());
    assert!(
        root.path()
            .join("etc/systemd/system/netdp.service")
            .exists()
    );
}

#[test]
fn podman_is_told_of_a_runtime_and_forgets_it() {
    let root = TempDir::with_prefix("netdp-install-").unwrap();
    let run = |words: &[&str]| {
        let mut command = netdp();
        command.args(["install", "podman", "--format", "json", "--root"]);
        let done = ran(command.arg(root.path()).args(words));
        assert_eq!(done.status, Some(0), "{}", done.stderr);
    };
    run(&[]);
    let settings = root
        .path()
        .join("etc/containers/containers.conf.d/netdp.conf");
    let settled: toml::Table = fs::read_to_string(&settings).unwrap().parse().unwrap();
    let engine = &settled["engine"];
    assert_eq!(engine["enable_port_reservation"].as_bool(), Some(false));
    let runtime = engine["runtimes"]["netdp"][0].as_str().unwrap();
    let link = root.path().join(runtime.trim_start_matches('/'));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    run(&["--remove"]);
    assert!(!settings.exists() && fs::symlink_metadata(&link).is_err());
}

#[test]
fn what_others_wrote_stops_it() {
    let root = root();
    let unit = root.path().join("etc/systemd/system/netdp.service");
    fs::write(&unit, "[Service]\n").unwrap();
    let before = paths_below(root.path());
    for words in [&[][..], &["--remove"]] {
        let mut command = netdp();
        command.args(["install", "docker", "--root"]);
        let done = ran(command.arg(root.path()).args(words));
        assert_eq!(done.status, Some(1));
        assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
        assert!(
            done.stderr.contains(unit.to_str().unwrap()),
            "{}",
            done.stderr
        );
    }
    assert_eq!(paths_below(root.path()), before);
    assert_eq!(fs::read_to_string(&unit).unwrap(), "[Service]\n");
}

#[test]
fn systemd_understands_the_units() {
    let root = root();
    install(root.path(), &[]);
    let units = root.path().join("etc/systemd/system");
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no"]);
    for unit in ["netdp.service", "netdp-docker.socket"] {
        command.arg(units.join(unit));
    }
    let done = match command.output() {
        Ok(done) => done,
        Err(error) => {
            println!("skipped: systemd-analyze: {error}");
            return;
        }
    };
    let said = String::from_utf8_lossy(&done.stderr);
    // What the units of this machine are accused of is none of netdp's.
    let about_us = said.lines().filter(|line| line.contains("netdp"));
    assert_eq!(about_us.collect::<Vec<_>>(), Vec::<&str>::new());
}

/// In a mount namespace with systemd's files, where it doesn't run.
#[test]
fn where_systemd_does_not_run_nothing_is_written() {
    if !nix::unistd::geteuid().is_root() || !Path::new("/etc/systemd/system").is_dir() {
        println!("skipped: mount namespaces need root, and a folder /etc/systemd/system");
        return;
    }
    let folder = TempDir::with_prefix("netdp-install-").unwrap();
    let script = format!(
        "set -e\nmount --bind {} /etc/systemd/system\nmount -t tmpfs tmpfs /run\n\
         exec {} install docker",
        folder.path().display(),
        env!("CARGO_BIN_EXE_netdp"),
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    let done = ran(&mut command);
    assert_eq!(done.status, Some(1), "{}", done.stdout);
    let by_hand = format!("`{} daemon`", env!("CARGO_BIN_EXE_netdp"));
    assert!(done.stderr.contains(&by_hand), "{}", done.stderr);
    assert!(done.stderr.contains("doesn't run here"), "{}", done.stderr);
    assert_eq!(paths_below(folder.path()), Vec::<PathBuf>::new());
}

/// In a mount namespace whose systemd is a script that writes down what it is
/// asked for.
#[test]
fn systemd_is_asked_to_start_and_to_end_it() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: mount namespaces need root");
        return;
    }
    if !Path::new("/etc/systemd/system").is_dir() {
        println!("skipped: there is no folder /etc/systemd/system to put another one over");
        return;
    }
    let folder = TempDir::with_prefix("netdp-install-").unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir_all(path("system")).unwrap();
    fs::create_dir_all(path("bin")).unwrap();
    let script = format!(
        "#!/bin/sh\necho \"$*\" >>{asked}\n\
         if [ \"$1\" = is-active ]; then exit 3; fi\n",
        asked = path("asked").display()
    );
    fs::write(path("bin/systemctl"), script).unwrap();
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(path("bin/systemctl"), executable).unwrap();
    let asked = || fs::read_to_string(path("asked")).unwrap_or_default();
    let in_namespace = |words: &str| {
        let script = format!(
            "set -e\n\
             mount --bind {} /etc/systemd/system\nmount -t tmpfs tmpfs /run\n\
             mkdir -p /run/systemd/system\nPATH={}:$PATH\n\
             exec {} install docker {words}\n",
            path("system").display(),
            path("bin").display(),
            env!("CARGO_BIN_EXE_netdp"),
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
        let done = ran(&mut command);
        assert_eq!(done.status, Some(0), "{}", done.stderr);
        done.stdout
    };
    let said = in_namespace("");
    assert!(said.contains("systemd runs netdp now"), "{said}");
    let first = "daemon-reload\nstart netdp-docker.socket\nstart netdp.service\n";
    assert_eq!(asked(), first);
    // The words of the unit are others: what runs has to have them.
    let unit = path("system/netdp.service");
    let older = fs::read_to_string(&unit).unwrap() + "# of an earlier version\n";
    fs::write(&unit, older).unwrap();
    in_namespace("");
    let second = format!(
        "{first}{}",
        first.replace("start netdp.s", "restart netdp.s")
    );
    assert_eq!(asked(), second);
    let said = in_namespace("--remove");
    assert!(said.contains("netdp daemon --cleanup"), "{said}");
    let third =
        format!("{second}daemon-reload\nstop netdp-docker.socket netdp.service\ndaemon-reload\n");
    assert_eq!(asked(), third);
    assert_eq!(fs::read_dir(path("system")).unwrap().count(), 0);
    in_namespace("--remove");
    assert_eq!(asked(), third, "nothing is there to end");
}

/// As dockerd asks; its answer.
fn activate(socket: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = "POST /Plugin.Activate HTTP/1.1\r\nHost: plugin\r\nConnection: close\r\n\
                   Content-Length: 0\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

fn answer(mut stream: UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// The daemon's command with a socket as file descriptor 3, as
/// sd_listen_fds(3) says, and where it tells that it is ready.
fn with_socket(world: &World, socket: OwnedFd, name: &str, notify: &Path) -> Command {
    let driver = world.path("driver.sock");
    let daemon = world.daemon_command(&["--docker-plugin", driver.to_str().unwrap()]);
    let mut command = world.host.command("sh");
    command
        .args(["-c", "LISTEN_PID=$$ exec \"$@\" 3<&0 0</dev/null", "sh"])
        .arg(daemon.get_program())
        .args(daemon.get_args())
        .stdin(Stdio::from(socket))
        .stderr(fs::File::create(world.path("daemon.log")).unwrap())
        .envs(BTreeMap::from([
            ("LISTEN_FDS", OsString::from("1")),
            ("LISTEN_FDNAMES", OsString::from(name)),
            (
                "NOTIFY_SOCKET",
                OsString::from_vec(notify.as_os_str().to_owned().into_vec()),
            ),
        ]));
    command
}

#[test]
fn a_socket_that_was_passed_is_dockers() {
    let Some(world) = World::without_daemon() else {
        return;
    };
    let path = world.path("docker.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let told = UnixDatagram::bind(world.path("notify")).unwrap();
    told.set_read_timeout(Some(PATIENCE)).unwrap();
    // Asked before anybody is there to answer.
    let early = activate(&path);
    let passed = OwnedFd::from(listener.try_clone().unwrap());
    let daemon = with_socket(&world, passed, "docker", &world.path("notify")).spawn();
    let mut daemon = Running(daemon.unwrap());
    let mut word = [0; 64];
    let length = told.recv(&mut word).unwrap();
    assert_eq!(&word[..length], b"READY=1\n");
    for stream in [early, activate(&path)] {
        let answer = answer(stream);
        assert!(answer.contains("NetworkDriver"), "{answer}");
    }
    // Ready means that requests are answered.
    world.ok(&["ps"]);
    let pid = Pid::from_raw(daemon.0.id().cast_signed());
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(daemon.0.wait().unwrap().success());
    assert!(!world.path("driver.sock").exists());
    // The service manager's, who listens on.
    let _late = activate(&path);
    assert!(path.exists());
}

/// dockerd asks again, but without the contents, where a connection has broken:
/// those are few that a daemon takes with it, where others keep the rest.
#[test]
fn who_waits_at_a_socket_that_was_passed_outlives_the_daemon() {
    let Some(world) = World::without_daemon() else {
        return;
    };
    let path = world.path("docker.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let told = UnixDatagram::bind(world.path("notify")).unwrap();
    told.set_read_timeout(Some(PATIENCE)).unwrap();
    let start = || {
        let passed = OwnedFd::from(listener.try_clone().unwrap());
        let daemon = with_socket(&world, passed, "docker", &world.path("notify")).spawn();
        told.recv(&mut [0; 64]).unwrap();
        Running(daemon.unwrap())
    };
    // The first is taken, and says nothing.
    let first = UnixStream::connect(&path).unwrap();
    let waits = activate(&path);
    let mut daemon = start();
    daemon.0.kill().unwrap();
    daemon.0.wait().unwrap();
    drop(first);
    let _daemon = start();
    let answer = answer(waits);
    assert!(answer.contains("NetworkDriver"), "{answer}");
}

#[test]
fn what_else_is_passed_is_told() {
    let Some(world) = World::without_daemon() else {
        return;
    };
    let notify = world.path("notify");
    let listener = UnixListener::bind(world.path("other.sock")).unwrap();
    let told = UnixDatagram::bind(&notify).unwrap();
    told.set_read_timeout(Some(PATIENCE)).unwrap();
    let daemon = with_socket(&world, listener.into(), "other", &notify).spawn();
    let _daemon = Running(daemon.unwrap());
    told.recv(&mut [0; 64]).unwrap();
    let log = fs::read_to_string(world.path("daemon.log")).unwrap();
    assert!(log.contains("FileDescriptorName=docker"), "{log}");
    // Nobody would ever answer.
    UnixStream::connect(world.path("other.sock")).unwrap_err();
    // No socket at all.
    let file = fs::File::open("/dev/null").unwrap();
    let done = ran(&mut with_socket(&world, file.into(), "docker", &notify));
    assert_eq!(done.status, Some(1));
    let log = fs::read_to_string(world.path("daemon.log")).unwrap();
    assert!(log.contains("the socket docker that was passed"), "{log}");
}
