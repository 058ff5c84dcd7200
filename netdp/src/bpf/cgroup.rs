//! Programs on the control group: sockets of the host.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use aya::{
    Ebpf,
    programs::{CgroupAttachMode, CgroupSockAddr, ProgramError, ProgramFd, links::FdLink},
};

use super::{
    BpfError,
    datapath::unpin,
    layout::Layout,
    link::{self, open_pin},
    syscall::bpf,
};

const PROGRAMS: [&str; 8] = [
    "connect4",
    "sendmsg4",
    "recvmsg4",
    "getpeername4",
    "connect6",
    "sendmsg6",
    "recvmsg6",
    "getpeername6",
];

/// Attaches the programs to a cgroup v2 folder, or puts them in the place of
/// those pinned. What is pinned for another folder is let go.
pub(super) fn attach(ebpf: &mut Ebpf, layout: &Layout, cgroup: &Path) -> Result<(), BpfError> {
    let folder = File::open(cgroup).map_err(BpfError::io("open the control group", cgroup))?;
    for name in PROGRAMS {
        let program: &mut CgroupSockAddr = ebpf
            .program_mut(name)
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| BpfError::Missing(format!("program {name}")))?;
        let fd = program.fd().and_then(|fd| Ok(fd.try_clone()?));
        attach_program(fd, name, layout, cgroup, &folder, || {
            // Links may always be several; the kernel refuses to be told so
            // (cgroup_bpf_link_attach).
            let id = program.attach(&folder, CgroupAttachMode::Single)?;
            Ok(FdLink::try_from(program.take_link(id)?).ok())
        })?;
    }
    Ok(())
}

/// Puts a program in the place of the one that is pinned for this folder, or
/// attaches it, by `attach`.
pub(super) fn attach_program(
    program: Result<ProgramFd, ProgramError>,
    name: &'static str,
    layout: &Layout,
    cgroup: &Path,
    folder: &File,
    attach: impl FnOnce() -> Result<Option<FdLink>, ProgramError>,
) -> Result<(), BpfError> {
    let failed = |source: ProgramError| BpfError::Attach {
        name,
        target: cgroup.display().to_string(),
        source: Box::new(source),
    };
    let program = program.map_err(failed)?;
    attach_pinned(program.as_fd(), name, layout, folder, |staging| {
        let link = attach()
            .map_err(failed)?
            .ok_or_else(|| BpfError::Missing(format!("a link of program {name}")))?;
        link.pin(staging).map_err(|source| BpfError::Pin {
            path: staging.to_owned(),
            source: Box::new(source),
        })?;
        Ok(())
    })
}

/// The same, where `attach` makes a link and its pin.
pub(super) fn attach_pinned(
    program: BorrowedFd<'_>,
    name: &'static str,
    layout: &Layout,
    folder: &File,
    attach: impl FnOnce(&Path) -> Result<(), BpfError>,
) -> Result<(), BpfError> {
    let path = layout.cgroup_link(name);
    if replace(program, &path, folder).is_ok() {
        return Ok(());
    }
    // There is no link, or it is one to another control group. That one stays
    // until the new one is there: no call of a socket goes unseen.
    let staging = layout.cgroup_link_staging(name);
    unpin(&staging)?;
    attach(&staging)?;
    let before = open_pin(&path);
    fs::rename(&staging, &path).map_err(BpfError::io("replace the pin", &path))?;
    if let Ok(before) = before {
        let _ = link::detach(before.as_fd());
    }
    Ok(())
}

/// Replaces the program of the link that is pinned for this folder. aya has no
/// way to do this for links of control groups.
fn replace(program: BorrowedFd<'_>, path: &Path, folder: &File) -> io::Result<()> {
    let opened = open_pin(path)?;
    // The number of a control group is that of its folder's inode.
    if cgroup_id(opened.as_fd())? != folder.metadata()?.ino() {
        return Err(io::Error::other("it is attached to another control group"));
    }
    link::update(opened.as_fd(), program)
}

/// `BPF_OBJ_GET_INFO_BY_FD` of `bpf(2)`: the control group of a link; 0 when it
/// is gone. From Linux 5.8.
pub(super) fn cgroup_id(link: BorrowedFd<'_>) -> io::Result<u64> {
    /// `struct bpf_link_info` of a link to a control group
    /// (`include/uapi/linux/bpf.h`, 5.8).
    #[repr(C)]
    #[derive(Default)]
    struct LinkInfo {
        r#type: u32,
        id: u32,
        prog_id: u32,
        pad: u32,
        cgroup_id: u64,
        attach_type: u32,
        pad_end: u32,
    }
    /// `union bpf_attr`, `info` (`include/uapi/linux/bpf.h`, 4.13).
    #[repr(C)]
    struct ObjInfo {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

    let mut info = LinkInfo::default();
    let mut attr = ObjInfo {
        bpf_fd: link.as_raw_fd() as u32,
        info_len: size_of::<LinkInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the kernel writes no more than `info_len` bytes to `info`, which
    // outlives the call.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info.cgroup_id)
}
