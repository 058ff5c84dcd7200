//! What the daemon is told: flags, and a file in TOML.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use netdp_common::{
    maps::{Config as DatapathConfig, DEFAULT_FLOWS, ENDPOINT_SHARE, MAX_PENDING},
    resolver::PORT,
};
use serde::Deserialize;
use thiserror::Error;

use crate::{
    api::RUN_DIR,
    bpf::Xdp,
    model::{LONGEST_TIMEOUT, PortRange, Timeouts, check_defaults},
    netlink::check_interface_name,
    resolver::Upstreams,
};

/// Most entries that the flow table may be given: some 1.3 GB of memory.
const MOST_FLOWS: u32 = 1 << 24;

/// Where Docker looks for the driver `netdp`.
pub const DOCKER_PLUGIN: &str = "/run/docker/plugins/netdp.sock";

/// Everything the daemon is told.
#[derive(Clone, Debug)]
pub struct Options {
    pub run_dir: PathBuf,
    /// Socket at which Docker finds its driver; none: nowhere.
    pub docker_plugin: Option<PathBuf>,
    pub state_dir: PathBuf,
    pub bpffs: PathBuf,
    /// None: where cgroup2 is mounted.
    pub cgroup: Option<PathBuf>,
    /// Empty: the interfaces of the default route, whichever they are.
    pub uplinks: Vec<String>,
    /// Subnets to choose from before the usual ones.
    pub pools: Vec<IpNet>,
    /// Options of networks that are made without them.
    pub network_options: BTreeMap<String, String>,
    pub max_flows: u32,
    /// Who is asked for names that no sandbox has.
    pub upstreams: Upstreams,
    pub datapath: DatapathConfig,
    /// Whether packets are dropped in the drivers of uplinks.
    pub xdp: Xdp,
}

#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not as it should be: {source}", path.display())]
    Syntax {
        path: PathBuf,
        source: Box<toml::de::Error>,
    },
    #[error("{what}")]
    Value { what: String },
}

impl ConfigError {
    fn value(what: impl Into<String>) -> Self {
        Self::Value { what: what.into() }
    }
}

/// Settings that flags and the file have in common; the file's names are those
/// of the flags.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    pub uplinks: Vec<String>,
    pub state_dir: Option<PathBuf>,
    pub bpffs: Option<PathBuf>,
    pub cgroup: Option<PathBuf>,
    /// `off`, or the path of a socket.
    pub docker_plugin: Option<PathBuf>,
    pub xdp: Option<Xdp>,
    /// Subnets for networks that are made without one, in this order.
    pub pools: Vec<IpNet>,
    /// Entries of the flow table.
    pub max_flows: Option<u32>,
    /// How many of them one endpoint may have by conversations that it opens,
    /// and again by those with its published ports.
    pub flows_per_endpoint: Option<u32>,
    /// Ports from which masquerade takes one when it can't keep the source's.
    pub masquerade_ports: Option<String>,
    /// Resolvers for names that no sandbox has, each an address with or without
    /// a port; without any, those in /etc/resolv.conf.
    pub dns: Vec<String>,
    pub timeouts: Timeouts,
    /// Options of networks that are made without them.
    pub default_network_opts: BTreeMap<String, String>,
}

