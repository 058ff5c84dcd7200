//! The variables that links give to a program, as Docker's do.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::{Link, Proto, Sandbox, State};

/// Longest row of ports that are told one by one. A row is told by its first
/// and last too, and all of 65,535 would be more than a program can be given.
const LONGEST_ROW: usize = 64;

impl State {
    /// For each link `ALIAS_NAME`, `ALIAS_PORT` and what it names for the ports
    /// that the linked sandbox serves, and `ALIAS_ENV_` with the variables that
    /// were given to it by name.
    ///
    /// As they are when the program starts: nobody can change them then.
    pub fn environment(&self, sandbox: &Sandbox) -> BTreeMap<String, String> {
        let mut variables = BTreeMap::new();
        for endpoint in self.endpoints_of(sandbox.id) {
            for link in &endpoint.links {
                let Some((server, near)) = self.linked_endpoint(endpoint, link) else {
                    continue;
                };
                // IPv4 where there is one.
                let mut addresses: Vec<IpAddr> =
                    near.addresses.iter().map(|it| it.net.addr()).collect();
                addresses.sort();
                if let Some(address) = addresses.first() {
                    let ports: Vec<_> = self.served(server).into_iter().collect();
                    let mut told = Told {
                        prefix: prefix(link),
                        address: *address,
                        variables: &mut variables,
                    };
                    told.ports(&ports);
                    told.names(sandbox, link, server);
                }
            }
        }
        variables
    }
}

/// As Docker writes it: a shell can't name a variable with a hyphen.
fn prefix(link: &Link) -> String {
    link.alias.as_str().to_uppercase().replace('-', "_")
}

/// The variables of one link.
struct Told<'a> {
    prefix: String,
    address: IpAddr,
    variables: &'a mut BTreeMap<String, String>,
}

impl Told<'_> {
    fn ports(&mut self, ports: &[(u16, Proto)]) {
        let mut first = None;
        for proto in [Proto::Tcp, Proto::Udp, Proto::Sctp] {
            let own: Vec<u16> = ports
                .iter()
                .filter(|port| port.1 == proto)
                .map(|port| port.0)
                .collect();
            for row in own.chunk_by(|one, next| *next == one.saturating_add(1)) {
                if row.len() <= LONGEST_ROW {
                    row.iter().for_each(|port| self.port(*port, proto));
                }
                if let [start, .., end] = row {
                    self.row(*start, *end, proto);
                }
                first = first.or(Some((row[0], proto)));
            }
        }
        if let Some((port, proto)) = first {
            self.put("PORT", self.url(port, proto));
        }
    }

    fn port(&mut self, port: u16, proto: Proto) {
        let name = port_name(port, proto);
        self.put(&name, self.url(port, proto));
        self.put(&format!("{name}_ADDR"), self.address.to_string());
        self.put(&format!("{name}_PORT"), port.to_string());
        self.put(&format!("{name}_PROTO"), proto.to_string());
    }

    fn row(&mut self, start: u16, end: u16, proto: Proto) {
        let name = port_name(start, proto);
        self.put(&format!("{name}_ADDR"), self.address.to_string());
        self.put(&format!("{name}_PROTO"), proto.to_string());
        self.put(&format!("{name}_START"), self.url(start, proto));
        self.put(&format!("{name}_PORT_START"), start.to_string());
        self.put(&format!("{name}_END"), self.url(end, proto));
        self.put(&format!("{name}_PORT_END"), end.to_string());
    }

    fn names(&mut self, client: &Sandbox, link: &Link, server: &Sandbox) {
        self.put("NAME", format!("/{}/{}", client.name, link.alias));
        for (name, value) in &server.env {
            // As Docker does: they say nothing about the server.
            if name != "HOME" && name != "PATH" {
                self.put(&format!("ENV_{name}"), value.clone());
            }
        }
    }

    fn url(&self, port: u16, proto: Proto) -> String {
        format!("{proto}://{}", SocketAddr::new(self.address, port))
    }

    fn put(&mut self, name: &str, value: String) {
        self.variables
            .insert(format!("{}_{name}", self.prefix), value);
    }
}

