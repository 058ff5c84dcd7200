//! Sources of which nothing gets in: `netdp block` and `unblock`.

use std::{
    fs,
    io::{self, Read as _},
    net::IpAddr,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;

use super::{
    args::{BlockArgs, UnblockArgs},
    output, parse, runtime,
};
use crate::api::{
    client::Client,
    types::{Blocked, Sources},
};

pub fn block(run_dir: &Path, args: BlockArgs) -> Result<()> {
    let client = Client::new(run_dir);
    let Some(sources) = named(&args.sources, args.file.as_deref())? else {
        let blocked = runtime()?.block_on(client.blocked())?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs());
        return output::print(
            args.format,
            &blocked,
            &["SOURCE", "BLOCKED", "PACKETS"],
            blocked.iter().map(|blocked| row(blocked, now)),
        );
    };
    Ok(runtime()?.block_on(client.block(&Sources { sources }))?)
}

pub fn unblock(run_dir: &Path, args: UnblockArgs) -> Result<()> {
    let client = Client::new(run_dir);
    let runtime = runtime()?;
    let sources = if args.all {
        let blocked = runtime.block_on(client.blocked())?;
        blocked.iter().map(|blocked| blocked.source).collect()
    } else {
        named(&args.sources, args.file.as_deref())?.unwrap_or_default()
    };
    if args.all && sources.is_empty() {
        return Ok(());
    }
    Ok(runtime.block_on(client.unblock(&Sources { sources }))?)
}

fn row(blocked: &Blocked, now: u64) -> Vec<String> {
    vec![
        shown(&blocked.source),
        format!("{} ago", output::age(blocked.since, now)),
        blocked.packets.to_string(),
    ]
}

/// A single address without its prefix length.
fn shown(source: &IpNet) -> String {
    if source.prefix_len() == source.max_prefix_len() {
        source.addr().to_string()
    } else {
        source.to_string()
    }
}

/// What the arguments, a file or standard input name; none where nothing is to
/// be read.
fn named(words: &[String], file: Option<&Path>) -> Result<Option<Vec<IpNet>>> {
    if words.is_empty() && file.is_none() {
        return Ok(None);
    }
    let mut sources = Vec::new();
    for word in words {
        if word == "-" {
            let mut text = String::new();
            io::stdin()
                .read_to_string(&mut text)
                .context("cannot read standard input")?;
            sources.extend(list(&text, "standard input")?);
        } else {
            sources.push(source(word).map_err(|why| anyhow::anyhow!("{word}: {why}"))?);
        }
    }
    if let Some(path) = file {
        let text = fs::read_to_string(path);
        let text = text.with_context(|| format!("cannot read {}", path.display()))?;
        sources.extend(list(&text, &path.display().to_string())?);
    }
    if sources.is_empty() {
        bail!("what was read names no source: write one to a line");
    }
    Ok(Some(sources))
}

/// One to a line; `#` and `;` begin remarks.
fn list(text: &str, place: &str) -> Result<Vec<IpNet>> {
    let mut sources = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let word = line.split(['#', ';']).next().unwrap_or_default().trim();
        if word.is_empty() {
            continue;
        }
        match source(word) {
            Ok(net) => sources.push(net),
            Err(why) => bail!("line {} of {place}: {word}: {why}", number + 1),
        }
    }
    Ok(sources)
}

/// An address stands for itself alone.
fn source(text: &str) -> Result<IpNet, String> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(address.into()),
        Err(_) => parse::net(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_remarks_and_single_addresses() {
        let text = "# bad ones\n203.0.113.0/24 ; SBL1\n\n 198.51.100.7\n2001:db8::/32#x\n";
        let sources = list(text, "here").unwrap();
        let shown: Vec<String> = sources.iter().map(shown).collect();
        assert_eq!(shown, ["203.0.113.0/24", "198.51.100.7", "2001:db8::/32"]);
        let error = list("10.0.0.0/8\nblue", "drop.txt").unwrap_err();
        let error = error.to_string();
        assert!(error.starts_with("line 2 of drop.txt: blue: "), "{error}");
    }
}
