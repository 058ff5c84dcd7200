//! `netdp --version`.

use std::process::Command;

/// What a command says, where it can be had.
fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

#[test]
fn the_version_has_the_commit_that_it_is_made_of() {
    let version = said(Command::new(env!("CARGO_BIN_EXE_netdp")).arg("--version"));
    let version = version.expect("run netdp");
    let plain = format!("netdp {}", env!("CARGO_PKG_VERSION"));
    let head =
        said(Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "HEAD"]));
    let Some(head) = head else {
        println!("skipped: git doesn't know this folder");
        return assert!(version.starts_with(&plain), "{version}");
    };
    let commit = version
        .strip_prefix(&plain)
        .and_then(|rest| rest.strip_prefix(" ("))
        .and_then(|rest| rest.strip_suffix(')'));
    let commit = commit.unwrap_or_else(|| panic!("{version}"));
    let commit = commit.strip_suffix("-dirty").unwrap_or(commit);
    assert!(
        commit.len() >= 7 && head.starts_with(commit),
        "{version}, {head}"
    );
}
