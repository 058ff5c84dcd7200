//! `/etc/hosts` of a running program: the part of it that netdp keeps up to
//! date.
//!
//! The file is a bind that cannot be replaced by another, so it is written in
//! place. It is found by the program's own mounts, and is written only if it
//! lies in the tmpfs that netdp made: whatever the program has mounted or
//! linked there instead is its own.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{FileExt, MetadataExt},
    },
};

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    libc,
    sys::stat::Mode,
};

use super::{ProcessId, files::source};
use crate::mountinfo::{self, Mount};

/// Name of the file in the tmpfs.
const FILE: &str = "/hosts";

/// Longest file that is read, bytes: a program may make its own as long as it
/// likes.
const LONGEST: usize = 1 << 20;

const BEGIN: &str = "# netdp keeps the lines from here up to date\n";
const END: &str = "# netdp keeps the lines up to here up to date\n";

/// The whole file: what is the same everywhere, and `lines`.
pub fn text(lines: &str) -> String {
    format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{BEGIN}{lines}{END}")
}

/// `text` with these lines in place of those that netdp keeps; none where it
/// has no such part any more.
fn replaced(text: &str, lines: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{lines}{END}{after}"))
}

/// Brings the lines that netdp keeps in a program's `/etc/hosts` up to date.
/// False where the program has no such file, or not yet.
///
/// # Errors
/// When the file can't be read or written.
pub fn update(process: &ProcessId, lines: &str) -> io::Result<bool> {
    let Some(file) = find(process)? else {
        return Ok(false);
    };
    // What the program has made of its file is its own business.
    let Some(old) = read(&file)? else {
        return Ok(true);
    };
    let Some(new) = replaced(&old, lines) else {
        return Ok(true);
    };
    if new != old {
        file.write_all_at(new.as_bytes(), 0)?;
        file.set_len(new.len() as u64)?;
    }
    Ok(true)
}

/// None where it is too long, or no text.
fn read(file: &File) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    // It may grow meanwhile.
    file.take(LONGEST as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > LONGEST {
        return Ok(None);
    }
    Ok(String::from_utf8(bytes).ok())
}

fn find(process: &ProcessId) -> io::Result<Option<File>> {
    let folder = format!("/proc/{}", process.pid);
    let root = open(
        format!("{folder}/root").as_str(),
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    );
    let (Ok(root), Ok(mounts)) = (root, fs::read_to_string(format!("{folder}/mountinfo"))) else {
        return Ok(None);
    };
    // While the process lives, nobody else has its number.
    if !process.alive() {
        return Ok(None);
    }
    let source = source(process.pid);
    let Some(bind) = bind(&mounts, &source) else {
        return Ok(None);
    };
    open_bind(&bind, &root)
}

/// The bind of netdp's file, which comes from there.
fn bind<'a>(mounts: &'a str, source: &str) -> Option<Mount<'a>> {
    mountinfo::mounts(mounts)
        .rev()
        .find(|mount| (mount.filesystem, mount.source, mount.root) == ("tmpfs", source, FILE))
}

/// The file that is bound there, unless something else lies there now.
fn open_bind(bind: &Mount<'_>, root: &OwnedFd) -> io::Result<Option<File>> {
    // A link would lead to where the program wants it.
    let how = OpenHow::new()
        .flags(OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let file = match openat2(root.as_fd(), bind.point.as_str(), how) {
        Ok(file) => File::from(file),
        Err(nix::Error::ENOENT | nix::Error::ELOOP) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let device = file.metadata()?.dev();
    let found = (
        u64::from(libc::major(device)),
        u64::from(libc::minor(device)),
    );
    Ok((found == bind.device).then_some(file))
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    #[test]
    fn the_rest_of_the_file_stays() {
        let first = text("172.17.0.2\tweb\n");
        let own = format!("# mine\n{first}192.0.2.7\tfriend\n");
        let new = replaced(&own, "172.17.0.3\tweb\n").unwrap();
        assert_eq!(
            new,
            format!("# mine\n{}192.0.2.7\tfriend\n", text("172.17.0.3\tweb\n"))
        );
        assert_eq!(replaced("192.0.2.7\tfriend\n", "x\n"), None);
        assert_eq!(replaced(BEGIN, "x\n"), None);
    }

    #[test]
    fn a_file_that_is_no_text_or_too_long_is_left() {
        let mut file = tempfile::tempfile().unwrap();
        let read_again = |file: &File| {
            (&*file).rewind().unwrap();
            read(file).unwrap()
        };
        file.write_all(b"127.0.0.1 localhost\n").unwrap();
        let text = "127.0.0.1 localhost\n".to_owned();
        assert_eq!(read_again(&file), Some(text));
        // Sparse, and longer than any memory.
        file.set_len(1 << 40).unwrap();
        assert_eq!(read_again(&file), None);
        file.set_len(4).unwrap();
        file.write_all_at(&[0xff], 0).unwrap();
        assert_eq!(read_again(&file), None);
    }

    #[test]
    fn a_mount_is_known_by_what_lies_there() {
        let line =
            "612 588 0:71 /hosts /etc/a\\040b rw,nosuid master:3 - tmpfs netdp-7 rw,mode=755";
        let found = bind(line, "netdp-7").unwrap();
        assert_eq!((found.device, found.point.as_str()), ((0, 71), "/etc/a b"));
        for other in [
            "612 588 0:71 /resolv.conf /etc/resolv.conf rw - tmpfs netdp-7 rw",
            "612 588 0:71 /hosts /etc/hosts rw - tmpfs tmpfs rw",
            "612 588 0:71 /hosts /etc/hosts rw - ext4 netdp-7 rw",
            "612 588 0:71 /hosts /etc/hosts rw - tmpfs netdp-71 rw",
            "nonsense",
        ] {
            assert_eq!(bind(other, "netdp-7"), None, "{other}");
        }
    }
}
