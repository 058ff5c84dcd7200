//! What a link gives: the sandbox that it means, the ports that this one
//! serves, and, in a network without icc, the way to them.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Endpoint, Link, Proto, Sandbox, State};

/// A port of a sandbox that another may use although their network has
/// `icc=false`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Opening {
    pub client: IpAddr,
    pub server: IpAddr,
    pub port: u16,
    pub proto: Proto,
    /// Number of the network that both are on.
    pub network: u32,
}

impl State {
    /// The sandbox that has the name of a link now: what was started anew is
    /// found again. None while there is none.
    pub fn linked(&self, link: &Link) -> Option<&Sandbox> {
        self.sandboxes
            .values()
            .find(|sandbox| sandbox.name.as_str() == link.sandbox)
    }

    /// The linked sandbox with its endpoint in the network of `endpoint`.
    pub fn linked_endpoint(
        &self,
        endpoint: &Endpoint,
        link: &Link,
    ) -> Option<(&Sandbox, &Endpoint)> {
        let server = self.linked(link)?;
        let near = self
            .endpoints_in(endpoint.network)
            .find(|near| near.sandbox == server.id)?;
        Some((server, near))
    }

    /// The ports that a sandbox serves: those exposed and those behind
    /// published ones.
    pub fn served(&self, sandbox: &Sandbox) -> BTreeSet<(u16, Proto)> {
        let exposed = sandbox
            .expose
            .iter()
            .flat_map(|exposed| exposed.ports.ports().map(|port| (port, exposed.proto)));
        let published = self
            .endpoints_of(sandbox.id)
            .into_iter()
            .flat_map(|endpoint| &endpoint.published)
            .flat_map(|published| {
                let ports = published.container_ports().ports();
                ports.map(|port| (port, published.proto))
            });
        exposed.chain(published).collect()
    }

    /// What the links open in networks without icc.
    pub fn openings(&self) -> BTreeSet<Opening> {
        let mut openings = BTreeSet::new();
        for client in self
            .endpoints
            .values()
            .filter(|client| !client.links.is_empty())
        {
            let Some(network) = self.networks.get(&client.network).filter(|it| !it.icc) else {
                continue;
            };
            for link in &client.links {
                let Some((sandbox, server)) = self.linked_endpoint(client, link) else {
                    continue;
                };
                let served = self.served(sandbox);
                for (from, to) in pairs(client, server) {
                    openings.extend(served.iter().map(|&(port, proto)| Opening {
                        client: from,
                        server: to,
                        port,
                        proto,
                        network: network.number,
                    }));
                }
            }
        }
        openings
    }
}

/// Their addresses of one family each.
fn pairs(client: &Endpoint, server: &Endpoint) -> impl Iterator<Item = (IpAddr, IpAddr)> {
    let to = |from: IpAddr| {
        server
            .addresses
            .iter()
            .map(|address| address.net.addr())
            .find(|to| to.is_ipv4() == from.is_ipv4())
    };
    client
        .addresses
        .iter()
        .map(|address| address.net.addr())
        .filter_map(move |from| Some((from, to(from)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        NetworkRequest, SandboxId,
        tests::{Sockets, host, state, web},
    };

    /// `db` and `web`, linked to it, on a network without icc, and a third.
    fn example() -> State {
        let mut state = state();
        let strict = NetworkRequest {
            icc: Some(false),
            ..NetworkRequest::new("strict".parse().unwrap())
        };
        let sockets = Sockets::default();
        state.create_network(&strict, &host(&sockets)).unwrap();
        run(&mut state, "db", &["5432", "53/udp"], &[]);
        run(&mut state, "web", &[], &["db:store"]);
        run(&mut state, "other", &[], &[]);
        state
    }

    fn run(state: &mut State, name: &str, expose: &[&str], links: &[&str]) -> SandboxId {
        let mut request = web(name, &[]);
        request.networks = vec!["strict".into()];
        request.expose = expose.iter().map(|port| port.parse().unwrap()).collect();
        request.links = links.iter().map(|link| link.parse().unwrap()).collect();
        let sockets = Sockets::default();
        state.create_sandbox(&request, &host(&sockets)).unwrap().id
    }

    fn address(state: &State, name: &str) -> IpAddr {
        let id = state.sandbox(name).unwrap().id;
        state.endpoints_of(id)[0].addresses[0].net.addr()
    }

    fn opened(state: &State) -> Vec<(IpAddr, IpAddr, u16, Proto)> {
        let openings = state.openings().into_iter();
        openings
            .map(|it| (it.client, it.server, it.port, it.proto))
            .collect()
    }

    #[test]
    fn a_link_opens_what_is_exposed_and_published() {
        let mut state = example();
        let (web, db) = (address(&state, "web"), address(&state, "db"));
        let exposed = [(web, db, 53, Proto::Udp), (web, db, 5432, Proto::Tcp)];
        assert_eq!(opened(&state), exposed);
        let sockets = Sockets::default();
        let port = ["8080:80".parse().unwrap()];
        state.publish("db", &port, &host(&sockets)).unwrap();
        assert_eq!(opened(&state).len(), 3);
        assert!(opened(&state).contains(&(web, db, 80, Proto::Tcp)));
        state.unpublish("db", &port).unwrap();
        assert_eq!(opened(&state), exposed);
    }

    #[test]
    fn a_link_follows_its_name() {
        let mut state = example();
        let web = address(&state, "web");
        let gone = state.remove_sandbox("db").unwrap();
        assert_eq!(opened(&state), []);
        // Neither by an id nor by the beginning of one.
        let link: Link = format!("{}:store", gone.id.short()).parse().unwrap();
        assert_eq!(state.linked(&link), None);
        run(&mut state, "db", &["5432"], &[]);
        let db = address(&state, "db");
        assert_eq!(opened(&state), [(web, db, 5432, Proto::Tcp)]);
        state.disconnect("strict", "db").unwrap();
        assert_eq!(opened(&state), []);
    }

    #[test]
    fn a_link_by_id_is_one_by_name() {
        let mut state = example();
        let id = state.sandbox("db").unwrap().id;
        run(
            &mut state,
            "third",
            &[],
            &[&format!("{}:store", id.short())],
        );
        let third = state.sandbox("third").unwrap().id;
        let links = &state.endpoints_of(third)[0].links;
        assert_eq!(links[0].to_string(), "db:store");
    }

    #[test]
    fn both_families_are_opened() {
        let mut state = state();
        let strict = NetworkRequest {
            icc: Some(false),
            ipv6: true,
            ..NetworkRequest::new("strict".parse().unwrap())
        };
        let sockets = Sockets::default();
        state.create_network(&strict, &host(&sockets)).unwrap();
        run(&mut state, "db", &["80"], &[]);
        run(&mut state, "web", &[], &["db"]);
        let openings = opened(&state);
        assert_eq!(openings.len(), 2);
        assert!(openings[0].0.is_ipv4() && openings[0].1.is_ipv4());
        assert!(openings[1].0.is_ipv6() && openings[1].1.is_ipv6());
    }

    #[test]
    fn with_icc_nothing_has_to_be_opened() {
        let mut state = state();
        let sockets = Sockets::default();
        state
            .create_sandbox(&web("db", &["80"]), &host(&sockets))
            .unwrap();
        let mut request = web("web", &[]);
        request.links = vec!["db".parse().unwrap()];
        state.create_sandbox(&request, &host(&sockets)).unwrap();
        assert_eq!(opened(&state), []);
    }
}
