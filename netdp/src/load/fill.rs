//! Many flows at once: each a datagram that is answered, from a port of its own
//! to each of some targets. Nothing stays open.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::LoadError;

/// Below the ports that the kernel chooses by itself lie enough of them.
const SOURCE_PORTS: std::ops::Range<u16> = 10_000..60_000;
/// After this an answer is not waited for any longer, and asked for again.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(100);
const ATTEMPTS: usize = 5;

/// Makes so many flows to the echo servers at `targets`, all of one family;
/// returns how many were answered.
///
/// # Errors
/// When a socket can't be opened, or there aren't ports enough.
pub fn fill(flows: usize, targets: &[SocketAddr]) -> Result<usize, LoadError> {
    let Some(&first) = targets.first() else {
        return Ok(0);
    };
    let reach = |source| LoadError::Reach {
        address: first,
        source,
    };
    let mut answered = 0;
    for port in SOURCE_PORTS {
        if answered >= flows {
            return Ok(answered);
        }
        let any: SocketAddr = match first {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
        };
        let socket = match UdpSocket::bind(any) {
            Ok(socket) => socket,
            // Somebody has it.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
            Err(error) => return Err(reach(error)),
        };
        let some = &targets[..targets.len().min(flows - answered)];
        answered += ask(&socket, some).map_err(reach)?;
    }
    Ok(answered)
}

/// How many of them answer.
fn ask(socket: &UdpSocket, targets: &[SocketAddr]) -> io::Result<usize> {
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let mut silent = targets.to_vec();
    let mut buffer = [0; 64];
    for _ in 0..ATTEMPTS {
        for target in &silent {
            socket.send_to(b"flow", target)?;
        }
        while !silent.is_empty() {
            let Ok((_, peer)) = socket.recv_from(&mut buffer) else {
                break;
            };
            silent.retain(|target| *target != peer);
        }
        if silent.is_empty() {
            break;
        }
    }
    Ok(targets.len() - silent.len())
}

#[cfg(test)]
mod tests {
    use super::super::{Listen, ServerConfig, Service, serve};
    use super::*;

    #[test]
    fn each_flow_is_answered_once() {
        let listen = Listen {
            service: Service::UdpEcho,
            bind: "127.0.0.1:0".parse().unwrap(),
        };
        let server = serve(ServerConfig {
            listen: vec![listen; 3],
            ..ServerConfig::new("echo")
        });
        let server = server.unwrap();
        assert_eq!(fill(10, server.addresses()).unwrap(), 10);
        assert_eq!(fill(0, server.addresses()).unwrap(), 0);
        assert_eq!(fill(10, &[]).unwrap(), 0);
    }
}
