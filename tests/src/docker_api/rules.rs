//! The rules that dockerd makes for its bridge networks.

use std::io::Write;
use std::process::Stdio;

use netdp::demo::world::World;

use super::DockerApi;

impl DockerApi {
    /// The rules that dockerd makes for what is there, with more for the chain
    /// `DOCKER-USER`. False where this host has no iptables.
    pub fn make_rules(&self, world: &World, user: &str) -> bool {
        let (mut nat, mut filter, mut raw) = (String::new(), String::new(), String::new());
        for network in self.networks.iter().filter(|it| it.driver == "bridge") {
            let (bridge, number) = (&network.bridge, network.number);
            nat += &format!("-A POSTROUTING -s 172.18.{number}.0/24 ! -o {bridge} -j MASQUERADE\n");
            filter += &format!(
                "-A FORWARD -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
                 -A FORWARD -o {bridge} -j DOCKER\n-A FORWARD -i {bridge} ! -o {bridge} -j ACCEPT\n\
                 -A FORWARD -i {bridge} -o {bridge} -j ACCEPT\n"
            );
        }
        for container in &self.containers {
            let network = self.networks.iter().find(|it| it.name == container.network);
            let (bridge, to) = (&network.unwrap().bridge, container.address);
            for (port, on, host_port) in &container.ports {
                let (port, proto) = port.split_once('/').unwrap();
                let on = match on.as_str() {
                    "0.0.0.0" => String::new(),
                    on => format!("-d {on}/32 "),
                };
                nat += &format!(
                    "-A DOCKER {on}! -i {bridge} -p {proto} --dport {host_port} \
                     -j DNAT --to-destination {to}:{port}\n"
                );
                filter += &format!(
                    "-A DOCKER -d {to}/32 ! -i {bridge} -o {bridge} -p {proto} --dport {port} -j ACCEPT\n"
                );
            }
            raw += &format!("-A PREROUTING -d {to}/32 ! -i {bridge} -j DROP\n");
        }
        let rules = format!(
            "*raw\n:PREROUTING ACCEPT\n{raw}COMMIT\n\
             *nat\n:PREROUTING ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\n:DOCKER -\n\
             -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
             -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER\n{nat}COMMIT\n\
             *filter\n:INPUT ACCEPT\n:FORWARD DROP\n:OUTPUT ACCEPT\n:DOCKER -\n:DOCKER-USER -\n\
             -A FORWARD -j DOCKER-USER\n{filter}{user}-A DOCKER-USER -j RETURN\nCOMMIT\n"
        );
        let Ok(mut restore) = world
            .on_host("iptables-restore")
            .stdin(Stdio::piped())
            .spawn()
        else {
            return false;
        };
        let mut stdin = restore.stdin.take().unwrap();
        stdin.write_all(rules.as_bytes()).unwrap();
        drop(stdin);
        restore.wait().unwrap().success()
    }
}
