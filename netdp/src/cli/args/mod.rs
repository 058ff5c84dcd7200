//! The command line, as `netdp --help` shows it.

mod block;
mod install;
mod limit;
mod network;
mod sandbox;

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::{explain::Place, parse};
use crate::{
    api::{RUN_DIR, RUN_DIR_VARIABLE},
    bench::BenchArgs,
    bpf::Xdp,
    daemon::config::{ConfigError, Options as DaemonOptions, Settings},
    demo::DemoArgs,
    explain::Protocol,
    load,
};

pub use block::{BlockArgs, UnblockArgs};
pub use install::{DockerArgs, InstallArgs, InstallCommand};
pub use limit::LimitArgs;
pub use network::{NetworkCommand, NetworkCreateArgs};
pub use sandbox::{
    AttachArgs, ConnectArgs, DisconnectArgs, PublishArgs, RunArgs, SandboxArgs, UnpublishArgs,
    Variable,
};

/// Networks of their own for programs and containers, carried by eBPF.
#[derive(Debug, Parser)]
#[command(name = "netdp", version = crate::version::text(), disable_help_subcommand = true)]
pub struct Options {
    /// Folder of the daemon's socket.
    #[arg(
        long,
        global = true,
        env = RUN_DIR_VARIABLE,
        default_value = RUN_DIR,
        value_name = "DIR"
    )]
    pub run_dir: PathBuf,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Carry the networks of this host.
    Daemon(DaemonArgs),
    /// Make, list, show and remove networks.
    Network {
        #[command(subcommand)]
        command: NetworkCommand,
    },
    /// Run a program in a network of its own.
    Run(RunArgs),
    /// Give an existing network namespace an endpoint.
    Attach(AttachArgs),
    /// Put a sandbox on a further network.
    Connect(ConnectArgs),
    /// Take a sandbox off a network.
    Disconnect(DisconnectArgs),
    /// Publish further ports of a running sandbox.
    Publish(PublishArgs),
    /// Take back published ports.
    Unpublish(UnpublishArgs),
    /// List sandboxes.
    Ps(ListArgs),
    /// Show sandboxes in full, as JSON.
    Inspect(InspectArgs),
    /// Show where ports of a sandbox are published.
    Port(PortArgs),
    /// Remove sandboxes.
    Rm(RemoveArgs),
    /// Print the output of a detached program.
    Logs(LogsArgs),
    /// List the connections that the datapath knows.
    Flows(FlowsArgs),
    /// Show counters of endpoints and reasons for drops.
    Stats(ListArgs),
    /// Drop all that arrives from these sources; without any, list them.
    Block(BlockArgs),
    /// Let sources in again.
    Unblock(UnblockArgs),
    /// Limit how many conversations each source may begin with published ports;
    /// without a number, show the limit.
    Limit(LimitArgs),
    /// Carry another engine's own networks as netdp's; without an engine, show
    /// which are.
    Accelerate(AccelerateArgs),
    /// Tell which mapping, policy and route a packet would meet, without
    /// sending it.
    Explain(ExplainArgs),
    /// Set an engine of this host up for netdp, also after the next boot.
    Install {
        #[command(subcommand)]
        command: InstallCommand,
    },
    /// Check what this kernel and this host can do.
    Doctor(DoctorArgs),
    /// Show on real traffic what netdp does and how fast, in namespaces that
    /// are gone afterwards.
    #[command(args_override_self = true)]
    Demo(DemoArgs),
    /// Measure host mode, Docker's rules and netdp against each other, in
    /// namespaces that are gone afterwards.
    Bench(BenchArgs),
    /// Serve measurements.
    #[command(name = "__load-server", hide = true)]
    LoadServer(load::ServerArgs),
    /// Measure once.
    #[command(name = "__load-client", hide = true)]
    LoadClient(load::ClientArgs),
    /// Fetch a page.
    #[command(name = "__load-fetch", hide = true)]
    LoadFetch(load::FetchArgs),
    /// Make flows.
    #[command(name = "__load-fill", hide = true)]
    LoadFill(load::FillArgs),
}

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Debug, Args)]
#[command(
    override_usage = "netdp explain tcp|udp ADDRESS:PORT ADDRESS:PORT\n       \
                      netdp explain icmp ADDRESS ADDRESS[:ID]",
    after_help = "Examples:\n  \
                  netdp explain tcp 198.51.100.7:40000 192.0.2.2:8080\n  \
                  netdp explain udp '[fd00::2]:5353' '[2001:db8::53]:53'\n  \
                  netdp explain icmp 172.17.0.2 192.0.2.1"
)]
pub struct ExplainArgs {
    /// Of icmp, an echo request.
    #[arg(value_name = "PROTO")]
    pub protocol: Protocol,
    /// Address and port that the packet comes from, IPv6 in brackets; of icmp,
    /// the address.
    #[arg(value_name = "SRC")]
    pub source: Place,
    /// Address and port that it is for; of icmp, the address and, if it
    /// matters, the identifier.
    #[arg(value_name = "DST")]
    pub destination: Place,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// An engine whose networks can be carried.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum CarriedEngine {
    Docker,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                  netdp accelerate docker               all of Docker's bridge networks\n  \
                  netdp accelerate docker shop_default  one more\n  \
                  netdp accelerate docker --off         none any more\n  \
                  netdp accelerate                      what is carried")]
pub struct AccelerateArgs {
    #[arg(value_enum, value_name = "ENGINE")]
    pub engine: Option<CarriedEngine>,
    /// Names or ids of its networks [default: all].
    #[arg(value_name = "NETWORK")]
    pub networks: Vec<String>,
    /// Set them back: the engine alone carries them again.
    #[arg(long, requires = "engine")]
    pub off: bool,
    /// Also where this host has rules of its own for containers' packets, which
    /// those that are carried skip.
    #[arg(long, requires = "engine", conflicts_with = "off")]
    pub skip_rules: bool,
    /// Where the engine listens [default: that of DOCKER_HOST, or
    /// /var/run/docker.sock].
    #[arg(long, value_name = "PATH", requires = "engine", conflicts_with = "off")]
    pub socket: Option<PathBuf>,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// BPF file system that a daemon would be given [default: that of the
    /// running daemon, or /sys/fs/bpf].
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct FlowsArgs {
    /// Only those of this protocol: tcp, udp, icmp, or a number.
    #[arg(long, value_name = "PROTOCOL")]
    pub proto: Option<String>,
    /// Only those of this sandbox.
    #[arg(long, value_name = "NAME")]
    pub sandbox: Option<String>,
    /// Only those with this address on the other side.
    #[arg(long, value_name = "ADDRESS", value_parser = parse::address)]
    pub peer: Option<IpAddr>,
    /// So many at most.
    #[arg(long, value_name = "NUMBER")]
    pub limit: Option<usize>,
    /// Only say how many there are.
    #[arg(long, conflicts_with = "limit")]
    pub count: bool,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct DaemonArgs {
    /// Interface that leads outside; without it, those of the default route.
    #[arg(long = "uplink", value_name = "IF")]
    pub uplinks: Vec<String>,
    /// Folder of what must survive a restart [default: /var/lib/netdp].
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// BPF file system in which programs and maps are pinned, mounted if it
    /// isn't [default: /sys/fs/bpf].
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
    /// Root of the control groups whose programs reach published ports at the
    /// host's own addresses [default: where cgroup2 is mounted].
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// Socket at which Docker finds the driver netdp, or off [default:
    /// /run/docker/plugins/netdp.sock with the usual --run-dir, else off].
    #[arg(long, value_name = "PATH|off")]
    pub docker_plugin: Option<PathBuf>,
    /// Settings in TOML; flags win.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Whether packets are dropped in the drivers of uplinks: where it
    /// helps, nowhere, or everywhere [default: auto].
    #[arg(long, value_enum)]
    pub xdp: Option<Xdp>,
    /// Option of networks that are made without it, as sockmap=auto; several are
    /// separated by commas.
    #[arg(
        long = "default-network-opt",
        value_name = "KEY=VALUE",
        value_delimiter = ',',
        env = "NETDP_DEFAULT_NETWORK_OPTS",
        value_parser = network::option
    )]
    pub default_network_opts: Vec<(String, String)>,
    /// Takes programs and maps out of the kernel, and ends.
    #[arg(long)]
    pub cleanup: bool,
}

impl DaemonArgs {
    /// These flags over what the file says.
    pub fn resolve(self, run_dir: PathBuf) -> Result<DaemonOptions, ConfigError> {
        let file = match &self.config {
            Some(path) => Settings::read(path)?,
            None => Settings::default(),
        };
        let flags = Settings {
            uplinks: self.uplinks,
            state_dir: self.state_dir,
            bpffs: self.bpffs,
            cgroup: self.cgroup,
            docker_plugin: self.docker_plugin,
            xdp: self.xdp,
            default_network_opts: self.default_network_opts.into_iter().collect(),
            ..Settings::default()
        };
        flags.or(file).resolve(run_dir)
    }
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Json)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct PortArgs {
    pub name: String,
    /// Only this port of the sandbox.
    #[arg(value_name = "PORT[/PROTO]")]
    pub port: Option<String>,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// End programs that still run.
    #[arg(short, long)]
    pub force: bool,
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    pub name: String,
    /// Go on until the program ends.
    #[arg(short, long)]
    pub follow: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Options::command().debug_assert();
    }

