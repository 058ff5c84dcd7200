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
    let headings = ["JOINED CONNECTIONS", "MESSAGES", "BYTES"];
    beside(&stats.endpoints, headings, |counters| {
        let joined = &counters.joined;
        [joined.connections, joined.messages, joined.bytes]
    })?;
    let headings = ["OPEN DIRECT CONNECTIONS", "RX BYTES", "TX BYTES"];
    beside(&stats.endpoints, headings, |counters| {
        let direct = &counters.direct;
        [direct.connections, direct.rx_bytes, direct.tx_bytes]
    })?;
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

/// What passes the interfaces of endpoints by, of those that have any.
fn beside(
    endpoints: &[EndpointCounters],
    headings: [&str; 3],
    of: impl Fn(&EndpointCounters) -> [u64; 3],
) -> Result<()> {
    let some = endpoints.iter().filter(|counters| of(counters) != [0; 3]);
    let rows: Vec<_> = some
        .map(|counters| {
            let name = [short(&counters.sandbox), counters.name.clone()];
            let counted = of(counters).map(|count| count.to_string());
            let network = counters.network.clone();
            name.into_iter().chain([network]).chain(counted).collect()
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let [first, second, third] = headings;
    let headings = ["SANDBOX ID", "NAME", "NETWORK", first, second, third];
    output::print(Format::Table, &(), &headings, rows)?;
    output::line("")
}
