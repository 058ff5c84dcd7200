//! Sources that are blocked.

use ipnet::IpNet;

use super::{NO_SOCKETS, host, network, state};
use crate::model::{HostView, Kind, State};

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn host6() -> HostView<'static> {
    let mut host = host(&NO_SOCKETS);
    host.addresses.push("2001:db8::1".parse().unwrap());
    host.gateways.push("2001:db8::ffff".parse().unwrap());
    host
}

fn blocked(state: &State) -> Vec<String> {
    state.blocked.keys().map(ToString::to_string).collect()
}

#[test]
fn sources_are_blocked_and_let_in_again() {
    let mut state = state();
    let all = nets(&["203.0.113.0/24", "198.51.100.7/32", "2001:db8:bad::/48"]);
    state.block(&all, &host6()).unwrap();
    assert_eq!(
        blocked(&state),
        ["198.51.100.7/32", "203.0.113.0/24", "2001:db8:bad::/48"]
    );
    let since = state.blocked.values().map(|blocked| blocked.since);
    assert!(since.eq([1_700_000_000; 3]));
    // Once more, and in one that is blocked.
    let mut later = host6();
    later.now += 1;
    let more = nets(&["203.0.113.0/24", "203.0.113.8/29", "203.0.113.8/29"]);
    state.block(&more, &later).unwrap();
    assert_eq!(state.blocked.len(), 4);
    assert_eq!(state.blocked[&more[0]].since, 1_700_000_000);
    state.check().unwrap();
    state
        .unblock(&nets(&["203.0.113.0/24", "2001:db8:bad::/48"]))
        .unwrap();
    assert_eq!(blocked(&state), ["198.51.100.7/32", "203.0.113.8/29"]);
}

#[test]
fn what_would_cut_the_host_off_is_refused() {
    let mut state = state();
    let before = state.clone();
    let taken = state.networks.values().flat_map(|it| &it.pools);
    let subnet = taken.map(|pool| pool.subnet).next().unwrap().to_string();
    for (source, why) in [
        ("0.0.0.0/0", "that is everybody"),
        ("::/0", "that is everybody"),
        ("192.0.2.1/32", "it is an address of this host"),
        ("192.0.2.0/24", "192.0.2.1 of it is an address of this host"),
        ("192.0.2.254/32", "192.0.2.254 is this host's gateway"),
        ("192.0.0.0/8", "192.0.2.1 of it"),
        ("2001:db8::/64", "2001:db8::1 of it"),
        (
            "2001:db8::fff0/124",
            "2001:db8::ffff is this host's gateway",
        ),
        ("127.0.0.0/8", "loopback"),
        ("0.0.0.0/8", "ask for an address from 0.0.0.0"),
        ("224.0.0.0/4", "no sources"),
        ("::/3", "from ::"),
        ("fe80::/64", "link-local"),
        ("ff02::1/128", "no sources"),
        ("::ffff:203.0.113.7/128", "name the addresses of IPv4"),
        (
            "203.0.113.7/24",
            "bits beyond its prefix length; say 203.0.113.0/24 for the network, or \
             203.0.113.7/32 for the address alone",
        ),
        (&subnet, "nobody outside has such an address"),
    ] {
        let refusal = state.block(&nets(&[source]), &host6()).unwrap_err();
        assert_eq!(refusal.kind, Kind::Invalid, "{source}");
        let text = refusal.to_string();
        assert!(
            text.starts_with(&format!("cannot block {source}: ")),
            "{text}"
        );
        assert!(text.contains(why), "{source}: {text}");
        // All or nothing.
        let several = nets(&["203.0.113.0/24", source]);
        let text = state.block(&several, &host6()).unwrap_err().to_string();
        assert!(text.ends_with("; none of the others was blocked"), "{text}");
        assert_eq!(state, before);
    }
    assert!(state.block(&[], &host6()).is_err());
}

#[test]
fn a_part_of_a_network_of_containers_is_refused() {
    let mut state = state();
    let mut request = network("back");
    request.subnets = nets(&["10.9.0.0/16"]);
    state.create_network(&request, &host6()).unwrap();
    for source in ["10.9.7.0/24", "10.0.0.0/8"] {
        let refusal = state.block(&nets(&[source]), &host6()).unwrap_err();
        assert!(refusal.to_string().contains("of network back"), "{refusal}");
    }
    state.block(&nets(&["10.10.0.0/16"]), &host6()).unwrap();
}

#[test]
fn what_is_not_blocked_is_not_unblocked() {
    let mut state = state();
    let all = nets(&["203.0.113.0/24", "198.51.100.8/32", "198.51.100.9/32"]);
    state.block(&all, &host6()).unwrap();
    let before = state.clone();
    for (source, why) in [
        (
            "192.0.2.0/25",
            "192.0.2.0/25 is not blocked: see `netdp block`",
        ),
        ("203.0.113.7/32", "by itself, but 203.0.113.0/24 is"),
        ("203.0.113.7/24", ", but 203.0.113.0/24 is"),
        ("198.51.100.0/24", "as a whole, but 2 sources in it are"),
    ] {
        let refusal = state.unblock(&nets(&[source])).unwrap_err();
        assert_eq!(refusal.kind, Kind::NotFound);
        assert!(refusal.to_string().contains(why), "{refusal}");
        let several = nets(&["203.0.113.0/24", source]);
        let refusal = state.unblock(&several).unwrap_err().to_string();
        assert!(
            refusal.ends_with("none of the others was unblocked"),
            "{refusal}"
        );
        assert_eq!(state, before);
    }
    assert!(state.unblock(&[]).is_err());
}

#[test]
fn more_than_the_table_holds_is_refused() {
    use netdp_common::maps::MAX_BLOCKED;

    let mut state = state();
    let single =
        |number: u32| IpNet::from(std::net::IpAddr::from((10 << 24 | number).to_be_bytes()));
    let most: Vec<IpNet> = (0..MAX_BLOCKED).map(single).collect();
    state.block(&most, &host6()).unwrap();
    let one = [single(MAX_BLOCKED)];
    let refusal = state.block(&one, &host6()).unwrap_err();
    assert_eq!(refusal.kind, Kind::Conflict);
    assert!(
        refusal.to_string().contains("of IPv4: 65536 is the most"),
        "{refusal}"
    );
    // The other family has a table of its own.
    state
        .block(&nets(&["2001:db8:bad::/48"]), &host6())
        .unwrap();
    state.unblock(&most[..1]).unwrap();
    state.block(&one, &host6()).unwrap();
}