    #[test]
    fn everything_after_the_program_is_its_own() {
        let options = Options::parse_from([
            "netdp", "run", "-p", "8080:80", "--name", "web", "--", "httpd", "-f", "--name", "x",
        ]);
        let Command::Run(run) = options.command else {
            panic!("not run: {options:?}");
        };
        assert_eq!(run.sandbox.name.map(String::from).as_deref(), Some("web"));
        assert_eq!(run.command, ["httpd", "-f", "--name", "x"]);
    }

    #[test]
    fn icc_is_on_unless_said_otherwise() {
        for (flags, icc) in [
            (&[][..], None),
            (&["--icc"], Some(true)),
            (&["--icc=false"], Some(false)),
        ] {
            let words = ["netdp", "network", "create", "net1"].iter().chain(flags);
            let options = Options::parse_from(words);
            let Command::Network {
                command: NetworkCommand::Create(create),
            } = options.command
            else {
                panic!("not network create: {options:?}");
            };
            assert_eq!(create.icc, icc, "{flags:?}");
        }
    }

    #[test]
    fn wrong_usage_is_refused() {
        for words in [
            &["netdp"][..],
            &["netdp", "run"],
            &[
                "netdp",
                "network",
                "create",
                "net1",
                "--subnet",
                "10.0.0.0/33",
            ],
            &["netdp", "network", "create", "net1", "--opt", "=1"],
            &["netdp", "ps", "--format", "xml"],
            &["netdp", "attach", "--name", "x"],
            &["netdp", "monitor"],
        ] {
            let error = Options::try_parse_from(words).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{words:?}");
        }
    }

    #[test]
    fn wrong_usage_is_answered_with_an_example() {
        for (words, said) in [
            (
                &["network", "create", "net1", "--subnet", "10.9.0.0/33"][..],
                "like 10.9.0.0/24",
            ),
            (&["run", "--ip", "fd00::7", "--", "true"], "for --ip6"),
            (
                &["explain", "tcp", "1.2.3.4"],
                "explain tcp|udp ADDRESS:PORT ADDRESS:PORT",
            ),
            (
                &["explain", "tcp", "1.2.3.4:x", "1.2.3.4:80"],
                "such as 192.0.2.7:443",
            ),
            (&["explain", "icmp"], "explain icmp ADDRESS ADDRESS[:ID]"),
        ] {
            let words = ["netdp"].iter().chain(words);
            let error = Options::try_parse_from(words).unwrap_err();
            let text = error.render().to_string();
            assert!(text.contains(said), "{text}");
        }
    }
}
