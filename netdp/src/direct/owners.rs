//! The user namespaces whose capabilities count in a sandbox's network: the one
//! that owns it, and those above that. Any program may make one of its own, in
//! which it has every capability.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
};

use nix::errno::Errno;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub inode: u64,
    /// The user that has made it, in the one above.
    pub user: u32,
}

mod ioctl {
    // linux/nsfs.h.
    nix::ioctl_none!(ns_get_userns, 0xb7, 0x1);
    nix::ioctl_none!(ns_get_parent, 0xb7, 0x2);
    nix::ioctl_read_bad!(
        ns_get_owner_uid,
        nix::request_code_none!(0xb7, 0x4),
        libc::uid_t
    );
}

/// Those of a network namespace, upwards as far as this process sees.
///
/// # Errors
/// When the kernel doesn't tell.
pub(super) fn of(netns: &impl AsFd) -> io::Result<Vec<Owner>> {
    let mut owners = Vec::new();
    // SAFETY: the request takes no argument.
    let mut next = unsafe { ioctl::ns_get_userns(netns.as_fd().as_raw_fd()) };
    loop {
        let opened = match next {
            // SAFETY: the kernel has just opened it for nobody else.
            Ok(number) => File::from(unsafe { OwnedFd::from_raw_fd(number) }),
            // There is none, or it is above this process's own.
            Err(Errno::EPERM) => return Ok(owners),
            Err(errno) => return Err(errno.into()),
        };
        let mut user = 0;
        // SAFETY: the request writes a number of this size.
        unsafe { ioctl::ns_get_owner_uid(opened.as_raw_fd(), &raw mut user) }?;
        let inode = opened.metadata()?.ino();
        owners.push(Owner { inode, user });
        // SAFETY: as the first.
        next = unsafe { ioctl::ns_get_parent(opened.as_raw_fd()) };
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::process::CommandExt,
        process::{Command, Stdio},
    };

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn the_owner_and_those_above_are_told() {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped());
        // SAFETY: a system call alone between fork and exec.
        unsafe {
            command.pre_exec(|| {
                let made = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET;
                Ok(unshare(made)?)
            });
        }
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(why) => return eprintln!("skipped: no user namespace: {why}"),
        };
        let inode = |of: &str| fs::metadata(format!("/proc/{of}/ns/user")).unwrap().ino();
        let netns = |of: &str| File::open(format!("/proc/{of}/ns/net")).unwrap();
        let process = child.id().to_string();
        let theirs = of(&netns(&process)).unwrap();
        let own = of(&netns("self")).unwrap();
        let first = Owner {
            inode: inode(&process),
            user: nix::unistd::geteuid().as_raw(),
        };
        assert_eq!(theirs[0], first);
        assert_eq!(theirs[1].inode, inode("self"));
        assert!(own.iter().all(|owner| *owner != first));
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
