//! What requests and answers look like as JSON. Field names are stable: they
//! are added to, never renamed.
//!
//! `POST /v1/networks` takes a [`NetworkRequest`](crate::model::NetworkRequest),
//! `POST /v1/sandboxes` a [`SandboxRequest`](crate::model::SandboxRequest),
//! `POST /v1/attachments` an [`AttachmentRequest`](crate::model::AttachmentRequest).
//! `GET /v1/attachments` answers with an array of [`Attachment`], `DELETE` takes
//! one as its query.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    path::PathBuf,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::explain::{Question, Step};
pub use crate::model::{Attachment, HostsEntry};
use crate::model::{Driver, EndpointRequest, Exposed, MacAddr, PortSpec, Proto};

/// The body of every answer that isn't a success.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    pub error: Reason,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reason {
    /// A [`Kind`](crate::model::Kind), or `internal`.
    pub kind: String,
    /// One line: what was refused, why, and what to do.
    pub message: String,
}

/// A network as `network inspect` shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Network {
    pub id: String,
    pub name: String,
    pub driver: Driver,
    /// Unix time in seconds; 0 for the networks that were always there.
    pub created: u64,
    pub subnets: Vec<Subnet>,
    pub internal: bool,
    pub icc: bool,
    /// In bytes; absent where the driver has none.
    pub mtu: Option<u32>,
    pub options: BTreeMap<String, String>,
    /// The bridge interface on the host.
    pub interface: Option<String>,
    pub endpoints: Vec<Member>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Subnet {
    pub subnet: IpNet,
    pub gateway: IpAddr,
    pub ip_range: Option<IpNet>,
}

/// A sandbox that is on a network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    pub endpoint: String,
    pub sandbox: String,
    pub name: String,
    pub mac: MacAddr,
    pub addresses: Vec<IpNet>,
}

/// A sandbox as `inspect` shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sandbox {
    pub id: String,
    pub name: String,
    /// Unix time in seconds.
    pub created: u64,
    pub hostname: String,
    pub netns: PathBuf,
    pub pid: Option<u32>,
    pub command: Vec<String>,
    /// `host`, `none`, `container:NAME`, or `networks`: those of its endpoints.
    pub mode: String,
    pub log: Option<PathBuf>,
    /// The engine whose container it is.
    #[serde(default)]
    pub owner: Option<String>,
    /// What that engine's plugin calls it.
    #[serde(default)]
    pub container: Option<String>,
    pub expose: Vec<Exposed>,
    pub endpoints: Vec<Endpoint>,
    /// Names that the sandbox knows besides its own.
    pub hosts: Vec<HostsEntry>,
    /// Variables that a program gets by its links when it starts.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Where it asks for names, if there is a resolver for it.
    #[serde(default)]
    pub resolver: Option<IpAddr>,
    /// What hands sockets of the host to its programs, if anything is to.
    #[serde(default)]
    pub direct: Option<Direct>,
}

/// What a supervisor of direct ports needs to know.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Direct {
    /// The control group that the sockets are made in.
    pub cgroup: PathBuf,
    /// The file that says which ports are direct, at any time.
    pub ports: PathBuf,
    /// Folder in which the daemon's maps are pinned.
    pub maps: PathBuf,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    pub id: String,
    pub network: String,
    /// Inside the sandbox.
    pub interface: String,
    pub host_interface: String,
    pub mac: MacAddr,
    pub addresses: Vec<IpNet>,
    pub gateways: Vec<IpAddr>,
    /// Further names on the network.
    #[serde(default)]
    pub aliases: Vec<String>,
    pub ports: Vec<Port>,
}

/// A published port, or a range of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Port {
    /// The first of a range.
    pub container_port: u16,
    pub protocol: Proto,
    /// Of the host; of a container on a routed network its own.
    pub host_ip: IpAddr,
    /// The first of a range.
    pub host_port: u16,
    /// How many ports there are.
    pub count: NonZeroU16,
    /// Sources that may use it; empty: all.
    pub allow: Vec<IpNet>,
    /// A program that listens there gets a socket of the host's own.
    #[serde(default)]
    pub direct: bool,
    /// By netdp, or by the sandbox's engine. False when another program took
    /// the port while no daemon ran.
    pub held: bool,
}

/// The answer to `POST /v1/attachments`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attached {
    pub network: Network,
    pub sandbox: Sandbox,
    /// Id of the one of the sandbox's endpoints that was made.
    pub endpoint: String,
}

/// `POST /v1/sandboxes/NAME/networks`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connect {
    /// Name or id.
    pub network: String,
    #[serde(default)]
    pub endpoint: EndpointRequest,
}

/// `POST /v1/sandboxes/NAME/publish` and `.../unpublish`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    pub ports: Vec<PortSpec>,
    /// Of what is published: sources that may use it; empty: those that the
    /// sandbox was given, or all.
    #[serde(default)]
    pub allow: Vec<IpNet>,
}

/// Query of `DELETE /v1/sandboxes/NAME`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removal {
    /// Ends the program if it still runs.
    #[serde(default)]
    pub force: bool,
}

/// Query of `GET /v1/flows` and `GET /v1/flows/count`: what is given must all
/// be so.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowQuery {
    /// `tcp`, `udp`, `icmp`, or a number.
    pub protocol: Option<String>,
    /// Name or identifier of a sandbox.
    pub sandbox: Option<String>,
    /// Address of the peer.
    pub peer: Option<IpAddr>,
    /// So many at most; of no meaning to a count.
    pub limit: Option<usize>,
}

/// `GET /v1/flows/count`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FlowCount {
    /// In the main table.
    pub flows: u64,
    /// Not answered yet.
    pub pending: u64,
    /// Of direct ports, by the host's sockets.
    #[serde(default)]
    pub direct: u64,
}

