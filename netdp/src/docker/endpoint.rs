//! Endpoints: offered, joined to a sandbox, made its way out, withdrawn.

use std::{net::IpAddr, path::Path, sync::Arc};

use axum::{
    Extension,
    extract::{ConnectInfo, State},
};
use ipnet::IpNet;
use serde_json::Value;

use super::{
    Answer, ENGINE, Json, Shared, abandoned, done,
    peer::{self, Peer, Peers},
    ports,
    wire::{
        CreateEndpoint, CreatedEndpoint, Endpoint, Interface, InterfaceName, Join, Joined, Nothing,
        OperInfo, Program,
    },
};
use crate::{
    model::{self, EndpointRequest, Refusal},
    netns::Namespace,
};

/// Docker's driver option: name of the interface in the sandbox.
const IFNAME: &str = "com.docker.network.endpoint.ifname";

/// Driver option of an endpoint: sources that may use its published ports.
const ALLOW: &str = "allow";

/// Driver option of an endpoint: how its ports are published.
const PUBLISH: &str = "publish";

pub async fn create(
    State(owner): Shared,
    Extension(peers): Extension<Arc<Peers>>,
    ConnectInfo(Peer(process)): ConnectInfo<Peer>,
    Json(asked): Json<CreateEndpoint>,
) -> Answer<CreatedEndpoint> {
    let request = request(&asked)?;
    let CreateEndpoint {
        network_id,
        endpoint_id,
        ..
    } = asked;
    done(async move {
        let seen_from = abandoned::own_pid_namespace();
        let made = owner
            .change(|state, host| {
                let made =
                    state.offer_endpoint(ENGINE, network_id, endpoint_id, &request, host.now)?;
                state.offer_to(made.id, process, seen_from);
                Ok(made)
            })
            .await?;
        peer::follow(&owner, &peers, process);
        Ok(CreatedEndpoint {
            interface: not_given(&made, &request),
        })
    })
    .await
}

fn request(asked: &CreateEndpoint) -> Result<EndpointRequest, Refusal> {
    let mut request = EndpointRequest::default();
    let Interface {
        address,
        address_ipv6,
        mac_address,
    } = &asked.interface;
    for text in [address, address_ipv6] {
        if text.is_empty() {
            continue;
        }
        let net: IpNet = text
            .parse()
            .map_err(|_| Refusal::invalid(format!("'{text}' is no address with its prefix")))?;
        match net.addr() {
            IpAddr::V4(address) => request.ip = Some(address),
            IpAddr::V6(address) => request.ip6 = Some(address),
        }
    }
    if !mac_address.is_empty() {
        request.mac = Some(mac_address.parse().map_err(Refusal::invalid)?);
    }
    for (key, value) in &asked.options {
        match key.as_str() {
            ALLOW => request.allow = sources(value)?,
            PUBLISH => request.direct = Some(is_direct(value)?),
            IFNAME => {
                return Err(Refusal::unavailable(format!(
                    "driver option {IFNAME} is not available: dockerd names the interfaces of a \
                     remote driver itself; leave it out"
                )));
            }
            // What Docker itself gives every driver.
            key if key.starts_with("com.docker.") => {}
            key => {
                return Err(Refusal::invalid(format!(
                    "there is no driver option '{key}' of an endpoint: {ALLOW} and {PUBLISH} are"
                )));
            }
        }
    }
    Ok(request)
}

fn is_direct(value: &Value) -> Result<bool, Refusal> {
    match value.as_str() {
        Some("direct") => Ok(true),
        Some("datapath") => Ok(false),
        _ => Err(Refusal::invalid(format!(
            "driver option {PUBLISH}={value}: direct or datapath is expected"
        ))),
    }
}

/// Prefixes, or single addresses, with commas between them.
fn sources(value: &Value) -> Result<Vec<IpNet>, Refusal> {
    let bad = || {
        Refusal::invalid(format!(
            "driver option {ALLOW}={value}: prefixes with commas between them are expected"
        ))
    };
    let text = value.as_str().ok_or_else(bad)?;
    text.split(',')
        .map(|part| {
            let part = part.trim();
            let single = part.parse::<IpAddr>().map(IpNet::from);
            single.or_else(|_| part.parse()).map_err(|_| bad())
        })
        .collect()
}

/// What the endpoint has and dockerd didn't give.
fn not_given(made: &model::Endpoint, request: &EndpointRequest) -> Interface {
    let mut interface = Interface::default();
    for address in &made.addresses {
        match address.net.addr() {
            IpAddr::V4(_) if request.ip.is_none() => {
                interface.address = address.net.to_string();
            }
            IpAddr::V6(_) if request.ip6.is_none() => {
                interface.address_ipv6 = address.net.to_string();
            }
            _ => {}
        }
    }
    if request.mac.is_none() {
        interface.mac_address = made.mac.to_string();
    }
    interface
}

/// dockerd takes nothing of what a remote driver says here.
pub async fn info(State(owner): Shared, Json(asked): Json<Endpoint>) -> Answer<OperInfo> {
    let core = owner.lock().await;
    match core.state().endpoints.contains_key(&asked.endpoint_id) {
        true => Ok(Json(OperInfo { value: Nothing {} })),
        false => {
            let id = asked.endpoint_id.short();
            Err(Refusal::not_found(format!("netdp has no endpoint {id}")).into())
        }
    }
}