impl Settings {
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        toml::from_str(&text).map_err(|source| ConfigError::Syntax {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }

    /// What `self` says, and where it says nothing what `other` says.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        fn first<T>(one: Vec<T>, other: Vec<T>) -> Vec<T> {
            if one.is_empty() { other } else { one }
        }
        Self {
            uplinks: first(self.uplinks, other.uplinks),
            state_dir: self.state_dir.or(other.state_dir),
            bpffs: self.bpffs.or(other.bpffs),
            cgroup: self.cgroup.or(other.cgroup),
            docker_plugin: self.docker_plugin.or(other.docker_plugin),
            xdp: self.xdp.or(other.xdp),
            pools: first(self.pools, other.pools),
            max_flows: self.max_flows.or(other.max_flows),
            flows_per_endpoint: self.flows_per_endpoint.or(other.flows_per_endpoint),
            masquerade_ports: self.masquerade_ports.or(other.masquerade_ports),
            dns: first(self.dns, other.dns),
            timeouts: self.timeouts.or(other.timeouts),
            default_network_opts: {
                let mut options = other.default_network_opts;
                options.extend(self.default_network_opts);
                options
            },
        }
    }

    /// Checks everything and fills in what was left out.
    pub fn resolve(self, run_dir: PathBuf) -> Result<Options, ConfigError> {
        for name in &self.uplinks {
            check_interface_name(name).map_err(|error| ConfigError::value(error.to_string()))?;
        }
        if let Some(pool) = self.pools.iter().find(|pool| !is_pool(pool)) {
            return Err(ConfigError::value(format!(
                "{pool} can't be a pool: give an IPv4 subnet of /29 or larger, with no bits \
                 beyond its prefix, that is neither loopback nor multicast"
            )));
        }
        let max_flows = self.max_flows.unwrap_or(DEFAULT_FLOWS);
        if !(1_024..=MOST_FLOWS).contains(&max_flows) {
            return Err(ConfigError::value(format!(
                "max-flows {max_flows} is out of range: give 1024 to {MOST_FLOWS}"
            )));
        }
        let share = self
            .flows_per_endpoint
            .unwrap_or(max_flows / ENDPOINT_SHARE);
        if !(1..=max_flows).contains(&share) {
            return Err(ConfigError::value(format!(
                "flows-per-endpoint {share} is out of range: give 1 to {max_flows}, which is \
                 max-flows"
            )));
        }
        check_defaults(&self.default_network_opts)
            .map_err(|refusal| ConfigError::value(format!("default-network-opt: {refusal}")))?;
        let docker_plugin = match self.docker_plugin {
            // A second daemon must not take the first one's place.
            None => (run_dir == Path::new(RUN_DIR)).then(|| DOCKER_PLUGIN.into()),
            Some(path) if path == Path::new("off") => None,
            Some(path) if path.is_absolute() => Some(path),
            Some(path) => {
                return Err(ConfigError::value(format!(
                    "docker-plugin {} is no socket's path: give one that begins with /, or off",
                    path.display()
                )));
            }
        };
        Ok(Options {
            run_dir,
            docker_plugin,
            state_dir: self.state_dir.unwrap_or_else(|| "/var/lib/netdp".into()),
            bpffs: self
                .bpffs
                .unwrap_or_else(|| super::environment::BPFFS.into()),
            cgroup: self.cgroup,
            uplinks: self.uplinks,
            pools: self.pools,
            network_options: self.default_network_opts,
            max_flows,
            xdp: self.xdp.unwrap_or_default(),
            upstreams: upstreams(&self.dns)?,
            datapath: DatapathConfig {
                flows_per_endpoint: share,
                pending_per_endpoint: pending_share(share, max_flows),
                ..datapath(&self.timeouts, self.masquerade_ports.as_deref())?
            },
        })
    }
}

/// The same part of the table of what isn't answered yet as `share` is of the
/// flow table.
fn pending_share(share: u32, max_flows: u32) -> u32 {
    let part = u64::from(MAX_PENDING) * u64::from(share) / u64::from(max_flows);
    u32::try_from(part).unwrap_or(MAX_PENDING).max(1)
}

fn upstreams(dns: &[String]) -> Result<Upstreams, ConfigError> {
    if dns.is_empty() {
        return Ok(Upstreams::File("/etc/resolv.conf".into()));
    }
    let address = |text: &String| {
        let alone = text.parse::<IpAddr>().map(|it| SocketAddr::new(it, PORT));
        alone.or_else(|_| text.parse()).map_err(|_| {
            ConfigError::value(format!(
                "dns {text} is no resolver: give an address, as 192.0.2.53 or 192.0.2.53:5353"
            ))
        })
    };
    let addresses: Result<_, _> = dns.iter().map(address).collect();
    addresses.map(Upstreams::Fixed)
}