/// An entry of the flow table, or of a socket of the host that a program has for
/// a direct port. `GET /v1/flows` answers with an array of them,
/// each on a line of its own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Flow {
    /// `tcp`, `udp`, `icmp`, or a number.
    pub protocol: String,
    /// `published`, `masquerade`, ..., or `direct`.
    pub kind: String,
    /// For TCP its state, otherwise `answered` or `unanswered`; of a direct port of
    /// UDP `heard` once the program has received something from this client, or
    /// `unheard`.
    pub state: String,
    /// The peer.
    pub remote: SocketAddr,
    /// Address and port of the container; none for a socket of the host.
    pub container: Option<SocketAddr>,
    /// The host's address and port that the peer sees; of a direct port of UDP
    /// unspecified where answers leave from the usual one.
    pub host: SocketAddr,
    /// Seconds since the last packet; none of a client of a direct port of UDP.
    pub idle: Option<u64>,
    /// Seconds without a packet after which it is forgotten; none of a direct
    /// port.
    pub timeout: Option<u64>,
    /// Not answered yet.
    pub pending: bool,
    /// The network of another engine that it is carried for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerated: Option<String>,
}

/// The answer to `POST /v1/explain`, which takes a
/// [`Question`](crate::explain::Question).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Explained {
    pub question: Question,
    /// What was asked, in the order of the programs.
    pub steps: Vec<Step>,
    /// Source and destination as they are in the end; port 0 where the
    /// program would choose one.
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub fate: Fate,
    /// Why it is dropped, as `netdp stats` counts it.
    pub reason: Option<String>,
    /// Name of the sandbox that gets it, by a socket of the host where that has it.
    pub sandbox: Option<String>,
    /// The uplink, or the host end, that it leaves by.
    pub interface: Option<String>,
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// Handed to a sandbox.
    Delivered,
    /// Sent out of an uplink.
    Sent,
    /// Left to the host's own stack.
    Host,
    Dropped,
}

/// `POST /v1/block` and `/v1/unblock`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sources {
    /// A single address has all bits for its prefix length.
    pub sources: Vec<IpNet>,
}

/// A source of which nothing gets in. `GET /v1/blocked` answers with an array
/// of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Blocked {
    pub source: IpNet,
    /// Unix time in seconds.
    pub since: u64,
    /// That were dropped since then; those of a longer prefix that is blocked
    /// too count there alone.
    pub packets: u64,
}

/// `POST /v1/limit`: what a source outside may begin with published ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitRequest {
    /// Conversations a second.
    pub rate: u64,
    /// Conversations at once; those of two seconds where none are named.
    #[serde(default)]
    pub burst: Option<u64>,
}

/// `GET /v1/limit`, which answers with null where there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Limit {
    /// Conversations a second.
    pub rate: u32,
    /// Conversations at once, of a source that has begun none for a while.
    pub burst: u32,
    /// Unix time in seconds.
    pub since: u64,
    /// That were dropped since the datapath was made, by this limit and others
    /// before it.
    pub packets: u64,
}

/// `GET /v1/stats`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Statistics {
    pub endpoints: Vec<EndpointCounters>,
    pub drops: Vec<Drops>,
    /// What the programs for other engines' networks left to the stack; empty
    /// where they carry none.
    #[serde(default)]
    pub left: Vec<Drops>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EndpointCounters {
    pub sandbox: String,
    pub name: String,
    pub network: String,
    pub interface: String,
    /// As the sandbox sees it.
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub drops: u64,
    /// On another engine's network, which these programs carry.
    #[serde(default)]
    pub accelerated: bool,
    /// By TCP from socket to socket, past the interface.
    #[serde(default)]
    pub joined: JoinedCounters,
    /// By TCP at direct ports, which the interface doesn't see.
    #[serde(default)]
    pub direct: DirectCounters,
}

/// What the sockets of an endpoint sent the short way, and those of the host to
/// it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct JoinedCounters {
    pub connections: u64,
    pub messages: u64,
    pub bytes: u64,
}

/// What connections of direct ports have carried that are open now: the host's
/// stack keeps nothing of those before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DirectCounters {
    pub connections: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Drops {
    pub reason: String,
    pub packets: u64,
}

/// `GET /v1/status`: the daemon itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    /// Folder in which output of detached programs is kept.
    pub log_dir: PathBuf,
    /// BPF file system in which programs and maps are pinned.
    #[serde(default)]
    pub bpffs: Option<PathBuf>,
    /// `tcx` or `clsact`.
    pub mechanism: String,
    pub uplinks: Vec<UplinkStatus>,
    /// How many sources are blocked.
    #[serde(default)]
    pub blocked: usize,
    /// How many conversations a source may begin in a second.
    #[serde(default)]
    pub limit: Option<u32>,
    /// Things that are not as they should be.
    pub problems: Vec<Problem>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    pub what: String,
    /// What to do about it.
    pub advice: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UplinkStatus {
    pub interface: String,
    /// False while no interface of that name exists.
    pub present: bool,
    pub addresses: Vec<IpAddr>,
    /// What drops packets there: `xdp` before `mechanism`, or that alone; none while
    /// no source is blocked or limited.
    #[serde(default)]
    pub drops_by: Option<String>,
    /// Why that isn't `xdp`.
    #[serde(default)]
    pub without_xdp: Option<WithoutXdp>,
}

/// Why packets are not dropped by XDP.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WithoutXdp {
    pub why: String,
    /// The kernel or its driver refused it; otherwise it wasn't tried.
    pub refused: bool,
}
