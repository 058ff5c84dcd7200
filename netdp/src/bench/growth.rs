//! What there can be more and more of.

use clap::ValueEnum;
use serde::Serialize;

use super::Mode;
use super::report::short;
use crate::load::{Kind, allowed_cpus};

/// What there is more and more of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Growth {
    /// Published ports of one container; the one measured was published last.
    Ports,
    /// Idle flows of a container to the outside.
    Flows,
    /// Containers on one network.
    Endpoints,
    /// CPUs with a client and a server each, all at once.
    Cores,
}

impl Growth {
    pub const ALL: [Self; 4] = [Self::Ports, Self::Flows, Self::Endpoints, Self::Cores];

    pub fn title(self, workload: Kind) -> String {
        let workload = short(workload);
        match self {
            Self::Ports => format!("{workload} by published ports"),
            Self::Flows => format!("{workload} by idle flows"),
            Self::Endpoints => format!("{workload} by endpoints"),
            Self::Cores => format!("{workload} of a core, by cores at once"),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ports => "ports",
            Self::Flows => "flows",
            Self::Endpoints => "endpoints",
            Self::Cores => "cores",
        }
    }

    /// That every host has: the ports that are measured, and two containers.
    pub(super) fn least(self) -> usize {
        match self {
            Self::Ports => Kind::ALL.len(),
            Self::Flows => 0,
            Self::Endpoints => 2,
            Self::Cores => 1,
        }
    }

    /// A bridge has a thousand ports, and other numbers are those of ports.
    pub(super) fn most(self) -> usize {
        match self {
            Self::Ports => 40_000,
            Self::Flows => 1_000_000,
            Self::Endpoints => 1_000,
            Self::Cores => allowed_cpus().map_or(1, |cpus| cpus.len()),
        }
    }

    /// From the one that the others are compared with.
    pub fn sizes(self) -> Vec<usize> {
        match self {
            Self::Ports => vec![10, 100, 1_000, 10_000],
            Self::Flows => vec![0, 10_000, 1_000_000],
            Self::Endpoints => vec![2, 100, 1_000],
            Self::Cores => doubled(self.most()),
        }
    }

    /// Whether `mode` has more and more of it.
    pub(super) fn has(self, mode: &Mode) -> bool {
        use Mode::{
            Accelerated, Direct, Floor, FloorDirect, FloorUplink, Host, HostRules, HostSeccomp,
        };
        match self {
            Self::Ports => !matches!(
                mode,
                Host | HostRules | HostSeccomp | Floor | FloorUplink | FloorDirect | Direct
            ),
            Self::Flows | Self::Endpoints => !matches!(
                mode,
                Host | HostRules
                    | HostSeccomp
                    | Floor
                    | FloorUplink
                    | FloorDirect
                    | Direct
                    | Accelerated
            ),
            Self::Cores => !matches!(
                mode,
                HostRules | HostSeccomp | Floor | FloorUplink | FloorDirect
            ),
        }
    }
}

/// One, two, twice as many, and all of so many.
pub(super) fn doubled(all: usize) -> Vec<usize> {
    let powers = (0..usize::BITS).map(|shift| 1 << shift);
    let mut numbers: Vec<usize> = powers.take_while(|number| *number < all).collect();
    numbers.push(all);
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_grow() {
        for growth in Growth::ALL {
            let sizes = growth.sizes();
            assert!(sizes.is_sorted(), "{growth:?}");
            assert!(sizes.last() <= Some(&growth.most()), "{growth:?}");
            assert!(sizes[0] >= growth.least(), "{growth:?}");
        }
    }

    #[test]
    fn numbers_of_cpus_double() {
        assert_eq!(doubled(1), [1]);
        assert_eq!(doubled(2), [1, 2]);
        assert_eq!(doubled(6), [1, 2, 4, 6]);
        assert_eq!(doubled(16), [1, 2, 4, 8, 16]);
    }
}
