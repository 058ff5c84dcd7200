//! Programs in sandboxes. Needs root.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use netdp::netns::Namespace;
use netdp::sandbox::{
    Files, Launcher, Mode, Network, ProcessId, Program, Sandbox, SandboxError, Spec,
};
use tempfile::TempDir;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(10);

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: making namespaces needs root");
    }
    root
}

fn netdp() -> Launcher {
    Launcher::new(env!("CARGO_BIN_EXE_netdp"))
}

fn spec(argv: &[&str]) -> Spec {
    Spec {
        argv: argv.iter().map(OsString::from).collect(),
        network: Network::New,
        hostname: Some("web".into()),
    }
}

fn shell(script: &str) -> Spec {
    spec(&["sh", "-c", script])
}

fn files() -> Files {
    Files {
        hosts: Some("172.17.0.2 web\n".into()),
        resolv_conf: Some("nameserver 192.0.2.53\n".into()),
        hostname: Some("web\n".into()),
    }
}

/// Runs to the end in the foreground.
async fn run(launcher: &Launcher, spec: &Spec, files: &Files) -> Result<u8, SandboxError> {
    let sandbox = Sandbox::start(launcher, spec, &Mode::Foreground).await?;
    match sandbox.release(files).await? {
        Program::Foreground(program) => timeout(PATIENCE, program.wait())
            .await
            .expect("the program doesn't end"),
        Program::Detached(_) => panic!("asked for the foreground"),
    }
}

/// Runs a script to its end and returns what it wrote to `$OUT`.
async fn output_of(launcher: &Launcher, script: &str, network: Network) -> String {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let spec = Spec {
        network,
        ..shell(&format!("exec >{}; {script}", out.display()))
    };
    assert_eq!(run(launcher, &spec, &files()).await.unwrap(), 0);
    std::fs::read_to_string(out).unwrap()
}

fn link_of(path: impl AsRef<Path>) -> PathBuf {
    std::fs::read_link(path).unwrap()
}

#[tokio::test]
async fn a_program_has_its_own_network_files_and_name() {
    if !is_root() {
        return;
    }
    let host = ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname"];
    let before = host.map(|path| std::fs::read_to_string(path).ok());
    let output = output_of(
        &netdp(),
        "cat /etc/hosts /etc/resolv.conf /etc/hostname; uname -n; ip -o link | wc -l; \
         ip -o link show up dev lo | wc -l; stat -c %a /etc/hosts; \
         grep -c '^netdp /tmp ' /proc/mounts; true",
        Network::New,
    )
    .await;
    assert_eq!(
        output,
        "172.17.0.2 web\nnameserver 192.0.2.53\nweb\nweb\n1\n1\n644\n0\n"
    );
    assert_eq!(host.map(|path| std::fs::read_to_string(path).ok()), before);
}

#[tokio::test]
async fn a_program_inherits_no_descriptor_of_netdps() {
    if !is_root() {
        return;
    }
    let script = "ls /proc/$$/fd; true";
    // Whatever this process got from its own parent may be passed on.
    let plain = Command::new("sh").args(["-c", script]).output().unwrap();
    let plain = String::from_utf8(plain.stdout).unwrap();
    assert_eq!(output_of(&netdp(), script, Network::New).await, plain);
}

#[tokio::test]
async fn the_network_may_be_the_hosts_or_another_programs() {
    if !is_root() {
        return;
    }
    let inode = |text: &str| text.trim_end().to_owned();
    let script = "readlink /proc/self/ns/net";
    let here = link_of("/proc/self/ns/net").display().to_string();
    assert_eq!(
        inode(&output_of(&netdp(), script, Network::Host).await),
        here
    );
    assert_ne!(
        inode(&output_of(&netdp(), script, Network::New).await),
        here
    );

    let folder = TempDir::new().unwrap();
    let other = Namespace::create(folder.path(), "other").unwrap();
    let joined = output_of(&netdp(), script, Network::Join(other.path().into())).await;
    assert_eq!(inode(&joined), format!("net:[{}]", other.inode()));

    let wrong = Spec {
        network: Network::Join("/etc/passwd".into()),
        ..shell("true")
    };
    let error = run(&netdp(), &wrong, &files()).await.unwrap_err();
    assert!(error.to_string().contains("/etc/passwd"), "{error}");
    assert_eq!(error.exit_status(), 1);
}

