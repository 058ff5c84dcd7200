//! Sockets that wait for a bounded time, and what two of them say to each other.

use std::io::{self, Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket,
};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockProtocol, SockType, SockaddrIn, SockaddrStorage, bind,
    connect as connect_socket, listen as listen_on, setsockopt, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::{PATIENCE, Place, SILENCE};

/// A listening TCP socket.
pub struct Listener(TcpListener);

impl Listener {
    /// The next connection and where it came from.
    #[track_caller]
    pub fn accept(&self) -> (TcpStream, SocketAddr) {
        self.0.accept().expect("a connection arrives")
    }

    /// Whether a connection came that nobody asked for: whoever asks has waited
    /// for its answer.
    #[track_caller]
    pub fn assert_nobody_came(&self) {
        self.0.set_nonblocking(true).expect("not to wait");
        let came = self.0.accept();
        self.0.set_nonblocking(false).expect("to wait again");
        if let Ok((_, from)) = came {
            panic!("{from} got through");
        }
    }

    pub fn port(&self) -> u16 {
        self.0.local_addr().expect("a bound address").port()
    }

    /// For a server of its own.
    pub fn into_inner(self) -> TcpListener {
        self.0
    }
}

fn set_receive_timeout(socket: &impl AsFd, timeout: Duration) {
    setsockopt(socket, sockopt::ReceiveTimeout, &time(timeout)).expect("bound the wait");
}

fn time(duration: Duration) -> TimeVal {
    TimeVal::milliseconds(duration.as_millis() as i64)
}

/// A socket of the family of an address, and of that family alone.
fn open(place: &impl Place, kind: SockType, address: IpAddr) -> OwnedFd {
    if address.is_ipv4() {
        return place.open(kind, None);
    }
    let socket = place.open_family(AddressFamily::Inet6, kind, None);
    setsockopt(&socket, sockopt::Ipv6V6Only, &true).expect("IPv6 alone");
    socket
}

/// Binds, also where a socket that was there before isn't gone yet: a child that
/// another test has just forked holds it until it executes its program.
#[track_caller]
fn bind_patiently(socket: &OwnedFd, address: SocketAddr) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match bind(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
            Ok(()) => return,
            Err(Errno::EADDRINUSE) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(error) => panic!("bind {address}: {error}"),
        }
    }
}

/// Listens at an address of `place`; port 0 lets the kernel choose.
#[track_caller]
pub fn listen(place: &impl Place, address: impl Into<IpAddr>, port: u16) -> Listener {
    let address = SocketAddr::new(address.into(), port);
    let socket = open(place, SockType::Stream, address.ip());
    setsockopt(&socket, sockopt::ReuseAddr, &true).expect("reuse the address");
    set_receive_timeout(&socket, PATIENCE);
    bind_patiently(&socket, address);
    listen_on(&socket, Backlog::MAXCONN).expect("listen");
    Listener(socket.into())
}

/// What becomes of binding a TCP port as a server does that wants it alone.
///
/// # Errors
/// The kernel's.
pub fn bind_port(place: &impl Place, address: impl Into<IpAddr>, port: u16) -> io::Result<OwnedFd> {
    let address = SocketAddr::new(address.into(), port);
    let socket = open(place, SockType::Stream, address.ip());
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}

/// A connection to `to`.
#[track_caller]
pub fn connect(place: &impl Place, to: impl Into<SocketAddr>) -> TcpStream {
    let to = to.into();
    connect_within(place, None, to, PATIENCE)
        .unwrap_or_else(|error| panic!("connect {to}: {error}"))
}

/// A connection from a port, or an address and port, of one's own choice.
#[track_caller]
pub fn connect_from(
    place: &impl Place,
    from: (impl Into<IpAddr>, u16),
    to: impl Into<SocketAddr>,
) -> TcpStream {
    let (from, to) = (SocketAddr::new(from.0.into(), from.1), to.into());
    connect_bound(place, Some(from), to, PATIENCE)
        .unwrap_or_else(|error| panic!("connect {to} from {from}: {error}"))
}

/// What becomes of connecting, within `patience`.
///
/// # Errors
/// The kernel's; [`io::ErrorKind::TimedOut`] when nobody answered.
pub fn connect_within(
    place: &impl Place,
    from: Option<(Ipv4Addr, u16)>,
    to: impl Into<SocketAddr>,
    patience: Duration,
) -> io::Result<TcpStream> {
    connect_bound(place, from.map(SocketAddr::from), to.into(), patience)
}

/// The same from an address of either family.
///
/// # Errors
/// As [`connect_within`].
pub fn connect_bound(
    place: &impl Place,
    from: Option<SocketAddr>,
    to: impl Into<SocketAddr>,
    patience: Duration,
) -> io::Result<TcpStream> {
    let to = to.into();
    let socket = open(place, SockType::Stream, to.ip());
    if let Some(from) = from {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
    }
    setsockopt(&socket, sockopt::SendTimeout, &time(patience))?;
    match connect_socket(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) => {}
        // How a socket with a timeout says that it is over.
        Err(Errno::EINPROGRESS) => return Err(io::ErrorKind::TimedOut.into()),
        Err(error) => return Err(error.into()),
    }
    setsockopt(&socket, sockopt::SendTimeout, &time(PATIENCE))?;
    set_receive_timeout(&socket, PATIENCE);
    Ok(socket.into())
}

