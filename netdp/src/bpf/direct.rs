//! Programs on the control group of direct sockets: what may be done with one.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, SkStorage},
    programs::{CgroupAttachMode, CgroupSockAddr, CgroupSockopt, SockOps, links::FdLink},
};
use netdp_common::{
    addr::{V4Addr, V6Addr},
    maps::{MadeFor, OwnPort, OwnWay, name, seen},
};

use super::{
    BpfError, Datapath,
    cgroup::{attach_pinned, attach_program, cgroup_id},
    kernel,
    kernel_types::{Datagram, Offsets},
    layout::Layout,
    link,
};
use crate::direct;

const ADDRESSES: [&str; 10] = [
    "direct_connect4",
    "direct_connect6",
    "direct_bind4",
    "direct_bind6",
    "direct_name4",
    "direct_name6",
    "direct_sendmsg4",
    "direct_sendmsg6",
    "direct_recvmsg4",
    "direct_recvmsg6",
];
/// The filter of sockets of UDP.
const FILTER: &str = "direct_filter";
const OPTION: &str = "direct_option";
const LISTEN: &str = "direct_listen";
/// `enum bpf_attach_type` (`include/uapi/linux/bpf.h`, 5.3).
const BPF_CGROUP_SETSOCKOPT: u32 = 22;

/// Where programs read what a datagram is sent with; none where this kernel doesn't
/// tell, or doesn't let them read its memory.
pub(super) fn datagram(offsets: Offsets) -> Option<Datagram> {
    offsets
        .datagram
        .filter(|_| kernel::lets_programs_read_memory())
}

/// Whether a control message that gives a datagram of a direct socket another mark
/// (`SO_MARK`) is refused: otherwise programs with CAP_NET_RAW may send under any.
pub fn refuses_marks() -> bool {
    datagram(Offsets::of_this_kernel()).is_some()
}

/// Tells the programs where to read what a datagram is sent with.
pub(super) fn tell<'a>(loader: &mut EbpfLoader<'a>, offsets: &'a Datagram) {
    loader
        .override_global("T_CTX", &offsets.t_ctx, true)
        .override_global("MARK4", &offsets.mark4, true)
        .override_global("MARK6", &offsets.mark6, true);
}

/// The control group of direct sockets, below the daemon's.
pub fn direct_cgroup(cgroup: &Path) -> PathBuf {
    cgroup.join(direct::CGROUP)
}

/// The control group of direct sockets before there are programs on it.
pub(super) struct Group {
    folder: PathBuf,
    /// Its number, by which programs know its sockets.
    pub id: u64,
    is_new: bool,
}

impl Group {
    /// Makes it below the daemon's, or finds it there.
    pub fn make(cgroup: &Path) -> Result<Self, BpfError> {
        let folder = direct_cgroup(cgroup);
        let is_new = match fs::create_dir(&folder) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(BpfError::io("make the control group", &folder)(error)),
        };
        let found = fs::metadata(&folder);
        let found = found.map_err(BpfError::io("look at the control group", &folder))?;
        Ok(Self {
            folder,
            id: found.ino(),
            is_new,
        })
    }

    /// Takes it away where it has been made for nothing.
    pub fn undo(self) {
        if self.is_new {
            // What stays is an empty group.
            let _ = fs::remove_dir(&self.folder);
        }
    }
}

/// Attaches the programs to the group, or puts them in the place of those pinned.
pub(super) fn attach(ebpf: &mut Ebpf, layout: &Layout, cgroup: &Path) -> Result<(), BpfError> {
    let cgroup = direct_cgroup(cgroup);
    // Another daemon of the same control group that ends takes it away at any moment:
    // then it has another number, and packets of its sockets are looked at.
    fs::create_dir_all(&cgroup).map_err(BpfError::io("make the control group", &cgroup))?;
    let folder = File::open(&cgroup).map_err(BpfError::io("open the control group", &cgroup))?;
    for name in ADDRESSES {
        let program: &mut CgroupSockAddr = ebpf
            .program_mut(name)
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| BpfError::Missing(format!("program {name}")))?;
        let fd = program.fd().and_then(|fd| Ok(fd.try_clone()?));
        attach_program(fd, name, layout, &cgroup, &folder, || {
            let id = program.attach(&folder, CgroupAttachMode::Single)?;
            Ok(FdLink::try_from(program.take_link(id)?).ok())
        })?;
    }
    let program: &mut CgroupSockopt = ebpf
        .program_mut(OPTION)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| BpfError::Missing(format!("program {OPTION}")))?;
    let program = program.fd().map_err(|source| BpfError::Attach {
        name: OPTION,
        target: cgroup.display().to_string(),
        source: Box::new(source),
    })?;
    attach_pinned(program.as_fd(), OPTION, layout, &folder, |staging| {
        link::attach_to_group(program.as_fd(), folder.as_fd(), BPF_CGROUP_SETSOCKOPT)
            .and_then(|made| link::pin(made.as_fd(), staging))
            .map_err(BpfError::io("attach direct_option to", &cgroup))
    })
}

