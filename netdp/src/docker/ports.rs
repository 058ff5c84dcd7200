//! Published and exposed ports as dockerd sends them: each by itself, ranges
//! too, and in no order.

use serde::de::DeserializeOwned;

use super::wire::{ExposedPort, Options, PortBinding};
use crate::model::{Exposed, PortRange, PortRequest, Proto, Refusal};

const PUBLISHED: &str = "com.docker.network.portmap";
const EXPOSED: &str = "com.docker.network.endpoint.exposedports";

/// So many ports in a row become one range. Fewer are found faster by
/// themselves.
const IN_A_ROW: u32 = 16;

/// The ports to publish: first those that ask for one port of the host, so
/// that what is chosen for others is not one of theirs.
pub fn published(options: &Options) -> Result<Vec<PortRequest>, Refusal> {
    let bindings: Vec<PortBinding> = list(options, PUBLISHED)?;
    let requests: Result<Vec<_>, _> = bindings.iter().map(request).collect();
    let mut requests = requests?;
    requests.sort_by_key(|it| {
        let choice = it.host_ports.map_or(u32::MAX, PortRange::count);
        (
            choice,
            it.proto,
            it.host_ip,
            it.host_ports,
            it.container_ports,
        )
    });
    requests.dedup();
    Ok(join(requests))
}

pub fn exposed(options: &Options) -> Result<Vec<Exposed>, Refusal> {
    let mut exposed = Vec::new();
    for ExposedPort { proto, port } in list(options, EXPOSED)? {
        // What netdp can't publish may still be exposed.
        if let (Some(ports), Ok(proto)) = (PortRange::single(port), protocol(proto)) {
            exposed.push(Exposed { ports, proto });
        }
    }
    exposed.sort_unstable();
    Ok(exposed)
}

fn list<T: DeserializeOwned>(options: &Options, key: &str) -> Result<Vec<T>, Refusal> {
    let Some(value) = options.get(key).filter(|value| !value.is_null()) else {
        return Ok(Vec::new());
    };
    serde_json::from_value(value.clone())
        .map_err(|error| Refusal::invalid(format!("option {key}: {error}")))
}

fn request(binding: &PortBinding) -> Result<PortRequest, Refusal> {
    let bad = || Refusal::invalid(format!("port {} can't be published", binding.port));
    let host_ip = match binding.host_ip.as_str() {
        "" => None,
        text => Some(
            text.parse()
                .map_err(|_| Refusal::invalid(format!("'{text}' is no address of the host")))?,
        ),
    };
    let end = binding.host_port_end.max(binding.host_port);
    let proto = protocol(binding.proto)?;
    if proto == Proto::Sctp {
        return Err(Refusal::unavailable(format!(
            "port {}/{proto} can't be published: {proto} is not available yet; give a tcp or udp \
             port",
            binding.port
        )));
    }
    Ok(PortRequest {
        host_ip,
        // None for 0.
        host_ports: PortRange::new(binding.host_port, end),
        container_ports: PortRange::single(binding.port).ok_or_else(bad)?,
        proto,
        direct: false,
    })
}

fn protocol(number: u8) -> Result<Proto, Refusal> {
    [Proto::Tcp, Proto::Udp, Proto::Sctp]
        .into_iter()
        .find(|proto| proto.number() == number)
        .ok_or_else(|| Refusal::invalid(format!("protocol {number} has no ports to publish")))
}

