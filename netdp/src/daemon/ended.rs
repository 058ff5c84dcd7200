//! Ending the sockets of the host that programs were handed for a direct port.
//!
//! The kernel takes a port from no socket that was bound to it: one of TCP that
//! was ended may listen again. So each is bound to an interface that there isn't,
//! where it hears nobody.

use std::{
    collections::HashSet,
    fmt, fs, io,
    net::{SocketAddr, SocketAddrV4, SocketAddrV6},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::Path,
    thread,
};

use nix::{
    libc,
    sys::{
        socket::{SockaddrStorage, getpeername, getsockname, getsockopt, sockopt},
        stat::fstat,
    },
};

use crate::{
    bpf::{BpfError, Closed, Purposes},
    direct::{PORT_OWNER, descriptor, move_aside},
    model::Proto,
    netlink::{Found, Sockets, end_tcp, is_at},
    plan::Hold,
};

use super::port_owner::processes;

/// Why one may go on.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    #[error(transparent)]
    Sockets(#[from] io::Error),
    #[error(transparent)]
    Bpf(#[from] BpfError),
}

/// Why some may go on.
#[derive(Debug, Default)]
pub struct NotEnded(Vec<EndError>);

impl NotEnded {
    /// Notes what failed; the rest is done.
    fn note<T>(&mut self, done: Result<T, impl Into<EndError>>) -> Option<T> {
        done.map_err(|error| self.0.push(error.into())).ok()
    }
}

impl fmt::Display for NotEnded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        said.sort();
        said.dedup();
        f.write_str(&said.join("; "))
    }
}

/// Ends them, and the connections that they have accepted. Sockets keep the port
/// that they were bound to until their programs close them: from now on they
/// hear nobody, and are in nobody's way. `group` is the folder of the control
/// group that they are of.
///
/// # Errors
/// What the kernel refused; all else is done.
pub fn end(port: &Hold, maps: &Path, group: Option<&Path>) -> Result<(), NotEnded> {
    let mut failed = NotEnded::default();
    if port.proto == Proto::Udp {
        end_datagrams(port, maps, group, &mut failed);
    } else {
        end_streams(port, maps, group, &mut failed);
    }
    if failed.0.is_empty() {
        Ok(())
    } else {
        Err(failed)
    }
}

fn end_streams(port: &Hold, maps: &Path, group: Option<&Path>, failed: &mut NotEnded) {
    // Whatever they are at: of closed and never listening ones `sock_diag` doesn't
    // tell before Linux 6.8.
    if let Some(purposes) = failed.note(Purposes::open(maps)) {
        let copies = copies(|_| true, |it| is_bound(port, &purposes, it), failed);
        move_all(&copies, failed);
        close_elsewhere(copies);
    }
    let ports = port.ports.first()..=port.ports.last();
    let group = number(group);
    failed.note(end_tcp(port.address, ports, |it| is_direct(it, group)));
}

/// Whether it was made for one of these ports and is bound there. A connection
/// gives the port back by itself, and its client is to hear that it ends.
fn is_bound(port: &Hold, purposes: &Purposes, socket: &OwnedFd) -> bool {
    let Some(number) = purposes.port(socket) else {
        return false;
    };
    let fd = socket.as_raw_fd();
    if !port.ports.holds(number) || getpeername::<SockaddrStorage>(fd).is_ok() {
        return false;
    }
    // Where the port is published still in the other family, netdp tells the
    // container's for its number.
    let (own, family) = match getsockname::<SockaddrStorage>(fd) {
        Ok(name) => match (name.as_sockaddr_in(), name.as_sockaddr_in6()) {
            (Some(v4), _) => (SocketAddrV4::from(*v4).into(), libc::AF_INET),
            (_, Some(v6)) => (SocketAddrV6::from(*v6).into(), libc::AF_INET6),
            _ => return false,
        },
        Err(_) => return false,
    };
    let own: SocketAddr = own;
    let v6only = getsockopt(socket, sockopt::Ipv6V6Only).unwrap_or(false);
    own.port() != 0 && is_at(port.address, family, own.ip().to_canonical(), v6only)
}

fn end_datagrams(port: &Hold, maps: &Path, group: Option<&Path>, failed: &mut NotEnded) {
    let Some(sockets) = failed.note(Sockets::open()) else {
        return;
    };
    let group = number(group);
    let ports = port.ports.first()..=port.ports.last();
    let list = || -> io::Result<Vec<Found>> {
        let mut listed = sockets.list(libc::IPPROTO_UDP, None)?;
        listed.retain(|it| is_direct(it, group));
        Ok(listed)
    };
    let mut closed = failed.note(Closed::open(maps));
    // A supervisor may close one that isn't listed yet.
    let noted = closed.as_ref().map(Closed::cookies).unwrap_or_default();
    let Some(all) = failed.note(list()) else {
        return;
    };
    let cookies = |of: &[Found]| of.iter().map(Found::cookie).collect::<Vec<_>>();
    let mut ended = all.clone();
    ended.retain(|it| it.is_at(port.address, &ports));
    if let Some(closed) = &mut closed {
        closed.forget_gone(&noted, &cookies(&all));
        failed.note(closed.close(&cookies(&ended)));
    }
    let names: HashSet<Vec<u8>> = ended.iter().map(|it| name(it.inode)).collect();
    let copies = copies(|name| names.contains(name), |_| true, failed);
    // Of those that share a port the kernel finds the same one again and again,
    // unless each is at an interface of its own.
    move_all(&copies, failed);
    for socket in failed.note(list()).unwrap_or_default() {
        if socket.is_at(port.address, &ports) {
            failed.note(sockets.end(&socket));
        }
    }
    // Ending took them off their interfaces.
    move_all(&copies, failed);
    close_elsewhere(copies);
}

