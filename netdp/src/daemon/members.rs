//! Whose sockets may be joined: what the state says of networks, and the cookies
//! of the sandboxes' namespaces.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use netdp_common::maps::{Member, sockmap};

use crate::{
    model::{Endpoint, Network, Sockmap, State},
    netns::{Namespace, NetnsError},
};

/// Cookies of namespaces, by path, with the inode that each belongs to: a socket
/// has to be opened in a namespace to ask for its own.
#[derive(Debug, Default)]
pub(super) struct Cookies(BTreeMap<PathBuf, (u64, u64)>);

impl Cookies {
    fn of(&mut self, path: &Path) -> Result<u64, NetnsError> {
        let namespace = Namespace::open(path)?;
        let inode = namespace.inode();
        if let Some((known, cookie)) = self.0.get(path)
            && *known == inode
        {
            return Ok(*cookie);
        }
        let cookie = namespace.cookie()?;
        self.0.insert(path.to_owned(), (inode, cookie));
        Ok(cookie)
    }
}

/// The members that `state` asks for. A sandbox that has no namespace yet, or no
/// longer, has none.
pub(super) fn wanted(state: &State, cookies: &mut Cookies) -> BTreeMap<IpAddr, Member> {
    let mut wanted = BTreeMap::new();
    for endpoint in state.endpoints.values() {
        let Some(network) = state.networks.get(&endpoint.network) else {
            continue;
        };
        let Some(mode) = mode(network) else { continue };
        let Some(sandbox) = state.sandboxes.get(&endpoint.sandbox) else {
            continue;
        };
        let Ok(netns) = cookies.of(&sandbox.netns) else {
            continue;
        };
        for address in &endpoint.addresses {
            wanted.insert(address.net.addr(), member(network, endpoint, mode, netns));
        }
    }
    let paths = state.sandboxes.values().map(|sandbox| &sandbox.netns);
    let paths: std::collections::BTreeSet<_> = paths.collect();
    cookies.0.retain(|path, _| paths.contains(path));
    wanted
}

fn member(network: &Network, endpoint: &Endpoint, mode: u32, netns: u64) -> Member {
    Member {
        netns,
        network: network.number,
        slot: endpoint.slot,
        mode,
        icc: u32::from(network.icc),
    }
}

fn mode(network: &Network) -> Option<u32> {
    match network.sockmap {
        Sockmap::Off => None,
        Sockmap::Auto => Some(sockmap::AUTO),
        Sockmap::On => Some(sockmap::ON),
    }
}
