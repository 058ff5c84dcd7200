//! Addresses, for networks that are made with `--ipam-driver netdp`. A pool is
//! known by its subnet.

use std::{fmt::Display, net::IpAddr, str::FromStr};

use axum::extract::State;
use ipnet::IpNet;

use super::{
    Answer, Json, Shared, done,
    wire::{
        AddressSpaces, IpamCapabilities, Nothing, Options, ReleaseAddress, ReleasePool,
        RequestAddress, RequestPool, RequestedAddress, RequestedPool,
    },
};
use crate::model::{Refusal, lent::PoolRequest};

/// What an address is asked for, where that is not an endpoint.
const ADDRESS_TYPE: &str = "RequestAddressType";
const GATEWAY: &str = "com.docker.network.gateway";

pub async fn capabilities() -> Json<IpamCapabilities> {
    Json(IpamCapabilities::default())
}

pub async fn spaces() -> Json<AddressSpaces> {
    Json(AddressSpaces {
        local_default_address_space: "netdp",
        global_default_address_space: "netdp",
    })
}

pub async fn request_pool(
    State(owner): Shared,
    Json(asked): Json<RequestPool>,
) -> Answer<RequestedPool> {
    let (subnet, range) = (given(&asked.pool)?, given(&asked.sub_pool)?);
    if let Some(option) = asked.options.keys().next() {
        let text = format!("there is no IPAM option '{option}': leave it out");
        return Err(Refusal::invalid(text).into());
    }
    done(async move {
        let pools = owner.settings().pools.clone();
        let request = PoolRequest {
            subnet,
            range,
            ipv6: asked.v6,
            pools: &pools,
        };
        let lent = owner
            .change(|state, host| state.lend_pool(&request, host))
            .await?;
        Ok(RequestedPool {
            pool_id: lent.to_string(),
            pool: lent.to_string(),
            data: Nothing {},
        })
    })
    .await
}

pub async fn release_pool(State(owner): Shared, Json(asked): Json<ReleasePool>) -> Answer<Nothing> {
    let pool = parsed::<IpNet>(&asked.pool_id)?;
    done(async move {
        owner
            .change(|state, _| {
                state.return_pool(pool);
                Ok(())
            })
            .await?;
        Ok(Nothing {})
    })
    .await
}

pub async fn request_address(
    State(owner): Shared,
    Json(asked): Json<RequestAddress>,
) -> Answer<RequestedAddress> {
    let pool = parsed::<IpNet>(&asked.pool_id)?;
    let address = given::<IpAddr>(&asked.address)?;
    let gateway = is_gateway(&asked.options);
    done(async move {
        let address = owner
            .change(|state, _| state.lend_address(pool, address, gateway))
            .await?;
        Ok(RequestedAddress {
            address: address.to_string(),
            data: Nothing {},
        })
    })
    .await
}

pub async fn release_address(
    State(owner): Shared,
    Json(asked): Json<ReleaseAddress>,
) -> Answer<Nothing> {
    let pool = parsed::<IpNet>(&asked.pool_id)?;
    let address = parsed::<IpAddr>(&asked.address)?;
    done(async move {
        owner
            .change(|state, _| {
                state.return_address(pool, address);
                Ok(())
            })
            .await?;
        Ok(Nothing {})
    })
    .await
}

fn is_gateway(options: &Options) -> bool {
    let asked = options.get(ADDRESS_TYPE);
    asked.and_then(|value| value.as_str()) == Some(GATEWAY)
}

fn given<T: FromStr<Err: Display>>(text: &str) -> Result<Option<T>, Refusal> {
    match text {
        "" => Ok(None),
        text => parsed(text).map(Some),
    }
}

fn parsed<T: FromStr<Err: Display>>(text: &str) -> Result<T, Refusal> {
    text.parse()
        .map_err(|error| Refusal::invalid(format!("'{text}' can't be given: {error}")))
}
