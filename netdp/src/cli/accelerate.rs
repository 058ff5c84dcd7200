//! `netdp accelerate`.

use std::{env, path::Path};

use anyhow::{Result, bail};

use super::{
    args::{AccelerateArgs, Format},
    output, runtime,
};
use crate::api::{
    acceleration::{AcceleratedNetwork, Acceleration, AccelerationRequest},
    client::Client,
};

pub fn run(run_dir: &Path, args: AccelerateArgs) -> Result<()> {
    let client = Client::new(run_dir);
    let runtime = runtime()?;
    if args.engine.is_none() {
        let all = runtime.block_on(client.accelerations())?;
        return print(args.format, &all);
    }
    if args.off {
        let left = runtime.block_on(client.end_acceleration(&args.networks))?;
        let all: Vec<_> = left.into_iter().collect();
        return match args.format {
            Format::Json => output::json(&all),
            Format::Table if all.is_empty() => Ok(()),
            Format::Table => print(args.format, &all),
        };
    }
    let socket = match args.socket {
        Some(socket) => Some(socket),
        None => match env::var("DOCKER_HOST") {
            Ok(host) => match host.strip_prefix("unix://") {
                Some(path) => Some(path.into()),
                None => bail!(
                    "DOCKER_HOST is {host}, and only Docker of this very host can be accelerated: \
                     name its socket by --socket"
                ),
            },
            Err(_) => None,
        },
    };
    let request = AccelerationRequest {
        networks: args.networks,
        skip_rules: args.skip_rules,
        socket,
    };
    let now = runtime.block_on(client.accelerate(&request))?;
    print(args.format, &[now])
}

fn print(format: Format, all: &[Acceleration]) -> Result<()> {
    let rows = all.iter().flat_map(|it| &it.networks).map(row);
    output::print(
        format,
        all,
        &[
            "NETWORK",
            "INTERFACE",
            "CONTAINERS",
            "PORTS",
            "FLOWS",
            "RX PACKETS",
            "TX PACKETS",
            "ACCELERATED",
        ],
        rows,
    )?;
    if format == Format::Table {
        for problem in all.iter().filter_map(|it| it.problem.as_ref()) {
            eprintln!("netdp: {problem}");
        }
    }
    Ok(())
}

fn row(network: &AcceleratedNetwork) -> Vec<String> {
    let containers = &network.containers;
    let left: Vec<String> = containers
        .iter()
        .filter_map(|it| it.reason.as_ref().map(|why| format!("{}: {why}", it.name)))
        .collect();
    vec![
        network.name.clone(),
        network.interface.clone().unwrap_or_else(|| "-".to_owned()),
        containers.len().to_string(),
        containers
            .iter()
            .map(|it| it.ports)
            .sum::<usize>()
            .to_string(),
        network.traffic.flows.to_string(),
        network.traffic.rx_packets.to_string(),
        network.traffic.tx_packets.to_string(),
        match (&network.reason, &left[..]) {
            (Some(why), _) => format!("no: {why}"),
            (None, []) => "yes".to_owned(),
            (None, left) => format!("yes, but not {}", left.join("; ")),
        },
    ]
}
