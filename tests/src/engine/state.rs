//! What an engine's containers leave behind.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::EngineHost;

/// What belongs to containers and networks on a host: as the daemon, its store,
/// the kernel and the engine know it.
#[derive(Debug, PartialEq, Eq)]
pub struct Left(BTreeSet<String>);

impl Left {
    /// What is there now.
    #[track_caller]
    pub fn on(host: &EngineHost) -> Self {
        let mut found = BTreeSet::new();
        let mut add = |what: &str, names: Vec<String>| {
            found.extend(names.into_iter().map(|name| format!("{what} {name}")));
        };
        add("sandbox", named(&host.netdp("ps --format json")));
        add("network", named(&host.netdp("network ls --format json")));
        add("stored", stored(host));
        add("link", links(host));
        for protocol in ["tcp", "tcp6", "udp", "udp6"] {
            add(protocol, bound(host, protocol));
        }
        add("namespace", namespaces(host));
        Self(found)
    }

    /// Waits until what there is is this again.
    #[track_caller]
    pub fn comes_back(&self, host: &EngineHost) {
        let began = std::time::Instant::now();
        loop {
            let now = Self::on(host);
            if now == *self {
                return;
            }
            if began.elapsed() > crate::PATIENCE {
                let more: Vec<_> = now.0.difference(&self.0).collect();
                let less: Vec<_> = self.0.difference(&now.0).collect();
                panic!("left behind: {more:?}; gone: {less:?}");
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

fn named(list: &str) -> Vec<String> {
    let list: Vec<Value> = serde_json::from_str(list).expect("a list in JSON");
    list.iter().map(|it| it["name"].to_string()).collect()
}

/// Entries of the store, by their paths in its copy.
fn stored(host: &EngineHost) -> Vec<String> {
    let Ok(text) = fs::read_to_string(host.path("/var/lib/netdp/state.json")) else {
        return Vec::new();
    };
    let state: Value = serde_json::from_str(&text).unwrap_or_default();
    let mut found = Vec::new();
    for (key, value) in state.as_object().into_iter().flatten() {
        match value {
            Value::Array(list) => found.push(format!("{} of {key}", list.len())),
            Value::Object(list) => found.push(format!("{} of {key}", list.len())),
            _ => {}
        }
    }
    found
}

fn links(host: &EngineHost) -> Vec<String> {
    let mut command = host.topology.world.host.command("ip");
    let output = command.args(["-o", "link"]).output().expect("start ip");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.split(": ").nth(1).map(str::to_owned))
        .collect()
}

/// Addresses and ports of sockets that wait for whoever comes.
fn bound(host: &EngineHost, protocol: &str) -> Vec<String> {
    const LISTENS: &str = "0A";
    const UNCONNECTED: &str = "07";
    let path = host.path("/proc/1/net").join(protocol);
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, local, _, LISTENS | UNCONNECTED, ..] = words[..] else {
                return None;
            };
            Some(local.to_owned())
        })
        .collect()
}

/// Network namespaces that are mounted somewhere.
fn namespaces(host: &EngineHost) -> Vec<String> {
    let mounts = fs::read_to_string(host.path("/proc/1/mountinfo")).expect("mounts");
    mounts
        .lines()
        .filter(|line| line.contains(" - nsfs "))
        .filter_map(|line| line.split(' ').nth(4).map(str::to_owned))
        .collect()
}
