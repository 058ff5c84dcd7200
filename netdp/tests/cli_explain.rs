//! What would become of a packet, through the command.

mod cli_world;

use cli_world::World;

#[test]
fn where_a_packet_goes_and_why_it_does_not() {
    let Some(world) = World::new() else { return };
    let space = world.namespace("web");
    let netns = space.path().to_str().unwrap();
    world.ok(&["attach", "--name", "web", "--netns", netns, "-p", "8080:80"]);
    let explain = |words: &[&str]| {
        let asked = [&["explain"], words, &["--format", "json"]].concat();
        world.json(&asked)
    };

    let inside = explain(&["tcp", "172.17.0.2:40000", "172.17.0.1:8080"]);
    assert_eq!(inside["fate"], "delivered");
    assert_eq!(inside["sandbox"], "web");
    assert_eq!(inside["destination"], "172.17.0.2:80");
    let neighbour = explain(&["tcp", "192.0.2.77:40000", "172.17.0.2:80"]);
    assert_eq!(neighbour["fate"], "dropped");
    assert_eq!(neighbour["reason"], "not-published");
    let local = explain(&["udp", "127.0.0.1:40000", "127.0.0.1:9"]);
    assert_eq!(local["fate"], "host");
    let far = explain(&["tcp", "172.17.0.2:40000", "203.0.113.1:80"]);
    assert_eq!(far["fate"], "sent", "{far}");
    assert_eq!(far["interface"], "up0");
    assert_eq!(far["source"], "192.0.2.2:40000");
    world.ip("route del default");
    let nowhere = explain(&["tcp", "172.17.0.2:40000", "203.0.113.1:80"]);
    assert_eq!(nowhere["reason"], "no-route", "{nowhere}");

    let table = world.ok(&["explain", "tcp", "127.0.0.1:1", "127.0.0.1:8080"]);
    assert!(table.contains("published by 172.17.0.2:80"), "{table}");
    assert!(table.contains("delivered to web by vn"), "{table}");
    let mixed = world.refused(&["explain", "tcp", "[::1]:1", "127.0.0.1:8080"]);
    assert!(mixed.contains("different families"), "{mixed}");
    drop(space);
}