#[tokio::test]
async fn resolv_conf_may_be_a_symbolic_link() {
    if !is_root() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let etc = folder.path().join("etc");
    std::fs::create_dir(&etc).unwrap();
    let real = folder.path().join("real");
    std::fs::write(&real, "the host's").unwrap();
    std::fs::write(etc.join("hosts"), "").unwrap();
    std::fs::write(etc.join("hostname"), "").unwrap();
    // A launcher that gives the sandbox another /etc to start from.
    let launcher = folder.path().join("launcher");
    std::fs::write(
        &launcher,
        format!(
            "#!/bin/sh\nexec unshare -m sh -c 'mount --bind {} /etc && exec {} \"$@\"' sh \"$@\"\n",
            etc.display(),
            env!("CARGO_BIN_EXE_netdp"),
        ),
    )
    .unwrap();
    std::fs::set_permissions(&launcher, PermissionsExt::from_mode(0o755)).unwrap();
    let launcher = Launcher::new(launcher);
    for target in [real.as_path(), Path::new("/nowhere/to/be/found")] {
        let link = etc.join("resolv.conf");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(target, &link).unwrap();
        let output = output_of(&launcher, "cat /etc/resolv.conf", Network::New).await;
        assert_eq!(output, "nameserver 192.0.2.53\n", "{}", target.display());
    }
    assert_eq!(std::fs::read_to_string(real).unwrap(), "the host's");
}

#[tokio::test]
async fn exit_statuses_are_those_of_a_shell() {
    if !is_root() {
        return;
    }
    for (script, status) in [("true", 0), ("exit 3", 3), ("kill -KILL $$", 137)] {
        let ended = run(&netdp(), &shell(script), &files()).await.unwrap();
        assert_eq!(ended, status, "{script}");
    }
    // Rust ignores SIGPIPE; programs must not inherit that.
    let piped = shell("kill -PIPE $$; exit 0");
    assert_eq!(run(&netdp(), &piped, &files()).await.unwrap(), 128 + 13);
}

#[tokio::test]
async fn what_cannot_be_executed_is_said_with_the_shells_status() {
    if !is_root() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let script = folder.path().join("script");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    let script = script.to_str().unwrap().to_owned();
    let check = async |program: &str, status, reason| {
        let error = run(&netdp(), &spec(&[program]), &files())
            .await
            .unwrap_err();
        assert_eq!(error.exit_status(), status, "{error}");
        let text = error.to_string();
        assert!(text.contains(program) && text.contains(reason), "{text}");
    };
    check("no-such-program", 127, "not found in PATH").await;
    check("/no/such/program", 127, "no such file").await;
    check("/etc", 126, "folder").await;
    check(&script, 126, "chmod +x").await;
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    check(&script, 127, "interpreter").await;
    let nothing = run(&netdp(), &spec(&[]), &files()).await.unwrap_err();
    assert!(matches!(nothing, SandboxError::NoProgram));
}

#[tokio::test]
async fn a_sandbox_that_is_not_released_ends() {
    if !is_root() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let trace = folder.path().join("trace");
    let spec = shell(&format!("touch {}", trace.display()));
    let log = folder.path().join("log");
    for mode in [Mode::Foreground, Mode::Detached { log }] {
        let sandbox = Sandbox::start(&netdp(), &spec, &mode).await.unwrap();
        let process = sandbox.process();
        assert!(process.alive());
        let netns = Namespace::open(&sandbox.netns_path()).unwrap();
        assert_ne!(netns.inode(), Namespace::current().unwrap().inode());
        drop(sandbox);
        timeout(PATIENCE, process.wait_exit())
            .await
            .unwrap()
            .unwrap();
    }
    assert!(!trace.exists());
}

#[tokio::test]
async fn a_detached_program_has_a_log_and_no_terminal() {
    if !is_root() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let log = folder.path().join("log");
    let mode = Mode::Detached { log: log.clone() };
    let spec = shell("readlink /proc/$$/fd/0; echo error >&2; echo output; exec sleep 60");
    let sandbox = Sandbox::start(&netdp(), &spec, &mode).await.unwrap();
    let Program::Detached(process) = sandbox.release(&files()).await.unwrap() else {
        panic!("asked for a detached program");
    };
    let stat = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let field = |pid: i32, index: usize| -> i32 {
        let stat = stat(pid);
        let rest = stat.rsplit_once(')').unwrap().1;
        rest.split_ascii_whitespace()
            .nth(index)
            .unwrap()
            .parse()
            .unwrap()
    };
    let (parent, session, terminal) = (
        field(process.pid, 1),
        field(process.pid, 3),
        field(process.pid, 4),
    );
    let supervisor = ProcessId::of(parent).unwrap();
    assert_eq!((session, terminal), (parent, 0));
    assert_ne!(field(parent, 1), std::process::id().cast_signed());

    wait_until(|| std::fs::read_to_string(&log).unwrap().lines().count() == 3).await;
    assert!(process.kill(libc::SIGTERM).unwrap());
    for process in [process, supervisor] {
        timeout(PATIENCE, process.wait_exit())
            .await
            .unwrap()
            .unwrap();
    }
    // Reaped by its supervisor, not left as a zombie.
    assert!(ProcessId::of(process.pid).is_err());
    assert_eq!(
        std::fs::read_to_string(&log).unwrap(),
        "/dev/null\nerror\noutput\n"
    );

    let missing = spec_detached_error(&netdp(), &mode).await;
    assert_eq!(missing.exit_status(), 127, "{missing}");
    let nowhere = Mode::Detached {
        log: "/no/such/folder/log".into(),
    };
    let refused = spec_detached_error(&netdp(), &nowhere).await;
    assert!(
        refused.to_string().contains("/no/such/folder/log"),
        "{refused}"
    );
}

