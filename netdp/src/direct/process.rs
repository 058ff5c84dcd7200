//! The two processes that a supervisor has to do with: the one that it is started
//! by, and the one that binds.

use std::{
    fs::{self, File},
    io::{self, Read},
    net::{SocketAddr, SocketAddrV4, SocketAddrV6},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{FileExt, MetadataExt},
            process::CommandExt,
        },
    },
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::{
    DIRECT_COMMAND, Task,
    owners::Owner,
    rights::{NET_BIND_SERVICE, Status},
};

/// Why direct ports can't be had.
#[derive(Debug, thiserror::Error)]
pub enum DirectError {
    #[error("can't take over the filter of process {process}: {source}")]
    Listener { process: i32, source: io::Error },
    #[error("can't start the supervisor of direct ports: {0}")]
    Spawn(io::Error),
    #[error("the supervisor of direct ports ended before it began")]
    Ended,
    #[error(
        "the supervisor of direct ports did not begin within {} s; try again, or leave 'direct' out",
        PATIENCE.as_secs()
    )]
    Silent,
}

/// How long a supervisor may take to begin.
const PATIENCE: Duration = Duration::from_secs(30);

/// The descriptor of a filter that a process has by this number.
///
/// # Errors
/// When it can't be had.
pub fn filter_of(process: i32, number: i32) -> Result<OwnedFd, DirectError> {
    let failed = |source: io::Error| DirectError::Listener { process, source };
    descriptor(process, number)
        .map_err(failed)?
        .ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
}

/// Starts a supervisor, with a standard input as the task has it, and waits until
/// it is ready. It ends with the last program under its filters. What it can't do
/// it says to `log`, or on standard error.
///
/// # Errors
/// When the supervisor fails to begin.
pub fn start(
    launcher: &Path,
    input: OwnedFd,
    task: &Task,
    log: Option<File>,
) -> Result<(), DirectError> {
    let task = serde_json::to_string(task).map_err(|error| DirectError::Spawn(error.into()))?;
    let mut command = Command::new(launcher);
    command
        .arg(DIRECT_COMMAND)
        .arg(task)
        .arg(std::process::id().to_string())
        .current_dir("/")
        .stdin(Stdio::from(input))
        .stdout(Stdio::piped());
    if let Some(log) = log {
        command.stderr(log);
    }
    // SAFETY: both are plain system calls; nothing here allocates or takes a lock
    // between fork and exec.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            // What whoever called netdp has open, and waits to be closed.
            libc::syscall(
                libc::SYS_close_range,
                3,
                u32::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            );
            Ok(())
        });
    }
    let mut child = command.spawn().map_err(DirectError::Spawn)?;
    let out = child.stdout.as_mut().ok_or(DirectError::Ended)?;
    let began = hear(out, PATIENCE);
    if let Err(DirectError::Silent) = began {
        // It may have ended meanwhile.
        let _ = child.kill();
    }
    // The supervisor is a child of this one, which ends at once.
    let _ = child.wait();
    began
}

