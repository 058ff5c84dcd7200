//! The supervisor of one sandbox: looks at each port that its programs bind, and
//! hands out sockets of the host for those that are direct.

use std::{
    env, fs,
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use netdp_common::{
    addr::{Be16, proto},
    maps::OwnPort,
};
use nix::{
    errno::Errno,
    libc,
    sys::stat::fstat,
    unistd::{ForkResult, fork},
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{
    Hears, Task,
    claims::{Claim, Claims, MOST, listening},
    filters::{Event, Filters},
    life::Life,
    notification::Call,
    options::{bar, get, number},
    owners::{self, Owner},
    place::{Asked, PORT_OWNER, Place, move_aside},
    ports_file::PortsFile,
    process::Caller,
    rights::Rights,
    ways,
};
use crate::{
    bpf::{Closed, OwnWays},
    model::Proto,
    netlink::Found,
    netns::Namespace,
};

/// `SO_NETNS_COOKIE` (`include/uapi/asm-generic/socket.h`, 5.14).
const SO_NETNS_COOKIE: i32 = 71;
const IPPROTO_MPTCP: i32 = 262;

/// Runs the hidden command [`DIRECT_COMMAND`](super::DIRECT_COMMAND): returns at
/// once in the process that was started, and in its child when no program of the
/// sandbox is left. A byte on standard output says that the child is ready.
pub fn main() -> ExitCode {
    match begin() {
        Ok(Some((supervisor, filters))) => supervisor.run(filters),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    }
    .map_or_else(
        |error| {
            let _ = writeln!(io::stderr(), "netdp: direct ports: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

/// What it is told, and the process that started it.
fn task() -> Result<(Task, Pid)> {
    let mut arguments = env::args().skip(2);
    let task = serde_json::from_str(&arguments.next().context("no task")?)?;
    let starter = arguments.next().context("nobody started it")?.parse()?;
    Ok((task, Pid::from_raw(starter).context("no process")?))
}

/// In the child, the supervisor and what it hears.
fn begin() -> Result<Option<(Supervisor, Filters)>> {
    let (task, starter) = task().context("this command is netdp's own")?;
    let opened = pidfd_open(starter, PidfdFlags::empty());
    // The number is still its own if it is the parent still.
    if nix::unistd::getppid().as_raw() != starter.as_raw_pid() {
        bail!("the process that started it has gone");
    }
    let starter = opened?;
    // Whoever started it may never reap, or become another program.
    // SAFETY: this process was just executed and has one thread.
    if let ForkResult::Parent { .. } = unsafe { fork() }? {
        return Ok(None);
    }
    // Sockets are of the group in which they are made, for as long as they live.
    let procs = task.cgroup.join("cgroup.procs");
    fs::write(&procs, "0").with_context(|| format!("can't join {}", procs.display()))?;
    let host = Namespace::current()?;
    let mut supervisor = Supervisor {
        inside: None,
        host: host.cookie()?,
        rights: Rights::over(&host)?,
        ports: PortsFile::new(task.ports.clone()),
        claims: Claims::default(),
        life: None,
        said: 0,
        task,
    };
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let filters = match &supervisor.task.hears {
        Hears::Filter { netns } => {
            supervisor.hear(Inside::look(netns)?);
            Filters::of(input)
        }
        Hears::Runtime { .. } => Filters::handed_over_at(input.into(), starter)?,
    };
    let null = fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    let mut out = io::stdout();
    out.write_all(b"+").and_then(|()| out.flush())?;
    nix::unistd::dup2_stdout(&null)?;
    Ok(Some((supervisor, filters)))
}

/// The first port that needs no capability in this thread's network.
fn first_free_port() -> u16 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1024)
}

struct Supervisor {
    task: Task,
    /// The sandbox's network, as soon as a program of it is known.
    inside: Option<Inside>,
    /// Cookie of the host's network.
    host: u64,
    rights: Rights,
    ports: PortsFile,
    claims: Claims,
    life: Option<Life>,
    /// How often something was.
    said: u32,
}

/// What is to be known of the sandbox's network.
#[derive(Clone)]
struct Inside {
    cookie: u64,
    inode: u64,
    free_ports: u16,
    owners: Vec<Owner>,
}

impl Inside {
    /// The namespace isn't held: it lives no longer than its programs.
    fn look(netns: &Path) -> Result<Self> {
        let namespace = Namespace::open(netns)?;
        Ok(Self {
            cookie: namespace.cookie()?,
            inode: namespace.inode(),
            free_ports: namespace.run(first_free_port)?,
            owners: owners::of(&namespace)?,
        })
    }
}

/// What becomes of a `bind`.
enum Outcome {
    /// Nothing was done.
    Untouched,
    /// As if the kernel had said so.
    Answered(Result<(), Errno>),
}

impl Supervisor {
    fn run(mut self, mut filters: Filters) -> Result<()> {
        let heard = loop {
            match filters.next() {
                Ok(Event::Call(filter, call)) => self.look(filter.as_fd(), &call),
                Ok(Event::Joined(process)) => self.meet(process),
                Ok(Event::NotHandedOver(error)) => self.say(&format!("direct ports: {error}")),
                Ok(Event::Lost(error)) => self.say(&format!("direct ports: {error}")),
                Ok(Event::Ended) => break Ok(()),
                Err(error) => break Err(error.into()),
            }
        };
        if let (Ok(()), Some(life)) = (&heard, self.life) {
            life.end();
        }
        if let Hears::Runtime { folder } = &self.task.hears {
            // Nobody is left to hand anything over.
            let _ = fs::remove_dir_all(folder);
        }
        heard
    }

    /// Programs of this network are heard from now on.
    fn hear(&mut self, inside: Inside) {
        let begun = Life::begin(self.task.ports.folder(), inside.cookie);
        self.inside = Some(inside);
        match begun {
            Ok(life) => self.life = Some(life),
            Err(error) => self.say(&format!(
                "nobody will know if the supervisor of direct ports dies: {error}"
            )),
        }
    }

    /// All processes of a container have one network.
    fn meet(&mut self, process: i32) {
        if self.inside.is_some() {
            return;
        }
        let netns = format!("/proc/{process}/ns/net");
        match Inside::look(Path::new(&netns)) {
            Ok(inside) => self.hear(inside),
            Err(error) => self.say(&format!("direct ports: {error:#}")),
        }
    }

    /// Programs cause what is said, as often as they like. Where it can't be
    /// written, to a full disk or to nobody, the supervisor goes on.
    fn say(&mut self, text: &str) {
        const MOST: u32 = 500;
        if self.said > MOST {
            return;
        }
        self.said += 1;
        let text = if self.said > MOST {
            "no more is said of direct ports"
        } else {
            text
        };
        let _ = writeln!(io::stderr(), "netdp: {text}");
    }

    fn look(&mut self, listener: BorrowedFd<'_>, call: &Call) {
        match self.hand_out(listener, call) {
            Ok(Outcome::Answered(answer)) => call.finish(listener, answer),
            Ok(Outcome::Untouched) => call.go_on(listener),
            Err(error) => {
                call.go_on(listener);
                self.say(&format!("a direct port stays with the sandbox: {error:#}"));
            }
        }
    }

    fn hand_out(&mut self, listener: BorrowedFd<'_>, call: &Call) -> Result<Outcome> {
        let Some(inside) = self.inside.clone().filter(|_| call.is_bind) else {
            return Ok(Outcome::Untouched);
        };
        let number = call.arguments[0] as u32;
        let caller = Caller::of(call.thread)?;
        let addr = caller.address(call.arguments[1], call.arguments[2])?;
        let Some(addr) = addr else {
            return Ok(Outcome::Untouched);
        };
        let Some(socket) = caller.socket(number)? else {
            return Ok(Outcome::Untouched);
        };
        if !call.still_waits(listener) {
            return Ok(Outcome::Untouched);
        }
        let netns = netns(&socket);
        let Some(asked) = asked(&socket, addr) else {
            return Ok(Outcome::Untouched);
        };
        let ports = self.ports.read(inside.inode)?;
        let Some(place) = Place::of(&asked, &ports) else {
            return Ok(Outcome::Untouched);
        };
        if netns == Some(self.host) {
            // A signal came between the socket and the answer, and the program
            // asks again.
            let answer = if is_at(&socket, &asked, &place) {
                Ok(())
            } else {
                Err(Errno::EINVAL)
            };
            return Ok(Outcome::Answered(answer));
        }
        if netns != Some(inside.cookie)
            || addr.port() < inside.free_ports && !caller.may_bind_low_ports(&inside.owners)
            || is_bound(&socket)
            || self.rights.are_half(inside.inode)?
        {
            return Ok(Outcome::Untouched);
        }
        if let Some(what) = bar(&socket) {
            bail!("its socket has {what}");
        }
        let made = match self.claim(&socket, addr.port(), &place)? {
            Some(made) => made,
            None => return Ok(Outcome::Answered(Err(Errno::EADDRINUSE))),
        };
        caller.set_status_flags(&socket, &made)?;
        let close_on_exec = caller.closes_on_exec(number)?;
        call.replace(listener, number, &made, close_on_exec)
            .context("can't hand the socket over")?;
        // Whatever the daemon takes away from now on, it finds in the program;
        // before, it may have looked there too early.
        let ports = self.ports.read(inside.inode);
        if !ports.is_ok_and(|ports| Place::of(&asked, &ports) == Some(place)) {
            let moved = move_aside(&made).context("can't take what the socket hears");
            let closed = self.close(&made, place.proto);
            call.replace(listener, number, &socket, close_on_exec)
                .context("can't take the socket back")?;
            moved.and(closed)?;
            return Ok(Outcome::Untouched);
        }
        // The program has the socket: whatever else fails, its bind is done.
        if let Err(error) = self.lead(inside.cookie, addr.port(), &place) {
            self.say(&format!(
                "the sandbox itself does not reach its direct port: {error:#}"
            ));
        }
        Ok(Outcome::Answered(Ok(())))
    }

    /// A program that has kept one of UDP could take it off the interface again.
    fn close(&self, made: &OwnedFd, proto: Proto) -> Result<()> {
        if proto != Proto::Udp {
            return Ok(());
        }
        let cookie = get(made, libc::SOL_SOCKET, libc::SO_COOKIE)?;
        let cookie = cookie.first_chunk().context("a cookie is of 64 bits")?;
        Ok(Closed::open(&self.task.maps)?.close(&[u64::from_ne_bytes(*cookie)])?)
    }

    /// Has connections of the sandbox to itself go where the socket is. When the
    /// sandbox is gone, the daemon forgets it.
    fn lead(&self, netns: u64, port: u16, place: &Place) -> Result<()> {
        let number = match place.proto {
            Proto::Udp => proto::UDP,
            _ => proto::TCP,
        };
        let port = OwnPort::new(netns, Be16::new(port), number);
        OwnWays::open(&self.task.maps)?.lead(port, ways::of(place))?;
        Ok(())
    }

    /// The socket of the host; none where the port is taken by another one that
    /// was handed out.
    fn claim(&mut self, socket: &OwnedFd, port: u16, place: &Place) -> Result<Option<OwnedFd>> {
        let shared = number(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT).unwrap_or(0) != 0;
        let mut claim = Claim {
            proto: place.proto,
            port,
            v4: place.v4.is_some(),
            v6: place.v6.is_some(),
            shared,
            inode: 0,
        };
        let began = Instant::now();
        let all = loop {
            let all = listening(place.proto, Some(place.addr.port()))
                .context("can't list the sockets of the host")?;
            if !self.is_taken(&claim, place, &all) {
                break all;
            }
            if began.elapsed() > LEFT_BEHIND {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(5));
        };
        // A program may make its sockets another user's, or deaf.
        let group = fs::metadata(&self.task.cgroup).ok().map(|it| it.ino());
        let is_direct = |it: &Found| it.owner == PORT_OWNER || group.is_some() && it.group == group;
        let is_of_it = |it: &&Found| place.is_of(it) && is_direct(it);
        let daemons = usize::from(place.proto == Proto::Udp);
        if all.iter().filter(is_of_it).count() >= MOST + daemons {
            self.say(&format!("{MOST} sockets share {} already", place.addr));
            return Ok(None);
        }
        let made = place
            .make(socket, &self.task.maps)
            .with_context(|| format!("no socket of the host at {}", place.addr))?;
        claim.inode = fstat(&made)?.st_ino;
        self.claims.add(claim, || {
            let mut all = listening(Proto::Tcp, None)?;
            all.extend(listening(Proto::Udp, None)?);
            Ok(open(&all).map(|it| it.inode).collect())
        });
        Ok(Some(made))
    }

    /// Whether somebody who doesn't share it has the port, by what listens.
    fn is_taken(&self, claim: &Claim, place: &Place, all: &[Found]) -> bool {
        // Programs that entered a container have supervisors of their own, and so
        // have containers that share a network. Of UDP the daemon's own socket is
        // one that is bound.
        let is_others = |it: &Found| {
            place.proto == Proto::Tcp
                && place.is_of(it)
                && it.owner == PORT_OWNER
                && !self.claims.has(it.inode)
        };
        let is_open = |inode| open(all).any(|it| it.inode == inode);
        self.claims.is_taken(claim, is_open) || !claim.shared && open(all).any(is_others)
    }
}

/// A daemon that ends direct sockets, of whatever port, has copies of all programs'
/// sockets for a moment: so long may one outlive the program that listened by it.
const LEFT_BEHIND: Duration = Duration::from_millis(200);

/// Those that somebody may be heard by.
fn open(all: &[Found]) -> impl Iterator<Item = &Found> {
    all.iter().filter(|it| !it.is_nowhere())
}

/// What a program asks for, if it is a socket of TCP or UDP.
fn asked(socket: &OwnedFd, addr: std::net::SocketAddr) -> Option<Asked> {
    let of = |name| number(socket, libc::SOL_SOCKET, name).ok();
    let family = if addr.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let proto = match (of(libc::SO_TYPE)?, of(libc::SO_PROTOCOL)?) {
        (libc::SOCK_STREAM, libc::IPPROTO_TCP | IPPROTO_MPTCP) => Proto::Tcp,
        (libc::SOCK_DGRAM, libc::IPPROTO_UDP) => Proto::Udp,
        _ => return None,
    };
    let v6only =
        addr.is_ipv6() && number(socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY).unwrap_or(0) != 0;
    (of(libc::SO_DOMAIN)? == family).then_some(Asked {
        proto,
        addr,
        v6only,
    })
}

fn netns(socket: &OwnedFd) -> Option<u64> {
    let value = get_cookie(socket)?;
    Some(u64::from_ne_bytes(value))
}

/// The kernel takes no other length than that of the cookie.
fn get_cookie(socket: &OwnedFd) -> Option<[u8; 8]> {
    let mut cookie = [0u8; 8];
    let mut length = cookie.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            cookie.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    (got == 0).then_some(cookie)
}

/// Whether it has a port already.
fn is_bound(socket: &OwnedFd) -> bool {
    name(socket).is_none_or(|name| name.port() != 0)
}

/// Whether it is the socket that was handed out for this place. What it is told
/// of itself is the container's port.
fn is_at(socket: &OwnedFd, asked: &Asked, place: &Place) -> bool {
    let listens = get(socket, libc::SOL_SOCKET, libc::SO_ACCEPTCONN);
    let listens = listens.is_ok_and(|value| value.iter().any(|byte| *byte != 0));
    let is_there = name(socket).is_some_and(|name| {
        name.is_ipv4() == place.addr.is_ipv4() && name.port() == asked.addr.port()
    });
    is_there && !listens
}

fn name(socket: &OwnedFd) -> Option<std::net::SocketAddr> {
    use nix::sys::socket::{SockaddrStorage, getsockname};
    let name: SockaddrStorage = getsockname(socket.as_raw_fd()).ok()?;
    if let Some(v4) = name.as_sockaddr_in() {
        return Some(std::net::SocketAddrV4::from(*v4).into());
    }
    name.as_sockaddr_in6()
        .map(|v6| std::net::SocketAddrV6::from(*v6).into())
}
