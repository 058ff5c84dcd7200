//! Who speaks to whom.

use clap::ValueEnum;
use serde::Serialize;

use super::Mode;
use crate::load::Kind;

/// A way that traffic takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// A client outside to a published port.
    Published,
    /// A container to a server outside.
    Egress,
    /// A container to another on the same host; in host mode loopback.
    Containers,
    /// A program of the host to a published port at 127.0.0.1.
    Local,
}

impl Scenario {
    pub const ALL: [Self; 4] = [Self::Published, Self::Egress, Self::Containers, Self::Local];

    /// The name that the command line knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Egress => "egress",
            Self::Containers => "containers",
            Self::Local => "local",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::Published => "published port, client outside",
            Self::Egress => "container to the outside",
            Self::Containers => "container to container",
            Self::Local => "host to 127.0.0.1:published",
        }
    }

    /// What `mode` is called in it.
    pub fn title_of(self, mode: &Mode) -> String {
        match (self, mode) {
            (Self::Containers | Self::Local, Mode::Host) => "loopback".into(),
            (Self::Local, Mode::HostRules) => "loopback beside Docker's rules".into(),
            (Self::Containers, Mode::Floor) => "a veth pair, nothing else".into(),
            _ => mode.title(),
        }
    }

    /// Whether `mode` is another way than those measured already.
    pub fn has(self, mode: &Mode) -> bool {
        use Mode::{Accelerated, Direct, Floor, FloorDirect, FloorUplink, HostRules, HostSeccomp};
        match self {
            // There is nothing of Docker's between two programs on loopback that
            // `Local` doesn't show.
            // What netdp doesn't carry of Docker's is Docker's own way.
            // Nothing of an uplink is on loopback.
            Self::Containers => !matches!(
                mode,
                HostRules | HostSeccomp | Accelerated | FloorUplink | FloorDirect
            ),
            // Nothing publishes the port of `floor`.
            Self::Local => !matches!(
                mode,
                Floor | Accelerated | HostSeccomp | FloorUplink | FloorDirect
            ),
            // A direct port has no part in what a container begins, and
            // these three are there for direct ports.
            Self::Egress => !matches!(mode, Direct | HostSeccomp | FloorUplink | FloorDirect),
            Self::Published => true,
        }
    }

    /// What `--quick` measures of it.
    pub fn few(self) -> Vec<Kind> {
        match self {
            Self::Published => Kind::ALL.to_vec(),
            _ => vec![Kind::Rr, Kind::Crr],
        }
    }
}
