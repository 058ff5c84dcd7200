//! The program in the drivers of uplinks.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use aya::programs::{TestRun as _, TestRunOptions, Xdp as XdpProgram};
use serde::Deserialize;

use super::{
    BpfError, Datapath, attach,
    link::{self, detach_and_unpin, open_pin, pin},
    syscall::bpf,
};

/// The program, which is also how its links are pinned.
pub(super) const PROGRAM: &str = "block_netdev";

/// Whether programs run in the driver of the uplink too.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Xdp {
    /// Where it helps.
    #[default]
    Auto,
    /// Nowhere.
    Off,
    /// On every uplink, or nothing is blocked or limited.
    Native,
}

/// Whether an uplink's driver drops packets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DriverProgram {
    Attached,
    /// It was to be, and the kernel said why it can't.
    Refused(String),
}

impl Datapath {
    /// Attaches the program that drops packets to the driver of an uplink, or puts
    /// it in the place of the one that is pinned there, which no packet notices.
    ///
    /// # Errors
    /// Why it can't be: nothing has changed then. It stays known as
    /// [`DriverProgram::Refused`] until it is attached or detached.
    pub fn attach_xdp(&mut self, ifname: &str, ifindex: u32) -> Result<(), BpfError> {
        match self.attach_to_driver(ifindex) {
            Ok(()) => {
                self.xdp.insert(ifindex, DriverProgram::Attached);
                Ok(())
            }
            Err(Failed::Driver(source)) => {
                let why = reason(&source);
                self.xdp
                    .insert(ifindex, DriverProgram::Refused(why.clone()));
                Err(BpfError::Driver {
                    target: ifname.to_owned(),
                    why,
                })
            }
            Err(Failed::Other(error)) => Err(error),
        }
    }

    fn attach_to_driver(&mut self, ifindex: u32) -> Result<(), Failed> {
        let at = self.layout.link(ifindex, PROGRAM);
        let program = self.block_program()?.fd();
        let program = program.map_err(|source| BpfError::Program {
            name: PROGRAM.to_owned(),
            source: Box::new(source),
        })?;
        let program = program.as_fd();
        if at.exists() {
            let replaced = open_pin(&at).and_then(|pinned| link::update(pinned.as_fd(), program));
            if replaced.is_ok() {
                return Ok(());
            }
            // It has lost its interface.
            detach_and_unpin(&at)?;
        }
        let made = create(program, ifindex).map_err(Failed::Driver)?;
        pin(made.as_fd(), &at).map_err(BpfError::io("pin", &at))?;
        Ok(())
    }

    /// Takes the program off a driver; also where the interface is gone.
    pub fn detach_xdp(&mut self, ifindex: u32) -> Result<(), BpfError> {
        detach_and_unpin(&self.layout.link(ifindex, PROGRAM))?;
        self.xdp.remove(&ifindex);
        Ok(())
    }

    /// The interfaces whose driver has the program, or was asked to.
    pub fn xdp(&self) -> &BTreeMap<u32, DriverProgram> {
        &self.xdp
    }

    /// Puts the loaded program in the place of those that are pinned.
    pub(super) fn renew_xdp(&mut self) -> Result<(), BpfError> {
        for ifindex in self.layout.at_drivers()? {
            match attach::interface_name(ifindex) {
                // What can't be replaced is asked for again when it is wanted.
                Some(ifname) => match self.attach_xdp(&ifname, ifindex) {
                    Err(BpfError::Driver { .. }) => {}
                    renewed => renewed?,
                },
                None => self.detach_xdp(ifindex)?,
            }
        }
        Ok(())
    }

    fn block_program(&mut self) -> Result<&mut XdpProgram, BpfError> {
        self.ebpf
            .program_mut(PROGRAM)
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| BpfError::Missing(format!("program {PROGRAM}")))
    }

    /// Runs the program on a frame that is thrown away afterwards, and gives its
    /// action, for tests: the kernel has the frame arrive by `lo`.
    ///
    /// # Errors
    /// As [`Datapath::test_run`].
    #[doc(hidden)]
    pub fn test_xdp(&mut self, frame: &[u8]) -> Result<u32, BpfError> {
        let result = self.block_program()?.test_run(TestRunOptions {
            data_in: Some(frame),
            repeat: 1,
            ..TestRunOptions::default()
        });
        let result = result.map_err(|source| BpfError::TestRun {
            name: PROGRAM.to_owned(),
            length: frame.len(),
            source: Box::new(source),
        })?;
        Ok(result.return_value)
    }
}

/// Why it wasn't attached.
enum Failed {
    /// The kernel, or the driver, doesn't take it.
    Driver(io::Error),
    Other(BpfError),
}

impl From<BpfError> for Failed {
    fn from(error: BpfError) -> Self {
        Self::Other(error)
    }
}

/// What the kernel's refusal means (`dev_xdp_attach`, net/core/dev.c, 6.12).
fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => "another XDP program is attached to it".to_owned(),
        Some(libc::EOPNOTSUPP) => "its driver doesn't run XDP programs itself".to_owned(),
        Some(libc::ENODEV) => "it is gone".to_owned(),
        _ => format!("the kernel or its driver refused the program ({error})"),
    }
}

/// `BPF_LINK_CREATE` of `bpf(2)` with the driver's own mode: the program runs
/// while the link is there. From Linux 5.9.
fn create(program: BorrowedFd<'_>, ifindex: u32) -> io::Result<OwnedFd> {
    /// `union bpf_attr`, `link_create` (`include/uapi/linux/bpf.h`, 5.9).
    #[repr(C)]
    struct LinkCreate {
        prog_fd: u32,
        target_ifindex: u32,
        attach_type: u32,
        flags: u32,
    }
    const BPF_LINK_CREATE: libc::c_long = 28;
    const BPF_XDP: u32 = 37;
    /// `XDP_FLAGS_DRV_MODE` (`include/uapi/linux/if_link.h`).
    const DRIVER: u32 = 1 << 2;

    let mut attr = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: ifindex,
        attach_type: BPF_XDP,
        flags: DRIVER,
    };
    // SAFETY: the descriptor is open.
    let fd = unsafe { bpf(BPF_LINK_CREATE, &mut attr) }?;
    // SAFETY: the kernel has just opened it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}
