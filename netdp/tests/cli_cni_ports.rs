//! Who holds the ports that a CNI plugin publishes: netdp, or the runtime that
//! calls it.

mod cli_world;
mod cni_world;

use std::{
    net::{TcpListener, UdpSocket},
    process::Stdio,
};

use cli_world::{Running, World};
use cni_world::{Call, Pod, config};
use serde_json::json;

#[test]
fn host_ports_are_held_unless_the_runtime_holds_them() {
    let Some(world) = World::new() else { return };
    let bind = |port: u16| {
        world
            .host
            .run(|| {
                (
                    TcpListener::bind(("0.0.0.0", port)),
                    UdpSocket::bind(("0.0.0.0", port)),
                )
            })
            .unwrap()
    };
    let conf = |port: u16, hold: bool| {
        let ports = json!([
            {"hostPort": port, "containerPort": 80},
            {"hostPort": port, "containerPort": 80, "protocol": "udp"},
        ]);
        config(json!({"holdPorts": hold, "runtimeConfig": {"portMappings": ports}}))
    };
    let one = Pod::new(&world, "c1");
    Call::new("ADD", &one, &conf(8081, true)).ok(&world);
    let (tcp, udp) = bind(8081);
    assert!(tcp.is_err() && udp.is_err());

    // As Podman: bound after the plugin was called.
    let two = Pod::new(&world, "c2");
    Call::new("ADD", &two, &conf(8082, false)).ok(&world);
    let (tcp, udp) = bind(8082);
    assert!(tcp.is_ok() && udp.is_ok(), "{tcp:?} {udp:?}");
    let ports = world.ok(&["ps"]);
    assert!(!ports.contains("not held"), "{ports}");
    drop((tcp, udp));

    // As Podman: bound before, by the conmon that was started for the container,
    // by that of another, and by a program that has the name as an argument.
    let three = Pod::new(&world, "c3");
    let holder = |name: &str, container: &str, port: u16| {
        let script = format!(
            "import socket,time\nopen('/proc/self/comm','w').write('{name}')\ns=socket.socket()\n\
             s.bind(('0.0.0.0',{port}))\ns.listen()\nprint('on',flush=True)\ntime.sleep(60)"
        );
        let mut command = world.host.command("python3");
        command.args(["-c", &script, "-c", container, "-u", container]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = [0; 3];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        Running(child)
    };
    let _others = [holder("conmon", "c9", 8083), holder("editor", "c3", 8086)];
    for (port, holder) in [(8083, "conmon"), (8086, "editor")] {
        let (code, why) = Call::new("ADD", &three, &conf(port, false)).refused(&world);
        assert_eq!(code, 101, "{why}");
        assert!(why.contains(holder), "{why}");
    }
    let _own = holder("conmon", "c3", 8084);
    Call::new("ADD", &three, &conf(8084, false)).ok(&world);
    // As Podman 5: bound before by who calls the plugin, which is this test.
    let five = Pod::new(&world, "c5");
    let (tcp, udp) = bind(8085);
    assert!(tcp.is_ok() && udp.is_ok());
    Call::new("ADD", &five, &conf(8085, false)).ok(&world);
    // Containers of netdp never share one, whoever holds it.
    let four = Pod::new(&world, "c4");
    let (code, why) = Call::new("ADD", &four, &conf(8084, false)).refused(&world);
    assert_eq!(code, 101, "{why}");
    assert!(why.contains("published by c3"), "{why}");
}

#[test]
fn a_restarted_daemon_leaves_the_runtimes_ports_alone() {
    let Some(mut world) = World::new() else {
        return;
    };
    let (one, two) = (Pod::new(&world, "c1"), Pod::new(&world, "c2"));
    for (pod, port, hold) in [(&one, 8081, false), (&two, 8082, true)] {
        let ports = json!([{"hostPort": port, "containerPort": 80}]);
        let conf = config(json!({"holdPorts": hold, "runtimeConfig": {"portMappings": ports}}));
        Call::new("ADD", pod, &conf).ok(&world);
    }
    world.kill_daemon();
    world.start_daemon(&[]);
    let bind = |address| world.host.run(|| TcpListener::bind(address)).unwrap();
    assert!(bind("0.0.0.0:8081").is_ok());
    assert!(bind("0.0.0.0:8082").is_err());
    let port = world.ok(&["port", "c1"]);
    assert!(port.contains(":8081"), "{port}");
}
