//! Networks.

use axum::extract::State;
use ipnet::IpNet;
use serde_json::Value;

use super::{
    Answer, ENGINE, Json, Shared, done,
    refused::Refused,
    wire::{Allocated, CreateNetwork, IpamData, Network, Nothing, Options},
};
use crate::model::{Name, NetworkRequest, Refusal};

const IPV4: &str = "com.docker.network.enable_ipv4";
const IPV6: &str = "com.docker.network.enable_ipv6";
const INTERNAL: &str = "com.docker.network.internal";
/// What was given with `-o`.
const GENERIC: &str = "com.docker.network.generic";

pub async fn create(State(owner): Shared, Json(asked): Json<CreateNetwork>) -> Answer<Nothing> {
    let (id, request) = (asked.network_id, request(&asked)?);
    done(async move {
        owner
            .change(|state, host| state.create_engine_network(ENGINE, id, &request, host))
            .await?;
        Ok(Nothing {})
    })
    .await
}

pub async fn delete(State(owner): Shared, Json(asked): Json<Network>) -> Answer<Nothing> {
    done(async move {
        owner
            .change(|state, _| state.remove_engine_network(asked.network_id))
            .await?;
        Ok(Nothing {})
    })
    .await
}

/// For drivers of swarms, which this one isn't: there is nothing to allocate.
pub async fn allocate(Json(asked): Json<CreateNetwork>) -> Result<Json<Allocated>, Refused> {
    request(&asked)?;
    Ok(Json(Allocated {
        options: Default::default(),
    }))
}

/// What `netdp network create` would be asked. Docker doesn't tell the
/// network's name: it is called by its id.
fn request(asked: &CreateNetwork) -> Result<NetworkRequest, Refusal> {
    let name: Name = asked.network_id.short().parse().map_err(Refusal::invalid)?;
    let mut request = NetworkRequest::new(name);
    for (key, value) in &asked.options {
        match key.as_str() {
            IPV4 => request.ipv4 = Some(boolean(key, value)?),
            IPV6 => request.ipv6 = boolean(key, value)?,
            INTERNAL => request.internal = boolean(key, value)?,
            GENERIC => {
                let generic: Option<Options> = serde_json::from_value(value.clone())
                    .map_err(|error| Refusal::invalid(format!("option {key}: {error}")))?;
                options(&generic.unwrap_or_default(), &mut request)?;
            }
            // What a later Docker adds for its own drivers.
            key if key.starts_with("com.docker.") => {}
            key => {
                return Err(Refusal::invalid(format!(
                    "there is no network option '{key}'"
                )));
            }
        }
    }
    for data in asked.ipv4_data.iter().chain(&asked.ipv6_data) {
        pool(data, &mut request)?;
    }
    Ok(request)
}

/// Options by the names of `netdp network create`; the others are those of its
/// `--opt`.
fn options(options: &Options, request: &mut NetworkRequest) -> Result<(), Refusal> {
    for (key, value) in options {
        match key.as_str() {
            "icc" => request.icc = Some(boolean(key, value)?),
            "internal" => request.internal = boolean(key, value)?,
            "mtu" => {
                let mtu = text(value).parse();
                request.mtu = Some(mtu.map_err(|_| bad(key, value, "a number"))?);
            }
            _ => {
                request.options.insert(key.clone(), text(value));
            }
        }
    }
    Ok(())
}

fn pool(data: &IpamData, request: &mut NetworkRequest) -> Result<(), Refusal> {
    let subnet: IpNet = data
        .pool
        .parse()
        .map_err(|_| Refusal::invalid(format!("'{}' is no subnet: give --subnet", data.pool)))?;
    request.subnets.push(subnet);
    if !data.gateway.is_empty() {
        let gateway: IpNet = data.gateway.parse().map_err(|_| {
            Refusal::invalid(format!("'{}' is no gateway of {subnet}", data.gateway))
        })?;
        request.gateways.push(gateway.addr());
    }
    Ok(())
}

/// As on a command line: options are texts there, and here sometimes not.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

fn boolean(key: &str, value: &Value) -> Result<bool, Refusal> {
    match text(value).as_str() {
        // As Go's strconv.ParseBool, by which Docker reads them.
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(bad(key, value, "true or false")),
    }
}

fn bad(key: &str, value: &Value, what: &str) -> Refusal {
    Refusal::invalid(format!("option {key}={}: {what} is expected", text(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(generic: &str) -> Result<NetworkRequest, String> {
        let text = format!(
            r#"{{"NetworkID":"{}","Options":{{"com.docker.network.enable_ipv6":true,
            "com.docker.network.internal":true,"com.docker.network.later":[],
            "com.docker.network.generic":{generic}}},"IPv4Data":[{{"AddressSpace":"LocalDefault",
            "Gateway":"10.50.0.254/24","Pool":"10.50.0.0/24"}}],
            "IPv6Data":[{{"Pool":"fd51::/64","Gateway":""}}]}}"#,
            "ab".repeat(32)
        );
        request(&serde_json::from_str(&text).unwrap()).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn a_network_is_asked_for_as_by_the_command() {
        let request = asked(
            r#"{"icc":"false","mtu":"1400","nat":"endpoint-independent",
            "com.docker.network.bridge.name":"br9"}"#,
        )
        .unwrap();
        assert_eq!(request.name.as_str(), "abababababab");
        let subnets = ["10.50.0.0/24", "fd51::/64"].map(|net| net.parse().unwrap());
        assert_eq!(request.subnets, subnets);
        assert_eq!(
            request.gateways,
            ["10.50.0.254".parse::<std::net::IpAddr>().unwrap()]
        );
        assert!(request.internal && request.ipv6);
        assert_eq!((request.icc, request.mtu), (Some(false), Some(1400)));
        let keys: Vec<&String> = request.options.keys().collect();
        assert_eq!(keys, ["com.docker.network.bridge.name", "nat"]);
        assert!(asked("null").unwrap().options.is_empty());
    }

    #[test]
    fn truth_has_dockers_words() {
        for (word, icc) in [("TRUE", true), ("t", true), ("F", false), ("False", false)] {
            let request = asked(&format!(r#"{{"icc":"{word}"}}"#)).unwrap();
            assert_eq!(request.icc, Some(icc), "{word}");
        }
    }

    #[test]
    fn nonsense_is_named() {
        for (generic, why) in [
            (r#"{"icc":"maybe"}"#, "icc=maybe"),
            (r#"{"icc":"tRUE"}"#, "icc=tRUE"),
            (r#"{"mtu":"much"}"#, "mtu=much"),
            ("7", "generic"),
        ] {
            let refused = asked(generic).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
