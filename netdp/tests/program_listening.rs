//! Which sockets of the control group of direct ports are heard when they listen, and
//! what they accept: `direct_listen`, attached, and asked by the kernel. Needs root.

use std::fs::{self, File, create_dir};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use netdp::bpf::{Datapath, Entry, Key, Options, Purposes, Unsealed, direct_cgroup};
use netdp::netns::Namespace;
use netdp_common::addr::{Be16, V4Addr, V6Addr, proto};
use netdp_common::maps::{Config, Delivery, MadeFor, PortKey, Published, published_flags};
use netdp_common::nowhere;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, listen, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

const PORT: u16 = 8080;
const OWN: [u8; 4] = [172, 17, 0, 2];

/// A control group and a folder for pins, taken away when dropped, and a namespace.
struct Ground {
    host: Option<Namespace>,
    /// Where this process was before.
    before: PathBuf,
    group: PathBuf,
    folder: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (kind, folder) in [("bpf", at("bpf")), ("cgroup2", at("cgroup"))] {
            create_dir(&folder).unwrap();
            let none = None::<&str>;
            mount(Some(kind), &folder, Some(kind), MsFlags::empty(), none).unwrap();
        }
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let unique = folder.path().file_name().unwrap().to_str().unwrap();
        let group = at("cgroup").join(format!("netdp-test{unique}"));
        create_dir(&group).unwrap();
        let host = Namespace::create(folder.path(), "host").unwrap();
        let mut ip = host.command("ip");
        assert!(
            ip.args(["link", "set", "lo", "up"])
                .status()
                .unwrap()
                .success()
        );
        Self {
            host: Some(host),
            before: at("cgroup").join(own.unwrap_or_default()),
            group,
            folder,
        }
    }

    fn host(&self) -> &Namespace {
        self.host.as_ref().unwrap()
    }

    fn open(&self) -> Datapath {
        let options = Options {
            bpffs: self.folder.path().join("bpf"),
            cgroup: Some(self.group.clone()),
            netns_cookie: self.host().cookie().unwrap(),
            max_flows: 1024,
            config: Config::default(),
            mechanism: None,
            netkit: false,
        };
        self.host()
            .run(|| Datapath::open(&options).unwrap())
            .unwrap()
    }
}

/// Sockets that are made from now on are of this group.
fn join(group: &Path) {
    let mut procs = File::options()
        .write(true)
        .open(group.join("cgroup.procs"))
        .unwrap();
    procs.write_all(b"0").unwrap();
}

impl Drop for Ground {
    fn drop(&mut self) {
        join(&self.before);
        fs::remove_dir(direct_cgroup(&self.group)).unwrap();
        fs::remove_dir(&self.group).unwrap();
        drop(self.host.take());
        for name in ["bpf", "cgroup"] {
            umount2(&self.folder.path().join(name), MntFlags::MNT_DETACH).unwrap();
        }
    }
}

/// A direct port of the host's, of a sandbox with this address.
fn published(own: [u8; 4]) -> (Key, Entry) {
    let key = PortKey::new(V4Addr::default(), Be16::new(PORT), proto::TCP);
    let value = Published {
        addr: V4Addr::new(own),
        port: Be16::new(80),
        host_port: Be16::new(PORT),
        to: Delivery::default(),
        back_addr: V4Addr::default(),
        allow: 0,
        shared: 0,
        flags: published_flags::DIRECT,
        pad: 0,
    };
    (Key::Port4(key), Entry::Port4(value))
}

fn made_for(port: u16, own: [u8; 4]) -> MadeFor {
    MadeFor {
        port: port.into(),
        own4: V4Addr::new(own),
        own6: V6Addr::default(),
    }
}

fn tcp() -> OwnedFd {
    let made = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    );
    let made = made.unwrap();
    setsockopt(&made, sockopt::ReceiveTimeout, &TimeVal::milliseconds(500)).unwrap();
    setsockopt(&made, sockopt::SendTimeout, &TimeVal::milliseconds(500)).unwrap();
    made
}

/// One that listens, made as a supervisor makes it.
fn listener(maps: &Path, port: u16, made_for: Option<MadeFor>) -> TcpListener {
    let made = tcp();
    let mut unsealed = Unsealed::open(maps).unwrap();
    unsealed.unseal(&made).unwrap();
    setsockopt(&made, sockopt::ReuseAddr, &true).unwrap();
    if let Some(made_for) = made_for {
        Purposes::open(maps).unwrap().note(&made, made_for).unwrap();
    }
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    bind(made.as_raw_fd(), &SockaddrStorage::from(to)).unwrap();
    unsealed.seal(&made).unwrap();
    listen(&made, Backlog::new(9).unwrap()).unwrap();
    made.into()
}

/// Whether a client's connection is accepted, and heard.
fn hears(listener: &TcpListener, port: u16, client: OwnedFd) -> bool {
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    if connect(client.as_raw_fd(), &SockaddrStorage::from(to)).is_err() {
        return false;
    }
    let mut near = TcpStream::from(client);
    let (mut far, _) = listener.accept().unwrap();
    // It may have become deaf before its first byte.
    let said = near.write_all(b"?").and_then(|()| far.read_exact(&mut [0]));
    assert_eq!(said.is_err(), is_nowhere(&far));
    said.is_ok()
}

fn is_nowhere(socket: &impl AsRawFd) -> bool {
    let (mut interface, mut length) = (0_i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: the kernel writes a number of this size.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTOIFINDEX,
            (&raw mut interface).cast(),
            &raw mut length,
        )
    };
    assert_eq!(got, 0);
    nowhere::is(interface)
}

#[test]
fn who_listens_where_it_was_made_for_is_heard_and_nobody_else() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: needs root");
    }
    let ground = Ground::new();
    let mut datapath = ground.open();
    let maps = datapath.maps_folder();
    let (key, entry) = published(OWN);
    datapath.put(&key, &entry).unwrap();
    ground
        .host()
        .run(|| {
            // Of no group of netdp's: those of it connect to nobody.
            let clients: Vec<OwnedFd> = (0..9).map(|_| tcp()).collect();
            let mut clients = clients.into_iter();
            let mut hears =
                |listener: &TcpListener, port| hears(listener, port, clients.next().unwrap());
            join(&direct_cgroup(&ground.group));

            let right = listener(&maps, PORT, Some(made_for(PORT, OWN)));
            assert!(!is_nowhere(&right) && hears(&right, PORT));
            // What it accepts is looked at by itself: here while nothing is published.
            datapath.remove(&key).unwrap();
            assert!(!hears(&right, PORT) && !is_nowhere(&right));
            datapath.put(&key, &entry).unwrap();
            assert!(hears(&right, PORT));
            // The port is another sandbox's: it listens, and is looked at anew.
            let (_, others) = published([172, 17, 0, 3]);
            datapath.put(&key, &others).unwrap();
            assert!(hears(&right, PORT), "as long as it does not listen again");
            drop(right);
            let late = listener(&maps, PORT, Some(made_for(PORT, OWN)));
            assert!(is_nowhere(&late) && !hears(&late, PORT));
            drop(late);
            datapath.put(&key, &entry).unwrap();

            for (port, made_for) in [
                (PORT, None),
                (PORT, Some(made_for(PORT + 1, OWN))),
                (PORT + 1, Some(made_for(PORT, OWN))),
                (PORT + 1, Some(made_for(PORT + 1, OWN))),
            ] {
                let wrong = listener(&maps, port, made_for);
                assert!(is_nowhere(&wrong) && !hears(&wrong, port), "{port}");
            }
        })
        .unwrap();
}
