//! The programs that join TCP sockets of this host, and whose sockets they may
//! join.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData, PerCpuArray, PerCpuValues},
    programs::{CgroupAttachMode, SkMsg, SockOps, links::FdLink},
};
use netdp_common::{
    addr::{V4Addr, V6Addr},
    maps::{MAX_ENDPOINTS, Member, Short, name},
};

use super::{
    BpfError, Datapath, cgroup,
    datapath::{load_programs, take},
    kernel,
    kernel_types::TcpSock,
    layout::Layout,
    link::detach_and_unpin,
    map_entry::{delete, dump, insert},
    syscall::bpf,
};

/// The program on the control group, and the one on `sockets`.
const JOIN: &str = "join";
const SEND: &str = "send_short";

/// Whether a program is one of these.
pub(super) fn is_one(program: &str) -> bool {
    matches!(program, JOIN | SEND)
}

/// Who may be joined, and what was sent that way.
pub struct Members {
    v4: HashMap<MapData, V4Addr, Member>,
    v6: HashMap<MapData, V6Addr, Member>,
    short: PerCpuArray<MapData, Short>,
    sockets: Map,
    /// Why no sockets can be joined; none where they can.
    pub(super) unable: Option<String>,
}

impl Members {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self {
            v4: take(ebpf, name::MEMBERS4)?
                .try_into()
                .map_err(BpfError::map(name::MEMBERS4))?,
            v6: take(ebpf, name::MEMBERS6)?
                .try_into()
                .map_err(BpfError::map(name::MEMBERS6))?,
            short: take(ebpf, name::SHORT)?
                .try_into()
                .map_err(BpfError::map(name::SHORT))?,
            sockets: take(ebpf, name::SOCKETS)?,
            unable: Some("the programs are not loaded".to_owned()),
        })
    }
}

/// Tells the programs where to read the kernel's sockets.
pub(super) fn tell<'a>(loader: &mut EbpfLoader<'a>, offsets: &'a TcpSock) {
    loader
        .override_global("WRITE_SEQ", &offsets.write_seq, true)
        .override_global("RMEM_ALLOC", &offsets.rmem_alloc, true);
}

/// Loads the programs; says why not where that isn't to be. The others work
/// without them.
pub(super) fn load(ebpf: &mut Ebpf, offsets: Option<&TcpSock>) -> Option<String> {
    if offsets.is_none() {
        return Some("the kernel doesn't tell of its sockets' fields (BTF)".to_owned());
    }
    if let Err(why) = kernel::joins_sockets() {
        return Some(why);
    }
    load_programs(ebpf, is_one)
        .err()
        .map(|error| error.to_string())
}

impl Datapath {
    /// Why no sockets can be joined on this host; none where they can.
    pub fn unable_to_join(&self) -> Option<&str> {
        self.maps.members.unable.as_deref()
    }

    /// Whose sockets may be joined.
    pub fn members(&self) -> Result<BTreeMap<IpAddr, Member>, BpfError> {
        let mut found = BTreeMap::new();
        dump(
            &self.maps.members.v4,
            name::MEMBERS4,
            |key: V4Addr, value| {
                found.insert(IpAddr::V4(key.into()), value);
            },
        )?;
        dump(
            &self.maps.members.v6,
            name::MEMBERS6,
            |key: V6Addr, value| {
                found.insert(IpAddr::V6(key.into()), value);
            },
        )?;
        Ok(found)
    }

    /// Makes these the ones whose sockets may be joined. Connections of those
    /// that no longer are go by the stack from their next message on.
    ///
    /// The program is on the control group only as long as there are any.
    pub fn set_members(&mut self, wanted: &BTreeMap<IpAddr, Member>) -> Result<(), BpfError> {
        let have = self.members()?;
        if have == *wanted && self.joins != wanted.is_empty() {
            return Ok(());
        }
        for (address, member) in wanted {
            if have.get(address) != Some(member) {
                self.put_member(*address, member)?;
            }
        }
        let gone: Vec<_> = have.keys().filter(|it| !wanted.contains_key(it)).collect();
        for address in &gone {
            self.delete_member(**address)?;
        }
        let changed = have
            .iter()
            .any(|(address, member)| wanted.get(address) != Some(member));
        if changed {
            self.tell_of_members()?;
        }
        if wanted.is_empty() {
            return self.stop_joining();
        }
        self.start_joining()
    }

    /// The sockets of containers are joined no longer: their endpoints go.
    pub(super) fn part(&mut self, addresses: impl Iterator<Item = IpAddr>) -> Result<(), BpfError> {
        if !self.joins {
            return Ok(());
        }
        for address in addresses {
            self.delete_member(address)?;
        }
        self.tell_of_members()
    }

    fn put_member(&mut self, address: IpAddr, member: &Member) -> Result<(), BpfError> {
        let maps = &mut self.maps.members;
        match address {
            IpAddr::V4(address) => {
                let key = address.into();
                insert(&mut maps.v4, &key, member, name::MEMBERS4, MAX_ENDPOINTS)
            }
            IpAddr::V6(address) => {
                let key = address.into();
                insert(&mut maps.v6, &key, member, name::MEMBERS6, MAX_ENDPOINTS)
            }
        }
    }

