//! What the datapath counts: `netdp stats`.

use std::path::Path;

use anyhow::Result;

use super::{
    args::{Format, ListArgs},
    output::{self, short},
    runtime,
};
use crate::api::{
    client::Client,
    types::{Drops, EndpointCounters},
};

pub fn counters(run_dir: &Path, args: ListArgs) -> Result<()> {
    let stats = runtime()?.block_on(Client::new(run_dir).statistics())?;
    if args.format == Format::Json {
        return output::json(&stats);
    }
    let endpoint = |counters: &EndpointCounters| {
        vec![
            short(&counters.sandbox),
            counters.name.clone(),
            counters.network.clone(),
            counters.interface.clone(),
            counters.rx_packets.to_string(),
            counters.rx_bytes.to_string(),
            counters.tx_packets.to_string(),
            counters.tx_bytes.to_string(),
            counters.drops.to_string(),
            if counters.accelerated { "yes" } else { "-" }.to_owned(),
        ]
    };
    output::print(
        Format::Table,
        &(),
        &[
            "SANDBOX ID",
            "NAME",
            "NETWORK",
            "INTERFACE",
            "RX PACKETS",
            "RX BYTES",
            "TX PACKETS",
            "TX BYTES",
            "DROPS",
            "ACCELERATED",
        ],
        stats.endpoints.iter().map(endpoint),
    )?;
    output::line("")?;
    let joined: Vec<_> = stats
        .endpoints
        .iter()
        .filter(|counters| counters.joined.messages > 0)
        .map(|counters| {
            vec![
                short(&counters.sandbox),
                counters.name.clone(),
                counters.network.clone(),
                counters.joined.connections.to_string(),
                counters.joined.messages.to_string(),
                counters.joined.bytes.to_string(),
            ]
        })
        .collect();
    if !joined.is_empty() {
        output::print(
            Format::Table,
            &(),
            &[
                "SANDBOX ID",
                "NAME",
                "NETWORK",
                "JOINED CONNECTIONS",
                "MESSAGES",
                "BYTES",
            ],
            joined,
        )?;
        output::line("")?;
    }
    let drops = |drops: &Drops| vec![drops.reason.clone(), drops.packets.to_string()];
    output::print(
        Format::Table,
        &(),
        &["DROP REASON", "PACKETS"],
        stats
            .drops
            .iter()
            .filter(|drops| drops.packets > 0)
            .map(drops),
    )?;
    if stats.left.is_empty() {
        return Ok(());
    }
    output::line("")?;
    let left = stats.left.iter().filter(|left| left.packets > 0);
    output::print(
        Format::Table,
        &(),
        &["LEFT TO DOCKER", "PACKETS"],
        left.map(drops),
    )
}
