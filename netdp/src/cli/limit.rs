//! How many conversations a source may begin: `netdp limit`.

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Result;

use super::{args::LimitArgs, output, runtime};
use crate::api::{
    client::Client,
    types::{Limit, LimitRequest},
};

pub fn limit(run_dir: &Path, args: LimitArgs) -> Result<()> {
    let client = Client::new(run_dir);
    let runtime = runtime()?;
    if args.off {
        return Ok(runtime.block_on(client.end_limit())?);
    }
    if let Some(rate) = args.rate {
        let burst = args.burst;
        return Ok(runtime.block_on(client.set_limit(&LimitRequest { rate, burst }))?);
    }
    let limit = runtime.block_on(client.limit())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs());
    output::print(
        args.format,
        &limit,
        &["PER SECOND", "AT ONCE", "SET", "PACKETS"],
        limit.iter().map(|limit| row(limit, now)),
    )
}

fn row(limit: &Limit, now: u64) -> Vec<String> {
    vec![
        limit.rate.to_string(),
        limit.burst.to_string(),
        format!("{} ago", output::age(limit.since, now)),
        limit.packets.to_string(),
    ]
}
