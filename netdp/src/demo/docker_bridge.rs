//! What netdp is compared with: a host whose container hangs on a bridge
//! behind the rules that Docker makes.

use std::fmt::Write as _;
use std::io::{Seek, Write};
use std::net::Ipv4Addr;
use std::time::Duration;

use super::process;
use super::world::{Host, World, WorldError, ip, set_sysctls};
use crate::netns::Namespace;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);
const CONTAINER: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);

pub(super) struct DockerBridge {
    pub(super) host: Host,
    pub(super) container: Namespace,
}

impl DockerBridge {
    /// Makes the host, its bridge and one container with the TCP `ports`
    /// published on the same numbers.
    ///
    /// # Errors
    /// When a link can't be made, iptables is missing, or the kernel refuses
    /// a rule; the world then holds a host without meaning.
    pub(super) fn create(world: &mut World, ports: &[u16]) -> Result<Self, WorldError> {
        let host = world.add_host()?;
        let container = world.add_namespace("docker-container")?;
        set_sysctls(&host.namespace, &[("ipv4/ip_forward", "1")])?;
        ip(
            &host.namespace,
            &format!(
                "link add docker0 type bridge\n\
                 addr add {GATEWAY}/16 dev docker0\n\
                 link set docker0 up\n\
                 link add veth0 type veth peer name eth0 netns {}\n\
                 link set veth0 master docker0 up\n",
                container.path().display()
            ),
        )?;
        ip(
            &container,
            &format!(
                "addr add {CONTAINER}/16 dev eth0\n\
                 link set eth0 up\n\
                 route add default via {GATEWAY}\n"
            ),
        )?;
        restore(&host.namespace, &rules(ports))?;
        Ok(Self { host, container })
    }
}

/// The chains and rules that dockerd makes for one bridge network with one
/// container (as `iptables-save` shows them with Docker 20.10 to 27).
fn rules(ports: &[u16]) -> String {
    let mut nat = String::from(
        "*nat\n\
         :PREROUTING ACCEPT\n\
         :INPUT ACCEPT\n\
         :OUTPUT ACCEPT\n\
         :POSTROUTING ACCEPT\n\
         :DOCKER -\n\
         -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
         -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER\n\
         -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\n\
         -A DOCKER -i docker0 -j RETURN\n",
    );
    let mut filter = String::from(
        "*filter\n\
         :INPUT ACCEPT\n\
         :FORWARD DROP\n\
         :OUTPUT ACCEPT\n\
         :DOCKER -\n\
         :DOCKER-ISOLATION-STAGE-1 -\n\
         :DOCKER-ISOLATION-STAGE-2 -\n\
         :DOCKER-USER -\n\
         -A FORWARD -j DOCKER-USER\n\
         -A FORWARD -j DOCKER-ISOLATION-STAGE-1\n\
         -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A FORWARD -o docker0 -j DOCKER\n\
         -A FORWARD -i docker0 ! -o docker0 -j ACCEPT\n\
         -A FORWARD -i docker0 -o docker0 -j ACCEPT\n\
         -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2\n\
         -A DOCKER-ISOLATION-STAGE-1 -j RETURN\n\
         -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP\n\
         -A DOCKER-ISOLATION-STAGE-2 -j RETURN\n\
         -A DOCKER-USER -j RETURN\n",
    );
    for port in ports {
        // Writing to a String can't fail.
        let _ = write!(
            nat,
            "-A POSTROUTING -s {CONTAINER}/32 -d {CONTAINER}/32 -p tcp -m tcp --dport {port} -j MASQUERADE\n\
             -A DOCKER ! -i docker0 -p tcp -m tcp --dport {port} -j DNAT --to-destination {CONTAINER}:{port}\n"
        );
        let _ = writeln!(
            filter,
            "-A DOCKER -d {CONTAINER}/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport {port} -j ACCEPT"
        );
    }
    format!("{nat}COMMIT\n{filter}COMMIT\n")
}

fn restore(host: &Namespace, rules: &str) -> Result<(), WorldError> {
    let input = || {
        let mut file = tempfile::tempfile()?;
        file.write_all(rules.as_bytes())?;
        file.rewind()?;
        std::io::Result::Ok(file)
    };
    let input = input().map_err(|source| WorldError::Io {
        doing: "write a file in",
        path: std::env::temp_dir(),
        source,
    })?;
    let mut command = host.command("iptables-restore");
    command.stdin(input);
    let output = process::output(command, Duration::from_secs(20))?;
    if output.status.success() {
        return Ok(());
    }
    Err(WorldError::Refused {
        command: "iptables-restore".into(),
        status: output.status,
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