fn is_pool(pool: &IpNet) -> bool {
    let IpAddr::V4(first) = pool.addr() else {
        return false;
    };
    pool.addr() == pool.network()
        && (8..=29).contains(&pool.prefix_len())
        && !first.is_loopback()
        && !first.is_multicast()
        && !first.is_unspecified()
}

fn datapath(timeouts: &Timeouts, ports: Option<&str>) -> Result<DatapathConfig, ConfigError> {
    let mut config = DatapathConfig::default();
    let settings = [
        (
            "tcp-established",
            timeouts.tcp_established,
            &mut config.tcp_established,
        ),
        (
            "tcp-transitory",
            timeouts.tcp_transitory,
            &mut config.tcp_transitory,
        ),
        ("udp", timeouts.udp, &mut config.udp),
        ("icmp", timeouts.icmp, &mut config.icmp),
    ];
    for (name, seconds, setting) in settings {
        let Some(seconds) = seconds else { continue };
        if !(1..=LONGEST_TIMEOUT).contains(&seconds) {
            return Err(ConfigError::value(format!(
                "timeout {name} of {seconds} seconds is out of range: give 1 to {LONGEST_TIMEOUT}"
            )));
        }
        *setting = seconds;
    }
    if let Some(ports) = ports {
        let range: PortRange = ports
            .parse()
            .map_err(|error| ConfigError::value(format!("masquerade-ports {ports}: {error}")))?;
        if range.count() < 2 {
            return Err(ConfigError::value(format!(
                "masquerade-ports {ports} is a single port: give a range, as 32768-60999"
            )));
        }
        (config.port_first, config.port_last) = (range.first(), range.last());
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<Options, String> {
        let settings: Settings = toml::from_str(text).map_err(|error| error.to_string())?;
        settings
            .resolve("/run/netdp".into())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        let options = resolve("").unwrap();
        assert_eq!(options.state_dir, Path::new("/var/lib/netdp"));
        assert_eq!(options.max_flows, DEFAULT_FLOWS);
        assert_eq!(options.datapath, DatapathConfig::default());
        assert!(options.uplinks.is_empty());
        assert_eq!(options.xdp, Xdp::Auto);
        assert_eq!(
            options.upstreams,
            Upstreams::File("/etc/resolv.conf".into())
        );
    }

    #[test]
    fn everything_can_be_set() {
        let options = resolve(
            r#"
            uplinks = ["eth0", "eth1"]
            state-dir = "/tmp/state"
            bpffs = "/tmp/bpf"
            cgroup = "/tmp/cgroup"
            docker-plugin = "/tmp/netdp.sock"
            xdp = "off"
            pools = ["10.9.0.0/16"]
            max-flows = 4096
            flows-per-endpoint = 512
            masquerade-ports = "32768-60999"
            dns = ["192.0.2.53", "[2001:db8::53]:5353"]
            default-network-opts = { sockmap = "auto" }
            [timeouts]
            tcp-established = 7200
            udp = 120
            "#,
        )
        .unwrap();
        assert_eq!(options.uplinks, ["eth0", "eth1"]);
        assert_eq!(options.docker_plugin, Some("/tmp/netdp.sock".into()));
        assert_eq!(options.max_flows, 4096);
        assert_eq!(options.datapath.flows_per_endpoint, 512);
        assert_eq!(options.datapath.pending_per_endpoint, MAX_PENDING / 8);
        assert_eq!(options.datapath.tcp_established, 7200);
        assert_eq!(options.datapath.udp, 120);
        assert_eq!(options.datapath.icmp, DatapathConfig::default().icmp);
        assert_eq!(options.datapath.port_first, 32768);
        assert_eq!(options.datapath.port_last, 60999);
        assert_eq!(options.pools.len(), 1);
        assert_eq!(options.xdp, Xdp::Off);
        assert_eq!(options.network_options["sockmap"], "auto");
        let dns = ["192.0.2.53:53", "[2001:db8::53]:5353"].map(|it| it.parse().unwrap());
        assert_eq!(options.upstreams, Upstreams::Fixed(dns.to_vec()));
    }

    #[test]
    fn the_documented_file_has_every_setting() {
        let page = include_str!("../../../docs/daemon.md");
        let (_, file) = page.split_once("```toml\n").expect("an example");
        let (file, _) = file.split_once("```").expect("its end");
        let settings: Settings = toml::from_str(file).unwrap();
        let told = format!("{settings:?}");
        for nothing in ["None", "[]", "{}"] {
            assert!(!told.contains(nothing), "{told} leaves something out");
        }
        let options = settings.resolve("/run/netdp".into()).unwrap();
        // What it says of defaults is so.
        assert_eq!(options.max_flows, DEFAULT_FLOWS);
        assert_eq!(options.datapath, DatapathConfig::default());
    }

    #[test]
    fn options_of_networks_are_checked_at_once() {
        let refused = resolve("[default-network-opts]\nsockmpa = \"on\"").unwrap_err();
        assert!(refused.contains("default-network-opt: there is no network option 'sockmpa'"));
    }

    #[test]
    fn docker_finds_the_first_daemon_alone() {
        let plugin = |text: &str, run_dir: &str| {
            let settings: Settings = toml::from_str(text).unwrap();
            settings.resolve(run_dir.into()).unwrap().docker_plugin
        };
        assert_eq!(plugin("", RUN_DIR), Some(DOCKER_PLUGIN.into()));
        assert_eq!(plugin("", "/tmp/run"), None);
        assert_eq!(plugin("docker-plugin = \"off\"", RUN_DIR), None);
        let given = "docker-plugin = \"/tmp/netdp.sock\"";
        assert_eq!(plugin(given, "/tmp/run"), Some("/tmp/netdp.sock".into()));
    }

    #[test]
    fn flags_win_over_the_file() {
        let flags = Settings {
            uplinks: vec!["wan".to_owned()],
            xdp: Some(Xdp::Off),
            ..Settings::default()
        };
        let file = Settings {
            uplinks: vec!["eth0".to_owned()],
            xdp: Some(Xdp::Native),
            max_flows: Some(2048),
            ..Settings::default()
        };
        let options = flags.or(file).resolve("/run/netdp".into()).unwrap();
        assert_eq!(options.uplinks, ["wan"]);
        assert_eq!(options.max_flows, 2048);
        assert_eq!(options.xdp, Xdp::Off);
    }

    #[test]
    fn nonsense_is_refused() {
        for (text, why) in [
            ("uplink = [\"eth0\"]", "unknown field"),
            ("uplinks = [\"a/b\"]", "a/b"),
            ("xdp = \"fast\"", "unknown variant"),
            ("max-flows = 0", "out of range"),
            ("max-flows = -1", "invalid value"),
            ("flows-per-endpoint = 0", "out of range"),
            (
                "max-flows = 2048\nflows-per-endpoint = 2049",
                "which is max-flows",
            ),
            ("pools = [\"10.9.0.1/16\"]", "can't be a pool"),
            ("pools = [\"127.0.0.0/16\"]", "can't be a pool"),
            ("pools = [\"fd00::/64\"]", "can't be a pool"),
            ("masquerade-ports = \"9-5\"", "masquerade-ports"),
            ("masquerade-ports = \"5000\"", "single port"),
            ("dns = [\"localhost\"]", "no resolver"),
            ("docker-plugin = \"on\"", "no socket's path"),
            ("[timeouts]\nudp = 0", "out of range"),
        ] {
            let refused = resolve(text).unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }
}
