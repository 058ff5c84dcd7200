//! Container engines for the tests that run real ones.
//!
//! They are unpacked from Debian's packages into `target/engines`, each with
//! all that it needs down to the C library: nothing is installed, no service
//! starts, and a machine of another release runs them as well.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use xtask::{path, workspace::Workspace};

use crate::{apt, privilege, process};

const UPDATE_LIMIT: Duration = Duration::from_secs(120);
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(300);
/// After one failure that took so long, the mirror isn't asked again.
const UNREACHABLE: Duration = Duration::from_secs(15);
const UNPACK_LIMIT: Duration = Duration::from_secs(60);

/// The keys that sign Debian's suites, where the machine has them apart.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Says how a folder was made: it is made anew when this changes.
const RECIPE: u32 = 1;

/// A folder of packages with all that they depend on.
struct Root {
    name: &'static str,
    /// The last is where packages are from that several have.
    suites: &'static [&'static str],
    packages: &'static [&'static str],
    /// With what a container engine calls, and a shell.
    is_engine: bool,
}

/// What every engine's tests call.
const CALLED: [&str; 7] = [
    "runc",
    "mount",
    "util-linux",
    "dash",
    "coreutils",
    "tar",
    "busybox-static",
];

/// What the tests ask for by these names.
const ROOTS: [Root; 7] = [
    // Docker 20.10, Podman 4.3 and containerd 1.6.
    Root {
        name: "debian-12",
        suites: &["bookworm"],
        packages: &[
            "docker.io",
            "docker-compose",
            "podman",
            "containernetworking-plugins",
            "containerd",
            "iptables",
            // For what `netdp bench` makes.
            "iproute2",
        ],
        is_engine: true,
    },
    // Podman 4.3 with crun, as most distributions have it.
    Root {
        name: "debian-12-crun",
        suites: &["bookworm"],
        packages: &["podman", "containernetworking-plugins", "crun"],
        is_engine: true,
    },
    // Podman 5 with netavark.
    Root {
        name: "debian-13",
        suites: &["trixie"],
        packages: &["podman", "netavark", "aardvark-dns"],
        is_engine: true,
    },
    // The newest Docker and containerd that there are packages of.
    Root {
        name: "newest",
        suites: &["sid"],
        packages: &[
            "docker.io",
            "docker-cli",
            "docker-compose",
            "containerd",
            "iptables",
            // For what `netdp bench` makes.
            "iproute2",
        ],
        is_engine: true,
    },
    // The same of Podman, with netavark 2.
    Root {
        name: "newest-podman",
        suites: &["sid", "experimental"],
        packages: &["podman", "netavark", "aardvark-dns"],
        is_engine: true,
    },
    // Becomes an image: what an application is made of.
    Root {
        name: "application",
        suites: &["bookworm"],
        packages: &[
            "nginx-light",
            "redis-server",
            "redis-tools",
            "busybox-static",
        ],
        is_engine: false,
    },
    // Servers for direct ports: several processes, threads and sockets each,
    // by C, C++, Go and Python.
    Root {
        name: "servers",
        suites: &["bookworm"],
        packages: &[
            "nginx-light",
            "redis-server",
            "redis-tools",
            "haproxy",
            "memcached",
            "postgresql-15",
            "etcd-server",
            "python3-minimal",
            "dnsmasq-base",
            "unbound",
        ],
        is_engine: true,
    },
];

/// Unpacks what is not there yet and returns the folder that has it. What
/// can't be had leaves its reason in a file `NAME.missing`, which the tests
/// that need it print as they skip.
///
/// # Errors
/// When the folder can't be written.
pub fn provide(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.target.join("engines");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let mut mirror = None;
    for root in &ROOTS {
        let missing = folder.join(format!("{}.missing", root.name));
        if root.is_made(&folder) {
            continue;
        }
        // Asked for only where something has to be fetched, and once.
        let mirror =
            mirror.get_or_insert_with(|| self::mirror().map_err(|error| format!("{error:#}")));
        let began = Instant::now();
        let made = match mirror {
            Ok(it) => root.make(&folder, it).map_err(|error| format!("{error:#}")),
            Err(reason) => Err(reason.clone()),
        };
        if let Err(reason) = &made
            && began.elapsed() > UNREACHABLE
        {
            *mirror = Err(reason.clone());
        }
        match made {
            Ok(()) => {
                let _ = fs::remove_file(&missing);
            }
            Err(reason) => {
                eprintln!("xtask: left out: {root}: {reason}");
                fs::write(&missing, reason)
                    .with_context(|| format!("write {}", missing.display()))?;
            }
        }
    }
    Ok(folder)
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suites = self.suites.join(" and ");
        write!(f, "{} (Debian {suites})", self.packages[0])
    }
}

