//! How many sockets may share a direct port, whatever their programs make of them.

use std::process::Command;
use std::time::{Duration, Instant};

use netdp_tests::Topology;

/// Binds until it may not, having made each socket deaf before the next.
const DEAF: &str = "
import socket, struct
made = []
while True:
    made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    made[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        made[-1].bind(('', 53))
    except OSError as error:
        print(len(made) - 1, 'and then', error.errno, flush=True)
        break
    if len(made) > 1100:
        print('no end', flush=True)
        break
    nowhere = struct.pack('i', (1 << 30) + len(made))
    made[-1].setsockopt(socket.SOL_SOCKET, 62, nowhere)
";

#[test]
fn those_that_hear_nobody_count_as_well() {
    let Some(topology) = Topology::start("dil-deaf") else {
        return;
    };
    if Command::new("python3").arg("--version").output().is_err() {
        return println!("skipped: there is no python3");
    }
    let program = topology.world.dir().join("deaf.py");
    std::fs::write(&program, DEAF).unwrap();
    let script = topology.world.dir().join("deaf.sh");
    let text = format!("ulimit -n 4096\npython3 {}\nsleep 60\n", program.display());
    std::fs::write(&script, text).unwrap();
    let run = "run -d --name dns -p 5353:53/udp,direct -- sh";
    topology.netdp(&format!("{run} {}", script.display()));
    let began = Instant::now();
    let is_over = |said: &str| said.contains("and then") || said.contains("no end");
    let said = loop {
        let said = topology.netdp("logs dns");
        if is_over(&said) {
            break said;
        }
        assert!(began.elapsed() < Duration::from_secs(90), "{said}");
        std::thread::sleep(Duration::from_millis(100));
    };
    let told = format!("1024 and then {}", libc::EADDRINUSE);
    assert!(said.contains(&told), "{said}");
}