/// Number of the control group whose sockets the pinned programs guard; none
/// where nothing is pinned, or the group is gone.
pub fn guarded_group(bpffs: &Path) -> Option<u64> {
    let link = link::open_pin(&Layout::of(bpffs).cgroup_link(OPTION)).ok()?;
    cgroup_id(link.as_fd()).ok().filter(|group| *group != 0)
}

impl Datapath {
    /// Has listeners looked at that aren't where netdp has put them. Not before the
    /// first direct port: the kernel then asks at each TCP connection, of whatever
    /// group, whether there is a program for it.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(super) fn guard_listeners(&mut self) -> Result<(), BpfError> {
        let Some(cgroup) = self.direct_cgroup().filter(|_| !self.guards) else {
            return Ok(());
        };
        let folder =
            File::open(&cgroup).map_err(BpfError::io("open the control group", &cgroup))?;
        let program: &mut SockOps = self
            .ebpf
            .program_mut(LISTEN)
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| BpfError::Missing(format!("program {LISTEN}")))?;
        let fd = program.fd().and_then(|fd| Ok(fd.try_clone()?));
        attach_program(fd, LISTEN, &self.layout, &cgroup, &folder, || {
            let id = program.attach(&folder, CgroupAttachMode::Single)?;
            Ok(FdLink::try_from(program.take_link(id)?).ok())
        })?;
        self.guards = true;
        Ok(())
    }

    /// After another daemon has left what it had.
    pub(super) fn adopt_guard(&mut self) -> Result<(), BpfError> {
        if self.layout.cgroup_link(LISTEN).exists() {
            self.guard_listeners()?;
        }
        Ok(())
    }
}

/// The map of sockets that are being made, as pinned: what is in it may be bound
/// and set as the programs let nobody else do it.
#[derive(Debug)]
pub struct Unsealed(SkStorage<MapData, u32>);

impl Unsealed {
    /// # Errors
    /// When no such map is pinned in this folder.
    pub fn open(maps: &Path) -> Result<Self, BpfError> {
        let map = open(maps, name::UNSEALED)?.try_into();
        map.map(Self).map_err(BpfError::map(name::UNSEALED))
    }

    /// Lets a socket be made.
    ///
    /// # Errors
    /// The kernel's.
    pub fn unseal(&mut self, socket: &impl AsRawFd) -> Result<(), BpfError> {
        let unsealed = self.0.insert(socket, 1, 0);
        unsealed.map_err(BpfError::map(name::UNSEALED))
    }

    /// Ends that for good.
    ///
    /// # Errors
    /// The kernel's; the socket must go to nobody then.
    pub fn seal(&mut self, socket: &impl AsRawFd) -> Result<(), BpfError> {
        let sealed = self.0.remove(socket);
        sealed.map_err(BpfError::map(name::UNSEALED))
    }
}

/// The map of what direct sockets of TCP were made for, as pinned.
#[derive(Debug)]
pub struct Purposes(SkStorage<MapData, MadeFor>);

impl Purposes {
    /// # Errors
    /// When no such map is pinned in this folder.
    pub fn open(maps: &Path) -> Result<Self, BpfError> {
        let map = open(maps, name::MADE_FOR)?.try_into();
        map.map(Self).map_err(BpfError::map(name::MADE_FOR))
    }

    /// Notes what a socket is about to be.
    ///
    /// # Errors
    /// The kernel's.
    pub fn note(&mut self, socket: &impl AsRawFd, made_for: MadeFor) -> Result<(), BpfError> {
        let noted = self.0.insert(socket, made_for, 0);
        noted.map_err(BpfError::map(name::MADE_FOR))
    }

    /// The port of the host; none of a socket that isn't netdp's.
    pub fn port(&self, socket: &impl AsRawFd) -> Option<u16> {
        let made_for = self.0.get(socket, 0).ok()?;
        u16::try_from(made_for.port).ok()
    }
}

/// The map by which programs of a sandbox reach its own direct ports.
#[derive(Debug)]
pub struct OwnWays(HashMap<MapData, OwnPort, OwnWay>);

impl OwnWays {
    /// # Errors
    /// When no such map is pinned in this folder.
    pub fn open(maps: &Path) -> Result<Self, BpfError> {
        let map = open(maps, name::OWN_WAYS)?.try_into();
        map.map(Self).map_err(BpfError::map(name::OWN_WAYS))
    }

