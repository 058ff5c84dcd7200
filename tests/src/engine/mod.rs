//! Real container engines, each on a host of its own.

mod containerd;
pub mod direct;
mod docker;
mod host;
mod podman;
pub mod scene;
mod state;
mod versions;
mod web;

pub use containerd::Containerd;
pub use docker::Docker;
pub use host::{EngineHost, application};
pub use podman::{Podman, twice};
pub use state::Left;
pub use web::{Seen, fetch, fetch_within, get};

use std::net::Ipv4Addr;

use netdp::netns::Namespace;
use serde_json::Value;

/// One with a command like Docker's.
pub trait Engine: Sized {
    /// Its command.
    const PROGRAM: &str;
    /// The network of netdp that containers are put on.
    const NETWORK: &str;
    /// What it says of port 8081 when another container has it.
    const TAKEN: &[&str];
    /// Whether a start waits for netdp's daemon to be there.
    const WAITS: bool;

    /// On a host of its own with these packages, with netdp's daemon, a network
    /// and the image `web`; none, with the reason printed, where the packages
    /// could not be had.
    fn start(name: &str, packages: &str) -> Option<Self>;

    fn host(&self) -> &EngineHost;

    /// The words that run the image `web` on the network in the background.
    fn run_words(&self, name: &str, options: &str) -> String {
        let (program, network) = (Self::PROGRAM, Self::NETWORK);
        format!(
            "{program} run -d --name {name} --hostname {name} --network {network} {options} web:1"
        )
    }

    #[track_caller]
    fn run(&self, name: &str, options: &str) {
        self.host().sh(&self.run_words(name, options));
    }

    /// The words that end containers and remove them.
    fn remove_words(&self, names: &str) -> String {
        format!("{} rm -f {names}", Self::PROGRAM)
    }

    #[track_caller]
    fn remove(&self, names: &str) {
        self.host().sh(&self.remove_words(names));
    }

    #[track_caller]
    fn inspect(&self, name: &str) -> Value {
        let text = self.host().sh(&format!("{} inspect {name}", Self::PROGRAM));
        let mut found: Vec<Value> = serde_json::from_str(&text).expect("containers in JSON");
        found.remove(0)
    }

    /// A container's network namespace.
    #[track_caller]
    fn namespace(&self, name: &str) -> Namespace {
        let pid = self.inspect(name)["State"]["Pid"].to_string();
        self.host().namespace_of(&pid)
    }

    /// A container's address on the network.
    #[track_caller]
    fn address(&self, name: &str) -> Ipv4Addr {
        let networks = &self.inspect(name)["NetworkSettings"]["Networks"];
        let address = networks[Self::NETWORK]["IPAddress"].as_str();
        address
            .and_then(|text| text.parse().ok())
            .expect("an address")
    }
}
