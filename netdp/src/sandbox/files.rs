//! Files of `/etc` that differ inside a sandbox.
//!
//! Their contents lie in a tmpfs that has no name: it is mounted for as long
//! as it takes to bind its files over those of the host, and lives on in the
//! binds. It ends with the sandbox and leaves nothing to be cleaned up.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::getpid;

use super::Files;
use super::init::Refused;

/// What the mounts of a program are told to come from, by which
/// [`hosts`](super::hosts) knows them again: a program that is started in a
/// sandbox sees those of that one too.
pub(super) fn source(pid: i32) -> String {
    format!("netdp-{pid}")
}

/// Where the tmpfs is mounted for a moment, in the sandbox's mount namespace
/// alone. Every system has it.
const STAGE: &str = "/tmp";

/// Puts `files` in place of the host's, in the calling process's mount
/// namespace, which must be its own.
pub(super) fn replace(files: &Files) -> Result<(), Refused> {
    let contents = [
        ("/etc/hosts", files.hosts.as_deref()),
        ("/etc/resolv.conf", files.resolv_conf.as_deref()),
        ("/etc/hostname", files.hostname.as_deref()),
    ];
    let mut replacements = Vec::new();
    for (target, content) in contents {
        let Some(content) = content else { continue };
        let failed = |error| {
            Refused::new(format_args!(
                "can't give the sandbox its own {target}: {error}"
            ))
        };
        match open_target(target) {
            Ok(place) => replacements.push((target, content, place)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => eprintln!(
                "netdp: the program does without its own {target}, since this host has none; 'touch {target}' helps"
            ),
            Err(error) => return Err(failed(error)),
        }
    }
    if replacements.is_empty() {
        return Ok(());
    }
    mount(
        Some(source(getpid().as_raw()).as_str()),
        STAGE,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=0755"),
    )
    .map_err(|error| {
        Refused::new(format_args!(
            "can't mount a tmpfs: {}",
            io::Error::from(error)
        ))
    })?;
    for (target, content, place) in &replacements {
        bind(target, content, place).map_err(|error| {
            Refused::new(format_args!(
                "can't give the sandbox its own {target}: {error}"
            ))
        })?;
    }
    umount2(STAGE, MntFlags::MNT_DETACH).map_err(|error| {
        Refused::new(format_args!(
            "can't unmount {STAGE}: {}",
            io::Error::from(error)
        ))
    })
}

/// The place to bind over. `/etc/resolv.conf` is often a symbolic link, and
/// sometimes to a file that isn't there: then the link itself is covered.
fn open_target(target: &str) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    match open(target, flags, Mode::empty()) {
        Err(nix::Error::ENOENT) => Ok(open(target, flags | OFlag::O_NOFOLLOW, Mode::empty())?),
        result => Ok(result?),
    }
}

fn bind(target: &str, content: &str, place: &OwnedFd) -> io::Result<()> {
    let name = Path::new(target).file_name().unwrap_or_default();
    let source = Path::new(STAGE).join(name);
    fs::write(&source, content)?;
    // Programs that aren't root read these files, whatever the umask.
    File::open(&source)?.set_permissions(Permissions::from_mode(0o644))?;
    // By descriptor: the tmpfs may cover the path that leads to the target.
    let place = format!("/proc/self/fd/{}", place.as_raw_fd());
    mount(
        Some(&source),
        place.as_str(),
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )?;
    Ok(())
}