/// Of a control group that is there.
fn number(group: Option<&Path>) -> Option<u64> {
    fs::metadata(group?).ok().map(|it| it.ino())
}

/// A program may have its sockets be of another user, not of another group. What
/// is left of a connection, or is none yet, is of nobody.
fn is_direct(socket: &Found, group: Option<u64>) -> bool {
    match (socket.group, group) {
        (Some(of), Some(group)) => of == group,
        _ => socket.owner == PORT_OWNER || socket.inode == 0,
    }
}

/// What `/proc` calls a socket.
fn name(inode: u64) -> Vec<u8> {
    format!("socket:[{inode}]").into_bytes()
}

fn move_all(sockets: &[OwnedFd], failed: &mut NotEnded) {
    for socket in sockets {
        failed.note(move_aside(socket));
    }
}

/// So many copies of others' sockets are open at once.
const MANY: usize = 256;

/// A copy of each socket with such a name that a process has, of those that are
/// meant.
fn copies(
    is_wanted: impl Fn(&[u8]) -> bool,
    is_meant: impl Fn(&OwnedFd) -> bool,
    failed: &mut NotEnded,
) -> Vec<OwnedFd> {
    let mut seen = HashSet::new();
    let (mut copies, mut others) = (Vec::new(), Vec::new());
    for process in processes() {
        let entries = fs::read_dir(format!("/proc/{}/fd", process.pid));
        for entry in entries.into_iter().flatten().flatten() {
            let Ok(to) = fs::read_link(entry.path()) else {
                continue;
            };
            let name = to.as_os_str().as_bytes();
            if !name.starts_with(b"socket:") || !is_wanted(name) || seen.contains(name) {
                continue;
            }
            let number = entry.file_name().to_str().and_then(|it| it.parse().ok());
            let copied = number.map(|number| copy(process.pid, number));
            let Some((name, copy)) = copied.and_then(|it| failed.note(it)).flatten() else {
                continue;
            };
            // The program may have put another one there meanwhile.
            if is_wanted(&name) && seen.insert(name) && is_meant(&copy) {
                copies.push(copy);
            } else {
                others.push(copy);
            }
            if others.len() >= MANY {
                close_elsewhere(std::mem::take(&mut others));
            }
        }
    }
    close_elsewhere(others);
    copies
}

/// Closes copies of sockets while this thread goes on. Where a program has closed
/// its own meanwhile, the last one to close it waits for as long as the program
/// has said (`SO_LINGER`).
fn close_elsewhere(copies: Vec<OwnedFd>) {
    if !copies.is_empty() {
        thread::spawn(move || drop(copies));
    }
}

/// A copy of a socket, and its name. Nothing where it has gone.
fn copy(pid: u32, number: i32) -> io::Result<Option<(Vec<u8>, OwnedFd)>> {
    let Some(copy) = descriptor(pid.cast_signed(), number)? else {
        return Ok(None);
    };
    let inode = fstat(&copy)?.st_ino;
    Ok(Some((name(inode), copy)))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
        time::{Duration, Instant},
    };

    use nix::{
        sys::socket::setsockopt,
        unistd::{Uid, fchown},
    };

    use super::*;
    use crate::{at_last, model::PortRange};

    #[test]
    fn what_fails_keeps_nothing_else_from_being_done() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("skipped: needs root");
        }
        let free = UdpSocket::bind("127.0.0.1:0").unwrap();
        let number = free.local_addr().unwrap().port();
        drop(free);
        let bound = at_last::succeeds(|| UdpSocket::bind(("127.0.0.1", number)));
        fchown(&bound, Some(Uid::from_raw(PORT_OWNER)), None).unwrap();
        bound
            .set_read_timeout(Some(Duration::from_secs(9)))
            .unwrap();
        let port = Hold {
            address: Ipv4Addr::LOCALHOST.into(),
            ports: PortRange::single(number).unwrap(),
            proto: Proto::Udp,
            both: false,
            direct: true,
        };
        let failed = end(&port, Path::new("/nowhere"), None).unwrap_err();
        let said = failed.to_string();
        if said.contains("not supported") {
            return eprintln!("skipped: the kernel ends no sockets (CONFIG_INET_DIAG_DESTROY)");
        }
        assert_eq!(failed.0.len(), 1, "{said}");
        let error = bound.recv(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }

    #[test]
    fn nobody_waits_for_what_a_program_has_left_unsent() {
        const LONG: i32 = 60;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sends = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: LONG,
        };
        setsockopt(&sends, sockopt::Linger, &linger).unwrap();
        sends.set_nonblocking(true).unwrap();
        while sends.write(&[0; 1 << 16]).is_ok() {}
        sends.set_nonblocking(false).unwrap();
        let began = Instant::now();
        close_elsewhere(vec![sends.into()]);
        assert!(began.elapsed() < Duration::from_secs(LONG as u64 / 2));
    }
}