fn port_name(port: u16, proto: Proto) -> String {
    format!("PORT_{port}_{}", proto.to_string().to_uppercase())
}

#[cfg(test)]
mod tests {
    use crate::model::tests::{Sockets, host, state, web};

    fn environment(expose: &[&str], link: &str) -> Vec<String> {
        let sockets = Sockets::default();
        let host = host(&sockets);
        let mut state = state();
        let mut server = web("db", &["8080:80"]);
        server.expose = expose.iter().map(|port| port.parse().unwrap()).collect();
        server.env = [("USER", "me"), ("HOME", "/"), ("EMPTY", "")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        state.create_sandbox(&server, &host).unwrap();
        let mut client = web("web", &[]);
        client.links = vec![link.parse().unwrap()];
        let client = state.create_sandbox(&client, &host).unwrap();
        let variables = state.environment(&client).into_iter();
        variables
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }

    #[test]
    fn variables_are_those_of_dockers_links() {
        assert_eq!(
            environment(&["53/udp"], "db:my-store"),
            [
                "MY_STORE_ENV_EMPTY=",
                "MY_STORE_ENV_USER=me",
                "MY_STORE_NAME=/web/my-store",
                "MY_STORE_PORT=tcp://172.17.0.2:80",
                "MY_STORE_PORT_53_UDP=udp://172.17.0.2:53",
                "MY_STORE_PORT_53_UDP_ADDR=172.17.0.2",
                "MY_STORE_PORT_53_UDP_PORT=53",
                "MY_STORE_PORT_53_UDP_PROTO=udp",
                "MY_STORE_PORT_80_TCP=tcp://172.17.0.2:80",
                "MY_STORE_PORT_80_TCP_ADDR=172.17.0.2",
                "MY_STORE_PORT_80_TCP_PORT=80",
                "MY_STORE_PORT_80_TCP_PROTO=tcp",
            ]
        );
    }

    /// What is told of the ports whose names begin so.
    fn ports(told: &[String], begin: &str) -> Vec<String> {
        let begin = format!("DB_PORT{begin}");
        let ports = told.iter().filter_map(|it| it.strip_prefix(&begin));
        ports.map(str::to_owned).collect()
    }

    #[test]
    fn the_first_port_of_tcp_comes_first() {
        let told = environment(&["53/udp", "443"], "db");
        assert_eq!(ports(&told, "="), ["tcp://172.17.0.2:80"]);
    }

    #[test]
    fn ports_in_a_row_are_told_by_their_ends_too() {
        let told = environment(&["6000-6001", "6002/udp", "7000-65535"], "db");
        assert_eq!(
            ports(&told, "_600"),
            [
                "0_TCP=tcp://172.17.0.2:6000",
                "0_TCP_ADDR=172.17.0.2",
                "0_TCP_END=tcp://172.17.0.2:6001",
                "0_TCP_PORT=6000",
                "0_TCP_PORT_END=6001",
                "0_TCP_PORT_START=6000",
                "0_TCP_PROTO=tcp",
                "0_TCP_START=tcp://172.17.0.2:6000",
                "1_TCP=tcp://172.17.0.2:6001",
                "1_TCP_ADDR=172.17.0.2",
                "1_TCP_PORT=6001",
                "1_TCP_PROTO=tcp",
                "2_UDP=udp://172.17.0.2:6002",
                "2_UDP_ADDR=172.17.0.2",
                "2_UDP_PORT=6002",
                "2_UDP_PROTO=udp",
            ]
        );
        // Too many to tell one by one.
        assert_eq!(
            ports(&told, "_7000_TCP"),
            [
                "_ADDR=172.17.0.2",
                "_END=tcp://172.17.0.2:65535",
                "_PORT_END=65535",
                "_PORT_START=7000",
                "_PROTO=tcp",
                "_START=tcp://172.17.0.2:7000",
            ]
        );
        assert!(ports(&told, "_7001").is_empty());
    }
}
