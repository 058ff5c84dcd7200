//! The commands that start sandboxes, and change what networks and ports they
//! have.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use clap::Args;
use ipnet::IpNet;

use super::Format;
use crate::{
    cli::parse,
    model::{Exposed, Link, MacAddr, Name, PortSpec},
};

/// A variable for a program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Variable {
    pub name: String,
    pub value: Option<String>,
}

fn variable(text: &str) -> Result<Variable, String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    if name.is_empty() {
        return Err("write it as NAME=VALUE".to_owned());
    }
    Ok(Variable {
        name: name.to_owned(),
        value,
    })
}

/// What `run` and `attach` have in common.
#[derive(Debug, Args)]
pub struct SandboxArgs {
    /// Name; without it, the first digits of the identifier.
    #[arg(long)]
    pub name: Option<Name>,
    /// A network, host, none, or container:NAME [default: netdp0].
    #[arg(long, alias = "net", value_name = "NETWORK")]
    pub network: Option<String>,
    /// Publish a port: [HOSTIP:][HOSTPORT[-END]:]PORT[-END][/tcp|udp][,direct].
    #[arg(short = 'p', long = "publish", value_name = "SPEC")]
    pub publish: Vec<PortSpec>,
    /// Publish every exposed port on a port that is chosen.
    #[arg(short = 'P', long)]
    pub publish_all: bool,
    /// Name a port that the program serves: PORT[-END][/tcp|udp].
    #[arg(long, value_name = "PORT")]
    pub expose: Vec<Exposed>,
    /// A further name on the network; those of several sandboxes who have it
    /// are given in turn.
    #[arg(long = "network-alias", alias = "net-alias", value_name = "NAME")]
    pub aliases: Vec<Name>,
    /// Know another sandbox by its name.
    #[arg(long = "link", value_name = "NAME[:ALIAS]")]
    pub links: Vec<Link>,
    /// IPv4 address.
    #[arg(long, value_name = "IP", value_parser = parse::ipv4)]
    pub ip: Option<Ipv4Addr>,
    /// IPv6 address.
    #[arg(long, value_name = "IP", value_parser = parse::ipv6)]
    pub ip6: Option<Ipv6Addr>,
    /// MAC address.
    #[arg(long, alias = "mac-address", value_name = "MAC")]
    pub mac: Option<MacAddr>,
    /// Source that may reach the published ports; may be repeated. Containers
    /// of other sandboxes are sources like others, the host itself always may.
    #[arg(long, value_name = "CIDR", value_parser = parse::net)]
    pub allow: Vec<IpNet>,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub sandbox: SandboxArgs,
    /// Host name [default: the sandbox's name].
    #[arg(long)]
    pub hostname: Option<String>,
    /// Variable of the program, known to those that are linked to it as
    /// ALIAS_ENV_NAME; without a value, the one it has here.
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = variable)]
    pub env: Vec<Variable>,
    /// Leave the program running and print its identifier; its output is kept
    /// for `netdp logs`.
    #[arg(short, long)]
    pub detach: bool,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct AttachArgs {
    /// The namespace, such as /run/netns/NAME or /proc/PID/ns/net.
    #[arg(long, value_name = "PATH")]
    pub netns: PathBuf,
    #[command(flatten)]
    pub sandbox: SandboxArgs,
}

#[derive(Debug, Args)]
pub struct ConnectArgs {
    pub network: String,
    pub name: String,
    /// IPv4 address.
    #[arg(long, value_name = "IP", value_parser = parse::ipv4)]
    pub ip: Option<Ipv4Addr>,
    /// IPv6 address.
    #[arg(long, value_name = "IP", value_parser = parse::ipv6)]
    pub ip6: Option<Ipv6Addr>,
    /// MAC address.
    #[arg(long, value_name = "MAC")]
    pub mac: Option<MacAddr>,
    /// A further name on this network.
    #[arg(long = "alias", value_name = "NAME")]
    pub aliases: Vec<Name>,
    /// Know another sandbox of this network by its name.
    #[arg(long = "link", value_name = "NAME[:ALIAS]")]
    pub links: Vec<Link>,
}

#[derive(Debug, Args)]
pub struct DisconnectArgs {
    pub network: String,
    pub name: String,
}

#[derive(Debug, Args)]
pub struct PublishArgs {
    pub name: String,
    /// [HOSTIP:][HOSTPORT[-END]:]PORT[-END][/tcp|udp][,direct]
    #[arg(required = true, value_name = "SPEC")]
    pub ports: Vec<PortSpec>,
    /// Source that may reach these ports; may be repeated. Without it, the
    /// sources that the sandbox was given, or all.
    #[arg(long, value_name = "CIDR", value_parser = parse::net)]
    pub allow: Vec<IpNet>,
    /// How to print where they are published.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct UnpublishArgs {
    pub name: String,
    /// [HOSTIP:][HOSTPORT[-END]:]PORT[-END][/tcp|udp][,direct]
    #[arg(required = true, value_name = "SPEC")]
    pub ports: Vec<PortSpec>,
}