/// Many ports that follow each other on both sides as the ranges that they
/// were.
fn join(requests: Vec<PortRequest>) -> Vec<PortRequest> {
    let mut joined = Vec::new();
    let follows = |a: &PortRequest, b: &PortRequest| {
        let next = |a: PortRange, b: PortRange| {
            a.count() == 1 && b.count() == 1 && a.last().checked_add(1) == Some(b.first())
        };
        (a.host_ip, a.proto) == (b.host_ip, b.proto)
            && next(a.container_ports, b.container_ports)
            && matches!((a.host_ports, b.host_ports), (Some(a), Some(b)) if next(a, b))
    };
    for row in requests.chunk_by(follows) {
        let (first, last) = (row[0], row[row.len() - 1]);
        let range = |first: PortRange, last: PortRange| PortRange::new(first.first(), last.last());
        let whole = first.host_ports.zip(last.host_ports);
        let whole = whole.and_then(|(first, last)| range(first, last));
        match (whole, range(first.container_ports, last.container_ports)) {
            (Some(host), Some(container)) if row.len() > 1 && host.count() >= IN_A_ROW => {
                joined.push(PortRequest {
                    host_ports: Some(host),
                    container_ports: container,
                    ..first
                });
            }
            _ => joined.extend_from_slice(row),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(proto: u8, host_ip: &str, host: (u16, u16), port: u16) -> String {
        format!(
            r#"{{"Proto":{proto},"IP":"","Port":{port},"HostIP":"{host_ip}","HostPort":{},"HostPortEnd":{}}}"#,
            host.0, host.1
        )
    }

    fn options(key: &str, items: &[String]) -> Options {
        let text = format!(r#"{{"{key}":[{}]}}"#, items.join(","));
        serde_json::from_str(&text).unwrap()
    }

    fn shown(bindings: &[String]) -> Result<Vec<String>, String> {
        let requests = published(&options(PUBLISHED, bindings)).map_err(|it| it.to_string())?;
        Ok(requests
            .iter()
            .map(|it| {
                let ip = it.host_ip.map_or("*".to_owned(), |ip| ip.to_string());
                let host = it
                    .host_ports
                    .map_or("*".to_owned(), |ports| ports.to_string());
                format!("{ip} {host} {}/{}", it.container_ports, it.proto)
            })
            .collect())
    }

    #[test]
    fn chosen_ports_come_last() {
        let bindings = [
            binding(6, "", (0, 0), 5555),
            binding(6, "", (8100, 8110), 81),
            binding(17, "", (9000, 9000), 9000),
            binding(6, "127.0.0.1", (8082, 8082), 80),
            binding(6, "::", (8083, 8083), 80),
            binding(6, "", (8081, 8081), 80),
        ];
        assert_eq!(
            shown(&bindings).unwrap(),
            [
                "* 8081 80/tcp",
                "127.0.0.1 8082 80/tcp",
                ":: 8083 80/tcp",
                "* 9000 9000/udp",
                "* 8100-8110 81/tcp",
                "* * 5555/tcp",
            ]
        );
        assert_eq!(published(&Options::new()).unwrap(), []);
    }

    #[test]
    fn long_rows_are_ranges_again() {
        let row = |host: u16, container: u16, count: u16| {
            (0..count)
                .rev()
                .map(move |n| binding(6, "", (host + n, host + n), container + n))
        };
        let bindings: Vec<String> = row(20_000, 30_000, 10_000)
            .chain(row(40_000, 50_000, 3))
            .chain(row(65_500, 100, 36))
            .collect();
        assert_eq!(
            shown(&bindings).unwrap(),
            [
                "* 20000-29999 30000-39999/tcp",
                "* 40000 50000/tcp",
                "* 40001 50001/tcp",
                "* 40002 50002/tcp",
                "* 65500-65535 100-135/tcp",
            ]
        );
    }

    #[test]
    fn what_cant_be_published_is_named() {
        for (binding, why) in [
            (binding(132, "", (84, 84), 84), "84/sctp"),
            (binding(1, "", (84, 84), 84), "protocol 1"),
            (binding(6, "nowhere", (84, 84), 84), "'nowhere'"),
            (binding(6, "", (84, 84), 0), "port 0"),
            ("7".to_owned(), "portmap"),
        ] {
            let refused = shown(&[binding]).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn exposed_ports_of_any_protocol_are_taken() {
        let ports = [r#"{"Proto":17,"Port":53}"#, r#"{"Proto":6,"Port":80}"#];
        let ports = ports.map(str::to_owned);
        let exposed = exposed(&options(EXPOSED, &ports)).unwrap();
        let shown: Vec<String> = exposed.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["53/udp", "80/tcp"]);
    }
}
