//! Where a socket is opened.

use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::sync::Mutex;

use netdp::demo::world::World;
use netdp::netns::Namespace;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use nix::unistd::dup2_stdin;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// Where programs open sockets.
pub trait Place: Sync {
    fn open_family(
        &self,
        family: AddressFamily,
        kind: SockType,
        protocol: Option<SockProtocol>,
    ) -> OwnedFd;

    /// A socket of IPv4.
    fn open(&self, kind: SockType, protocol: Option<SockProtocol>) -> OwnedFd {
        self.open_family(AddressFamily::Inet, kind, protocol)
    }
}

impl<P: Place + ?Sized> Place for &P {
    fn open_family(
        &self,
        family: AddressFamily,
        kind: SockType,
        protocol: Option<SockProtocol>,
    ) -> OwnedFd {
        (**self).open_family(family, kind, protocol)
    }
}

impl Place for Namespace {
    fn open_family(
        &self,
        family: AddressFamily,
        kind: SockType,
        protocol: Option<SockProtocol>,
    ) -> OwnedFd {
        self.run(|| socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol))
            .expect("enter the namespace")
            .expect("open a socket")
    }
}

/// A program on netdp's host, in the control group that the daemon was given.
///
/// The kernel takes a socket's group from the process that opens it, so a
/// process of that group opens it and the test takes it over.
pub struct HostProgram<'world>(pub &'world World);

impl Place for HostProgram<'_> {
    fn open_family(
        &self,
        family: AddressFamily,
        kind: SockType,
        protocol: Option<SockProtocol>,
    ) -> OwnedFd {
        let mut command = self.0.on_host("sleep");
        command.arg("60").stdin(Stdio::null()).stdout(Stdio::null());
        // SAFETY: three system calls; nothing allocates or locks between fork
        // and exec. The closures that enter namespace and group ran before.
        unsafe {
            command.pre_exec(move || {
                let opened = socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol)?;
                dup2_stdin(&opened)?;
                Ok(())
            });
        }
        let holder = Ended(command.spawn().expect("start sleep on the host"));
        let pid = i32::try_from(holder.0.id()).expect("a process id");
        let pid = Pid::from_raw(pid).expect("a process id");
        let process = pidfd_open(pid, PidfdFlags::empty()).expect("open the process");
        pidfd_getfd(process, libc::STDIN_FILENO, PidfdGetfdFlags::empty())
            .expect("take the socket over")
    }
}

/// A program in a namespace, in the control group that the daemon was given.
///
/// Opens many sockets at once, for it takes a process.
pub struct Reached<'world> {
    world: &'world World,
    namespace: &'world Namespace,
    opened: Mutex<Vec<(AddressFamily, SockType, OwnedFd)>>,
}

impl<'world> Reached<'world> {
    /// How many sockets a process opens.
    const AT_ONCE: i32 = 16;
    /// Descriptors from here on are theirs.
    const FIRST: i32 = 200;

    pub fn new(world: &'world World, namespace: &'world Namespace) -> Self {
        Self {
            world,
            namespace,
            opened: Mutex::default(),
        }
    }

    fn open_many(&self, family: AddressFamily, kind: SockType) -> Vec<OwnedFd> {
        let mut command = self.world.within_reach(self.namespace, "sleep");
        command.arg("60").stdin(Stdio::null()).stdout(Stdio::null());
        // SAFETY: system calls alone between fork and exec.
        unsafe {
            command.pre_exec(move || {
                for number in 0..Self::AT_ONCE {
                    let opened = socket(family, kind, SockFlag::empty(), None)?.into_raw_fd();
                    if libc::dup2(opened, Self::FIRST + number) < 0 {
                        return Err(io::Error::last_os_error());
                    }
                    libc::close(opened);
                }
                Ok(())
            });
        }
        let holder = Ended(command.spawn().expect("start sleep"));
        let pid = i32::try_from(holder.0.id()).expect("a process id");
        let pid = Pid::from_raw(pid).expect("a process id");
        let process = pidfd_open(pid, PidfdFlags::empty()).expect("open the process");
        let flags = PidfdGetfdFlags::empty();
        (0..Self::AT_ONCE)
            .map(|number| {
                pidfd_getfd(&process, Self::FIRST + number, flags).expect("take a socket over")
            })
            .collect()
    }
}

impl Place for Reached<'_> {
    fn open_family(
        &self,
        family: AddressFamily,
        kind: SockType,
        protocol: Option<SockProtocol>,
    ) -> OwnedFd {
        assert!(protocol.is_none(), "TCP and UDP alone");
        let mut opened = self.opened.lock().expect("sockets");
        let of_this = |it: &(AddressFamily, SockType, OwnedFd)| it.0 == family && it.1 == kind;
        if let Some(at) = opened.iter().position(of_this) {
            return opened.swap_remove(at).2;
        }
        let more = self.open_many(family, kind);
        opened.extend(more.into_iter().map(|socket| (family, kind, socket)));
        opened.pop().expect("a socket").2
    }
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
