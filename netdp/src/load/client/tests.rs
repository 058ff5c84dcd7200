//! Every kind of traffic over loopback, against servers that behave and
//! against servers that don't.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::load::{Listen, Server, ServerConfig, Service, WhoAmI, fetch, serve};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn server(service: Service) -> (Server, SocketAddr) {
    let server = serve(ServerConfig {
        listen: vec![Listen {
            service,
            bind: LOOPBACK,
        }],
        ..ServerConfig::new("web1")
    })
    .unwrap();
    let address = server.addresses()[0];
    (server, address)
}

fn brief(kind: Kind, target: SocketAddr) -> ClientConfig {
    ClientConfig {
        warm_up: Duration::from_millis(20),
        connections: 4,
        ..ClientConfig::new(kind, target, Duration::from_millis(150))
    }
}

fn measured(kind: Kind, service: Service) -> Measurement {
    let (server, address) = server(service);
    let measurement = run(brief(kind, address)).unwrap();
    let began = Instant::now();
    server.stop();
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "stop took too long"
    );
    assert_eq!(measurement.errors, 0, "{measurement:?}");
    assert!(
        measurement.seconds > 0.1 && measurement.seconds < 2.0,
        "{measurement:?}"
    );
    assert!(measurement.operations > 0, "{measurement:?}");
    measurement
}

#[test]
fn round_trips_are_counted_and_timed() {
    for (kind, service, bytes) in [
        (Kind::Rr, Service::Echo, 2),
        (Kind::Crr, Service::Crr, 2),
        (Kind::UdpRr, Service::UdpEcho, 128),
    ] {
        let measurement = measured(kind, service);
        assert_eq!(measurement.bytes, measurement.operations * bytes);
        assert_eq!(measurement.unit, Unit::PerSecond);
        let expected = measurement.operations as f64 / measurement.seconds;
        assert!((measurement.rate - expected).abs() < 1e-6);
        let latency = measurement.latency.unwrap();
        assert!(latency.p50 > 0 && latency.p50 <= latency.p99 && latency.p999 <= latency.max);
        // One at a time: the median of what each took can't exceed by much
        // what there was time for.
        assert!((latency.p50 as f64) < 2e9 * measurement.seconds / measurement.operations as f64);
    }
}

#[test]
fn http_keeps_all_connections_busy() {
    let measurement = measured(Kind::Http, Service::Http);
    assert!(measurement.latency.unwrap().p50 > 0);
}

#[test]
fn bulk_counts_what_arrived() {
    for (kind, service) in [
        (Kind::Bulk, Service::Sink),
        (Kind::BulkBack, Service::Source),
    ] {
        let measurement = measured(kind, service);
        assert_eq!(measurement.unit, Unit::BitsPerSecond);
        assert!(measurement.bytes > 1 << 20, "{measurement:?}");
        assert_eq!(measurement.latency, None);
    }
}

#[test]
fn datagrams_are_counted_at_the_sink() {
    let measurement = measured(Kind::UdpPps, Service::UdpSink);
    assert_eq!(measurement.bytes, measurement.operations * 64);
}

#[test]
fn a_sink_counts_each_session_for_itself() {
    let (_server, address) = server(Service::UdpSink);
    let first = run(brief(Kind::UdpPps, address)).unwrap();
    let second = run(brief(Kind::UdpPps, address)).unwrap();
    assert!(first.operations > 0 && second.operations > 0);
    assert!(second.seconds < 1.0, "{second:?}");
    assert!(second.rate < 1e8, "{second:?}");
}

#[test]
fn nobody_there_is_an_error_that_names_the_address() {
    let free = TcpListener::bind(LOOPBACK).unwrap().local_addr().unwrap();
    for kind in [
        Kind::Rr,
        Kind::Crr,
        Kind::Bulk,
        Kind::BulkBack,
        Kind::Http,
        Kind::UdpPps,
    ] {
        let refusal = run(brief(kind, free)).unwrap_err().to_string();
        assert!(refusal.contains(&free.to_string()), "{refusal}");
    }
}

/// Accepts connections and closes every one after `answers` echoed bytes.
fn closing_server(answers: usize) -> SocketAddr {
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut byte = [0];
            for _ in 0..answers {
                if stream
                    .read_exact(&mut byte)
                    .and_then(|()| stream.write_all(&byte))
                    .is_err()
                {
                    break;
                }
            }
        }
    });
    address
}

#[test]
fn connections_that_break_are_counted_and_opened_again() {
    let measurement = run(brief(Kind::Rr, closing_server(3))).unwrap();
    assert!(measurement.errors >= 2, "{measurement:?}");
    assert!(measurement.operations >= 3, "{measurement:?}");
    assert!(measurement.first_error.unwrap().starts_with("round trip: "));
}