/// Waits for the byte that says that a supervisor is ready.
fn hear(mut out: impl Read + AsFd, patience: Duration) -> Result<(), DirectError> {
    let millis = u16::try_from(patience.as_millis()).unwrap_or(u16::MAX);
    let until = Instant::now() + patience;
    loop {
        let mut fds = [PollFd::new(out.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(millis)) {
            Ok(0) => return Err(DirectError::Silent),
            Err(Errno::EINTR) if Instant::now() < until => {}
            Err(_) => return Err(DirectError::Silent),
            Ok(_) => return out.read_exact(&mut [0]).map_err(|_| DirectError::Ended),
        }
    }
}

/// A copy of a process's descriptor; none where it isn't open, or the process has
/// gone.
///
/// # Errors
/// The kernel's.
pub fn descriptor(process: i32, number: i32) -> io::Result<Option<OwnedFd>> {
    let pid = Pid::from_raw(process).ok_or(io::ErrorKind::NotFound)?;
    let copied = pidfd_open(pid, PidfdFlags::empty())
        .and_then(|process| pidfd_getfd(&process, number, PidfdGetfdFlags::empty()));
    match copied {
        Ok(descriptor) => Ok(Some(descriptor)),
        Err(rustix::io::Errno::BADF | rustix::io::Errno::SRCH) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// The thread that binds.
#[derive(Debug)]
pub(super) struct Caller {
    thread: u32,
    /// The process that it is of.
    process: i32,
    /// Its effective user.
    user: u32,
    /// Inode of the user namespace that its capabilities are of.
    user_namespace: u64,
    effective: u64,
}

impl Caller {
    /// # Errors
    /// When `/proc` doesn't tell.
    pub fn of(thread: u32) -> io::Result<Self> {
        let status = Status::read(Path::new(&format!("/proc/{thread}")))?;
        let process = status.field("Tgid:").and_then(|text| text.parse().ok());
        // The real one, and then the effective one.
        let user = status
            .field("Uid:")
            .and_then(|text| text.split_whitespace().nth(1)?.parse().ok());
        Ok(Self {
            thread,
            process: process.ok_or_else(|| io::Error::other("a thread of no process"))?,
            user: user.ok_or_else(|| io::Error::other("a thread of no user"))?,
            user_namespace: fs::metadata(format!("/proc/{thread}/ns/user"))?.ino(),
            effective: status.capabilities("CapEff:")?,
        })
    }

    /// As the kernel has it (`cap_capable`, security/commoncap.c), in a network of
    /// these owners. Who has made a user namespace has every capability in it.
    pub fn may_bind_low_ports(&self, owners: &[Owner]) -> bool {
        let own = owners.iter().position(|it| it.inode == self.user_namespace);
        own.is_some_and(|own| {
            let below = own.checked_sub(1).map(|below| owners[below].user);
            self.effective & 1 << NET_BIND_SERVICE != 0 || below == Some(self.user)
        })
    }

    /// The address that is at `at` in its memory; none if it is of no family that
    /// matters here.
    pub fn address(&self, at: u64, length: u64) -> io::Result<Option<SocketAddr>> {
        const LONGEST: usize = 28;
        let mut bytes = [0; LONGEST];
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(LONGEST);
        let memory = File::open(format!("/proc/{}/mem", self.thread))?;
        match memory.read_exact_at(&mut bytes[..length], at) {
            Ok(()) => Ok(parse(&bytes[..length])),
            // The kernel says what is wrong with it.
            Err(_) => Ok(None),
        }
    }

    /// A copy of one of its descriptors; none where it isn't open.
    pub fn socket(&self, number: u32) -> io::Result<Option<OwnedFd>> {
        let Ok(number) = i32::try_from(number) else {
            return Ok(None);
        };
        // Any thread of a process has its descriptors, and only whole processes
        // can be opened before Linux 6.9.
        descriptor(self.process, number)
    }

    pub fn closes_on_exec(&self, number: u32) -> io::Result<bool> {
        let text = fs::read_to_string(format!("/proc/{}/fdinfo/{number}", self.thread))?;
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|octal| i32::from_str_radix(octal.trim(), 8).ok());
        flags
            .map(|flags| flags & libc::O_CLOEXEC != 0)
            .ok_or_else(|| io::Error::other("a descriptor without flags"))
    }

    /// Gives a socket what another one was set to by `fcntl`.
    pub fn set_status_flags(&self, from: impl AsFd, to: impl AsFd) -> io::Result<()> {
        let flags = OFlag::from_bits_retain(fcntl(from, FcntlArg::F_GETFL)?);
        fcntl(to, FcntlArg::F_SETFL(flags))?;
        Ok(())
    }
}

/// `struct sockaddr_in` and `sockaddr_in6`.
fn parse(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*bytes.first_chunk()?);
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    match i32::from(family) {
        libc::AF_INET if bytes.len() >= 16 => {
            let ip: [u8; 4] = *bytes[4..].first_chunk()?;
            Some(SocketAddrV4::new(ip.into(), port).into())
        }
        libc::AF_INET6 if bytes.len() >= 28 => {
            let ip: [u8; 16] = *bytes[8..].first_chunk()?;
            Some(SocketAddrV6::new(ip.into(), port, 0, 0).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_the_kernel_reads_them() {
        let mut v4 = vec![2, 0, 0, 80, 172, 17, 0, 2];
        v4.resize(16, 0);
        assert_eq!(parse(&v4), Some("172.17.0.2:80".parse().unwrap()));
        assert_eq!(parse(&v4[..15]), None);
        let mut v6 = vec![10, 0, 0x1f, 0x90];
        v6.resize(28, 0);
        v6[23] = 1;
        assert_eq!(parse(&v6), Some("[::1]:8080".parse().unwrap()));
        assert_eq!(parse(&v6[..24]), None);
        assert_eq!(parse(&[1, 0]), None);
    }

    #[test]
    fn a_supervisor_begins_within_a_time_or_ends() {
        let (read, mut write) = io::pipe().unwrap();
        let soon = Duration::from_millis(10);
        assert!(matches!(hear(&read, soon), Err(DirectError::Silent)));
        io::Write::write_all(&mut write, b"+").unwrap();
        hear(&read, soon).unwrap();
        drop(write);
        // A child of another test, between `fork` and `execve`, has a copy of it.
        let ended = hear(&read, Duration::from_secs(10));
        assert!(matches!(ended, Err(DirectError::Ended)));
    }

    #[test]
    fn a_caller_is_known_by_its_thread() {
        let thread = std::thread::spawn(|| {
            let id = nix::unistd::gettid().as_raw().cast_unsigned();
            let caller = Caller::of(id).unwrap();
            let file = File::open("/dev/null").unwrap();
            let number = std::os::fd::AsRawFd::as_raw_fd(&file).cast_unsigned();
            assert!(caller.closes_on_exec(number).unwrap());
            let place = 80u16.to_be_bytes();
            let bytes = [
                [2, 0],
                place,
                [127, 0],
                [0, 1],
                [0; 2],
                [0; 2],
                [0; 2],
                [0; 2],
            ]
            .concat();
            let addr = caller.address(bytes.as_ptr() as u64, 16).unwrap();
            assert_eq!(addr, Some("127.0.0.1:80".parse().unwrap()));
            caller.process
        });
        assert_eq!(thread.join().unwrap(), std::process::id().cast_signed());
    }

    fn caller(user: u32, user_namespace: u64, effective: u64) -> Caller {
        Caller {
            thread: 1,
            process: 1,
            user,
            user_namespace,
            effective,
        }
    }

    #[test]
    fn capabilities_count_in_networks_of_their_namespace_and_those_below() {
        let owner = |inode, user| Owner { inode, user };
        // Of a container with a user namespace of its own, which user 7 has made.
        let owners = [owner(3, 7), owner(2, 0), owner(1, 0)];
        let may = |user, namespace, effective| {
            caller(user, namespace, effective).may_bind_low_ports(&owners)
        };
        let capable = 1 << NET_BIND_SERVICE;
        assert!(may(9, 3, capable) && may(9, 2, capable) && may(9, 1, capable));
        assert!(!may(9, 3, 0) && !may(9, 2, 0));
        assert!(!may(9, 4, u64::MAX), "a namespace that it has made itself");
        assert!(may(7, 2, 0) && !may(7, 3, 0) && !may(7, 1, 0));
    }
}
