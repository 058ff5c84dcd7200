//! Docker with netdp's driver.

use std::net::Ipv4Addr;

use netdp::netns::Namespace;
use serde_json::Value;

use super::{EngineHost, web};

/// dockerd on a host of its own, with netdp's daemon beside it, the image `web`
/// and the network `fast` of netdp.
pub struct Docker {
    pub host: EngineHost,
    options: &'static str,
}

impl Docker {
    /// That of a folder of packages; none, with the reason printed, where they
    /// could not be had.
    pub fn start(name: &str, packages: &str) -> Option<Self> {
        Self::start_with(name, packages, "")
    }

    /// With further options for dockerd.
    pub fn start_with(name: &str, packages: &str, options: &'static str) -> Option<Self> {
        let docker = Self {
            host: EngineHost::start(name, packages)?,
            options,
        };
        docker.host.start_netdp();
        docker.start_dockerd();
        docker.host.sh(web::FILES);
        docker.host.sh(&format!(
            "tar -C /tmp/web -cf /tmp/web.tar . && docker import -c 'CMD {}' /tmp/web.tar web:1",
            web::COMMAND
        ));
        docker
            .host
            .sh("docker network create -d netdp --subnet 10.50.0.0/24 fast");
        println!(
            "{}",
            docker.host.sh("docker version -f '{{.Server.Version}}'")
        );
        Some(docker)
    }

    #[track_caller]
    pub fn start_dockerd(&self) {
        let (group, options) = (self.host.containers_cgroup(), self.options);
        self.host.spawn(
            "dockerd",
            &format!("dockerd --log-level warn --storage-driver overlay2 --cgroup-parent {group} {options}"),
        );
        self.host.wait_for("dockerd", "docker version");
    }

    /// Kills dockerd and its containerd as a crash of the machine's memory
    /// would: shims and containers go on.
    #[track_caller]
    pub fn kill_dockerd(&self) {
        self.host.kill("dockerd");
        self.host.sh(
            "pid=$(cat /run/docker/containerd/containerd.pid) && kill -9 $pid || exit 0; \
             while test -d /proc/$pid; do sleep 0.01; done; \
             rm -rf /run/docker/containerd/containerd.pid /run/docker.pid /run/docker/containerd/*.sock*",
        );
    }

    /// Runs the image `web` on `fast` in the background.
    #[track_caller]
    pub fn run(&self, name: &str, options: &str) {
        let words = self.run_words(name, options);
        self.host.sh(&words);
    }

    pub fn run_words(&self, name: &str, options: &str) -> String {
        format!("docker run -d --name {name} --hostname {name} --network fast {options} web:1")
    }

    #[track_caller]
    pub fn inspect(&self, name: &str) -> Value {
        let text = self.host.sh(&format!("docker inspect {name}"));
        let mut found: Vec<Value> = serde_json::from_str(&text).expect("containers in JSON");
        found.remove(0)
    }

    /// A container's network namespace.
    #[track_caller]
    pub fn namespace(&self, name: &str) -> Namespace {
        let pid = self.inspect(name)["State"]["Pid"].to_string();
        self.host.namespace_of(&pid)
    }

    /// A container's address on a network.
    #[track_caller]
    pub fn address(&self, name: &str, network: &str) -> Ipv4Addr {
        let networks = &self.inspect(name)["NetworkSettings"]["Networks"];
        let address = networks[network]["IPAddress"].as_str();
        address
            .and_then(|text| text.parse().ok())
            .expect("an address")
    }

    /// What netdp calls a container's sandbox.
    #[track_caller]
    pub fn sandbox(&self, name: &str) -> String {
        let key = &self.inspect(name)["NetworkSettings"]["SandboxKey"];
        let key = key.as_str().expect("a key");
        key.rsplit('/').next().unwrap_or(key).to_owned()
    }
}
