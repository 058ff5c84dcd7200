//! The answers: as dockerd words them.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

use serde_json::{Value, json};

use super::{ApiContainer, ApiNetwork, Version};

/// What is answered.
#[derive(Default)]
pub(super) struct Said {
    pub networks: Vec<Value>,
    pub containers: Vec<(String, Value)>,
    pub listeners: Vec<UnixStream>,
    /// Paths that were asked for, without the version and the query.
    pub requests: Vec<String>,
}

/// A network, as `GET /networks` lists it.
pub(super) fn network(version: Version, network: &ApiNetwork) -> Value {
    let options: serde_json::Map<String, Value> = network
        .options
        .iter()
        .filter(|(key, _)| key != "internal")
        .map(|(key, value)| (key.clone(), json!(value)))
        .collect();
    let mut value = json!({
        "Name": network.name, "Id": network.id,
        "Created": "2026-01-02T03:04:05.678901234Z", "Scope": "local",
        "Driver": network.driver, "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": null, "Config": [{
            "Subnet": format!("172.18.{}.0/24", network.number),
            "Gateway": network.gateway().to_string(),
        }] },
        "Internal": network.internal, "Attachable": false, "Ingress": false,
        "ConfigFrom": { "Network": "" }, "ConfigOnly": false,
        "Containers": {}, "Options": options, "Labels": {},
    });
    if version == Version::V28 {
        value["EnableIPv4"] = json!(true);
    }
    value
}

/// A container, as `GET /containers/ID/json` shows it.
pub(super) fn container(version: Version, network: &ApiNetwork, container: &ApiContainer) -> Value {
    let mut ports = serde_json::Map::new();
    for (port, on, host_port) in &container.ports {
        let binding = json!({ "HostIp": on, "HostPort": host_port.to_string() });
        let bindings = ports.entry(port.clone()).or_insert(json!([]));
        bindings.as_array_mut().unwrap().push(binding);
    }
    // Exposed, and not published.
    ports.entry("9999/tcp").or_insert(Value::Null);
    let [.., last] = container.address.octets();
    let mut endpoint = json!({
        "IPAMConfig": null, "Links": null, "Aliases": null,
        "NetworkID": network.id, "EndpointID": container.id.replacen('c', "e", 1),
        "Gateway": network.gateway().to_string(),
        "IPAddress": container.address.to_string(), "IPPrefixLen": 24,
        "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
        "MacAddress": format!("02:42:ac:12:{:02x}:{last:02x}", network.number),
        "DriverOpts": null,
    });
    if version == Version::V28 {
        endpoint["DNSNames"] = json!([container.name]);
        endpoint["GwPriority"] = json!(0);
    }
    let name = &container.name;
    json!({
        "Id": container.id, "Created": "2026-01-02T03:04:05.678901234Z",
        "Path": "httpd", "Args": ["-f"],
        "State": {
            "Status": "running", "Running": true, "Paused": false, "Restarting": false,
            "OOMKilled": false, "Dead": false, "Pid": container.pid(),
            "ExitCode": 0, "Error": "", "StartedAt": "2026-01-02T03:04:06.1Z",
            "FinishedAt": "0001-01-01T00:00:00Z",
        },
        "Image": "sha256:0", "Name": format!("/{name}"), "RestartCount": 0,
        "Driver": "overlay2", "Platform": "linux", "MountLabel": "", "ProcessLabel": "",
        "AppArmorProfile": "", "ExecIDs": null, "Mounts": [],
        "Config": { "Hostname": &container.id[..12], "Image": "web:1", "Labels": {} },
        "NetworkSettings": {
            "Bridge": "", "SandboxID": container.id,
            "SandboxKey": format!("/var/run/docker/netns/{}", &container.id[..12]),
            "Ports": ports,
            "Networks": { &network.name: endpoint },
        },
    })
}

/// Answers the requests of a connection.
pub(super) fn answer(
    mut stream: UnixStream,
    said: &Mutex<Said>,
    version: Version,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            if header.trim_end().is_empty() {
                break;
            }
        }
        let path = request.split(' ').nth(1).unwrap_or("/");
        let path = path.split('?').next().unwrap_or(path);
        // Without the version of the API that was asked for.
        let path = match path.strip_prefix("/v1.") {
            Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
            None => path,
        };
        let mut said = said.lock().unwrap();
        said.requests.push(path.to_owned());
        let body = match path {
            "/events" => {
                stream.write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                      Transfer-Encoding: chunked\r\n\r\n",
                )?;
                said.listeners.push(stream);
                return Ok(());
            }
            "/version" => Some(json!({
                "Version": "0", "ApiVersion": version.api(), "MinAPIVersion": "1.12",
                "Os": "linux", "Arch": "amd64", "KernelVersion": "6",
            })),
            "/networks" => Some(json!(said.networks)),
            "/containers/json" => Some(json!(
                said.containers
                    .iter()
                    .map(|(id, it)| json!({
                        "Id": id, "Names": [it["Name"]], "Image": "web:1", "ImageID": "sha256:0",
                        "Command": "httpd -f", "Created": 1_767_323_045, "Labels": {},
                        "Ports": [], "State": "running", "Status": "Up 2 seconds",
                        "HostConfig": { "NetworkMode": "default" },
                        "NetworkSettings": { "Networks": it["NetworkSettings"]["Networks"] },
                        "Mounts": [],
                    }))
                    .collect::<Vec<_>>()
            )),
            path => {
                let of = path.strip_prefix("/containers/");
                let of = of.and_then(|rest| rest.strip_suffix("/json"));
                let mut containers = said.containers.iter();
                of.and_then(|id| containers.find(|(it, _)| it == id))
                    .map(|(_, it)| it.clone())
            }
        };
        drop(said);
        let (status, body) = match body {
            Some(body) => ("200 OK", body.to_string()),
            None => (
                "404 Not Found",
                json!({ "message": "no such thing" }).to_string(),
            ),
        };
        write!(
            stream,
            "HTTP/1.1 {status}\r\nApi-Version: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            version.api(),
            body.len()
        )?;
    }
}
