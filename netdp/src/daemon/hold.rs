//! Published ports are held by bound sockets, so that no program of the host
//! can take them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
    sync::OnceLock,
};

use nix::{
    errno::Errno,
    libc,
    sys::resource::{Resource, getrlimit, setrlimit},
    sys::socket::{
        AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrStorage, bind, listen,
        setsockopt, shutdown, socket, sockopt,
    },
    unistd::{Uid, fchown},
};

use crate::{
    bpf::socket_filter,
    direct::PORT_OWNER,
    model::Proto,
    netlink::{Found, Sockets},
    plan::Hold,
};

/// The sockets that hold the published ports.
#[derive(Debug, Default)]
pub struct Holds {
    /// Of a range, one for each port that could be had.
    held: BTreeMap<Hold, BTreeMap<u16, OwnedFd>>,
}

/// A port that can't be held.
#[derive(Debug)]
pub struct NotHeld {
    pub port: Hold,
    pub source: io::Error,
}

impl Holds {
    /// Binds the ports. Idempotent.
    ///
    /// # Errors
    /// The first that could not be had. Where others have some of a range, the
    /// rest is held.
    pub fn hold(&mut self, ports: Hold) -> Result<(), NotHeld> {
        let held = self.held.entry(ports).or_default();
        let mut failed = None;
        for (number, port) in ports.singles() {
            if held.contains_key(&number) {
                continue;
            }
            match hold(port) {
                Ok(socket) => {
                    held.insert(number, socket);
                }
                Err(source) => {
                    let taken = source.kind() == io::ErrorKind::AddrInUse;
                    failed.get_or_insert(NotHeld { port, source });
                    if !taken {
                        break;
                    }
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Lets go of the ports. Idempotent.
    pub fn release(&mut self, ports: Hold) {
        self.held.remove(&ports);
    }

    /// Lets go of what could be had of ranges that are not asked for any more.
    pub fn release_parts(&mut self, wanted: &BTreeSet<Hold>) {
        self.held.retain(|ports, held| {
            held.len() == ports.ports.count() as usize || wanted.contains(ports)
        });
    }

    pub fn is_held(&self, ports: &Hold) -> bool {
        self.is_whole(ports) || ports.of_both().is_some_and(|both| self.is_whole(&both))
    }

    fn is_whole(&self, ports: &Hold) -> bool {
        let held = self.held.get(ports);
        held.is_some_and(|held| held.len() == ports.ports.count() as usize)
    }

    /// Those that are held whole.
    pub fn held(&self) -> impl Iterator<Item = &Hold> {
        self.held.keys().filter(|ports| self.is_whole(ports))
    }
}

/// Each held port takes a descriptor: as many as the system allows.
pub fn raise_limit() {
    let result = most_files().and_then(|most| {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        // More than the hard limit needs CAP_SYS_RESOURCE.
        let most = most.max(hard);
        setrlimit(Resource::RLIMIT_NOFILE, most, most)
            .or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))?;
        Ok(())
    });
    if let Err(error) = result {
        tracing::warn!("cannot raise the limit of open files (RLIMIT_NOFILE): {error}");
    }
}

/// The highest limit that a process can have.
fn most_files() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/sys/fs/nr_open")?;
    text.trim().parse().map_err(io::Error::other)
}

/// Tries whether the port could be held.
pub fn is_free(port: Hold) -> io::Result<bool> {
    match hold(port) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => Ok(false),
        Err(error) => Err(error),
    }
}

/// An ended direct socket, whose program hasn't closed it, has the port still and
/// is in nobody's way: with it the port is shared as if it were a direct one.
fn hold(port: Hold) -> io::Result<OwnedFd> {
    match hold_as(port) {
        Err(error)
            if error.kind() == io::ErrorKind::AddrInUse
                && !port.direct
                && may_share(&port).unwrap_or(false) =>
        {
            let direct = true;
            hold_as(Hold { direct, ..port }).map_err(|_| error)
        }
        held => held,
    }
}

