//! Debian's cloud kernels: small, with BTF, and with the modules of a server.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{apt, process};

const DOWNLOAD_LIMIT: Duration = Duration::from_secs(300);
const UNPACK_LIMIT: Duration = Duration::from_secs(120);

/// What netdp and the demo make devices and filters of, and what tells of sockets,
/// for direct ports; and uplinks of other kinds, which tests make. The modules that
/// these need come with them.
const MODULES: [&str; 12] = [
    "veth",
    "bridge",
    "sch_ingress",
    "cls_bpf",
    "act_bpf",
    "tcp_diag",
    "udp_diag",
    "vxlan",
    "8021q",
    "bonding",
    "macvlan",
    "ipvlan",
];

/// A kernel, unpacked.
pub struct Kernel {
    /// Such as `6.12.117+deb12-cloud-amd64`.
    pub release: String,
    /// What the package holds, as it would lie below `/`.
    root: PathBuf,
}

impl Kernel {
    /// The newest of a series, such as `6.12`, downloaded into `folder` unless
    /// it lies there.
    ///
    /// # Errors
    /// When apt knows none, or can't get it.
    pub fn newest(series: &str, folder: &Path) -> Result<Self> {
        let package = match newest_package(series)? {
            Some(package) => package,
            None if apt::may_install() => {
                apt::update()?;
                newest_package(series)?
                    .with_context(|| format!("apt has no cloud kernel of Linux {series}"))?
            }
            None => bail!("apt shows no cloud kernel of Linux {series}; try `apt-get update`"),
        };
        let root = folder.join(&package);
        if !root.exists() {
            unpack(&package, folder, &root)?;
        }
        Ok(Self {
            release: release(&package).to_owned(),
            root,
        })
    }

    pub fn image(&self) -> PathBuf {
        self.root.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// Whether an option of the kernel's configuration is built in, such as
    /// `CONFIG_NETKIT`.
    pub fn has(&self, option: &str) -> Result<bool> {
        let path = self.root.join(format!("boot/config-{}", self.release));
        let config =
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(config.lines().any(|line| line == format!("{option}=y")))
    }

    /// The modules' files, each after those it needs.
    pub fn modules(&self) -> Result<Vec<PathBuf>> {
        let mut files: Vec<PathBuf> = Vec::new();
        for module in MODULES {
            let output = process::output(
                Command::new("/sbin/modprobe")
                    .arg("--dirname")
                    .arg(&self.root)
                    // Options of this machine's would stand behind the path.
                    .args(["--config", "/dev/null"])
                    .args(["--set-version", &self.release, "--show-depends", module]),
            )?;
            // `insmod PATH` or, built into the kernel, `builtin NAME`.
            for path in output
                .lines()
                .filter_map(|line| line.trim().strip_prefix("insmod "))
            {
                let path = PathBuf::from(path);
                if !files.contains(&path) {
                    files.push(path);
                }
            }
        }
        Ok(files)
    }
}

fn newest_package(series: &str) -> Result<Option<String>> {
    let series = series.replace('.', r"\.");
    let names = process::output(Command::new("apt-cache").args([
        "--names-only",
        "search",
        &format!(r"^linux-image-{series}\.[^-]*(-[0-9]+)?-cloud-amd64-unsigned$"),
    ]))?;
    Ok(names
        .lines()
        .filter_map(|line| line.split(' ').next())
        .max_by_key(|name| numbers(name))
        .map(str::to_owned))
}

/// The numbers in a package's name, by which versions are in order.
fn numbers(name: &str) -> Vec<u32> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

fn release(package: &str) -> &str {
    package
        .trim_start_matches("linux-image-")
        .trim_end_matches("-unsigned")
}

/// Whole or not at all: an unpacked folder is renamed when its modules are
/// indexed.
fn unpack(package: &str, folder: &Path, root: &Path) -> Result<()> {
    eprintln!("xtask: downloading {package}");
    let download = folder.join("download");
    if download.exists() {
        fs::remove_dir_all(&download)?;
    }
    fs::create_dir_all(&download)?;
    process::run_within(
        Command::new("apt-get")
            .current_dir(&download)
            // apt's own user may not write here, which it says in a warning.
            .args(["-qq", "-o", "APT::Sandbox::User=", "download", package]),
        DOWNLOAD_LIMIT,
    )?;
    let archive = fs::read_dir(&download)?
        .next()
        .with_context(|| format!("apt-get download left no file for {package}"))??
        .path();
    let content = download.join("content");
    process::run_within(
        Command::new("dpkg").arg("-x").arg(&archive).arg(&content),
        UNPACK_LIMIT,
    )?;
    process::run_within(
        Command::new("/sbin/depmod")
            .arg("--basedir")
            .arg(&content)
            .arg(release(package)),
        UNPACK_LIMIT,
    )?;
    fs::rename(&content, root)?;
    fs::remove_dir_all(&download)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let names = [
            "linux-image-6.12.99+deb12-cloud-amd64-unsigned",
            "linux-image-6.12.117+deb12-cloud-amd64-unsigned",
            "linux-image-6.12.107+deb12-cloud-amd64-unsigned",
        ];
        let newest = names.into_iter().max_by_key(|name| numbers(name)).unwrap();
        assert_eq!(release(newest), "6.12.117+deb12-cloud-amd64");
    }
}
