//! The virtual machine's file system: busybox, netdp, `ip`, `tc`, and the libraries
//! and kernel modules that they need.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use xtask::path;

use super::{Purpose, kernel::Kernel};
use crate::process;

const INIT: &str = include_str!("init.sh");

/// Folders that something is mounted on or written to.
const FOLDERS: [&str; 12] = [
    "bin", "dev", "etc", "modules", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/sbin",
    "var/lib",
];

/// Makes `folder/initramfs.cpio`, and gives its path. What the machine runs it finds
/// in it.
pub fn build(
    netdp: &Path,
    kernel: &Kernel,
    purpose: &Purpose<'_>,
    folder: &Path,
) -> Result<PathBuf> {
    let root = folder.join("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for name in FOLDERS {
        fs::create_dir_all(root.join(name))?;
    }
    fs::write(root.join("init"), INIT)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    // netdp gives a sandbox files of its own in their place.
    for name in ["hosts", "hostname", "resolv.conf"] {
        fs::write(root.join("etc").join(name), "")?;
    }

    let [busybox, ip, tc] =
        ["busybox", "ip", "tc"].map(|name| path::first(name).with_context(|| format!("no {name}")));
    let (busybox, ip, tc) = (busybox?, ip?, tc?);
    copy(&busybox, &root.join("bin/busybox"))?;
    // Tests name it by its path, as scripts do.
    symlink("/bin/busybox", root.join("usr/bin/env"))?;
    copy(&ip, &root.join("usr/sbin/ip"))?;
    copy(&tc, &root.join("usr/sbin/tc"))?;
    copy_stripped(netdp, &root.join("usr/bin/netdp"))?;
    let mut programs = vec![netdp, &ip, &tc];
    if let Purpose::Bench(args) = purpose {
        fs::write(root.join("bench"), args)?;
    }
    if let Purpose::Tests(tests) = purpose {
        for test in &tests.programs {
            copy_stripped(test.executable(), &root.join("tests").join(test.stem()))?;
            programs.push(test.executable());
        }
        for helper in &tests.helpers {
            // Where tests know it by the path that it was built at.
            copy_stripped(helper, &root.join(helper.strip_prefix("/")?))?;
            programs.push(helper);
        }
        fs::write(root.join("tests/list"), &tests.list)?;
        fs::write(root.join("tests/options"), &tests.options)?;
    }
    for library in libraries(&programs)? {
        copy(&library, &root.join(library.strip_prefix("/")?))?;
    }
    copy_modules(kernel, &root.join("modules"))?;
    pack(&root, &folder.join("initramfs.cpio"))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// Without what a debugger needs, which is most of a development build.
fn copy_stripped(from: &Path, to: &Path) -> Result<()> {
    copy(from, to)?;
    process::run(Command::new("strip").arg("--strip-debug").arg(to))
}

/// What the programs are linked with, as `ldd` shows it, the loader included.
fn libraries(programs: &[&Path]) -> Result<BTreeSet<PathBuf>> {
    let shown = process::output(Command::new("ldd").args(programs))?;
    if let Some(line) = shown.lines().find(|line| line.contains("not found")) {
        bail!("a library is missing: {}", line.trim());
    }
    Ok(shown
        .split_whitespace()
        .filter(|word| word.starts_with('/') && !word.ends_with(':'))
        .map(PathBuf::from)
        .collect())
}

/// Unpacked, numbered, and listed in `order`.
fn copy_modules(kernel: &Kernel, folder: &Path) -> Result<()> {
    let mut order = String::new();
    for (number, path) in kernel.modules()?.iter().enumerate() {
        let name = format!("{number:02}.ko");
        let target = folder.join(&name);
        if path.extension().is_some_and(|it| it == "xz") {
            let mut xz = Command::new("xz");
            xz.arg("-dc").arg(path).stdout(File::create(&target)?);
            process::run(&mut xz)?;
        } else {
            copy(path, &target)?;
        }
        order.push_str(&name);
        order.push('\n');
    }
    fs::write(folder.join("order"), order)?;
    Ok(())
}

fn pack(root: &Path, archive: &Path) -> Result<PathBuf> {
    let mut find = Command::new("find")
        .arg(".")
        .current_dir(root)
        .stdout(Stdio::piped())
        .spawn()
        .context("start find")?;
    let names = find.stdout.take().context("find's output is not piped")?;
    let mut cpio = Command::new("cpio");
    cpio.args(["--quiet", "-o", "-H", "newc", "-R", "0:0"])
        .current_dir(root)
        .stdin(names)
        .stdout(File::create(archive)?);
    process::run(&mut cpio)?;
    find.wait()?;
    Ok(archive.to_owned())
}