/// Whether a port is shared with none but netdp's own. Of TCP the kernel sees to
/// it, by their user; of UDP everybody could have it, of the interface that the
/// daemon's socket is bound to, beside a program that is bound to one that there
/// is.
fn may_share(port: &Hold) -> io::Result<bool> {
    if port.proto != Proto::Udp {
        return Ok(true);
    }
    let number = port.ports.first();
    let sockets = Sockets::open()?.list(libc::IPPROTO_UDP, Some(number))?;
    let mut there = sockets
        .iter()
        .filter(|it| port.both || it.is_at(port.address, &(number..=number)));
    Ok(there.all(Found::is_nowhere))
}

fn hold_as(port: Hold) -> io::Result<OwnedFd> {
    let family = if port.address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let kind = match port.proto {
        Proto::Tcp => SockType::Stream,
        Proto::Udp => SockType::Datagram,
        Proto::Sctp => return Err(io::Error::from(Errno::EPROTONOSUPPORT)),
    };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if port.address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &!port.both)?;
    }
    drop_everything(&fd)?;
    let addr = SockaddrStorage::from(SocketAddr::new(port.address, port.ports.first()));
    if port.proto != Proto::Tcp {
        if port.direct {
            hold_unheard(&fd, &addr)?;
        } else {
            bind(fd.as_raw_fd(), &addr)?;
        }
        return Ok(fd);
    }
    if port.direct {
        hold_with_others(&fd, &addr)?;
        return Ok(fd);
    }

    // Connections in TIME_WAIT keep a port from being bound unless
    // SO_REUSEADDR is set; but a socket with it that doesn't listen lets others
    // with it bind the same port. Listening makes the port exclusive
    // (inet_csk_get_port clears the bucket's fastreuse); with SO_REUSEADDR off
    // again it stays so after shutdown, which ends the listening without giving
    // the port back.
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &addr)?;
    listen(&fd, Backlog::new(0)?)?;
    setsockopt(&fd, sockopt::ReuseAddr, &false)?;
    shutdown(fd.as_raw_fd(), Shutdown::Both)?;
    Ok(fd)
}

/// Has the port together with the sockets that were, or will be, handed to
/// programs: of the same user, and all with SO_REUSEPORT. It never listens, so
/// it has no share of the connections. Of all others the port is kept as by any
/// socket; but where an earlier one's connections are still there, those with
/// SO_REUSEADDR are told only when they listen.
fn hold_with_others(fd: &OwnedFd, addr: &SockaddrStorage) -> io::Result<()> {
    fchown(fd, Some(Uid::from_raw(PORT_OWNER)), None)?;
    setsockopt(fd, sockopt::ReusePort, &true)?;
    match bind(fd.as_raw_fd(), addr) {
        Err(Errno::EADDRINUSE) => {}
        bound => return Ok(bound?),
    }
    setsockopt(fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), addr)?;
    setsockopt(fd, sockopt::ReuseAddr, &false)?;
    Ok(())
}

/// The same of UDP, where every bound socket has its share of the datagrams,
/// unless it is bound to an interface that they don't come by. The price is
/// that a program which binds the port at one interface isn't told that it is
/// taken, until there is a direct socket.
fn hold_unheard(fd: &OwnedFd, addr: &SockaddrStorage) -> io::Result<()> {
    fchown(fd, Some(Uid::from_raw(PORT_OWNER)), None)?;
    setsockopt(fd, sockopt::ReusePort, &true)?;
    // At one address of IPv6 the interface is looked for.
    if out_of_the_way(fd)
        .and(bind(fd.as_raw_fd(), addr).map_err(Into::into))
        .is_ok()
    {
        return Ok(());
    }
    set_option(fd, libc::SO_BINDTOIFINDEX, &0)?;
    bind(fd.as_raw_fd(), addr)?;
    out_of_the_way(fd)
}

