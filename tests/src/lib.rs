//! What the integration tests share: a host with netdp's daemon and namespaces
//! attached to it, sockets opened inside any of them, and streams of bytes that
//! are known in advance.
//!
//! A socket belongs to the namespace it was opened in, whoever uses it: so the
//! test's own thread speaks for every side, one step after another.

mod disk;
pub mod dns;
mod docker_api;
mod dockerd;
pub mod engine;
mod flood;
mod frame;
mod handed;
mod offload;
mod pattern;
mod place;
mod side;
mod socket;
mod tap;
mod topology;
mod tracee;

pub use disk::Disk;
pub use docker_api::{ApiContainer, ApiNetwork, DockerApi, Version};
pub use dockerd::{Dockerd, Moves};
pub use flood::{Flood, Varied};
pub use frame::{Frames, Macs, datagram, echo_request, fragments, syn};
pub use handed::{disconnect, number_option, send_with_control, set_option, sockets_of};
pub use offload::{Offload, set_offload};
pub use pattern::{Pattern, receive, send, transfer};
pub use place::{HostProgram, Place, Reached};
pub use side::{SIDES, Side};
pub use socket::{
    Listener, abort, await_words, bind_port, connect, connect_bound, connect_from, connect_within,
    echo_socket, echo_socket6, hear, hears, listen, ping_through, says_nothing, talk, udp,
};
pub use tap::Tap;
pub use topology::{Container, Topology, netdp_binary};
pub use tracee::Tracee;

use std::time::Duration;

/// How long something that has to happen may take.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing must happen that mustn't: each end of every path is on this
/// machine, where a packet takes microseconds.
pub const SILENCE: Duration = Duration::from_millis(300);
