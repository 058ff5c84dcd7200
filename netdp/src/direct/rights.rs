//! Who may set up networks, but not enter the host's. By a socket of the host's
//! network such a program could set the host's interfaces (`ioctl`), whichever
//! program of its sandbox it has the socket from.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::libc;

use super::owners::{self, Owner};
use crate::netns::Namespace;

/// Capabilities by number (linux/capability.h).
pub(super) const NET_BIND_SERVICE: u32 = 10;
const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;

/// What `/proc` says of a thread in `status`.
#[derive(Debug)]
pub(super) struct Status(String);

impl Status {
    /// `folder` is the thread's in `/proc`.
    pub fn read(folder: &Path) -> io::Result<Self> {
        fs::read_to_string(folder.join("status")).map(Self)
    }

    /// The words behind a name and its colon.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.0.lines();
        lines
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    }

    /// A set of capabilities.
    ///
    /// # Errors
    /// When it isn't there.
    pub fn capabilities(&self, name: &str) -> io::Result<u64> {
        let set = self.field(name).map(|hex| u64::from_str_radix(hex, 16));
        set.and_then(Result::ok)
            .ok_or_else(|| io::Error::other(format!("a thread has no {name} in its status")))
    }

    /// Whether it has the one right and not the other, or a program that it executes
    /// can have no more than the one.
    fn rules_networks_alone(&self) -> io::Result<bool> {
        let is_half = |set: u64| set & 1 << NET_ADMIN != 0 && set & 1 << SYS_ADMIN == 0;
        Ok(is_half(self.capabilities("CapPrm:")?) || is_half(self.capabilities("CapBnd:")?))
    }
}

/// Looks through all programs of a network for such ones.
#[derive(Debug)]
pub(super) struct Rights {
    /// Whose capabilities count in the host's network.
    of_host: Vec<Owner>,
    /// When none was found.
    clear: Option<Instant>,
}

/// For so long none is expected where none was: programs bind many sockets at once.
const CLEAR: Duration = Duration::from_secs(1);

impl Rights {
    /// # Errors
    /// When the kernel doesn't tell whose network the host's is.
    pub fn over(host: &Namespace) -> io::Result<Self> {
        Ok(Self {
            of_host: owners::of(host)?,
            clear: None,
        })
    }

    /// Whether a thread in this network, which is always the same, is one.
    ///
    /// # Errors
    /// When `/proc` doesn't tell.
    pub fn are_half(&mut self, netns: u64) -> io::Result<bool> {
        if self.clear.is_some_and(|clear| clear.elapsed() < CLEAR) {
            return Ok(false);
        }
        let found = self.look(netns)?;
        self.clear = (!found).then(Instant::now);
        Ok(found)
    }

    fn look(&self, netns: u64) -> io::Result<bool> {
        for process in numbered(Path::new("/proc"))? {
            for thread in threads_in(&process, netns) {
                let own = inode(&thread, "user");
                let counts = self.of_host.iter().any(|owner| Some(owner.inode) == own);
                if counts && of_living(rules_networks_alone(&thread))? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

fn rules_networks_alone(thread: &Path) -> io::Result<bool> {
    Status::read(thread)?.rules_networks_alone()
}

/// The threads of a process, if they are in this network. Only who may enter
/// others can have one thread elsewhere.
fn threads_in(process: &Path, netns: u64) -> Vec<PathBuf> {
    let threads = || numbered(&process.join("task")).unwrap_or_default();
    let found = match inode(process, "net") {
        // The first thread may have ended before others.
        None => threads().iter().find_map(|it| inode(it, "net")),
        found => found,
    };
    if found == Some(netns) {
        threads()
    } else {
        Vec::new()
    }
}

/// Of the namespace that a thread is in, if it lives.
fn inode(thread: &Path, kind: &str) -> Option<u64> {
    let namespace = fs::metadata(thread.join("ns").join(kind));
    namespace.ok().map(|it| it.ino())
}

/// Folders of `/proc` that are called by a number.
fn numbered(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let is_number = |path: &PathBuf| {
        let name = path.file_name().and_then(|it| it.to_str());
        name.is_some_and(|it| it.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let paths = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    Ok(paths.filter(is_number).collect())
}

/// No of one that has ended meanwhile.
fn of_living(told: io::Result<bool>) -> io::Result<bool> {
    match told {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        told => told,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_right_over_networks_is_too_much() {
        let status = |within: u64, reach: u64| {
            Status(format!(
                "Name:\tweb\nCapPrm:\t{within:016x}\nCapEff:\t0000000000000000\nCapBnd:\t{reach:016x}\n"
            ))
        };
        let is_one = |within, reach| status(within, reach).rules_networks_alone().unwrap();
        let (network, host) = (1 << NET_ADMIN, 1 << SYS_ADMIN);
        assert!(is_one(network, 0) && is_one(0, network) && is_one(!host, !host));
        // What its user lost it doesn't get back, whatever might be had.
        assert!(is_one(network, u64::MAX) && is_one(network, host));
        assert!(!is_one(u64::MAX, 0) && !is_one(0, u64::MAX));
        assert!(!is_one(0, 0) && !is_one(1 << NET_BIND_SERVICE, 0));
        assert!(
            Status("Name:\tweb\n".to_owned())
                .rules_networks_alone()
                .is_err()
        );
    }

    #[test]
    fn threads_are_found_by_their_network() {
        let netns = Namespace::current().unwrap();
        let own = PathBuf::from(format!("/proc/{}", std::process::id()));
        let threads = threads_in(&own, netns.inode());
        let this = nix::unistd::gettid().to_string();
        assert!(threads.iter().any(|it| it.ends_with(&this)), "{threads:?}");
        assert!(threads_in(&own, netns.inode() + 1).is_empty());
        let mut rights = Rights::over(&netns).unwrap();
        rights.are_half(netns.inode()).unwrap();
        // Capabilities count where they are the owner's.
        let of_host = Vec::new();
        assert!(!Rights { of_host, ..rights }.look(netns.inode()).unwrap());
    }
}
