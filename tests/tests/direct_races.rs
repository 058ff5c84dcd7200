//! A direct port that goes, or is another program's, while a program is about to get
//! its socket.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use std::{fs, ptr, thread};

use netdp::demo::world::HOST_ADDRESS;
use netdp::netns::Namespace;
use netdp_tests::{
    SILENCE, Topology, Tracee, connect, connect_within, disconnect, says_nothing, sockets_of, udp,
};

const SERVER: &str = env!("CARGO_BIN_EXE_tells_names");

/// `SECCOMP_IOCTL_NOTIF_ADDFD` (linux/seccomp.h), and `SECCOMP_IOCTL_NOTIF_SEND`.
const ADD_DESCRIPTOR: u64 = 0x4018_2103;
const ANSWER: u64 = 0xc018_2101;

/// A sandbox `web` that is about to have a socket for one of its direct ports, and
/// its supervisor, which is about to hand it over.
#[track_caller]
fn about_to_bind(topology: &Topology, publish: &str, words: &str) -> Tracee {
    let go = topology.world.dir().join("go");
    let file = topology.world.dir().join("web.sh");
    let script = format!(
        "while [ ! -e {} ]; do sleep 0.05; done; exec {SERVER} {words}",
        go.display()
    );
    fs::write(&file, script).unwrap();
    let words = format!("run -d --name web -p {publish} -- sh {}", file.display());
    topology.netdp(&words);
    let supervisor = Tracee::stop(topology.supervisors()[0].as_raw());
    fs::write(&go, "").unwrap();
    supervisor.run_to(libc::SYS_ioctl, &[None, Some(ADD_DESCRIPTOR)]);
    supervisor
}

/// The daemon may have looked through the program before it has the socket, and
/// may look through the supervisor when that has handed it over.
#[test]
fn a_port_that_goes_before_the_program_has_its_socket_is_taken_back() {
    let Some(topology) = Topology::start("dir-race") else {
        return;
    };
    let supervisor = about_to_bind(&topology, "8080:80,direct", "0.0.0.0:80");
    // As the daemon does it.
    publish_nothing(&topology);
    drop(supervisor);
    topology.wait_until("told", || !topology.netdp("logs web").is_empty());
    let said = topology.netdp("logs web");
    assert_eq!(said, "0.0.0.0:80 is 0.0.0.0:80\n");
    // The program listens in its own network, and nobody in the host's.
    let inside = Namespace::open(&topology.inspect("web").netns).unwrap();
    connect(&inside, (Ipv4Addr::LOCALHOST, 80));
    topology.netdp("unpublish web 8080:80");
    let to = SocketAddr::from((IpAddr::from(HOST_ADDRESS), 8080));
    let host = topology.host_program();
    assert!(connect_within(&host, None, to, SILENCE).is_err());
}

/// Another thread of the program may have copied it while it was there.
#[test]
fn a_copy_of_a_socket_of_udp_that_is_taken_back_hears_nobody() {
    let Some(topology) = Topology::start("dir-copy") else {
        return;
    };
    let supervisor = about_to_bind(&topology, "5353:53/udp,direct", "--udp 0.0.0.0:53");
    publish_nothing(&topology);
    // To put the program's own one back.
    supervisor.run_to(libc::SYS_ioctl, &[None, Some(ADD_DESCRIPTOR)]);
    let program = topology.inspect("web").pid.unwrap();
    let copy = sockets_of(program, libc::IPPROTO_UDP)
        .pop()
        .expect("a socket");
    drop(supervisor);
    topology.wait_until("told", || !topology.netdp("logs web").is_empty());
    // Which frees it of the interface that it was bound to.
    disconnect(&copy).unwrap();
    let copy = UdpSocket::from(copy);
    assert_eq!(copy.local_addr().unwrap().port(), 53);
    let client = udp(&topology.world.client, Ipv4Addr::UNSPECIFIED, 0);
    for _ in 0..9 {
        client.send_to(b"?", (HOST_ADDRESS, 5353)).unwrap();
    }
    says_nothing(&copy);
}

/// Takes all ports out of what the supervisor reads.
#[track_caller]
fn publish_nothing(topology: &Topology) {
    let (file, mut ports) = ports_file(topology);
    ports["published"] = serde_json::json!([]);
    let written = topology.world.dir().join("ports");
    fs::write(&written, ports.to_string()).unwrap();
    fs::rename(written, file).unwrap();
}

