//! What a network's options choose from.

use serde::{Deserialize, Serialize};

/// How a network's UDP ports are seen outside (RFC 4787). TCP keeps its port
/// towards each peer where it is free, whatever is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nat {
    /// A port for each peer and port of it, the container's own where it is
    /// free there; only that peer's port may send to it.
    #[default]
    AddressAndPortDependent,
    /// One port for all peers; who has been sent to may send to it, from any
    /// port.
    EndpointIndependentMapping,
    /// One port for all peers, and everybody may send to it: a full cone.
    EndpointIndependent,
}

impl Nat {
    pub(super) const ALL: [Self; 3] = [
        Self::AddressAndPortDependent,
        Self::EndpointIndependentMapping,
        Self::EndpointIndependent,
    ];

    /// As people write it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::AddressAndPortDependent => "address-and-port-dependent",
            Self::EndpointIndependentMapping => "endpoint-independent-mapping",
            Self::EndpointIndependent => "endpoint-independent",
        }
    }

    pub(super) fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|nat| nat.name() == text)
    }
}

/// Whether TCP between sockets of one host goes from socket to socket, past the
/// stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sockmap {
    #[default]
    Off,
    /// Requests and answers do, and bulk doesn't.
    Auto,
    /// Whatever there is room for does.
    On,
}

impl Sockmap {
    pub(super) const ALL: [Self; 3] = [Self::Auto, Self::On, Self::Off];

    /// As people write it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Auto => "auto",
            Self::On => "on",
        }
    }

    pub(super) fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|sockmap| sockmap.name() == text)
    }
}

/// Which kind of pair leads to a network's containers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    #[default]
    Veth,
    /// netkit where the kernel has it.
    Auto,
    Netkit,
}

impl Device {
    pub(super) const ALL: [Self; 3] = [Self::Auto, Self::Veth, Self::Netkit];

    /// As people write it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Auto => "auto",
            Self::Netkit => "netkit",
        }
    }

    pub(super) fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|device| device.name() == text)
    }
}
