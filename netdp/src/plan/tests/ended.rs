//! When sockets of direct ports end.

use super::*;
use crate::model::{NetworkRequest, PortSpec, Process, SandboxRequest};

fn request(name: &str, publish: &[&str]) -> SandboxRequest {
    SandboxRequest {
        process: Some(Process {
            pid: 1,
            start_time: 1,
        }),
        networks: vec!["six".into()],
        ..web(name, publish)
    }
}

fn spec(text: &str) -> [PortSpec; 1] {
    [text.parse().unwrap()]
}

/// A sandbox `one` on a network of both families, and a host that has it.
fn one(publish: &[&str]) -> (State, Host) {
    let mut state = state();
    let sockets = Sockets::default();
    let view = host(&sockets);
    let six = NetworkRequest {
        ipv6: true,
        ..NetworkRequest::new("six".parse().unwrap())
    };
    state.create_network(&six, &view).unwrap();
    let one = request("one", publish);
    state.create_sandbox(&one, &view).unwrap();
    let mut host = Host::new();
    assert_eq!(ended(&mut host, &state), [""; 0]);
    (state, host)
}

/// What ends when the host follows the state.
fn ended(host: &mut Host, state: &State) -> Vec<String> {
    host.done.clear();
    host.converge(&Desired::of(state, &facts()), |_, _| {});
    let first = |wanted: fn(&Op) -> bool| host.done.iter().position(wanted);
    let last = |wanted: fn(&Op) -> bool| host.done.iter().rposition(wanted);
    let is_port = |op: &Op| matches!(op, Op::Remove(key) if retract::is_port(key));
    let is_end = |op: &Op| matches!(op, Op::EndSockets(_));
    let is_release = |op: &Op| matches!(op, Op::ReleasePort(_));
    // Between the entry of a port and its socket of the daemon.
    if let (Some(begin), Some(end)) = (first(is_end), last(is_end)) {
        assert!(last(is_port).is_some_and(|port| port < begin));
        assert!(first(is_release).is_none_or(|release| end < release));
    }
    let ops = host.done.iter().filter_map(|op| match op {
        Op::EndSockets(hold) => Some(hold.to_string()),
        _ => None,
    });
    ops.collect()
}

#[test]
fn of_both_families_when_the_port_goes() {
    for (publish, v4, v6) in [
        ("8080:80,direct", "0.0.0.0:8080/tcp", "[::]:8080/tcp"),
        (
            "8000-8010:80-90,direct",
            "0.0.0.0:8000-8010/tcp",
            "[::]:8000-8010/tcp",
        ),
        ("8080:80/udp,direct", "0.0.0.0:8080/udp", "[::]:8080/udp"),
    ] {
        let (mut state, mut host) = one(&[publish, "9090:99"]);
        state.remove_sandbox("one").unwrap();
        assert_eq!(ended(&mut host, &state), [v4, v6]);
    }
}

#[test]
fn when_the_port_is_the_next_ones_at_once() {
    let (mut state, mut host) = one(&["8080:80,direct"]);
    let address = |state: &State| state.endpoints.values().next().unwrap().v4();
    let before = address(&state);
    state.remove_sandbox("one").unwrap();
    let sockets = Sockets::default();
    let two = SandboxRequest {
        // The address as well.
        ip: before,
        ..request("two", &["8080:80,direct"])
    };
    state.create_sandbox(&two, &super::host(&sockets)).unwrap();
    assert_eq!(address(&state), before);
    assert_eq!(
        ended(&mut host, &state),
        ["0.0.0.0:8080/tcp", "[::]:8080/tcp"]
    );
}

#[test]
fn not_when_others_come_or_it_is_held_otherwise() {
    let (mut state, mut host) = one(&["0.0.0.0:8000-8010:80-90,direct"]);
    let sockets = Sockets::default();
    let view = super::host(&sockets);
    // The two families are held by the same sockets from now on.
    let v6 = spec("[::]:8000-8010:80-90,direct");
    state.publish("one", &v6, &view).unwrap();
    let two = request("two", &["8080:80,direct"]);
    state.create_sandbox(&two, &view).unwrap();
    assert_eq!(ended(&mut host, &state), [""; 0]);
    assert!(host.observed.holds.iter().any(|hold| hold.both));
    state.unpublish("one", &v6).unwrap();
    assert_eq!(ended(&mut host, &state), ["[::]:8000-8010/tcp"]);
}

#[test]
fn not_when_a_lost_link_is_made_again() {
    let (state, mut host) = one(&["8080:80,direct"]);
    let desired = Desired::of(&state, &facts());
    for name in desired.pairs.keys() {
        host.observed.links.remove(name);
    }
    assert_eq!(ended(&mut host, &state), [""; 0]);
    host.assert_converged(&desired);
}

/// Whatever a socket of it accepts meanwhile would be taken for one of no port.
#[test]
fn the_entry_of_a_port_whose_link_is_made_again_is_there_all_the_time() {
    for publish in [
        "8080:80,direct",
        "8000-8010:80-90,direct",
        "53:53/udp,direct",
    ] {
        let (state, mut host) = one(&[publish, "9090:99"]);
        let desired = Desired::of(&state, &facts());
        let names: Vec<&String> = desired.pairs.keys().collect();
        let is_of_one = |key: &Key, entry: &Entry| {
            let direct = match entry {
                Entry::Port4(it) => it.is_direct(),
                Entry::Port6(it) => it.is_direct(),
                Entry::Range4(it) => it.published.is_direct(),
                Entry::Range6(it) => it.published.is_direct(),
                _ => false,
            };
            direct && retract::is_port(key)
        };
        let many = |observed: &Observed| {
            let found = observed.tables.iter();
            found.filter(|(key, entry)| is_of_one(key, entry)).count()
        };
        assert_eq!(many(&host.observed), 2, "of both families");
        for name in names {
            host.observed.links.remove(name);
        }
        host.done.clear();
        host.converge(&desired, |observed, op| {
            assert_eq!(many(observed), 2, "{publish}, after {op:?}");
        });
        assert_eq!(tables(&desired, &host.observed), []);
        let is_others = |op: &Op| matches!(op, Op::Remove(key) if retract::is_port(key));
        assert!(host.done.iter().any(is_others), "9090 goes and comes");
    }
}

#[test]
fn what_goes_by_a_daemon_that_held_nothing() {
    let (mut state, mut host) = one(&["8080:80,direct"]);
    state.remove_sandbox("one").unwrap();
    // It has just begun, or somebody else has the port.
    host.observed.holds.clear();
    assert_eq!(
        ended(&mut host, &state),
        ["0.0.0.0:8080/tcp", "[::]:8080/tcp"]
    );
}
