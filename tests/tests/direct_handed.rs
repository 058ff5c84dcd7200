//! A direct port's socket in the hands of another sandbox, which has direct ports
//! of its own: it is the first one's there, too.

use std::io::Read;
use std::net::SocketAddr;
use std::process::Command;

use netdp::demo::world::HOST_ADDRESS;
use netdp_tests::{SILENCE, Topology, connect, connect_within};

/// Listens at TCP port 80 and has UDP port 53, and gives both to whoever asks at the
/// Unix socket that is its argument.
const GIVES: &str = "
import socket, sys, time
tcp = socket.socket()
tcp.bind(('', 80))
tcp.listen()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(('', 53))
door = socket.socket(socket.AF_UNIX)
door.bind(sys.argv[1])
door.listen()
print('ready', flush=True)
asks, _ = door.accept()
socket.send_fds(asks, [b'!'], [tcp.fileno(), udp.fileno()])
while True:
    try:
        tcp.accept()[0].send(b'1')
    except OSError:
        # The other one has it listen no more, for a moment.
        time.sleep(0.01)
";

/// Has a port of its own, takes the others' sockets and tries what it can.
const TAKES: &str = "
import ctypes, errno, os, socket, struct, sys
own = socket.socket()
own.bind(('', 81))
own.listen()
door = socket.socket(socket.AF_UNIX)
door.connect(sys.argv[1])
_, given, _, _ = socket.recv_fds(door, 1, 2)
tcp, udp = (socket.socket(fileno=number) for number in given)
libc = ctypes.CDLL(None, use_errno=True)
def tries(what, attempt):
    try:
        print(what, attempt(), flush=True)
    except OSError as error:
        print(what, errno.errorcode[error.errno], flush=True)
def nobody(made):
    if libc.connect(made.fileno(), bytes(16), 16) != 0:
        raise OSError(ctypes.get_errno(), 'connect')
for name, made, port in (('tcp', tcp, 80), ('udp', udp, 53)):
    tries(name + ' name', lambda: made.getsockname()[1])
    tries(name + ' mark', lambda: made.setsockopt(socket.SOL_SOCKET, 36, 1))
    tries(name + ' device', lambda: made.setsockopt(socket.SOL_SOCKET, 25, b'lo'))
    tries(name + ' own port', lambda: made.bind(('', 81)))
    tries(name + ' its port', lambda: made.bind(('', port)))
tries('udp send', lambda: udp.sendto(b'!', ('127.0.0.1', 7777)))
mark = [(socket.SOL_SOCKET, 36, struct.pack('I', 7))]
tries('udp marked', lambda: udp.sendmsg([b'!'], mark, 0, ('127.0.0.1', 7777)))
tries('udp connect', lambda: udp.connect(('127.0.0.1', 7777)))
tries('tcp nobody', lambda: nobody(tcp))
tries('tcp connect', lambda: tcp.connect(('127.0.0.1', 7777)))
tries('tcp again', lambda: tcp.bind(('', 81)))
tries('tcp listen', tcp.listen)
print('tried', flush=True)
own.accept()
tries('tcp ended', lambda: tcp.accept())
tries('udp ended', lambda: udp.recv(9))
print('done', flush=True)
own.accept()
";

#[test]
fn another_sandbox_gains_nothing_by_it() {
    let python = Command::new("python3").arg("--version").output();
    if !python.is_ok_and(|output| output.status.success()) {
        return println!("skipped: there is no python3");
    }
    let Some(topology) = Topology::start("dih-handed") else {
        return;
    };
    let door = topology.world.dir().join("door");
    let start = |name: &str, ports: &[&str], script: &str| {
        let mut words = vec!["run", "-d", "--name", name];
        words.extend(ports);
        words.extend(["--", "python3", "-c", script, door.to_str().unwrap()]);
        let run = topology.world.netdp_ok(&words);
        run.unwrap_or_else(|error| panic!("{error}"));
    };
    let has_said = |name: &str, word: &str| {
        topology.wait_until(word, || {
            topology.netdp(&format!("logs {name}")).contains(word)
        });
    };
    let direct = ["-p", "8080:80,direct", "-p", "5353:53/udp,direct"];
    start("gives", &direct, GIVES);
    has_said("gives", "ready");
    start("takes", &["-p", "8081:81,direct"], TAKES);
    has_said("takes", "tried");
    let said = topology.netdp("logs takes");
    let expected = "\
tcp name 80
tcp mark EPERM
tcp device EPERM
tcp own port EINVAL
tcp its port EPERM
udp name 53
udp mark EPERM
udp device EPERM
udp own port EPERM
udp its port EPERM
udp send EPERM
udp marked EPERM
udp connect EPERM
tcp nobody None
tcp connect EPERM
tcp again EINVAL
tcp listen None
tried
";
    assert_eq!(said, expected);
    let client = &topology.world.client;
    let mut byte = [0];
    let mut stream = connect(client, (HOST_ADDRESS, 8080));
    stream.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"1");
    // With its port the socket ends, in whoever's hands.
    topology.netdp("rm -f gives");
    let to = SocketAddr::from((HOST_ADDRESS, 8080));
    assert!(connect_within(client, None, to, SILENCE).is_err());
    let _ = connect(client, (HOST_ADDRESS, 8081));
    has_said("takes", "done");
    let said = topology.netdp("logs takes");
    assert!(
        said.contains("tcp ended EINVAL\nudp ended ECONNABORTED\n"),
        "{said}"
    );
}
