//! Running the tests of all crates, and their sum.

mod sum;

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{BufRead, BufReader, Write},
    num::NonZero,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, bail};
use sum::Sum;
use xtask::workspace::Workspace;

use crate::{compile, engines, privilege, process, tools};

/// The filter that means the tests with real engines.
const ENGINES: &str = "engines";
/// By this variable they find the engines.
const ENGINES_FOLDER: &str = "NETDP_ENGINES";

/// Builds netdp for the integration tests to start (they find it by
/// `NETDP_BIN`), and runs every test that `filter` admits. All is built with
/// one profile, that of development: nothing here is measured, and a second
/// build of everything would take longer than the tests.
///
/// # Errors
///
/// When a test failed, when one can't be built, and when none was run: a
/// filter that is misspelt must not look like success.
pub fn run(
    workspace: &Workspace,
    filter: Option<&str>,
    long: bool,
    args: &[OsString],
) -> Result<()> {
    tools::provide();
    let netdp = compile::netdp(workspace, false)?;
    let with_engines = filter == Some(ENGINES);
    let engines = with_engines
        .then(|| engines::provide(workspace))
        .transpose()?;

    let mut tests = process::cargo();
    tests.current_dir(&workspace.root).env("NETDP_BIN", &netdp);
    if let Some(engines) = &engines {
        tests.env(ENGINES_FOLDER, engines);
    }
    if let Some(config) = runner(netdp.as_os_str(), engines.as_deref())? {
        tests.args(["--config", &config]);
    }
    tests.args(["test", "--locked", "--no-fail-fast"]);
    if with_engines {
        tests.args(["--package", "netdp-tests", "--test", "engine_*"]);
    } else {
        tests.args(filter);
    }
    tests
        // libtest hides what a test that passes says, and with it why one skips.
        .args(["--", "--show-output"])
        .args((long || with_engines).then_some("--include-ignored"))
        .args((!names_threads(args)).then(threads))
        .args(args);
    let (ended_well, sum) = read(&mut tests)?;

    println!("{sum}");
    if !ended_well {
        bail!("tests failed, or one of the test programs could not be built or ended early");
    }
    // A machine that can't have engines has said so, test by test.
    if sum.ran() == 0 && !(with_engines && sum.skipped() > 0) {
        match filter {
            Some(filter) => bail!("no test ran: no name holds {filter:?}"),
            None => bail!("no test ran"),
        }
    }
    Ok(())
}

/// Whether the arguments or the environment say how many tests run at once.
fn names_threads(args: &[OsString]) -> bool {
    args.iter()
        .any(|arg| arg.to_string_lossy().starts_with("--test-threads"))
        || env::var_os("RUST_TEST_THREADS").is_some()
}

/// Twice as many as libtest would run: half of the time tests wait, for time
/// limits, for silence, for programs to start.
fn threads() -> String {
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    format!("--test-threads={}", 2 * cpus)
}

/// Passes the tests' output on as it comes, and counts.
fn read(tests: &mut Command) -> Result<(bool, Sum)> {
    let mut child = tests
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start `{}`", process::words(tests)))?;
    let output = child
        .stdout
        .take()
        .context("the tests' output is not piped")?;
    let mut sum = Sum::default();
    let mut terminal = std::io::stdout();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("read the tests' output")?;
        if let Some(shown) = sum.read(&String::from_utf8_lossy(&line)) {
            writeln!(terminal, "{shown}")?;
        }
    }
    Ok((child.wait()?.success(), sum))
}

/// cargo's configuration that makes test programs run as root. Only they do:
/// what cargo compiles stays the user's.
fn runner(netdp: &OsStr, engines: Option<&Path>) -> Result<Option<String>> {
    let backtrace = env::var_os("RUST_BACKTRACE").unwrap_or_default();
    // What docs/testing.md lets one set.
    let settings = ["NETDP_SEED", "NETDP_PACKETS"].map(|name| (name, env::var_os(name)));
    let mut keep = vec![
        ("NETDP_BIN", netdp),
        ("RUST_BACKTRACE", backtrace.as_os_str()),
    ];
    keep.extend(engines.map(|folder| (ENGINES_FOLDER, folder.as_os_str())));
    for (name, value) in &settings {
        keep.extend(value.as_deref().map(|value| (*name, value)));
    }
    let words = privilege::prefix(&keep)?;
    if words.is_empty() {
        return Ok(None);
    }
    // Debug's quotes and escapes are those of a TOML string for any path that
    // is text.
    let words: Vec<String> = words
        .iter()
        .map(|word| word.to_str().map(|word| format!("{word:?}")))
        .collect::<Option<_>>()
        .context("the path of the checkout is not UTF-8")?;
    Ok(Some(format!(
        "target.'cfg(all())'.runner = [{}]",
        words.join(", ")
    )))
}
