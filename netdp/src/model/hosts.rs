//! What `/etc/hosts` of a sandbox says.

use std::{fmt::Write as _, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{Address, Mode, Sandbox, State};

/// A line of `/etc/hosts`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HostsEntry {
    pub address: IpAddr,
    pub names: Vec<String>,
}

impl HostsEntry {
    fn new(address: &Address, names: &[&str]) -> Self {
        let mut own: Vec<String> = Vec::new();
        for name in names {
            if !own.iter().any(|known| known == name) {
                own.push((*name).to_owned());
            }
        }
        Self {
            address: address.net.addr(),
            names: own,
        }
    }
}

impl State {
    /// The sandbox that has the network of this one: most often itself.
    pub fn sharing<'a>(&'a self, sandbox: &'a Sandbox) -> &'a Sandbox {
        match sandbox.mode {
            Mode::Container(other) => self.sandboxes.get(&other).unwrap_or(sandbox),
            _ => sandbox,
        }
    }

    /// The names that a sandbox knows: its own, and those of its links. Who
    /// shares a network shares its names.
    pub fn hosts(&self, sandbox: &Sandbox) -> Vec<HostsEntry> {
        let shared = self.sharing(sandbox);
        let endpoints = self.endpoints_of(shared.id);
        let own = [&shared.hostname, shared.name.as_str()];
        let mut hosts: Vec<HostsEntry> = endpoints
            .iter()
            .flat_map(|endpoint| &endpoint.addresses)
            .map(|address| HostsEntry::new(address, &own))
            .collect();
        for endpoint in &endpoints {
            for link in &endpoint.links {
                let Some((other, near)) = self.linked_endpoint(endpoint, link) else {
                    continue;
                };
                let names = [link.alias.as_str(), &other.hostname, other.name.as_str()];
                for address in &near.addresses {
                    let entry = HostsEntry::new(address, &names);
                    if !hosts.contains(&entry) {
                        hosts.push(entry);
                    }
                }
            }
        }
        hosts
    }
}

/// The lines of these entries; where a sandbox is on no network, one for its
/// hostname at an address that RFC 6761 keeps for the host itself.
pub fn lines(entries: &[HostsEntry], hostname: &str) -> String {
    let mut text = String::new();
    for entry in entries {
        // Writing to a String can't fail.
        let _ = writeln!(text, "{}\t{}", entry.address, entry.names.join(" "));
    }
    if entries.is_empty() {
        let _ = writeln!(text, "127.0.1.1\t{hostname}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        EndpointRequest, NetworkRequest,
        tests::{Sockets, host, state, web},
    };

    #[test]
    fn names_follow_networks_and_links() {
        let sockets = Sockets::default();
        let host = host(&sockets);
        let mut state = state();
        let other = NetworkRequest::new("other".parse().unwrap());
        state.create_network(&other, &host).unwrap();
        let hosts = |state: &State, name: &str| {
            let sandbox = state.sandbox(name).unwrap();
            lines(&state.hosts(sandbox), &sandbox.hostname)
        };
        state.create_sandbox(&web("db", &[]), &host).unwrap();
        let mut request = web("web", &[]);
        request.hostname = Some("www".into());
        request.links = vec!["db:store".parse().unwrap()];
        state.create_sandbox(&request, &host).unwrap();
        let own = "172.17.0.3\twww web\n";
        let linked = "172.17.0.2\tstore db\n";
        assert_eq!(hosts(&state, "web"), format!("{own}{linked}"));
        state
            .connect("other", "web", &EndpointRequest::default())
            .unwrap();
        let second = "172.18.0.2\twww web\n";
        assert_eq!(hosts(&state, "web"), format!("{own}{second}{linked}"));
        let mut sharing = web("beside", &[]);
        sharing.networks = vec!["container:web".into()];
        state.create_sandbox(&sharing, &host).unwrap();
        assert_eq!(hosts(&state, "beside"), hosts(&state, "web"));

        state.remove_sandbox("db").unwrap();
        state.disconnect("netdp0", "web").unwrap();
        assert_eq!(hosts(&state, "web"), second);
        state.disconnect("other", "web").unwrap();
        assert_eq!(hosts(&state, "web"), "127.0.1.1\twww\n");
    }
}
