//! Requests and answers as JSON. Go writes `null` for an empty map or list.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::model::{EndpointId, NetworkId};

/// Options of Docker's, of any form.
pub type Options = BTreeMap<String, Value>;

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Implements {
    implements: [&'static str; 2],
}

impl Default for Implements {
    fn default() -> Self {
        Self {
            implements: ["NetworkDriver", "IpamDriver"],
        }
    }
}

/// Everything is this host's; 'global' would demand swarm.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Capabilities {
    scope: &'static str,
    connectivity_scope: &'static str,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self {
            scope: "local",
            connectivity_scope: "local",
        }
    }
}

/// `{}`
#[derive(Debug, Serialize)]
pub struct Nothing {}

/// Under the names by which both protocols know it: libnetwork reads `Err` of a
/// network driver (`drivers/remote/api`), and `Error` of an IPAM driver
/// (`ipams/remote/api`).
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Failure {
    err: String,
    error: String,
}

impl Failure {
    pub fn new(text: String) -> Self {
        Self {
            err: text.clone(),
            error: text,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateNetwork {
    #[serde(rename = "NetworkID")]
    pub network_id: NetworkId,
    #[serde(default, deserialize_with = "or_null")]
    pub options: Options,
    #[serde(default, rename = "IPv4Data", deserialize_with = "or_null")]
    pub ipv4_data: Vec<IpamData>,
    #[serde(default, rename = "IPv6Data", deserialize_with = "or_null")]
    pub ipv6_data: Vec<IpamData>,
}

/// A subnet as an IPAM driver gave it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct IpamData {
    #[serde(default)]
    pub pool: String,
    /// With the subnet's prefix length.
    #[serde(default)]
    pub gateway: String,
}

#[derive(Debug, Deserialize)]
pub struct Network {
    #[serde(rename = "NetworkID")]
    pub network_id: NetworkId,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Allocated {
    pub options: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateEndpoint {
    #[serde(rename = "NetworkID")]
    pub network_id: NetworkId,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: EndpointId,
    #[serde(default, deserialize_with = "or_null")]
    pub interface: Interface,
    #[serde(default, deserialize_with = "or_null")]
    pub options: Options,
}

/// What an endpoint was given; what is empty was not.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Interface {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    #[serde(rename = "AddressIPv6", skip_serializing_if = "String::is_empty")]
    pub address_ipv6: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac_address: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreatedEndpoint {
    /// What dockerd didn't give: repeating what it did is an error.
    pub interface: Interface,
}

#[derive(Debug, Deserialize)]
pub struct Endpoint {
    #[serde(rename = "EndpointID")]
    pub endpoint_id: EndpointId,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct OperInfo {
    pub value: Nothing,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Join {
    #[serde(rename = "EndpointID")]
    pub endpoint_id: EndpointId,
    pub sandbox_key: PathBuf,
    #[serde(default, deserialize_with = "or_null")]
    pub options: Options,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Joined {
    pub interface_name: InterfaceName,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    #[serde(rename = "GatewayIPv6", skip_serializing_if = "Option::is_none")]
    pub gateway_ipv6: Option<String>,
    /// Without a gateway, dockerd would give the container one of its own.
    pub disable_gateway_service: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InterfaceName {
    pub src_name: String,
    pub dst_prefix: &'static str,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Program {
    #[serde(rename = "EndpointID")]
    pub endpoint_id: EndpointId,
    #[serde(default, deserialize_with = "or_null")]
    pub options: Options,
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PortBinding {
    /// Protocol number of the Internet header.
    pub proto: u8,
    pub port: u16,
    #[serde(default, rename = "HostIP")]
    pub host_ip: String,
    /// 0: one is chosen.
    #[serde(default)]
    pub host_port: u16,
    /// One is chosen up to here.
    #[serde(default)]
    pub host_port_end: u16,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ExposedPort {
    pub proto: u8,
    pub port: u16,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct IpamCapabilities {
    #[serde(rename = "RequiresMACAddress")]
    requires_mac_address: bool,
    /// netdp remembers what it gave.
    requires_request_replay: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AddressSpaces {
    pub local_default_address_space: &'static str,
    pub global_default_address_space: &'static str,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RequestPool {
    /// A subnet; empty: any.
    #[serde(default)]
    pub pool: String,
    /// A part of it to choose from.
    #[serde(default)]
    pub sub_pool: String,
    #[serde(default, deserialize_with = "or_null")]
    pub options: Options,
    #[serde(default)]
    pub v6: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RequestedPool {
    #[serde(rename = "PoolID")]
    pub pool_id: String,
    pub pool: String,
    pub data: Nothing,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ReleasePool {
    #[serde(rename = "PoolID")]
    pub pool_id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RequestAddress {
    #[serde(rename = "PoolID")]
    pub pool_id: String,
    /// Empty: any.
    #[serde(default)]
    pub address: String,
    #[serde(default, deserialize_with = "or_null")]
    pub options: Options,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RequestedAddress {
    /// With the subnet's prefix length.
    pub address: String,
    pub data: Nothing,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ReleaseAddress {
    #[serde(rename = "PoolID")]
    pub pool_id: String,
    pub address: String,
}

fn or_null<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
