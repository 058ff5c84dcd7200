//! What an engine's containers leave behind.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use std::{fs, thread};

use aya::Pod;
use aya::maps::{HashMap, Map, MapData};
use netdp_common::addr::{V4Addr, V6Addr};
use netdp_common::maps::{Endpoint, LinkKey, Member, Owner, PortKey, Published};
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
        add("entries", entries(host));
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
        let began = Instant::now();
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
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn named(list: &str) -> Vec<String> {
    let list: Vec<Value> = serde_json::from_str(list).expect("a list in JSON");
    list.iter().map(|it| it["name"].to_string()).collect()
}

/// How many entries of each kind the store has, by its copy, which is written a
/// while after it.
#[track_caller]
fn stored(host: &EngineHost) -> Vec<String> {
    let listed = |words: &str| -> Vec<Value> {
        serde_json::from_str(&host.netdp(words)).expect("a list in JSON")
    };
    let began = Instant::now();
    loop {
        let (networks, sandboxes) = (
            listed("network ls --format json"),
            listed("ps --format json"),
        );
        let state = copied(host);
        let count = |key: &str| state[key].as_object().map_or(0, serde_json::Map::len);
        let endpoints = sandboxes.iter().map(|it| it["endpoints"].as_array());
        let endpoints: usize = endpoints.map(|all| all.map_or(0, Vec::len)).sum();
        if (count("networks"), count("sandboxes"), count("endpoints"))
            == (networks.len(), sandboxes.len(), endpoints)
        {
            let entries = state.as_object().expect("a state").iter();
            return entries
                .filter(|(_, entries)| entries.is_object())
                .map(|(key, _)| format!("{} of {key}", count(key)))
                .collect();
        }
        assert!(began.elapsed() < crate::PATIENCE, "the store has {state}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// How many entries the datapath's maps have for endpoints, their addresses, ports
/// and links.
#[track_caller]
fn entries(host: &EngineHost) -> Vec<String> {
    vec![
        entries_of::<u32, Endpoint>(host, "endpoints"),
        entries_of::<V4Addr, Owner>(host, "addrs4"),
        entries_of::<V6Addr, Owner>(host, "addrs6"),
        entries_of::<PortKey<V4Addr>, Published<V4Addr>>(host, "ports4"),
        entries_of::<PortKey<V6Addr>, Published<V6Addr>>(host, "ports6"),
        entries_of::<LinkKey<V4Addr>, u32>(host, "links4"),
        entries_of::<LinkKey<V6Addr>, u32>(host, "links6"),
        entries_of::<V4Addr, Member>(host, "members4"),
        entries_of::<V6Addr, Member>(host, "members6"),
    ]
}

#[track_caller]
fn entries_of<K: Pod, V: Pod>(host: &EngineHost, name: &str) -> String {
    let pin = host.path("/sys/fs/bpf/netdp/maps").join(name);
    let data = MapData::from_pin(&pin).unwrap_or_else(|error| panic!("{name}: {error}"));
    let map = Map::from_map_data(data).expect("a kind of map that aya knows");
    let map = HashMap::<_, K, V>::try_from(map).expect("its layout");
    format!("{} of {name}", map.keys().count())
}

/// The state in the store's copy.
fn copied(host: &EngineHost) -> Value {
    let text = fs::read_to_string(host.path("/var/lib/netdp/state.json")).unwrap_or_default();
    let mut copy: Value = serde_json::from_str(&text).unwrap_or_default();
    copy["state"].take()
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
