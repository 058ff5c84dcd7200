//! How `netdp bench` ends: refused, interrupted, killed, or with nowhere to write
//! to; and that nothing of it is left.

mod bench_world;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bench_world::Bench;
use netdp_tests::netdp_binary;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// One that measures by now, and what it goes on to say.
fn under_way(bench: &Bench, words: &str) -> (Child, BufReader<ChildStderr>) {
    let mut command = bench.command(words);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("published") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "it ended by itself");
    }
    (child, said)
}

/// Whether a process runs that was told of its folder, as a daemon is.
fn is_running(bench: &Bench) -> bool {
    let folder = bench.folder.path().as_os_str().as_bytes();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut lines = processes.filter_map(|it| fs::read(it.path().join("cmdline")).ok());
    lines.any(|line| line.windows(folder.len()).any(|part| part == folder))
}

#[test]
fn a_client_says_at_once_that_nobody_answers() {
    // Nobody listens at the ports of IANA's tcpmux and what follows.
    for workload in ["", "--workload udp-rr,rr"] {
        let mut command = Command::new(netdp_binary());
        command.args(["bench", "client", "127.0.0.1:1", "--milliseconds", "40"]);
        command.args(workload.split_whitespace());
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("nobody answers: "), "{text}");
        assert!(text.contains("refused"), "{text}");
        assert_eq!(text.matches("measuring ").count(), 1, "{text}");
    }
}

#[test]
fn an_interrupt_ends_it_with_nothing_left() {
    let Some(bench) = Bench::new() else { return };
    let words = "--mode host --workload rr --rounds 100 --milliseconds 1000";
    let (mut child, mut said) = under_way(&bench, words);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 2), "{rest}");
    assert!(rest.contains("removed"), "{rest}");
    bench.nothing_is_left();
}

#[test]
fn what_a_killed_one_leaves_is_removed_by_the_next() {
    let Some(bench) = Bench::new() else { return };
    let words = "--mode netdp --workload rr --rounds 100 --milliseconds 1000";
    let (mut child, _said) = under_way(&bench, words);
    assert!(is_running(&bench));
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while is_running(&bench) {
        assert!(Instant::now() < deadline, "its daemon goes on");
        thread::sleep(Duration::from_millis(20));
    }
    assert!(fs::read_dir(bench.folder.path()).unwrap().next().is_some());

    let words = "--scenario published --mode host --workload rr --rounds 1 --milliseconds 60";
    let output = bench.run(words);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("removed what was left in"), "{text}");
    bench.nothing_is_left();
}

#[test]
fn a_report_that_can_not_be_written_is_refused_before_anything_is_measured() {
    let mut command = Command::new(netdp_binary());
    command.args(["bench", "--quick", "--report", "/nonexistent/report.html"]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("/nonexistent/report.html"), "{text}");
    assert!(!text.contains("making"), "{text}");
}

const SHORT: &str = "--scenario local --mode host --workload rr --rounds 1 --milliseconds 20";

#[test]
fn a_full_standard_output_is_told_and_takes_no_report_along() {
    let Some(bench) = Bench::new() else { return };
    let page = bench.folder.path().join("report.html");
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = bench.command(SHORT);
    let output = command.arg("--report").arg(&page).stdout(full).output();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("cannot write to standard output"), "{text}");
    assert!(fs::read_to_string(&page).unwrap().contains("</html>"));
}

#[test]
fn a_report_that_finds_no_room_is_told_and_takes_no_table_along() {
    let Some(bench) = Bench::new() else { return };
    let mut command = bench.command(SHORT);
    let output = command.args(["--report", "/dev/full"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("/dev/full"), "{text}");
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("TCP RR"), "{table}");
}

#[test]
fn wrong_usage_is_refused() {
    for (words, said) in [
        ("--scenario nowhere", "published"),
        ("--mode podman", "docker-nft"),
        ("--rounds 0", "1..=100"),
        ("client 192.0.2.1", "HOST:PORT"),
        ("control --endpoints 0", "1..="),
    ] {
        let output = Command::new(netdp_binary())
            .arg("bench")
            .args(words.split_whitespace())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words}: {text}");
        assert!(text.contains(said), "{words}: {text}");
    }
}
