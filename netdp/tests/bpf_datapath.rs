//! Loading, adopting and unloading on the running kernel. Needs root.

mod bpf_world;

use std::collections::BTreeMap;

use aya::maps::{MapData, MapInfo};
use bpf_world::{Bench, ifindex, pins};
use netdp::bpf::{Closed, Datapath, Entry, Key, Role, blocked_key};
use netdp_common::addr::{Be16, V4Addr, proto};
use netdp_common::maps::{Back, BackRange, Delivery, LinkKey, MAX_CLOSED, PortKey, Published};
use netdp_common::range::{AllowKey, RangeKey};

fn port() -> (Key, Entry) {
    let key = PortKey::new(V4Addr::default(), Be16::new(8080), proto::TCP);
    let value = Published {
        addr: V4Addr::new([172, 17, 0, 2]),
        port: Be16::new(80),
        host_port: Be16::new(8080),
        to: Delivery::default(),
        back_addr: V4Addr::new([192, 0, 2, 1]),
        allow: 0,
        shared: 0,
        flags: 0,
        pad: 0,
    };
    (Key::Port4(key), Entry::Port4(value))
}

/// All that can be noted of sockets of UDP that lost their port.
#[test]
fn more_sockets_may_have_lost_their_port_than_can_be_noted() {
    let Some(bench) = Bench::new() else { return };
    let _datapath = Datapath::open(&bench.options()).unwrap();
    let maps = bench.bpffs().join("netdp/maps");
    let mut closed = Closed::open(&maps).unwrap();
    let all: Vec<u64> = (1..=u64::from(MAX_CLOSED)).collect();
    closed.close(&all).unwrap();
    closed.close(&all).unwrap();
    // One has no room, and the other is there.
    let full = closed.close(&[u64::MAX, 1]).unwrap_err().to_string();
    assert!(full.contains("closed"), "{full}");
    // Those that are gone make room.
    closed.forget_gone(&closed.cookies(), &all[1..]);
    closed.close(&[u64::MAX]).unwrap();
    closed.close(&[1]).unwrap_err();
    // What comes after they were read isn't known to be gone.
    let noted = closed.cookies();
    closed.forget_gone(&noted, &[]);
    closed.close(&[7]).unwrap();
    closed.forget_gone(&noted[..1], &[]);
    assert_eq!(closed.cookies(), [7]);
    closed.forget_gone(&[7], &[]);
    closed.close(&all).unwrap();
}

#[test]
fn what_a_daemon_leaves_is_adopted_by_the_next() {
    let Some(bench) = Bench::new() else { return };
    let options = bench.options();
    bench.inside(|| {
        let mut datapath = Datapath::open(&options).unwrap();
        let wire = ifindex("wire0");
        datapath.attach("wire0", wire, Role::Uplink).unwrap();
        datapath.attach("wire0", wire, Role::Uplink).unwrap();
        let (key, entry) = port();
        let (any, first) = (V4Addr::default(), Be16::new(80));
        let left = BTreeMap::from([
            (key, entry),
            (
                Key::Link4(LinkKey::new(any, any, first, proto::TCP)),
                Entry::Link(7),
            ),
            (
                Key::Allow4(AllowKey::new(7, V4Addr::new([192, 0, 2, 0]), 24)),
                Entry::Allow(1),
            ),
            (
                blocked_key("198.51.100.0/24".parse().unwrap()),
                Entry::Blocked,
            ),
            (
                blocked_key("2001:db8:bad::/48".parse().unwrap()),
                Entry::Blocked,
            ),
            (
                Key::BackRange4(RangeKey::of_range(any, proto::TCP, 80, 89)),
                Entry::BackRange4(BackRange {
                    back: Back::new(any, Be16::new(9000), first),
                    span: 9,
                    prefix: 0,
                    pad: 0,
                }),
            ),
        ]);
        for (key, entry) in &left {
            datapath.put(key, entry).unwrap();
        }
        drop(datapath);
        assert_eq!(pins(&options.bpffs), ["netdp"]);

        let mut adopted = Datapath::open(&options).unwrap();
        assert_eq!(adopted.attached().get(&wire), Some(&Role::Uplink));
        assert_eq!(adopted.tables().unwrap(), left);
        for key in left.keys() {
            adopted.remove(key).unwrap();
            adopted.remove(key).unwrap();
        }
        assert!(adopted.tables().unwrap().is_empty());
        adopted.detach(wire, Role::Uplink).unwrap();
        adopted.detach(wire, Role::Uplink).unwrap();
        assert!(adopted.attached().is_empty());
        Datapath::unload(&options.bpffs).unwrap();
        assert!(pins(&options.bpffs).is_empty());
    });
}

