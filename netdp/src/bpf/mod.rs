//! The BPF side of userspace: loading, pinning, attaching, tables. The only
//! module that speaks to aya.
//!
//! Everything lives under `<bpffs>/netdp/`: `maps/NAME`, `progs/NAME`, and in
//! `links/` one pin for each attachment, `IFINDEX-PROGRAM` or
//! `cgroup-PROGRAM`. The folder is made under another name and renamed once it
//! is whole. It outlives the daemon; the next one adopts it.

mod accelerated;
mod attach;
mod batch;
mod blocked;
mod cgroup;
mod clients;
pub mod clock;
pub mod cost;
mod counters;
mod datapath;
mod direct;
mod entry;
mod error;
mod flow_tables;
pub mod instruction;
mod joined;
mod kernel;
mod kernel_types;
mod layout;
mod limit;
mod link;
mod linkage;
mod loopback;
mod map_entry;
mod maps;
mod netkit;
mod own;
mod pin;
mod renew;
mod shared;
pub mod socket_filter;
mod syscall;
mod tables;
mod test_run;
mod xdp;

pub use accelerated::Accelerated;
pub use blocked::blocked_key;
pub use clients::Clients;
pub use counters::Counters;
pub use datapath::{Datapath, Mechanism, Options, Role};
pub use direct::{
    Closed, OwnWays, Purposes, Unsealed, direct_cgroup, expect_datagrams, expect_limits,
    guarded_group, refuses_marks, socket_filter,
};
pub use entry::{Entry, Key, Tables};
pub use error::BpfError;
pub use flow_tables::{FlowSeen, FlowTables};
pub use kernel::tells_preferred_sources;
pub use layout::Layout;
pub use loopback::Loopback;
pub use maps::TableAddress;
pub use netkit::has_netkit;
pub use test_run::{TestPacket, TestRun};
pub use xdp::{DriverProgram, Xdp};

/// The object with all programs and maps, as `netdp-ebpf` compiles to.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("NETDP_BPF_OBJECT"));
