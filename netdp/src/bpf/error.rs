//! What can go wrong with BPF, and what to do about it.

use std::{io, path::PathBuf};

use aya::{
    EbpfError,
    maps::MapError,
    pin::PinError,
    programs::{ProgramError, links::LinkError},
};

/// An operation on programs, maps or links that failed.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    #[error(
        "this kernel has no tcx, by which programs end with the daemon: another engine's networks \
         can be accelerated from Linux 6.6 on"
    )]
    NoTcx,
    #[error(
        "load the BPF programs: {source}; `netdp doctor` shows what this kernel and these privileges allow"
    )]
    Load {
        #[source]
        source: Box<EbpfError>,
    },
    #[error(
        "load BPF program {name}: {source}; `netdp doctor` shows what this kernel and these privileges allow"
    )]
    Program {
        name: String,
        #[source]
        source: Box<ProgramError>,
    },
    #[error("attach {name} to {target}: {source}")]
    Attach {
        name: &'static str,
        target: String,
        #[source]
        source: Box<ProgramError>,
    },
    #[error(
        "drop packets in the driver of {target}: {why}; free it, or start the daemon with \
         --xdp auto or off"
    )]
    Driver { target: String, why: String },
    #[error("the pinned link {}: {source}", path.display())]
    Link {
        path: PathBuf,
        #[source]
        source: Box<LinkError>,
    },
    #[error("BPF map {name}: {source}")]
    Map {
        name: &'static str,
        #[source]
        source: Box<MapError>,
    },
    #[error("BPF map {name} is full: it holds {limit} entries at most")]
    Full { name: &'static str, limit: u32 },
    #[error("the BPF object lacks {0}: it was built from other sources than this program")]
    Missing(String),
    #[error("pin at {}: {source}", path.display())]
    Pin {
        path: PathBuf,
        #[source]
        source: Box<PinError>,
    },
    #[error("{operation} {}: {source}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("run {name} on a packet of {length} bytes: {source}")]
    TestRun {
        name: String,
        length: usize,
        #[source]
        source: Box<ProgramError>,
    },
    #[error("start the timer that expires flows")]
    Sweep(#[source] io::Error),
}

impl BpfError {
    pub(super) fn map(name: &'static str) -> impl Fn(MapError) -> Self {
        move |source| Self::Map {
            name,
            source: Box::new(source),
        }
    }

    pub(super) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            operation,
            path,
            source,
        }
    }
}
