//! Running the tests of all crates, and their sum.

pub mod programs;
pub mod sum;

use std::{
    env,
    ffi::{OsStr, OsString},
    num::NonZero,
    path::Path,
    thread,
};

use anyhow::{Result, bail};
use programs::How;
use sum::Sum;
use xtask::workspace::Workspace;

use crate::{compile, engines, privilege, process, tools};

/// The filter that means the tests with real engines.
const ENGINES: &str = "engines";
/// By this variable they find the engines.
const ENGINES_FOLDER: &str = "NETDP_ENGINES";

/// By this one every daemon that they start.
const NETWORK_OPTS: &str = "NETDP_DEFAULT_NETWORK_OPTS";

/// Which tests run, and how.
#[derive(Clone, Copy)]
pub struct Chosen<'a> {
    pub filter: Option<&'a str>,
    /// Also those that take long.
    pub long: bool,
    /// Options of networks that say nothing of them themselves.
    pub network_opts: &'a [String],
}

/// Builds netdp for the integration tests to start (they find it by
/// `NETDP_BIN`), and runs every test that `filter` admits. All is built with
/// one profile, that of development: nothing here is measured, and a second
/// build of everything would take longer than the tests.
///
/// # Errors
///
/// When a test failed, when one can't be built, and when none was run: a
/// filter that is misspelt must not look like success.
pub fn run(workspace: &Workspace, chosen: &Chosen<'_>, args: &[OsString]) -> Result<()> {
    let Chosen { filter, long, .. } = *chosen;
    tools::provide();
    let netdp = compile::netdp(workspace, false)?;
    let with_engines = filter == Some(ENGINES);
    let engines = with_engines
        .then(|| engines::provide(workspace))
        .transpose()?;

    let mut environment = environment(netdp.as_os_str(), engines.as_deref());
    if !chosen.network_opts.is_empty() {
        environment.push((NETWORK_OPTS, chosen.network_opts.join(",").into()));
    }
    let kept: Vec<(&str, &OsStr)> = environment
        .iter()
        .map(|(name, value)| (*name, value.as_os_str()))
        .collect();
    // Only they run as root: what cargo compiles stays the user's.
    let prefix = privilege::prefix(&kept)?;

    let of_engines = ["--package", "netdp-tests", "--test", "engine_*"];
    let wanted: &[&str] = if with_engines { &of_engines } else { &[] };
    let programs = programs::build(&workspace.root, wanted)?.tests;
    let filter = filter.filter(|_| !with_engines);
    // What is measured is measured alone, and an engine's tests are few and large.
    let alone = long || with_engines || names_threads(args);
    let mut given: Vec<OsString> = filter.map(OsString::from).into_iter().collect();
    // libtest hides what a test that passes says, and with it why one skips.
    given.push("--show-output".into());
    given.extend((long || with_engines).then(|| "--include-ignored".into()));
    let threads = match (with_engines, alone) {
        // Each has an engine's own limits of time to keep.
        (true, _) => cpus() + 1,
        // Half of the time they wait, for time limits, for silence, for programs to
        // start. Where there are as many test programs as CPUs, two of each.
        (false, true) => 2 * cpus(),
        (false, false) => 2,
    };
    given.extend((!names_threads(args)).then(|| format!("--test-threads={threads}").into()));
    given.extend_from_slice(args);
    let mut sum = Sum::default();
    let how = How {
        prefix: &prefix,
        args: &given,
        environment: &environment,
        at_once: if alone { 1 } else { cpus() },
    };
    let mut ended = programs::run(programs, &how, &mut sum);
    if !with_engines {
        let mut docs = process::cargo();
        docs.current_dir(&workspace.root)
            .args(["test", "--locked", "--quiet", "--doc"])
            .args(filter);
        ended = ended.and(process::run(&mut docs));
    }

    println!("{sum}");
    ended?;
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

fn cpus() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// What test programs have to see.
fn environment(netdp: &OsStr, engines: Option<&Path>) -> Vec<(&'static str, OsString)> {
    let mut kept = vec![("NETDP_BIN", netdp.to_owned())];
    kept.extend(engines.map(|folder| (ENGINES_FOLDER, folder.into())));
    // What docs/testing.md lets one set.
    for name in [
        "RUST_BACKTRACE",
        "NETDP_SEED",
        "NETDP_PACKETS",
        "NETDP_NETKIT",
    ] {
        kept.extend(env::var_os(name).map(|value| (name, value)));
    }
    kept
}
