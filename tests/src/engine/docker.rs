//! Docker with netdp's driver.

use super::{Engine, EngineHost, web};

/// dockerd on a host of its own, with netdp's daemon beside it, the image `web`
/// and the network `fast` of netdp.
pub struct Docker {
    pub host: EngineHost,
    options: &'static str,
}

impl Docker {
    /// As [`Engine::start`], with further options for dockerd.
    pub fn start_with(name: &str, packages: &str, options: &'static str) -> Option<Self> {
        let docker = Self {
            host: EngineHost::start(name, packages)?,
            options,
        };
        docker.host.start_netdp();
        docker.start_dockerd();
        docker.host.sh(web::FILES);
        docker.host.sh(&format!(
            "docker import -c 'CMD {}' /tmp/web.tar web:1",
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
        let (group, options) = (self.host.topology.world.engine_cgroup(), self.options);
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
}

impl Engine for Docker {
    const PROGRAM: &str = "docker";
    const NETWORK: &str = "fast";
    const TAKEN: &[&str] = &[
        "Bind for 0.0.0.0:8081 failed: port is already allocated",
        "published by one",
    ];
    const WAITS: bool = true;

    fn start(name: &str, packages: &str) -> Option<Self> {
        Self::start_with(name, packages, "")
    }

    fn host(&self) -> &EngineHost {
        &self.host
    }
}
