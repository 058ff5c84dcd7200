//! Programs on the control group of direct sockets: what may be done with one.

use std::{
    fs::{self, File},
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{Map, MapData, SkStorage},
    programs::{CgroupAttachMode, CgroupSockAddr, CgroupSockopt, links::FdLink},
};
use netdp_common::maps::name;

use super::{
    BpfError,
    cgroup::{attach_pinned, attach_program},
    layout::Layout,
    link,
};
use crate::direct;

const ADDRESSES: [&str; 6] = [
    "direct_connect4",
    "direct_connect6",
    "direct_bind4",
    "direct_bind6",
    "direct_name4",
    "direct_name6",
];
const OPTION: &str = "direct_option";
/// `enum bpf_attach_type` (`include/uapi/linux/bpf.h`, 5.3).
const BPF_CGROUP_SETSOCKOPT: u32 = 22;

/// The control group of direct sockets, below the daemon's.
pub fn direct_cgroup(cgroup: &Path) -> PathBuf {
    cgroup.join(direct::CGROUP)
}

/// Makes the group, and attaches the programs to it or puts them in the place
/// of those pinned.
pub(super) fn attach(ebpf: &mut Ebpf, layout: &Layout, cgroup: &Path) -> Result<(), BpfError> {
    let cgroup = direct_cgroup(cgroup);
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

/// The map of sockets that are being made, as pinned: what is in it may be bound
/// and set as the programs let nobody else do it.
#[derive(Debug)]
pub struct Unsealed(SkStorage<MapData, u32>);

impl Unsealed {
    /// Where a daemon with this BPF file system pins it.
    pub fn path(bpffs: &Path) -> PathBuf {
        Layout::of(bpffs).map(name::UNSEALED)
    }

    /// # Errors
    /// When no such map is pinned there.
    pub fn open(path: &Path) -> Result<Self, BpfError> {
        let failed = BpfError::map(name::UNSEALED);
        let map = MapData::from_pin(path).and_then(|data| Map::from_map_data(data)?.try_into());
        map.map(Self).map_err(failed)
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
