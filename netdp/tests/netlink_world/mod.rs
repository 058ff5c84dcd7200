//! A namespace for the host and one for a sandbox, and a veth pair between them.

use std::time::Duration;

use netdp::{
    netlink::{
        LinkPair, Netlink, PacketLimit, PairKind, Route, SandboxInterface, configure_sandbox,
    },
    netns::Namespace,
};
use tempfile::TempDir;

pub const PATIENCE: Duration = Duration::from_secs(5);
pub const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const SANDBOX_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: making network namespaces needs root");
    }
    root
}

/// A namespace that plays the host and one that plays the sandbox.
pub struct Topology {
    pub host: Namespace,
    pub sandbox: Namespace,
    pub netlink: Netlink,
    pub _folder: TempDir,
}

impl Topology {
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let host = Namespace::create(folder.path(), "host").unwrap();
        let sandbox = Namespace::create(folder.path(), "sandbox").unwrap();
        let netlink = Netlink::open_in(&host).unwrap();
        Self {
            host,
            sandbox,
            netlink,
            _folder: folder,
        }
    }

    pub fn pair<'a>(&'a self, host_name: &'a str, peer_name: &'a str) -> LinkPair<'a> {
        LinkPair {
            kind: PairKind::Veth,
            host_name,
            host_mac: HOST_MAC,
            peer_name,
            peer_mac: SANDBOX_MAC,
            mtu: 1400,
            alias: "an endpoint",
            packet_limit: PacketLimit::Legacy,
            peer_netns: &self.sandbox,
        }
    }

    /// A connected pair: 172.17.0.1 on the host, 172.17.0.2 in the sandbox.
    pub async fn connect(&self) -> u32 {
        let index = self
            .netlink
            .create_pair(&self.pair("veth1", "eth0"))
            .await
            .unwrap();
        self.netlink.set_up("veth1").await.unwrap();
        configure_sandbox(&self.sandbox, &interface("eth0"))
            .await
            .unwrap();
        let lo = self.netlink.link("lo").await.unwrap().unwrap();
        let gateway = "172.17.0.1/32".parse().unwrap();
        self.netlink.add_address(lo.index, gateway).await.unwrap();
        self.netlink
            .add_route(&host_route("172.17.0.2/32", index))
            .await
            .unwrap();
        index
    }
}

pub fn interface(name: &str) -> SandboxInterface {
    SandboxInterface {
        name: name.into(),
        mac: SANDBOX_MAC,
        addresses: vec!["172.17.0.2/16".parse().unwrap()],
        gateways: vec!["172.17.0.1".parse().unwrap()],
        mtu: 1400,
        default_route: true,
        routes: vec![],
    }
}

pub fn host_route(dst: &str, oif: u32) -> Route {
    Route::on_link(dst.parse().unwrap(), oif).with_src("172.17.0.1".parse().unwrap())
}
