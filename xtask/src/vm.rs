//! netdp on other kernels than this machine's, in virtual machines.

mod initramfs;
mod kernel;
mod machine;
mod report;
mod suite;

use std::{
    env::consts::ARCH,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::ValueEnum;
use kernel::Kernel;
use report::Report;
use suite::Tests;
pub use suite::Wanted;
use xtask::{path, workspace::Workspace};

use crate::{apt, compile};

/// Kernels that Debian packages; docs/kernels.md says why these.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Series {
    #[value(name = "6.1")]
    Linux6_1,
    #[value(name = "6.12")]
    Linux6_12,
    All,
}

impl Series {
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Linux6_1 => &["6.1"],
            Self::Linux6_12 => &["6.12"],
            Self::All => &["6.1", "6.12"],
        }
    }
}

/// Programs, and Debian's packages for them.
const TOOLS: [(&str, &str); 7] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("modprobe", "kmod"),
    ("cpio", "cpio"),
    ("xz", "xz-utils"),
    ("ip", "iproute2"),
    ("strip", "binutils"),
];

/// From power-on to power-off, without tests; a minute or so where nothing else
/// runs, ten where much does.
const LIMIT: Duration = Duration::from_secs(1200);

/// The same with `netdp bench`, the whole of which takes some hours there.
const BENCH_LIMIT: Duration = Duration::from_secs(4 * 3600);

/// What a machine is for.
enum Purpose<'a> {
    /// netdp's own checks.
    Checks,
    /// Those and tests.
    Tests(&'a Tests),
    /// `netdp bench` with these arguments, and nothing else.
    Bench(&'a str),
}

/// Runs `netdp`, or one built for it, on each kernel of `series`, and tests on
/// those that have what their networks ask for. Skips, and says why, where there is no such
/// kernel or no machine to run it in.
///
/// # Errors
/// When a check failed, or a machine could not be made or did not get to its
/// end.
pub fn run(
    workspace: &Workspace,
    series: Series,
    netdp: Option<PathBuf>,
    wanted: &Wanted,
) -> Result<()> {
    on_each(workspace, series, netdp, |kernel, netdp, folder| {
        let has_all = !wanted.needs_netkit() || kernel.has("CONFIG_NETKIT")?;
        let tests = has_all.then(|| wanted.build(workspace));
        try_on(kernel, netdp, tests.transpose()?, folder)
    })
}

/// Runs `netdp bench` with these arguments on each kernel of `series`, and prints what
/// it prints. Skips as [`run`].
///
/// # Errors
/// When it failed, or a machine could not be made or did not get to its end.
pub fn bench(
    workspace: &Workspace,
    series: Series,
    netdp: Option<PathBuf>,
    args: &str,
) -> Result<()> {
    on_each(workspace, series, netdp, |kernel, netdp, folder| {
        let initramfs = initramfs::build(netdp, kernel, &Purpose::Bench(args), folder)?;
        eprintln!("xtask: booting {}", kernel.release);
        let outcome = machine::run(kernel, &initramfs, folder, BENCH_LIMIT)?;
        let (output, passed) = report::bench(&outcome.report);
        println!("{output}");
        if let Some(why) = &outcome.cut_short {
            println!("the machine did not end by itself: {why:#}");
        }
        if !passed {
            println!("see {}", outcome.console.display());
        }
        Ok(passed && outcome.cut_short.is_none())
    })
}

/// Does something with netdp, or one built for it, on each kernel of `series`, of
/// which it says whether all went well.
fn on_each(
    workspace: &Workspace,
    series: Series,
    netdp: Option<PathBuf>,
    work: impl Fn(&Kernel, &Path, &Path) -> Result<bool>,
) -> Result<()> {
    if let Err(why) = provide() {
        println!("skipped: {why:#}");
        return Ok(());
    }
    let netdp = match netdp {
        Some(netdp) => netdp,
        None => compile::netdp(workspace, true)?,
    };
    let mut failed = Vec::new();
    for name in series.names() {
        let folder = workspace.target.join("vm").join(name);
        fs::create_dir_all(&folder)?;
        match Kernel::newest(name, &folder) {
            Ok(kernel) if work(&kernel, &netdp, &folder)? => {}
            Ok(_) => failed.push(*name),
            Err(why) => println!("skipped Linux {name}: {why:#}"),
        }
    }
    if !failed.is_empty() {
        bail!("netdp does not do on Linux {}", failed.join(" and "));
    }
    Ok(())
}

/// Whether all went well.
fn try_on(kernel: &Kernel, netdp: &Path, tests: Option<Tests>, folder: &Path) -> Result<bool> {
    let purpose = tests.as_ref().map_or(Purpose::Checks, Purpose::Tests);
    let initramfs = initramfs::build(netdp, kernel, &purpose, folder)?;
    eprintln!("xtask: booting {}", kernel.release);
    let began = Instant::now();
    let limit = LIMIT + tests.as_ref().map_or(Duration::ZERO, |it| it.limit);
    let outcome = machine::run(kernel, &initramfs, folder, limit)?;
    let options = tests.as_ref().map(|it| it.options.as_str());
    let report = Report::read(&outcome.report, options)?;
    let passed = report.passed() && outcome.cut_short.is_none();
    println!(
        "Linux {}: {} in {} s\n{report}",
        kernel.release,
        if passed { "passed" } else { "FAILED" },
        began.elapsed().as_secs()
    );
    if let Some(why) = outcome.cut_short {
        println!("  the machine did not end by itself: {why:#}");
    }
    if !passed {
        println!("  see {}", outcome.console.display());
    }
    Ok(passed)
}

/// Installs what is missing, where that is allowed.
fn provide() -> Result<()> {
    if ARCH != "x86_64" {
        bail!("the virtual machines are for x86_64, and this is {ARCH}");
    }
    if !apt::is_present() {
        bail!("the kernels are Debian's packages, and there is no apt-get here");
    }
    let missing: Vec<&str> = TOOLS
        .iter()
        .filter(|(program, _)| path::first(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !apt::may_install() {
        bail!(
            "missing {}; to have them: {}",
            missing.join(", "),
            apt::advice(&missing)
        );
    }
    apt::install(&missing)
}
