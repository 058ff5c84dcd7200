//! Podman with netdp as its CNI or netavark plugin.

use super::{Engine, EngineHost, web};

/// Podman on a host of its own, with netdp's daemon beside it, the image `web`
/// and the network `mine` of netdp.
pub struct Podman {
    pub host: EngineHost,
}

/// runc, because crun refuses control groups of both versions beside each other,
/// and limits that any machine allows: none by groups of version 2, which have
/// no controllers where those of version 1 do.
const CONFIGURATION: &str = "\
mkdir -p /etc/containers /etc/cni/net.d
cat >/etc/containers/containers.conf <<'END'
[containers]
default_ulimits = [\"nofile=4096:4096\", \"nproc=4096:4096\"]
pids_limit = 0
[engine]
runtime = \"runc\"
cgroup_manager = \"cgroupfs\"
events_logger = \"file\"
END
";

const LIST: &str = r#"{
  "cniVersion": "1.0.0",
  "name": "mine",
  "plugins": [
    {
      "type": "netdp",
      "subnets": ["10.77.0.0/24"],
      "capabilities": { "portMappings": true, "ips": true, "mac": true, "aliases": true }
    }
  ]
}"#;

impl Engine for Podman {
    const PROGRAM: &str = "podman";
    const NETWORK: &str = "mine";
    const TAKEN: &[&str] = &["address already in use"];
    const WAITS: bool = false;

    fn start(name: &str, packages: &str) -> Option<Self> {
        let podman = Self {
            host: EngineHost::start(name, packages)?,
        };
        let host = &podman.host;
        host.start_netdp();
        host.sh(CONFIGURATION);
        host.sh(web::FILES);
        host.sh(&format!(
            "podman import -c 'CMD {}' /tmp/web.tar web:1",
            web::COMMAND
        ));
        let version = host.sh("podman info -f '{{.Version.Version}} {{.Host.NetworkBackend}}'");
        if version.ends_with("netavark") {
            host.sh("podman network create -d netdp --subnet 10.77.0.0/24 mine");
        } else {
            host.sh(&format!("echo '{LIST}' >/etc/cni/net.d/mine.conflist"));
        }
        println!("{version}");
        Some(podman)
    }

    fn host(&self) -> &EngineHost {
        &self.host
    }

    fn run_words(&self, name: &str, options: &str) -> String {
        let group = self.host.topology.world.engine_cgroup();
        format!(
            "podman run -d --name {name} --hostname {name} --network mine \
             --cgroup-parent {group} {options} web:1"
        )
    }

    fn remove_words(&self, names: &str) -> String {
        twice(&format!("podman rm -f -t 0 {names}"))
    }
}

/// Podman gives a process that it has killed five seconds to be gone
/// (`killContainerTimeout`, libpod/oci_conmon_common.go), which a machine with too
/// much to do may not keep. What it has begun it ends when it is asked again.
pub fn twice(line: &str) -> String {
    format!("{{ {line} || {line}; }}")
}