    fn delete_member(&mut self, address: IpAddr) -> Result<(), BpfError> {
        let maps = &mut self.maps.members;
        match address {
            IpAddr::V4(address) => delete(&mut maps.v4, &address.into(), name::MEMBERS4),
            IpAddr::V6(address) => delete(&mut maps.v6, &address.into(), name::MEMBERS6),
        }
    }

    /// Sockets that are joined look again whether their ends are members.
    fn tell_of_members(&mut self) -> Result<(), BpfError> {
        let mut config = self.maps.config()?;
        config.members = config.members.wrapping_add(1);
        self.config.members = config.members;
        self.maps.set_config(&config)
    }

    /// What was sent the short way by an endpoint's sockets, and by those of the
    /// host to it.
    pub fn short(&self, slot: u32) -> Result<Short, BpfError> {
        let counts = self
            .maps
            .members
            .short
            .get(&slot, 0)
            .map_err(BpfError::map(name::SHORT))?;
        Ok(counts.iter().fold(Short::default(), |sum, cpu| Short {
            connections: sum.connections + cpu.connections,
            messages: sum.messages + cpu.messages,
            bytes: sum.bytes + cpu.bytes,
        }))
    }

    /// Sets what was sent the short way to 0.
    pub(super) fn clear_short(&mut self, slot: u32) -> Result<(), BpfError> {
        // The programs for other engines' networks join nothing: their map has
        // no room, and nothing to clear.
        if slot >= self.maps.members.short.len() {
            return Ok(());
        }
        let cpus =
            aya::util::nr_cpus().map_err(|(path, source)| BpfError::io("read", path)(source))?;
        let zero = PerCpuValues::try_from(vec![Short::default(); cpus])
            .map_err(BpfError::io("count the CPUs for", name::SHORT))?;
        let short = &mut self.maps.members.short;
        short.set(slot, zero, 0).map_err(BpfError::map(name::SHORT))
    }

    /// Puts the programs where they are called.
    fn start_joining(&mut self) -> Result<(), BpfError> {
        if self.joins || self.unable_to_join().is_some() {
            return Ok(());
        }
        let Some(folder) = self.cgroup.clone() else {
            return Ok(());
        };
        // A socket takes over the program that is there when it is joined.
        self.attach_to_sockets()?;
        attach_to_group(&mut self.ebpf, &self.layout, &folder)?;
        self.joins = true;
        Ok(())
    }

    /// No further sockets are joined.
    fn stop_joining(&mut self) -> Result<(), BpfError> {
        self.joins = false;
        detach_and_unpin(&self.layout.cgroup_link(JOIN))
    }

    /// After another daemon has left what it had.
    pub(super) fn adopt_joining(&mut self) -> Result<(), BpfError> {
        if self.members()?.is_empty() || self.unable_to_join().is_some() {
            return self.stop_joining();
        }
        self.start_joining()
    }

    fn attach_to_sockets(&mut self) -> Result<(), BpfError> {
        let failed = |source| BpfError::Io {
            operation: "attach send_short to",
            path: name::SOCKETS.into(),
            source,
        };
        let program: &mut SkMsg = self
            .ebpf
            .program_mut(SEND)
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| BpfError::Missing(format!("program {SEND}")))?;
        let program = program.fd().map_err(io::Error::other).map_err(failed)?;
        let Map::SockHash(sockets) = &self.maps.members.sockets else {
            return Err(BpfError::Missing(format!("map {}", name::SOCKETS)));
        };
        prog_attach(program.as_fd(), sockets.fd().as_fd()).map_err(failed)
    }
}

fn attach_to_group(ebpf: &mut Ebpf, layout: &Layout, cgroup: &Path) -> Result<(), BpfError> {
    let folder = File::open(cgroup).map_err(BpfError::io("open the control group", cgroup))?;
    let program: &mut SockOps = ebpf
        .program_mut(JOIN)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| BpfError::Missing(format!("program {JOIN}")))?;
    let fd = program.fd().and_then(|fd| Ok(fd.try_clone()?));
    cgroup::attach_program(fd, JOIN, layout, cgroup, &folder, || {
        let id = program.attach(&folder, CgroupAttachMode::Single)?;
        Ok(FdLink::try_from(program.take_link(id)?).ok())
    })
}

/// `BPF_PROG_ATTACH` of `bpf(2)` to a sockhash, in the place of what is there.
/// aya would take it off again when the process ends.
fn prog_attach(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<()> {
    /// `union bpf_attr`, the part of `BPF_PROG_ATTACH`
    /// (`include/uapi/linux/bpf.h`, 4.18).
    #[repr(C)]
    struct ProgAttach {
        target_fd: u32,
        attach_bpf_fd: u32,
        attach_type: u32,
        attach_flags: u32,
    }
    const BPF_PROG_ATTACH: libc::c_long = 8;
    const BPF_SK_MSG_VERDICT: u32 = 7;

    let mut attr = ProgAttach {
        target_fd: map.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_SK_MSG_VERDICT,
        attach_flags: 0,
    };
    // SAFETY: both descriptors are open.
    unsafe { bpf(BPF_PROG_ATTACH, &mut attr) }.map(drop)
}