impl Root {
    fn packages(&self) -> impl Iterator<Item = &'static str> {
        let called = if self.is_engine { &CALLED[..] } else { &[] };
        self.packages.iter().chain(called).copied()
    }

    fn recipe(&self) -> String {
        let packages: Vec<&str> = self.packages().collect();
        format!(
            "{RECIPE} {} {}\n",
            self.suites.join(" "),
            packages.join(" ")
        )
    }

    fn stamp(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.made", self.name))
    }

    fn is_made(&self, folder: &Path) -> bool {
        fs::read_to_string(self.stamp(folder)).is_ok_and(|text| text == self.recipe())
    }

    fn make(&self, folder: &Path, mirror: &str) -> Result<()> {
        let root = folder.join(self.name);
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))?;
        }
        let apt = Apt::new(&folder.join("apt").join(self.name), self.suites, mirror)?;
        eprintln!("xtask: fetching {self} with what it needs");
        let packages = apt.download(self.packages())?;
        eprintln!(
            "xtask: unpacking {} packages into {}",
            packages.len(),
            root.display()
        );
        for name in ["bin", "lib", "lib64", "sbin"] {
            let real = root.join("usr").join(name);
            fs::create_dir_all(&real).with_context(|| format!("make {}", real.display()))?;
            std::os::unix::fs::symlink(format!("usr/{name}"), root.join(name))?;
        }
        for package in &packages {
            unpack(package, &root)?;
        }
        finish(&root)?;
        fs::write(self.stamp(folder), self.recipe())?;
        // What is unpacked isn't needed as a package any more.
        let _ = fs::remove_dir_all(apt.folder);
        Ok(())
    }
}

/// The mirror of Debian that this machine's apt is configured to use.
fn mirror() -> Result<String> {
    if !apt::is_present() || path::first("dpkg-deb").is_none() {
        bail!("there is no apt here to fetch Debian's packages with");
    }
    if let Some(mirror) = configured_mirror()? {
        return Ok(mirror);
    }
    // A fresh container has no lists, and without them origins are not known.
    if privilege::is_root() {
        apt::update()?;
    }
    configured_mirror()?.context("this machine's apt has no source of Debian's main packages")
}

fn configured_mirror() -> Result<Option<String>> {
    let format = "$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)";
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", format, "Created-By: Packages"]);
    Ok(main_mirror(&process::output(&mut command)?).map(str::to_owned))
}

fn main_mirror(targets: &str) -> Option<&str> {
    targets
        .lines()
        .find_map(|line| line.strip_prefix("Debian|Debian|main|"))
}

/// apt with lists and packages of its own, and no package installed: so each
/// dependency is fetched.
struct Apt {
    folder: PathBuf,
    suite: &'static str,
}