/// A UDP socket, bound; port 0 lets the kernel choose.
#[track_caller]
pub fn udp(place: &impl Place, address: impl Into<IpAddr>, port: u16) -> UdpSocket {
    let address = SocketAddr::new(address.into(), port);
    let socket = open(place, SockType::Datagram, address.ip());
    bind_patiently(&socket, address);
    set_receive_timeout(&socket, PATIENCE);
    socket.into()
}

/// A socket that sends ICMP echo requests under this identifier
/// (icmp(7), `net.ipv4.ping_group_range`).
#[track_caller]
pub fn echo_socket(place: &impl Place, identifier: u16) -> UdpSocket {
    let socket = place.open(SockType::Datagram, Some(SockProtocol::Icmp));
    let address = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, identifier);
    bind(socket.as_raw_fd(), &SockaddrIn::from(address)).expect("bind the identifier");
    set_receive_timeout(&socket, PATIENCE);
    socket.into()
}

/// [`echo_socket`] of IPv6.
#[track_caller]
pub fn echo_socket6(place: &impl Place, identifier: u16) -> UdpSocket {
    let protocol = Some(SockProtocol::IcmpV6);
    let socket = place.open_family(AddressFamily::Inet6, SockType::Datagram, protocol);
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, identifier));
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address)).expect("bind the identifier");
    set_receive_timeout(&socket, PATIENCE);
    socket.into()
}

/// One echo request through a socket of [`echo_socket`] or [`echo_socket6`], and
/// its reply.
#[track_caller]
pub fn ping_through(socket: &UdpSocket, to: impl Into<IpAddr>, sequence: u16, payload: &[u8]) {
    const HEADER: usize = 8;
    let to = to.into();
    let (request, answer) = if to.is_ipv4() { (8, 0) } else { (128, 129) };
    let mut message = vec![request, 0, 0, 0, 0, 0];
    message.extend(sequence.to_be_bytes());
    message.extend(payload);
    socket
        .send_to(&message, (to, 0))
        .expect("send an echo request");
    let mut reply = vec![0; message.len() + 1];
    let (length, from) = socket.recv_from(&mut reply).expect("an echo reply");
    assert_eq!(from.ip(), to);
    assert_eq!(reply[0], answer, "an echo reply");
    assert_eq!(reply[6..HEADER], sequence.to_be_bytes());
    assert_eq!(&reply[HEADER..length], payload);
}

/// The next datagram, which has to be `expected`, and where it came from.
#[track_caller]
pub fn hears(socket: &UdpSocket, expected: &[u8]) -> SocketAddr {
    let mut buffer = vec![0; 64 << 10];
    let (length, from) = socket
        .recv_from(&mut buffer)
        .unwrap_or_else(|error| panic!("no datagram: {error}"));
    assert!(
        &buffer[..length] == expected,
        "another datagram than expected: {length} bytes {}",
        buffer[..length.min(64)].escape_ascii()
    );
    from
}

/// No datagram comes.
#[track_caller]
pub fn says_nothing(socket: &UdpSocket) {
    set_receive_timeout(socket, SILENCE);
    let mut buffer = [0; 64];
    let came = socket.recv_from(&mut buffer);
    set_receive_timeout(socket, PATIENCE);
    if let Ok((length, from)) = came {
        panic!("{from}: {}", buffer[..length].escape_ascii());
    }
}

#[track_caller]
pub fn await_words(from: &TcpStream) {
    let mut poll = libc::pollfd {
        fd: from.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one entry.
    let ready = unsafe { libc::poll(&raw mut poll, 1, PATIENCE.as_millis() as i32) };
    assert_eq!(ready, 1, "nothing comes");
}

/// Reads what there is, none at the end. A reader that waits on a joined socket is
/// woken without words, too, as by room for what it sends (docs/sockmap.md).
#[track_caller]
pub fn hear(mut from: &TcpStream, words: &mut [u8]) -> usize {
    loop {
        match from.read(words) {
            Ok(heard) => return heard,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => await_words(from),
            Err(error) => panic!("hear: {error}"),
        }
    }
}

/// Something said in each direction of a connection.
#[track_caller]
pub fn talk(near: &TcpStream, far: &TcpStream) {
    for (from, to, words) in [(near, far, &b"a question"[..]), (far, near, b"the answer")] {
        let mut heard = [0; 10];
        { from }.write_all(words).expect("say");
        { to }.read_exact(&mut heard).expect("hear");
        assert_eq!(heard, words);
    }
}

/// Ends a connection by a reset, without a word to say that it is over. Its ports
/// are free at once, also where a program that another test starts just now still
/// holds a copy of the descriptor (`tcp_disconnect`).
pub fn abort(stream: TcpStream) {
    let nobody = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as libc::sa_family_t,
        sa_data: [0; 14],
    };
    let length = size_of_val(&nobody) as libc::socklen_t;
    // SAFETY: the kernel reads an address of the length that is named.
    let ret = unsafe { libc::connect(stream.as_raw_fd(), &raw const nobody, length) };
    assert_eq!(ret, 0, "disconnect: {}", io::Error::last_os_error());
}
