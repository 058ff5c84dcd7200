//! The same containers with and without netdp, in turn.

use std::cell::Cell;
use std::convert::Infallible;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS, World};
use netdp::load::{Mode, compare, last_allowed_cpu};
use netdp::netns::Namespace;
use serde_json::Value;

/// Rounds of which the median is taken, and how long each measures.
const ROUNDS: usize = 5;
const SECONDS: &str = "1";

/// What is measured: its kind, what it is called, the service behind it, and the
/// port of that, published by the same number.
pub const MEASURED: [(&str, &str, &str, u16); 4] = [
    ("crr", "TCP connect, request, close", "crr", 7002),
    ("rr", "TCP request on an open connection", "echo", 7001),
    ("udp-rr", "UDP request", "udp-echo", 7004),
    ("udp-pps", "UDP packets one way", "udp-sink", 7005),
];

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(world: &World, place: &Namespace, cpu: &str) -> Server {
    let mut command = world.within(place, world.netdp_path());
    command.args(["__load-server", "--cpu", cpu]);
    for (.., service, port) in MEASURED {
        command.args(["--listen", &format!("{service}=0.0.0.0:{port}")]);
    }
    let mut server = Server(command.stdout(Stdio::piped()).spawn().unwrap());
    let stdout = server.0.stdout.take().unwrap();
    // Once it listens.
    BufReader::new(stdout)
        .read_line(&mut String::new())
        .unwrap();
    server
}

/// A rate by `netdp __load-client`.
fn measure(mut command: Command, kind: &str, target: SocketAddr, cpu: &str) -> f64 {
    let output = command
        .args(["__load-client", "--kind", kind, "--cpu", cpu])
        .args(["--seconds", SECONDS, "--target", &target.to_string()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{kind} at {target}: {said}");
    let measured: Value = serde_json::from_slice(&output.stdout).unwrap();
    measured["rate"].as_f64().unwrap()
}

/// Prints what `switch` changes for a container whose ports of [`MEASURED`] are
/// published: from outside to it, and from it to the outside.
pub fn print_speed(world: &World, container: &Namespace, switch: impl Fn(bool)) {
    let cpu = last_allowed_cpu().unwrap().to_string();
    let _servers = [container, &world.client].map(|place| serve(world, place, &cpu));
    println!("| | Docker alone | accelerated | ratio | spread |\n|---|---|---|---|---|");
    let directions: [(&str, &Namespace, Ipv4Addr); 2] = [
        ("published port", &world.client, HOST_ADDRESS),
        ("to the outside", container, CLIENT_ADDRESS),
    ];
    for (direction, from, address) in directions {
        for (kind, name, _, port) in MEASURED {
            let is_on = Cell::new(None);
            let mode = |on: bool| Mode {
                name: String::new(),
                measure: Box::new({
                    let (is_on, switch, cpu) = (&is_on, &switch, &cpu);
                    move || -> Result<f64, Infallible> {
                        if is_on.replace(Some(on)) != Some(on) {
                            switch(on);
                        }
                        let client = world.within(from, world.netdp_path());
                        Ok(measure(client, kind, (address, port).into(), cpu))
                    }
                }),
            };
            let series = compare(&mut [mode(false), mode(true)], ROUNDS);
            let Ok(series) = series;
            let (without, with) = (&series[0], &series[1]);
            println!(
                "| {direction}: {name} | {:.0}/s | {:.0}/s | {:.2} | {:.0} %, {:.0} % |",
                without.median,
                with.median,
                with.against(without).ratio,
                without.spread * 100.0,
                with.spread * 100.0
            );
        }
    }
}