/// Binds a socket to an interface that there isn't (`SO_BINDTOIFINDEX`, Linux 5.0,
/// doesn't look): it keeps its port and hears nothing.
fn out_of_the_way(fd: &OwnedFd) -> io::Result<()> {
    set_option(fd, libc::SO_BINDTOIFINDEX, &libc::c_int::MAX)
}

/// Makes the kernel drop whatever comes for the socket.
fn drop_everything(fd: &OwnedFd) -> io::Result<()> {
    static FILTER: OnceLock<Option<OwnedFd>> = OnceLock::new();
    match FILTER.get_or_init(|| socket_filter::drop_everything().ok()) {
        Some(filter) => set_option(fd, libc::SO_ATTACH_BPF, &filter.as_raw_fd()),
        None => drop_by_itself(fd),
    }
}

/// The same without the privileges for a program that is loaded.
fn drop_by_itself(fd: &OwnedFd) -> io::Result<()> {
    let mut program = [libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: 0,
    }];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    set_option(fd, libc::SO_ATTACH_FILTER, &filter)
}

fn set_option<T>(fd: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel copies the value, of the size given with it, and what
    // it points to before the call returns; fd is open.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const *value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    Errno::result(done)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket},
        sync::{LazyLock, Mutex},
    };

    use super::*;
    use crate::{at_last, direct::move_aside, model::PortRange};

    fn port(port: u16, proto: Proto) -> Hold {
        Hold {
            address: Ipv4Addr::LOCALHOST.into(),
            ports: PortRange::single(port).unwrap(),
            proto,
            both: false,
            direct: false,
        }
    }

    /// The first of `many` free ports in a row, in both protocols. They are
    /// below those that Linux chooses by itself, which the sockets of other
    /// tests get at any moment, and no two tests get the same; nor, mostly, do those
    /// of two runs at once.
    fn free_ports(many: u16) -> u16 {
        static NEXT: LazyLock<Mutex<u16>> = LazyLock::new(|| {
            let of_this_run = std::process::id() % 200 * 100;
            Mutex::new(10_000 + of_this_run as u16)
        });
        let mut next = NEXT.lock().unwrap();
        let first = (*next..32_000)
            .step_by(usize::from(many))
            .find(|first| {
                (*first..first + many).all(|n| {
                    TcpListener::bind(("127.0.0.1", n)).is_ok()
                        && UdpSocket::bind(("127.0.0.1", n)).is_ok()
                })
            })
            .unwrap();
        *next = first + many;
        first
    }

    #[test]
    fn a_held_tcp_port_can_be_bound_by_nobody() {
        let held = port(free_ports(1), Proto::Tcp);
        let mut holds = Holds::default();
        holds.hold(held).unwrap();
        // std sets SO_REUSEADDR, as most servers do.
        for addr in ["127.0.0.1", "0.0.0.0"] {
            let taken = TcpListener::bind((addr, held.ports.first())).unwrap_err();
            assert_eq!(taken.kind(), io::ErrorKind::AddrInUse, "{addr}");
        }
        assert!(!is_free(held).unwrap());
        holds.release(held);
        at_last::succeeds(|| TcpListener::bind(("127.0.0.1", held.ports.first())));
    }

    #[test]
    fn nothing_answers_at_a_held_port() {
        let held = port(free_ports(1), Proto::Tcp);
        let mut holds = Holds::default();
        holds.hold(held).unwrap();
        let refused = TcpStream::connect(("127.0.0.1", held.ports.first())).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn connections_in_time_wait_are_no_obstacle() {
        let number = free_ports(1);
        let listener = TcpListener::bind(("127.0.0.1", number)).unwrap();
        let mut client = TcpStream::connect(("127.0.0.1", number)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        // The side that closes first keeps the port in TIME_WAIT.
        server.write_all(b"x").unwrap();
        drop(server);
        client.read_to_end(&mut Vec::new()).unwrap();
        drop(client);
        drop(listener);
        at_last::succeeds(|| Holds::default().hold(port(number, Proto::Tcp)));
    }

    #[test]
    fn a_port_of_another_program_is_not_free() {
        let number = free_ports(1);
        let _listener = TcpListener::bind(("127.0.0.1", number)).unwrap();
        assert!(!is_free(port(number, Proto::Tcp)).unwrap());

        let number = free_ports(1);
        let _udp = UdpSocket::bind(("127.0.0.1", number)).unwrap();
        assert!(!is_free(port(number, Proto::Udp)).unwrap());
    }

    #[test]
    fn who_holds_a_direct_port_of_udp_hears_nothing_and_leaves_it_to_its_like() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("skipped: needs root");
        }
        let held = Hold {
            direct: true,
            ..port(free_ports(1), Proto::Udp)
        };
        let number = held.ports.first();
        let addresses: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        for address in addresses {
            let held = Hold { address, ..held };
            let mut holds = Holds::default();
            holds.hold(held).unwrap();
            let taken = UdpSocket::bind((held.address, number)).unwrap_err();
            assert_eq!(taken.kind(), io::ErrorKind::AddrInUse, "{}", held.address);
            assert!(is_free(held).unwrap());
            let client = UdpSocket::bind((held.address, 0)).unwrap();
            client.connect((held.address, number)).unwrap();
            client.send(b"?").unwrap();
            let refused = client.send(b"?").unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        }
    }

    #[test]
    fn a_listener_that_lost_its_port_keeps_nobody_from_it() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("skipped: needs root");
        }
        let number = free_ports(1);
        let kind = SockFlag::SOCK_CLOEXEC;
        let lost = socket(AddressFamily::Inet, SockType::Stream, kind, None).unwrap();
        setsockopt(&lost, sockopt::ReusePort, &true).unwrap();
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, number));
        bind(lost.as_raw_fd(), &SockaddrStorage::from(addr)).unwrap();
        listen(&lost, Backlog::new(1).unwrap()).unwrap();
        let held = port(number, Proto::Tcp);
        assert!(!is_free(held).unwrap());
        move_aside(&lost).unwrap();
        assert!(is_free(held).unwrap());
        let mut holds = Holds::default();
        holds.hold(held).unwrap();
        TcpListener::bind(addr).unwrap_err();
        TcpStream::connect(addr).unwrap_err();
    }

    #[test]
    fn a_port_at_one_interface_is_its_programs() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("skipped: needs root");
        }
        let number = free_ports(1);
        let at_loopback = OwnedFd::from(UdpSocket::bind(("127.0.0.1", number)).unwrap());
        set_option(&at_loopback, libc::SO_BINDTOIFINDEX, &1).unwrap();
        assert!(!is_free(port(number, Proto::Udp)).unwrap());
    }

    #[test]
    fn an_address_of_another_host_is_an_error() {
        let elsewhere = Hold {
            address: "192.0.2.1".parse().unwrap(),
            ports: PortRange::single(8080).unwrap(),
            proto: Proto::Tcp,
            both: false,
            direct: false,
        };
        assert!(is_free(elsewhere).is_err());
    }

    #[test]
    fn of_a_range_others_keep_what_they_have() {
        let first = free_ports(8);
        let range = Hold {
            ports: PortRange::new(first, first + 7).unwrap(),
            ..port(first, Proto::Tcp)
        };
        let other = TcpListener::bind(("127.0.0.1", first + 3)).unwrap();
        let mut holds = Holds::default();
        let failed = holds.hold(range).unwrap_err();
        assert_eq!(failed.port.ports.first(), first + 3);
        assert!(!holds.is_held(&range));
        assert_eq!(holds.held().count(), 0);
        for number in [first, first + 7] {
            TcpListener::bind(("127.0.0.1", number)).unwrap_err();
        }
        drop(other);
        at_last::succeeds(|| holds.hold(range));
        assert!(holds.is_held(&range));
        TcpListener::bind(("127.0.0.1", first + 3)).unwrap_err();
        holds.release(range);
        at_last::succeeds(|| TcpListener::bind(("127.0.0.1", first + 7)));
    }
}
