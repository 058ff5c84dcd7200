//! containerd with netdp as its CNI plugin, by `ctr`.

use netdp::netns::Namespace;

use super::{EngineHost, web};

/// containerd on a host of its own, with netdp's daemon beside it, the image
/// `web` and the network `mine` of netdp.
pub struct Containerd {
    pub host: EngineHost,
}

const LIST: &str = r#"{
  "cniVersion": "1.0.0",
  "name": "mine",
  "plugins": [
    { "type": "netdp", "subnets": ["10.77.0.0/24"], "capabilities": { "portMappings": true } }
  ]
}"#;

/// `ctr` imports archives as `docker save` makes them.
const ARCHIVE: &str = "\
mkdir /tmp/archive
cp /tmp/web.tar /tmp/archive/layer.tar
cat >/tmp/archive/config.json <<END
{\"architecture\": \"$ARCHITECTURE\", \"os\": \"linux\", \"config\": {\"Cmd\": $COMMAND},
 \"rootfs\": {\"type\": \"layers\", \"diff_ids\": [\"sha256:$(sha256sum </tmp/web.tar | cut -d ' ' -f 1)\"]}}
END
cat >/tmp/archive/manifest.json <<END
[{\"Config\": \"config.json\", \"RepoTags\": [\"example/web:1\"], \"Layers\": [\"layer.tar\"]}]
END
tar -C /tmp/archive -cf /tmp/archive.tar .
ctr image import /tmp/archive.tar
";

impl Containerd {
    /// With these packages; none, with the reason printed, where they could not
    /// be had.
    pub fn start(name: &str, packages: &str) -> Option<Self> {
        let containerd = Self {
            host: EngineHost::start(name, packages)?,
        };
        let host = &containerd.host;
        host.start_netdp();
        // Without the part for Kubernetes, which wants settings of its own.
        host.sh(&format!(
            "mkdir -p /etc/cni/net.d && echo '{LIST}' >/etc/cni/net.d/10-mine.conflist && \
             printf 'version = 2\\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\\n' >/tmp/containerd.toml"
        ));
        containerd.start_containerd();
        host.sh(web::FILES);
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        host.sh(&format!(
            "ARCHITECTURE={architecture}\nCOMMAND='{}'\n{ARCHIVE}",
            web::COMMAND
        ));
        println!("{}", host.sh("ctr version").replace('\n', " "));
        Some(containerd)
    }

    #[track_caller]
    pub fn start_containerd(&self) {
        self.host.spawn(
            "containerd",
            "containerd --log-level warn --config /tmp/containerd.toml",
        );
        self.host.wait_for("containerd", "ctr version");
    }

    pub fn run_words(&self, name: &str) -> String {
        let group = self.host.topology.world.engine_cgroup();
        format!(
            "ctr run -d --cni --env NAME={name} --cgroup {group}/{name} docker.io/example/web:1 {name}"
        )
    }

    #[track_caller]
    pub fn run(&self, name: &str) {
        self.host.sh(&self.run_words(name));
    }

    /// The words that end a container and remove it.
    pub fn remove_words(&self, name: &str) -> String {
        format!(
            "ctr task kill -s 9 {name}; \
             while ! ctr container rm {name} 2>/tmp/why-{name}; do \
             tries=$((tries + 1)); test $tries -lt 200 || {{ cat /tmp/why-{name} >&2; exit 1; }}; \
             sleep 0.05; done"
        )
    }

    #[track_caller]
    pub fn remove(&self, name: &str) {
        self.host.sh(&self.remove_words(name));
    }

    /// A container's network namespace.
    #[track_caller]
    pub fn namespace(&self, name: &str) -> Namespace {
        let tasks = self.host.sh("ctr task ls");
        let mut tasks = tasks.lines().map(|line| line.split_whitespace());
        let pid = tasks.find_map(|mut words| (words.next() == Some(name)).then(|| words.next())?);
        self.host.namespace_of(pid.expect("a task of this name"))
    }
}
