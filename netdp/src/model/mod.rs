//! What shall be: networks, sandboxes, endpoints, and the requests that change
//! them. Pure: nothing here asks the operating system or changes it.
//!
//! A request is a method of [`State`] that checks everything before it changes
//! anything; what it must know of the host comes in a [`HostView`].

mod acceleration;
mod attachment;
mod block;
mod choices;
mod connect;
mod endpoint;
mod engine;
mod environment;
mod host;
pub mod hosts;
mod id;
pub mod ipam;
pub mod lent;
mod limit;
mod link;
mod linked;
pub mod names;
mod network;
mod options;
mod pools;
mod publication;
mod publish;
mod refusal;
mod sandbox;
pub mod spec;
mod state;
pub mod subnets;
mod taken;
mod taking;
mod timeouts;

pub use acceleration::{Acceleration, Selection};
pub use attachment::{Attachment, AttachmentRequest, Container};
pub use block::Blocked;
pub use choices::{Device, Nat, Sockmap};
pub use connect::EndpointRequest;
pub use endpoint::{Address, Endpoint};
pub use engine::{End, Handover};
pub use host::{HostPorts, HostView, PortTaken};
pub use hosts::HostsEntry;
pub use id::{BadName, EndpointId, MAX_NAME, MacAddr, Name, NetworkId, SandboxId};
pub use lent::LentPool;
pub use limit::Limit;
pub use link::Link;
pub use linked::Opening;
pub use network::{Bridge, Driver, FIRST_NETWORK, Network, NetworkRequest};
pub use options::check_defaults;
pub use publication::{Publication, host_side};
pub use refusal::{Kind, Refusal};
pub use sandbox::{Mode, PidNamespace, Process, Sandbox, SandboxRequest};
pub use spec::{Exposed, PortRange, PortRequest, PortSpec, Proto};
pub use state::{Counters, State};
pub use timeouts::{LONGEST_TIMEOUT, Timeouts};

#[cfg(test)]
mod attachment_tests;
#[cfg(test)]
pub(crate) mod tests;