impl Apt {
    fn new(folder: &Path, suites: &'static [&'static str], mirror: &str) -> Result<Self> {
        for name in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(name))?;
        }
        fs::write(folder.join("status"), "")?;
        let key = match Path::new(KEYRING).exists() {
            true => format!("[signed-by={KEYRING}] "),
            false => String::new(),
        };
        let source = |suite| format!("deb {key}{mirror} {suite} main\n");
        let sources: String = suites.iter().map(source).collect();
        fs::write(folder.join("sources.list"), sources)?;
        Ok(Self {
            folder: folder.to_owned(),
            suite: suites.last().context("a root without a suite")?,
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new("apt-get");
        command.arg("-qq").env("DEBIAN_FRONTEND", "noninteractive");
        let folder = self.folder.display();
        for option in [
            format!("Dir::State={folder}/state"),
            format!("Dir::State::status={folder}/status"),
            format!("Dir::Cache={folder}/cache"),
            format!("Dir::Etc::sourcelist={folder}/sources.list"),
            "Dir::Etc::sourceparts=/dev/null".into(),
            // The folder may be closed to apt's own user.
            "APT::Sandbox::User=root".into(),
            "Acquire::Languages=none".into(),
            // A mirror that can't be reached is told soon, and as an error.
            "Acquire::Retries=0".into(),
            "Acquire::http::Timeout=20".into(),
            "Acquire::https::Timeout=20".into(),
            "APT::Update::Error-Mode=any".into(),
        ] {
            command.args(["-o", &option]);
        }
        command.stdout(Stdio::null());
        command
    }

    fn download(&self, packages: impl Iterator<Item = &'static str>) -> Result<Vec<PathBuf>> {
        run(self.command().arg("update"), UPDATE_LIMIT).context("apt-get update")?;
        let words = [
            "install",
            "-t",
            self.suite,
            "-y",
            "--no-install-recommends",
            "--download-only",
        ];
        run(self.command().args(words).args(packages), DOWNLOAD_LIMIT)
            .context("apt-get install --download-only")?;
        let archives = self.folder.join("cache/archives");
        let mut found: Vec<PathBuf> = fs::read_dir(&archives)?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|it| it == "deb"))
            .collect();
        if found.is_empty() {
            bail!("apt left no package in {}", archives.display());
        }
        found.sort();
        Ok(found)
    }
}

/// Without the words of the command in what it says: they are many.
fn run(command: &mut Command, limit: Duration) -> Result<()> {
    let mut child = command.stdin(Stdio::null()).spawn()?;
    process::wait_within(&mut child, limit)
}

/// As `dpkg -x`, but into `usr` where a package still has files in `/bin` and
/// `/lib`, which are links, and without what nobody reads here.
fn unpack(package: &Path, root: &Path) -> Result<()> {
    let mut open = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("start dpkg-deb")?;
    let mut tar = Command::new("tar");
    tar.args(["-x", "--keep-directory-symlink", "--no-same-owner", "-C"])
        .arg(root)
        .args(["doc", "man", "locale", "info"].map(|it| format!("--exclude=./usr/share/{it}/*")));
    // Not by `run_within`, which gives no standard input.
    let output = open
        .stdout
        .take()
        .context("dpkg-deb's output is not piped")?;
    let mut tar = tar.stdin(output).spawn().context("start tar")?;
    let unpacked = process::wait_within(&mut tar, UNPACK_LIMIT);
    let _ = open.kill();
    open.wait()?;
    unpacked.with_context(|| format!("unpack {}", package.display()))
}

/// What the packages' own scripts would have done, as far as engines need it.
fn finish(root: &Path) -> Result<()> {
    for name in [
        "iptables",
        "iptables-save",
        "iptables-restore",
        "ip6tables",
        "ip6tables-save",
        "ip6tables-restore",
    ] {
        let link = root.join("usr/sbin").join(name);
        if root.join("usr/sbin/xtables-nft-multi").exists() && !link.exists() {
            std::os::unix::fs::symlink("xtables-nft-multi", link)?;
        }
    }
    fs::create_dir_all(root.join("etc"))?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\ndocker:x:999:\n")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_machines_own() {
        let targets = "\
Example|Example|main|https://packages.example/apt/
Debian|Debian-Security|main|http://mirror.example/debian-security/
Debian|Debian|contrib|http://other.example/debian/
Debian|Debian|main|http://mirror.example/debian/
";
        assert_eq!(main_mirror(targets), Some("http://mirror.example/debian/"));
        assert_eq!(
            main_mirror("Ubuntu|Ubuntu|main|http://mirror.example/\n"),
            None
        );
    }

    #[test]
    fn a_folder_is_made_anew_when_its_packages_change() {
        let folder = std::env::temp_dir().join(format!("netdp-engines-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let [first, second, ..] = &ROOTS;
        assert!(!first.is_made(&folder));
        fs::write(first.stamp(&folder), first.recipe()).unwrap();
        assert!(first.is_made(&folder));
        fs::write(second.stamp(&folder), first.recipe()).unwrap();
        assert!(!second.is_made(&folder));
        fs::remove_dir_all(&folder).unwrap();
    }
}
