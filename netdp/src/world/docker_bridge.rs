//! What netdp is compared with: a host whose containers hang on a bridge behind
//! the rules that Docker makes.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::{Host, World, WorldError, feed, ip, set_sysctls};
use crate::netns::Namespace;

pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);
/// Bits of the bridge's subnet.
pub(crate) const PREFIX: u8 = 16;
/// The first container's address on the bridge: the one with published ports.
pub(crate) const CONTAINER: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
/// Ten thousand ports are thirty thousand rules.
const RULES_TIMEOUT: Duration = Duration::from_secs(120);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 3);

/// Which of the two programs called iptables makes the rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Iptables {
    /// That which the distribution chose.
    Default,
    Nft,
    Legacy,
}

impl Iptables {
    fn restore(self) -> &'static str {
        match self {
            Self::Default => "iptables-restore",
            Self::Nft => "iptables-nft-restore",
            Self::Legacy => "iptables-legacy-restore",
        }
    }
}

/// A port of the host that leads to the same port of the first container.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PublishedPort {
    /// As iptables calls it.
    pub(crate) protocol: &'static str,
    pub(crate) port: u16,
}

pub(crate) struct DockerBridge {
    pub(crate) host: Host,
    /// It has the published ports.
    pub(crate) container: Namespace,
    /// Another on the same bridge.
    pub(crate) neighbour: Namespace,
}

impl DockerBridge {
    /// Makes the host, its bridge and two containers, with `ports` of the first
    /// published.
    ///
    /// # Errors
    /// When a link can't be made, iptables is missing, or the kernel refuses
    /// a rule; the world then holds a host without meaning.
    pub(crate) fn create(
        world: &mut World,
        iptables: Iptables,
        ports: &[PublishedPort],
    ) -> Result<Self, WorldError> {
        let host = world.add_host()?;
        Self::on(world, host, iptables, ports)
    }

    /// The same on a host that is there.
    ///
    /// # Errors
    /// As [`DockerBridge::create`].
    pub(crate) fn on(
        world: &World,
        host: Host,
        iptables: Iptables,
        ports: &[PublishedPort],
    ) -> Result<Self, WorldError> {
        let namespace = &host.namespace;
        let name = |what| format!("{}-{what}", host.address);
        let container = world.add_namespace(&name("container"))?;
        let neighbour = world.add_namespace(&name("neighbour"))?;
        set_sysctls(
            namespace,
            &[
                ("ipv4/ip_forward", "1"),
                // What dockerd does for 127.0.0.1 without its userland proxy.
                ("ipv4/conf/all/route_localnet", "1"),
            ],
        )?;
        ip(
            namespace,
            &format!(
                "link add docker0 type bridge\n\
                 addr add {GATEWAY}/{PREFIX} dev docker0\n\
                 link set docker0 address {} up\n",
                mac(GATEWAY)
            ),
        )?;
        for (number, (inside, own, other)) in [
            (&container, CONTAINER, NEIGHBOUR),
            (&neighbour, NEIGHBOUR, CONTAINER),
        ]
        .into_iter()
        .enumerate()
        {
            let own_mac = mac(own);
            ip(
                namespace,
                &format!(
                    "link add veth{number} type veth peer name eth0 address {own_mac} netns {}\n\
                     link set veth{number} master docker0 up\n\
                     neigh replace {own} lladdr {own_mac} dev docker0 nud permanent\n",
                    inside.path().display()
                ),
            )?;
            ip(
                inside,
                &format!(
                    "addr add {own}/{PREFIX} dev eth0\n\
                     link set eth0 up\n\
                     neigh replace {GATEWAY} lladdr {} dev eth0 nud permanent\n\
                     neigh replace {other} lladdr {} dev eth0 nud permanent\n\
                     route add default via {GATEWAY}\n",
                    mac(GATEWAY),
                    mac(other)
                ),
            )?;
        }
        feed(
            namespace,
            iptables.restore(),
            &[],
            &rules(ports),
            RULES_TIMEOUT,
        )?;
        Ok(Self {
            host,
            container,
            neighbour,
        })
    }
}

/// As dockerd forms it of the address.
pub(crate) fn mac(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// The chains and rules that dockerd makes for one bridge network with one
/// container that publishes ports (as `iptables-save` shows them with Docker
/// 20.10 to 27, with `"userland-proxy": false`: with the proxy only what is for
/// 127.0.0.1 would go another way).
fn rules(ports: &[PublishedPort]) -> String {
    let mut nat = String::from(
        "*nat\n\
         :PREROUTING ACCEPT\n\
         :INPUT ACCEPT\n\
         :OUTPUT ACCEPT\n\
         :POSTROUTING ACCEPT\n\
         :DOCKER -\n\
         -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
         -A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER\n\
         -A POSTROUTING -o docker0 -m addrtype --src-type LOCAL -j MASQUERADE\n\
         -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\n",
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
    for PublishedPort { protocol, port } in ports {
        // Writing to a String can't fail.
        let _ = write!(
            nat,
            "-A POSTROUTING -s {CONTAINER}/32 -d {CONTAINER}/32 -p {protocol} -m {protocol} --dport {port} -j MASQUERADE\n\
             -A DOCKER -p {protocol} -m {protocol} --dport {port} -j DNAT --to-destination {CONTAINER}:{port}\n"
        );
        let _ = writeln!(
            filter,
            "-A DOCKER -d {CONTAINER}/32 ! -i docker0 -o docker0 -p {protocol} -m {protocol} --dport {port} -j ACCEPT"
        );
    }
    format!("{nat}COMMIT\n{filter}COMMIT\n")
}
