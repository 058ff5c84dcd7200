//! The commands about networks.

use std::net::IpAddr;

use clap::{Args, Subcommand};
use ipnet::IpNet;

use super::{InspectArgs, ListArgs};
use crate::{
    cli::parse,
    model::{Driver, Name},
};

#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// Make a network.
    Create(Box<NetworkCreateArgs>),
    /// List networks.
    Ls(ListArgs),
    /// Show networks in full, as JSON.
    Inspect(InspectArgs),
    /// Remove networks that nothing is on.
    Rm {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct NetworkCreateArgs {
    pub name: Name,
    /// bridge, host, null, overlay, macvlan or ipvlan.
    #[arg(short, long, default_value = "bridge")]
    pub driver: Driver,
    /// Subnet, one of IPv4 and one of IPv6 at most; without it, one that no
    /// route of the host overlaps.
    #[arg(long = "subnet", value_name = "CIDR", value_parser = parse::net)]
    pub subnets: Vec<IpNet>,
    /// Address of the host in the subnet; without it, the first.
    #[arg(long = "gateway", value_name = "IP", value_parser = parse::address)]
    pub gateways: Vec<IpAddr>,
    /// Part of the subnet from which addresses are given.
    #[arg(long = "ip-range", value_name = "CIDR", value_parser = parse::net)]
    pub ip_ranges: Vec<IpNet>,
    /// Whether to give IPv4 addresses.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub ipv4: bool,
    /// Give IPv6 addresses too. A subnet of IPv6 says so by itself.
    #[arg(long)]
    pub ipv6: bool,
    /// Let nothing in or out but what stays in the network.
    #[arg(long)]
    pub internal: bool,
    /// Whether sandboxes of the network reach each other [default: true].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub icc: Option<bool>,
    /// Largest packet in bytes.
    #[arg(long, value_name = "N")]
    pub mtu: Option<u32>,
    /// Option of the driver.
    #[arg(long = "opt", short = 'o', value_name = "KEY=VALUE", value_parser = option)]
    pub options: Vec<(String, String)>,
}

/// Splits `KEY=VALUE`.
pub(super) fn option(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE".to_owned()),
    }
}