#[test]
fn an_interface_that_went_while_no_daemon_ran_is_forgotten() {
    let Some(bench) = Bench::new() else { return };
    let options = bench.options();
    bench.inside(|| {
        let mut datapath = Datapath::open(&options).unwrap();
        datapath
            .attach("wire0", ifindex("wire0"), Role::Endpoint)
            .unwrap();
    });
    let status = bench
        .namespace()
        .command("ip")
        .args(["link", "del", "wire0"])
        .status()
        .unwrap();
    assert!(status.success());
    bench.inside(|| {
        assert!(Datapath::open(&options).unwrap().attached().is_empty());
    });
}

#[test]
fn maps_of_another_shape_are_replaced_and_attachments_kept() {
    let Some(bench) = Bench::new() else { return };
    let mut options = bench.options();
    bench.inside(|| {
        let mut datapath = Datapath::open(&options).unwrap();
        let wire = ifindex("wire0");
        datapath.attach("wire0", wire, Role::Uplink).unwrap();
        drop(datapath);
        options.max_flows = 2048;
        let datapath = Datapath::open(&options).unwrap();
        assert_eq!(datapath.attached().get(&wire), Some(&Role::Uplink));
        assert_eq!(pins(&options.bpffs), ["netdp"]);
    });
}

/// A version that makes `own` in another shape takes over everything else.
#[test]
fn a_map_that_can_be_made_anew_is_and_the_others_stay() {
    let Some(bench) = Bench::new() else { return };
    let options = bench.options();
    let maps = options.bpffs.join("netdp/maps");
    let own = || MapInfo::from_pin(maps.join("own")).unwrap();
    let id = |name: &str| MapInfo::from_pin(maps.join(name)).unwrap().id();
    bench.inside(|| {
        let mut datapath = Datapath::open(&options).unwrap();
        let wire = ifindex("wire0");
        datapath.attach("wire0", wire, Role::Uplink).unwrap();
        let (key, entry) = port();
        datapath.put(&key, &entry).unwrap();
        drop(datapath);
        let (flows, shape) = (id("flows4"), own().max_entries());
        std::fs::remove_file(maps.join("own")).unwrap();
        std::fs::remove_file(maps.join("heard6")).unwrap();
        let other = MapData::from_pin(maps.join("full")).unwrap();
        other.pin(maps.join("own")).unwrap();

        // One that fails leaves it as it was.
        let mut failing = options.clone();
        failing.cgroup = Some("/nonexistent".into());
        Datapath::open(&failing).unwrap_err();
        assert_eq!(own().id(), id("full"));

        let adopted = Datapath::open(&options).unwrap();
        assert_eq!(adopted.attached().get(&wire), Some(&Role::Uplink));
        assert_eq!(adopted.tables().unwrap(), BTreeMap::from([(key, entry)]));
        assert_eq!((id("flows4"), own().max_entries()), (flows, shape));
        assert!(!pins(&maps).iter().any(|name| name.ends_with("_old")));
        id("heard6");
    });
}

#[test]
fn counters_start_at_zero_and_a_full_map_says_so() {
    let Some(bench) = Bench::new() else { return };
    let options = bench.options();
    bench.inside(|| {
        let mut datapath = Datapath::open(&options).unwrap();
        datapath.clear_stats(3).unwrap();
        assert_eq!(datapath.stats(3).unwrap().rx_packets, 0);
        assert!(
            datapath
                .drops()
                .unwrap()
                .iter()
                .all(|(_, count)| *count == 0)
        );
        assert!(datapath.flows::<V4Addr>().unwrap().is_empty());
        let uplink = netdp_common::maps::Uplink {
            mac: [0; 6],
            ..Default::default()
        };
        let error = (0..=netdp_common::maps::MAX_UPLINKS)
            .find_map(|index| {
                datapath
                    .put(&Key::Uplink(index), &Entry::Uplink(uplink))
                    .err()
            })
            .expect("the map takes no more than it says");
        assert!(error.to_string().contains("uplinks is full"), "{error}");
    });
}