    /// Sends them there by the families that `way` has; the others stay.
    ///
    /// # Errors
    /// The kernel's.
    pub fn lead(&mut self, port: OwnPort, way: OwnWay) -> Result<(), BpfError> {
        let mut ways = self.0.get(&port, 0).unwrap_or_default();
        if way.v4.to != V4Addr::default() {
            ways.v4 = way.v4;
        }
        if way.v6.to != V6Addr::default() {
            ways.v6 = way.v6;
        }
        let led = self.0.insert(port, ways, 0);
        led.map_err(BpfError::map(name::OWN_WAYS))
    }

    /// Forgets those of all other networks, by the cookies of these.
    pub fn keep(&mut self, networks: &BTreeSet<u64>) {
        let ports: Vec<OwnPort> = self.0.keys().flatten().collect();
        for port in ports.iter().filter(|port| !networks.contains(&port.netns)) {
            let _ = self.0.remove(port);
        }
    }
}

/// The filter that sockets of UDP are given, and those that not everybody may
/// reach (`SO_ATTACH_BPF`), as pinned beside
/// these maps.
///
/// # Errors
/// When it isn't there.
pub fn socket_filter(maps: &Path) -> io::Result<OwnedFd> {
    let root = maps.parent().unwrap_or(maps);
    link::open_pin(&root.join("progs").join(FILTER))
}

/// Has programs look for sockets of UDP that were handed out.
///
/// # Errors
/// When no such map is pinned in this folder, or the kernel's.
pub fn expect_datagrams(maps: &Path) -> Result<(), BpfError> {
    see(maps, seen::DATAGRAMS)
}

/// Has the filter of such sockets look at who sends.
///
/// # Errors
/// As [`expect_datagrams`].
pub fn expect_limits(maps: &Path) -> Result<(), BpfError> {
    see(maps, seen::LIMITED)
}

fn see(maps: &Path, what: u32) -> Result<(), BpfError> {
    let map = open(maps, name::DIRECT_SEEN)?;
    let mut map: Array<MapData, u32> = map.try_into().map_err(BpfError::map(name::DIRECT_SEEN))?;
    map.set(what, 1, 0)
        .map_err(BpfError::map(name::DIRECT_SEEN))
}

/// The direct sockets of UDP that have lost their port, by their cookies. The
/// kernel can't take a port from such a socket.
#[derive(Debug)]
pub struct Closed {
    sockets: HashMap<MapData, u64, u32>,
    maps: PathBuf,
}

impl Closed {
    /// # Errors
    /// When no such map is pinned in this folder.
    pub fn open(maps: &Path) -> Result<Self, BpfError> {
        let sockets = open(maps, name::CLOSED)?.try_into();
        let sockets = sockets.map_err(BpfError::map(name::CLOSED))?;
        Ok(Self {
            sockets,
            maps: maps.to_owned(),
        })
    }

    /// From now on these hear nothing and send nothing.
    ///
    /// # Errors
    /// The kernel's, the last of them: the others are closed.
    pub fn close(&mut self, cookies: &[u64]) -> Result<(), BpfError> {
        let mut done = see(&self.maps, seen::CLOSED);
        for cookie in cookies {
            let inserted = self.sockets.insert(cookie, 1, 0);
            done = inserted.map_err(BpfError::map(name::CLOSED)).and(done);
        }
        done
    }

    /// Those that have been closed.
    pub fn cookies(&self) -> Vec<u64> {
        self.sockets.keys().flatten().collect()
    }

    /// Forgets those of `noted` that are gone: what was closed after `noted` was
    /// read may not be among those that are `alive`.
    pub fn forget_gone(&mut self, noted: &[u64], alive: &[u64]) {
        let alive: BTreeSet<&u64> = alive.iter().collect();
        for cookie in noted.iter().filter(|cookie| !alive.contains(cookie)) {
            let _ = self.sockets.remove(cookie);
        }
    }
}

fn open(maps: &Path, name: &'static str) -> Result<Map, BpfError> {
    let data = MapData::from_pin(maps.join(name));
    data.and_then(Map::from_map_data)
        .map_err(BpfError::map(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_was_made_for_nothing_goes() {
        let daemons = tempfile::tempdir().unwrap();
        let made = Group::make(daemons.path()).unwrap();
        let found = Group::make(daemons.path()).unwrap();
        assert_eq!(made.id, found.id);
        found.undo();
        assert!(direct_cgroup(daemons.path()).exists());
        made.undo();
        assert!(!direct_cgroup(daemons.path()).exists());
        assert!(Group::make(&daemons.path().join("elsewhere")).is_err());
    }
}