pub async fn delete(State(owner): Shared, Json(asked): Json<Endpoint>) -> Answer<Nothing> {
    done(async move {
        owner
            .change(|state, _| {
                state.withdraw_endpoint(asked.endpoint_id);
                Ok(())
            })
            .await?;
        Ok(Nothing {})
    })
    .await
}

pub async fn join(State(owner): Shared, Json(asked): Json<Join>) -> Answer<Joined> {
    let exposed = ports::exposed(&asked.options)?;
    check(&asked.sandbox_key)?;
    done(async move {
        let (endpoint, internal) = owner
            .change(|state, _| {
                let key = &asked.sandbox_key;
                let endpoint = state.join_sandbox(asked.endpoint_id, key, &exposed)?;
                let network = state.networks.get(&endpoint.network);
                let internal = network.is_some_and(|network| network.internal);
                Ok((endpoint, internal))
            })
            .await?;
        let gateway = |wanted: fn(&IpAddr) -> bool| {
            let mut gateways = endpoint.addresses.iter().map(|it| it.gateway);
            let gateway = gateways.find(wanted).filter(|_| !internal);
            gateway.map(|gateway| gateway.to_string())
        };
        Ok(Joined {
            interface_name: InterfaceName {
                src_name: endpoint.offered_ifname(),
                dst_prefix: "eth",
            },
            gateway: gateway(IpAddr::is_ipv4),
            gateway_ipv6: gateway(IpAddr::is_ipv6),
            disable_gateway_service: internal,
        })
    })
    .await
}

/// Refuses the host's own namespace. One that isn't there is yet to be made.
fn check(key: &Path) -> Result<(), Refusal> {
    match (Namespace::open(key), Namespace::current()) {
        (Ok(asked), Ok(host)) if asked.inode() == host.inode() => Err(Refusal::invalid(format!(
            "the namespace {} is the host's own: a container on the host's network is on no other",
            key.display()
        ))),
        _ => Ok(()),
    }
}

/// dockerd gives the sandbox another way out, or none. It has revoked this one
/// before it leaves, or was about to.
pub async fn leave(State(owner): Shared, Json(asked): Json<Endpoint>) -> Answer<Nothing> {
    done(async move {
        owner
            .change(|state, _| {
                state.stay_inside(asked.endpoint_id);
                Ok(())
            })
            .await?;
        Ok(Nothing {})
    })
    .await
}

/// Makes an endpoint its sandbox's way out, with its published ports.
pub async fn program(State(owner): Shared, Json(asked): Json<Program>) -> Answer<Nothing> {
    let ports = ports::published(&asked.options)?;
    done(async move {
        let published = owner
            .change(|state, host| state.lead_outside(asked.endpoint_id, &ports, host))
            .await?;
        tracing::debug!("endpoint {}: {published:?}", asked.endpoint_id.short());
        Ok(Nothing {})
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(rest: &str) -> Result<EndpointRequest, String> {
        let id = "ab".repeat(32);
        let text = format!(r#"{{"NetworkID":"{id}","EndpointID":"{id}",{rest}}}"#);
        request(&serde_json::from_str(&text).unwrap()).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn what_dockerd_gives_is_taken() {
        let request = asked(
            r#""Interface":{"Address":"10.51.0.77/24","AddressIPv6":"fd51::77/64",
            "MacAddress":"02:42:00:00:00:77"},"Options":{"allow":"10.0.0.0/8, 192.0.2.7",
            "com.docker.network.endpoint.macaddress":"AkIAAAB3","publish":"direct"}"#,
        )
        .unwrap();
        assert_eq!(request.direct, Some(true));
        assert_eq!(request.ip, Some("10.51.0.77".parse().unwrap()));
        assert_eq!(request.ip6, Some("fd51::77".parse().unwrap()));
        assert_eq!(request.mac, Some("02:42:00:00:00:77".parse().unwrap()));
        let allow = ["10.0.0.0/8", "192.0.2.7/32"].map(|net| net.parse().unwrap());
        assert_eq!(request.allow, allow);
        assert_eq!(
            asked(r#""Interface":null,"Options":null"#),
            Ok(EndpointRequest::default())
        );
    }

    #[test]
    fn nonsense_is_named() {
        for (rest, why) in [
            (r#""Interface":{"Address":"10.51.0.77"}"#, "10.51.0.77"),
            (
                r#""Interface":{"MacAddress":"01:00:5e:00:00:01"}"#,
                "group address",
            ),
            (
                r#""Options":{"com.docker.network.endpoint.ifname":"lan0"}"#,
                "endpoint.ifname is not available",
            ),
            (r#""Options":{"alow":"10.0.0.0/8"}"#, "'alow'"),
            (r#""Options":{"allow":"everybody"}"#, "everybody"),
            (r#""Options":{"publish":"loudly"}"#, "loudly"),
        ] {
            let refused = asked(rest).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
