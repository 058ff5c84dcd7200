//! `netdp network`.

use std::path::Path;

use anyhow::Result;

use super::{
    args::{Format, InspectArgs, ListArgs, NetworkCommand, NetworkCreateArgs},
    output::{self, short},
    runtime,
};
use crate::{
    api::{client::Client, types::Network},
    model::NetworkRequest,
};

pub fn run(run_dir: &Path, command: NetworkCommand) -> Result<()> {
    let client = Client::new(run_dir);
    match command {
        NetworkCommand::Create(args) => create(&client, *args),
        NetworkCommand::Ls(args) => list(&client, &args),
        NetworkCommand::Inspect(args) => inspect(&client, &args),
        NetworkCommand::Rm { names } => remove(&client, &names),
    }
}

fn create(client: &Client, args: NetworkCreateArgs) -> Result<()> {
    let request = NetworkRequest {
        name: args.name,
        driver: args.driver,
        subnets: args.subnets,
        gateways: args.gateways,
        ip_ranges: args.ip_ranges,
        ipv4: Some(args.ipv4),
        ipv6: args.ipv6,
        internal: args.internal,
        icc: args.icc,
        mtu: args.mtu,
        options: args.options.into_iter().collect(),
    };
    let network = runtime()?.block_on(client.create_network(&request))?;
    output::line(&network.id)
}

fn list(client: &Client, args: &ListArgs) -> Result<()> {
    let networks = runtime()?.block_on(client.networks())?;
    let row = |network: &Network| {
        vec![
            short(&network.id),
            network.name.clone(),
            network.driver.to_string(),
            output::join(&network.subnets, |subnet| subnet.subnet.to_string()),
            network.endpoints.len().to_string(),
        ]
    };
    output::print(
        args.format,
        &networks,
        &["NETWORK ID", "NAME", "DRIVER", "SUBNET", "ENDPOINTS"],
        networks.iter().map(row),
    )
}

fn inspect(client: &Client, args: &InspectArgs) -> Result<()> {
    let runtime = runtime()?;
    let networks = args
        .names
        .iter()
        .map(|name| runtime.block_on(client.network(name)))
        .collect::<Result<Vec<_>, _>>()?;
    if args.format == Format::Json {
        return output::json(&networks);
    }
    for network in &networks {
        let row = |name: &str, value: String| vec![name.to_owned(), value];
        let mut rows = vec![
            row("id", network.id.clone()),
            row("driver", network.driver.to_string()),
            row("internal", network.internal.to_string()),
            row("icc", network.icc.to_string()),
        ];
        if let Some(interface) = &network.interface {
            rows.push(row("interface", interface.clone()));
        }
        if let Some(mtu) = network.mtu {
            rows.push(row("mtu", mtu.to_string()));
        }
        for subnet in &network.subnets {
            rows.push(row("subnet", subnet.subnet.to_string()));
            rows.push(row("gateway", subnet.gateway.to_string()));
            if let Some(range) = subnet.ip_range {
                rows.push(row("ip range", range.to_string()));
            }
        }
        for (key, value) in &network.options {
            rows.push(row("option", format!("{key}={value}")));
        }
        for member in &network.endpoints {
            let addresses = output::join(&member.addresses, ToString::to_string);
            rows.push(row(
                "endpoint",
                format!("{} {addresses} {}", member.name, member.mac),
            ));
        }
        output::print(Format::Table, &(), &["NETWORK", &network.name], rows)?;
    }
    Ok(())
}

fn remove(client: &Client, names: &[String]) -> Result<()> {
    let runtime = runtime()?;
    output::each(names, |name| {
        runtime.block_on(client.remove_network(name))?;
        output::line(name)
    })
}