#[test]
fn an_answer_that_never_comes_whole_is_an_error() {
    let measurement = run(brief(Kind::Crr, closing_server(1))).unwrap();
    assert_eq!(measurement.errors, 0);
    let refusal = run(brief(Kind::Crr, closing_server(0))).unwrap_err();
    assert!(matches!(refusal, LoadError::Reach { .. }), "{refusal}");
    let measurement = run(brief(Kind::Http, closing_server(1))).unwrap();
    assert!(measurement.errors > 0);
    assert_eq!(measurement.operations, 0);
}

#[test]
fn lost_datagrams_are_counted_not_waited_for() {
    // Answers every second datagram only.
    let socket = UdpSocket::bind(LOOPBACK).unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        for number in 0_u64.. {
            let (length, peer) = socket.recv_from(&mut buffer).unwrap();
            if number % 2 == 0 {
                socket.send_to(&buffer[..length], peer).unwrap();
            }
        }
    });
    let mut config = brief(Kind::UdpRr, address);
    config.duration = Duration::from_millis(700);
    let measurement = run(config).unwrap();
    assert!(measurement.lost >= 2, "{measurement:?}");
    assert_eq!(measurement.errors, 0, "{measurement:?}");
    assert!(measurement.operations >= 2, "{measurement:?}");
}

/// TIME_WAIT on the client's side would refuse connections, or stall them for
/// a second, once every port has been used.
#[test]
fn more_connections_than_there_are_ephemeral_ports_all_succeed() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: making a namespace needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let namespace = crate::netns::Namespace::create(dir.path(), "ports").unwrap();
    let measurement = namespace
        .run(|| {
            let range = "/proc/sys/net/ipv4/ip_local_port_range";
            std::fs::write(range, "40000 40099").unwrap();
            let (_server, address) = server(Service::Crr);
            run(brief(Kind::Crr, address)).unwrap()
        })
        .unwrap();
    assert!(measurement.operations > 100, "{measurement:?}");
    assert_eq!(measurement.errors, 0, "{measurement:?}");
    let slowest = measurement.latency.unwrap().max;
    assert!(
        slowest < 900_000_000,
        "a SYN was sent twice: {measurement:?}"
    );
}

#[test]
fn whoami_tells_both_addresses() {
    let (_server, address) = server(Service::Http);
    let response = fetch(address, "/whoami", Duration::from_secs(1)).unwrap();
    assert_eq!(response.status, 200);
    let who: WhoAmI = serde_json::from_slice(&response.body).unwrap();
    assert_eq!((who.name.as_str(), who.server), ("web1", address));
    assert!(who.client.ip().is_loopback() && who.client != address);
    assert_eq!(
        fetch(address, "/none", Duration::from_secs(1))
            .unwrap()
            .status,
        404
    );
}

#[test]
fn of_clients_at_once_one_has_the_average_rate_and_all_what_they_did() {
    let (_server, address) = server(Service::Echo);
    let config = ClientConfig::new(Kind::Rr, address, Duration::from_millis(20));
    let one = run(config).unwrap();
    let other = Measurement {
        rate: 3.0 * one.rate,
        errors: 2,
        first_error: Some("refused".into()),
        ..one.clone()
    };
    let both = Measurement::of_average(&[one.clone(), other]).unwrap();
    assert!((both.rate / one.rate - 2.0).abs() < 1e-9, "{both:?}");
    assert_eq!(both.operations, 2 * one.operations);
    assert_eq!(both.errors, 2);
    assert_eq!(both.first_error.as_deref(), Some("refused"));
    assert_eq!(both.latency, one.latency);
    assert_eq!(Measurement::of_average(&[]), None);
}

#[test]
fn an_address_in_use_is_refused_by_name() {
    let (_server, address) = server(Service::Echo);
    let refusal = serve(ServerConfig {
        listen: vec![Listen {
            service: Service::Http,
            bind: address,
        }],
        ..ServerConfig::new("second")
    })
    .err()
    .unwrap()
    .to_string();
    assert!(
        refusal.contains(&address.to_string()) && refusal.contains("http"),
        "{refusal}"
    );
}

#[test]
fn stop_ends_open_connections() {
    for service in [Service::Echo, Service::Http, Service::Sink, Service::Source] {
        let (server, address) = server(service);
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(3)))
            .unwrap();
        thread::sleep(Duration::from_millis(20));
        server.stop();
        let mut rest = Vec::new();
        // Closed or reset, but not left hanging.
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
}
