//! `netdp explain`: the tables, the flows and the route of this moment, put to
//! [`crate::explain`].

use netdp_common::addr::{V4Addr, V6Addr};

use super::types::{Explained, Fate};
use crate::{
    bpf::clock,
    bpf::tells_preferred_sources,
    daemon::{change::Core, owner::OwnerError},
    explain::{self, Explanation, Outcome, Question, Snapshot, Subnet, Way},
    model::Refusal,
    netlink::Forwarded,
};

/// What would become of the packet.
///
/// # Errors
/// Refused where the two addresses are of different families.
pub async fn explain(core: &Core, question: &Question) -> Result<Explained, OwnerError> {
    if question.source.is_ipv4() != question.destination.is_ipv4() {
        return Err(Refusal::invalid(format!(
            "{} and {} are of different families: ask about two addresses of one",
            question.source, question.destination
        ))
        .into());
    }
    let target = core.engine().target();
    let tables = target.datapath.tables()?;
    let subnets = subnets(core);
    let mut snapshot = Snapshot {
        tables: &tables,
        flows4: &target.datapath.flows::<V4Addr>()?,
        flows6: &target.datapath.flows::<V6Addr>()?,
        way: None,
        now: clock::now(),
        want_of_room: None,
        subnets: &subnets,
    };
    // The host's own packets, and those from outside, take no way that the
    // programs ask for.
    if let Some(owner) = snapshot.owner(question.source.ip()) {
        let packet = Forwarded {
            from: question.source.ip(),
            to: question.destination.ip(),
            iif: owner.to.ifindex,
        };
        if let Some(endpoint) = snapshot.endpoint(owner.to.ifindex) {
            let source = question.source.ip();
            snapshot.want_of_room = target.datapath.want_of_room(endpoint.slot, source)?;
        }
        let route = target.netlink.way_of(&packet).await?;
        snapshot.way = route.and_then(|route| {
            Some(Way {
                ifindex: route.oif?,
                gateway: route.gateway,
                source: route.src.filter(|_| tells_preferred_sources()),
            })
        });
    }
    let told = explain::explain(&snapshot, question);
    Ok(explained(core, question, told))
}

/// Of all networks that have containers.
fn subnets(core: &Core) -> Vec<Subnet> {
    let networks = core.state().networks.values();
    networks
        .flat_map(|network| {
            network.pools.iter().map(|pool| Subnet {
                net: pool.subnet,
                network: network.name.to_string(),
            })
        })
        .collect()
}

fn explained(core: &Core, question: &Question, told: Explanation) -> Explained {
    let uplinks = &core.engine().facts().uplinks;
    let mut explained = Explained {
        question: *question,
        steps: told.steps,
        source: told.source,
        destination: told.destination,
        fate: Fate::Host,
        reason: None,
        sandbox: None,
        interface: None,
    };
    match told.outcome {
        Outcome::Stack => {}
        Outcome::Dropped(reason) => {
            explained.fate = Fate::Dropped;
            explained.reason = Some(reason.name().to_owned());
        }
        Outcome::Uplink(ifindex) => {
            explained.fate = Fate::Sent;
            let uplink = uplinks.iter().find(|uplink| uplink.ifindex == ifindex);
            explained.interface = uplink.map(|uplink| uplink.ifname.clone());
        }
        Outcome::Container(_) => {
            explained.fate = Fate::Delivered;
            let address = told.destination.ip();
            let state = core.state();
            let endpoint = state.endpoints.values().find(|endpoint| {
                let mut addresses = endpoint.addresses.iter();
                addresses.any(|own| own.net.addr() == address)
            });
            if let Some(endpoint) = endpoint {
                explained.interface = Some(endpoint.host_ifname.clone());
                let sandbox = state.sandboxes.get(&endpoint.sandbox);
                explained.sandbox = sandbox.map(|sandbox| sandbox.name.to_string());
            }
        }
    }
    explained
}