/// While the daemon tries, and when it has undone what it did.
#[test]
fn a_port_that_can_not_be_published_is_never_told() {
    let Some(topology) = Topology::start("dir-never") else {
        return;
    };
    topology.netdp("run -d --name web -p 8080:80,direct -- sleep 60");
    let told = || ports_file(&topology).1;
    let before = told();
    assert_eq!(before["published"].as_array().unwrap().len(), 1);
    // Each port is held by a socket.
    let daemon = topology.world.daemon_pid().expect("the daemon");
    let open = fs::read_dir(format!("/proc/{daemon}/fd")).unwrap().count();
    limit_files(daemon, open + 500);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut times = 0;
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(told(), before);
                times += 1;
            }
            times
        });
        let said = topology.refused("publish web 9000-9999:9000-9999,direct");
        is_over.store(true, Ordering::Relaxed);
        assert!(said.contains("files"), "{said}");
        assert!(looks.join().unwrap() > 100, "seldom");
    });
    assert_eq!(told(), before);
    topology.netdp("publish web 9000:9000,direct");
    assert_ne!(told(), before);
}

#[track_caller]
fn limit_files(process: u32, most: usize) {
    let limit = libc::rlimit {
        rlim_cur: most as u64,
        rlim_max: most as u64,
    };
    let (process, kind) = (process.cast_signed(), libc::RLIMIT_NOFILE);
    // SAFETY: the kernel reads the structure and writes none.
    let limited = unsafe { libc::prlimit(process, kind, &raw const limit, ptr::null_mut()) };
    assert_eq!(limited, 0);
}

/// The file that the supervisor reads, and what it says.
#[track_caller]
fn ports_file(topology: &Topology) -> (PathBuf, serde_json::Value) {
    let folder = topology.world.run_dir().join("direct");
    let files = fs::read_dir(&folder).unwrap().flatten();
    let is_whole = |path: &PathBuf| {
        !path
            .file_name()
            .unwrap()
            .as_encoded_bytes()
            .starts_with(b".")
    };
    let file = files
        .map(|file| file.path())
        .find(is_whole)
        .expect("a file");
    let text = fs::read(&file).unwrap();
    (file, serde_json::from_slice(&text).unwrap())
}

/// A sandbox `web` with a server at its direct port, and a second one that binds the
/// port after `between`; gives the supervisor as it waits for the port, and a copy of
/// the first one's socket.
#[track_caller]
fn about_to_bind_again(topology: &Topology, between: &str) -> (Tracee, OwnedFd) {
    let [go, first, file] = ["go", "first", "web.sh"].map(|name| topology.world.dir().join(name));
    let script = format!(
        "{SERVER} 0.0.0.0:80 &\necho $! >{}\nwhile [ ! -e {} ]; do sleep 0.05; done\n\
         {between}\nexec {SERVER} 0.0.0.0:80\n",
        first.display(),
        go.display()
    );
    fs::write(&file, script).unwrap();
    let words = "run -d --name web -p 8080:80,direct -- sh";
    topology.netdp(&format!("{words} {}", file.display()));
    topology.wait_until("listening", || told(topology).len() == 1);
    let first = fs::read_to_string(first).unwrap().trim().parse().unwrap();
    let copy = sockets_of(first, libc::IPPROTO_TCP).pop();
    let supervisor = Tracee::stop(topology.supervisors()[0].as_raw());
    fs::write(&go, "").unwrap();
    supervisor.run_to(libc::SYS_clock_nanosleep, &[]);
    (supervisor, copy.expect("a socket"))
}

/// What the servers say of their ports.
#[track_caller]
fn told(topology: &Topology) -> Vec<String> {
    let said = topology.netdp("logs web");
    let lines = said.lines().filter(|line| line.starts_with("0.0.0.0:80"));
    lines.map(str::to_owned).collect()
}

/// A daemon that looks through all sockets may have a copy for a moment more.
#[test]
fn a_program_that_starts_again_at_once_has_its_port_again() {
    let Some(topology) = Topology::start("dir-again") else {
        return;
    };
    let between = "kill -9 $!; wait $! 2>/dev/null";
    let (supervisor, copy) = about_to_bind_again(&topology, between);
    drop(copy);
    drop(supervisor);
    topology.wait_until("told", || told(&topology).len() == 2);
    assert_eq!(told(&topology), ["0.0.0.0:80 is 0.0.0.0:80"; 2]);
}

#[test]
fn a_port_that_another_program_has_is_refused_after_a_moment() {
    let Some(topology) = Topology::start("dir-kept") else {
        return;
    };
    let (supervisor, _copy) = about_to_bind_again(&topology, "");
    let began = Instant::now();
    supervisor.run_to(libc::SYS_ioctl, &[None, Some(ANSWER)]);
    let waited = began.elapsed();
    drop(supervisor);
    topology.wait_until("told", || told(&topology).len() == 2);
    let refused = "0.0.0.0:80: Address already in use (os error 98)";
    assert_eq!(told(&topology)[1], refused);
    // Of 0.2 s, which began before it waited for the first time.
    let waited = waited.as_millis();
    assert!((150..1_000).contains(&waited), "{waited} ms");
}