async fn spec_detached_error(launcher: &Launcher, mode: &Mode) -> SandboxError {
    match Sandbox::start(launcher, &spec(&["no-such-program"]), mode).await {
        Ok(sandbox) => sandbox.release(&files()).await.unwrap_err(),
        Err(error) => error,
    }
}

/// A process of its own that runs one program in the foreground: signals go to
/// whole processes, and a test shares its own with others.
const FOREGROUND: &str = "NETDP_TEST_FOREGROUND";

/// That process, with a program that notes each signal it traps and leaves
/// with status 42 on SIGTERM.
struct ForegroundProcess {
    child: Child,
    process: ProcessId,
    notes: PathBuf,
    _folder: TempDir,
}

impl ForegroundProcess {
    async fn start(prepare: impl FnOnce(&mut Command)) -> Self {
        let folder = TempDir::new().unwrap();
        let notes = folder.path().join("notes");
        // Waiting, unlike a program in the shell's foreground, lets traps run
        // at once, so that two signals in a row are two notes.
        let script = format!(
            "trap 'echo usr1 >>{0}' USR1; trap 'echo int >>{0}' INT; \
             trap 'kill $!; exit 42' TERM; \
             sleep 20 & : >{0}; while kill -0 $!; do wait $!; done",
            notes.display()
        );
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "foreground_of_another_process", "--nocapture"])
            .env(FOREGROUND, script)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        prepare(&mut command);
        let child = command.spawn().unwrap();
        let process = ProcessId::of(child.id().cast_signed()).unwrap();
        wait_until(|| notes.exists()).await;
        Self {
            child,
            process,
            notes,
            _folder: folder,
        }
    }

    fn notes(&self) -> String {
        std::fs::read_to_string(&self.notes).unwrap()
    }

    async fn terminate(&mut self) -> Option<i32> {
        self.process.kill(libc::SIGTERM).unwrap();
        timeout(PATIENCE, self.process.wait_exit())
            .await
            .unwrap()
            .unwrap();
        self.child.wait().unwrap().code()
    }
}

#[tokio::test]
async fn signals_from_processes_are_passed_on() {
    if !is_root() {
        return;
    }
    let mut foreground = ForegroundProcess::start(|_| {}).await;
    for signals in 1..=3 {
        foreground.process.kill(libc::SIGUSR1).unwrap();
        wait_until(|| foreground.notes().lines().count() >= signals).await;
    }
    assert_eq!(foreground.terminate().await, Some(42));
    assert_eq!(foreground.notes(), "usr1\n".repeat(3));
}

#[tokio::test]
async fn signals_from_the_terminal_arrive_once() {
    if !is_root() {
        return;
    }
    let pty = nix::pty::openpty(None, None).unwrap();
    let terminal = pty.slave.try_clone().unwrap();
    let mut foreground = ForegroundProcess::start(|command| {
        command.stdin(terminal);
        // SAFETY: both are system calls that may be made between fork and exec.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                nix::errno::Errno::result(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
                Ok(())
            });
        }
    })
    .await;
    for signals in 1..=3 {
        nix::unistd::write(&pty.master, b"\x03").unwrap();
        wait_until(|| foreground.notes().lines().count() >= signals).await;
    }
    assert_eq!(foreground.terminate().await, Some(42));
    assert_eq!(foreground.notes(), "int\n".repeat(3));
}

#[test]
fn foreground_of_another_process() {
    let Ok(script) = std::env::var(FOREGROUND) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let status = runtime.block_on(run(&netdp(), &shell(&script), &files()));
    std::process::exit(status.unwrap().into());
}

async fn wait_until(condition: impl Fn() -> bool) {
    let polled = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, polled)
        .await
        .expect("it doesn't come true");
}

#[test]
fn hidden_commands_are_not_for_people() {
    for arguments in [
        &["__sandbox-init"][..],
        &["__supervise", "x"],
        &["__sandbox-init", "1"],
        &["__sandbox-init", "9"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_netdp"))
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("netdp run"), "{text}");
    }
}
