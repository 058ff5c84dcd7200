//! Options of a bridge network: those of the request and Docker's names for
//! some of them.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    Device, FIRST_NETWORK, Name, Nat, NetworkRequest, Refusal, Sockmap, Timeouts, subnets::Family,
    timeouts::seconds,
};

/// Bytes of the largest packet unless asked for otherwise.
pub(super) const DEFAULT_MTU: u32 = 1500;

/// The least that an IPv6 link has (RFC 8200, section 5): below it the kernel
/// takes IPv6 off an interface.
pub(super) const LEAST_MTU_V6: u32 = 1280;

pub(super) const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const ICC: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const GATEWAY_MODES: [(Family, &str); 2] = [
    (Family::V4, "com.docker.network.bridge.gateway_mode_ipv4"),
    (Family::V6, "com.docker.network.bridge.gateway_mode_ipv6"),
];
/// Docker's too: what masqueraded packets get instead of the uplink's address.
const SOURCE4: &str = "com.docker.network.host_ipv4";
const SOURCE6: &str = "com.docker.network.host_ipv6";
const MTU: &str = "com.docker.network.driver.mtu";
const NAT: &str = "nat";
const BIG_TCP: &str = "big-tcp";
const SOCKMAP: &str = "sockmap";
const PUBLISH: &str = "publish";
const DEVICE: &str = "device";

/// What the options of a [`NetworkRequest`] come to.
pub(super) struct Options {
    pub bridge: Option<String>,
    pub icc: bool,
    pub masquerade: bool,
    pub host_binding: Option<IpAddr>,
    /// Families in which the outside knows containers by their own addresses.
    pub routed: Vec<Family>,
    /// One a family at most.
    pub sources: Vec<IpAddr>,
    pub mtu: u32,
    pub nat: Nat,
    pub big_tcp: bool,
    pub sockmap: Sockmap,
    pub publish_direct: bool,
    pub device: Device,
    pub timeouts: Timeouts,
}

impl Options {
    /// What is asked for by a flag counts before what is asked for by `--opt`;
    /// `defaults` has what neither says.
    pub(super) fn of(
        request: &NetworkRequest,
        defaults: &BTreeMap<String, String>,
    ) -> Result<Self, Refusal> {
        let (mut bridge, mut icc, mut masquerade, mut host_binding, mut mtu) =
            (None, true, true, None, DEFAULT_MTU);
        let mut nat = Nat::default();
        let (mut big_tcp, mut publish_direct) = (false, false);
        let mut sockmap = Sockmap::default();
        let mut device = Device::default();
        let mut timeouts = Timeouts::default();
        let mut routed = Vec::new();
        let mut sources = Vec::new();
        for (key, value) in request.options.iter().chain(defaults) {
            if let Some((family, _)) = GATEWAY_MODES.iter().find(|(_, name)| name == key) {
                if is_routed(key, value)? {
                    check_routed(*family, request)?;
                    routed.push(*family);
                }
                continue;
            }
            if let Some(time) = timeouts.of_option(key) {
                let given = seconds(value);
                let what = "seconds, or a number with s, m or h, of a week at most, as 30s,";
                *time = Some(given.ok_or_else(|| bad(key, value, what))?);
                continue;
            }
            match key.as_str() {
                BRIDGE_NAME if is_ifname(value) => bridge = Some(value.clone()),
                BRIDGE_NAME => return Err(bad(key, value, "the name of an interface")),
                ICC => icc = boolean(key, value)?,
                MASQUERADE => masquerade = boolean(key, value)?,
                HOST_BINDING => {
                    let address = value.parse().map_err(|_| bad(key, value, "an address"))?;
                    host_binding = Some(IpAddr::V4(address));
                }
                SOURCE4 | SOURCE6 => sources.push(source(key, value)?),
                MTU => mtu = value.parse().map_err(|_| bad(key, value, "a number"))?,
                NAT => {
                    nat = Nat::of(value).ok_or_else(|| {
                        let what = Nat::ALL.map(Nat::name).join(", ");
                        bad(key, value, &format!("one of {what}"))
                    })?;
                }
                BIG_TCP => {
                    big_tcp = match value.as_str() {
                        "auto" => true,
                        "off" => false,
                        _ => return Err(bad(key, value, "auto or off")),
                    }
                }
                PUBLISH => {
                    publish_direct = match value.as_str() {
                        "direct" => true,
                        "datapath" => false,
                        _ => return Err(bad(key, value, "direct or datapath")),
                    }
                }
                SOCKMAP => {
                    sockmap = Sockmap::of(value).ok_or_else(|| {
                        let what = Sockmap::ALL.map(Sockmap::name).join(", ");
                        bad(key, value, &format!("one of {what}"))
                    })?;
                }
                DEVICE => {
                    device = Device::of(value).ok_or_else(|| {
                        let what = Device::ALL.map(Device::name).join(", ");
                        bad(key, value, &format!("one of {what}"))
                    })?;
                }
                _ => {
                    let [(_, mode4), (_, mode6)] = GATEWAY_MODES;
                    return Err(Refusal::invalid(format!(
                        "there is no network option '{key}': take one of {BRIDGE_NAME}, {ICC}, \
                         {MASQUERADE}, {HOST_BINDING}, {SOURCE4}, {SOURCE6}, {mode4}, {mode6}, \
                         {MTU}, {NAT}, {BIG_TCP}, {SOCKMAP}, {DEVICE}, {PUBLISH}, udp-timeout, icmp-timeout, \
                         tcp-established-timeout and \
                         tcp-transitory-timeout"
                    )));
                }
            }
        }
        let mtu = request.mtu.unwrap_or(mtu);
        // RFC 791 wants 68; a veth pair carries 65535.
        if !(68..=65535).contains(&mtu) {
            return Err(Refusal::invalid(format!(
                "an MTU of {mtu} can't be: give 68 to 65535"
            )));
        }
        Ok(Self {
            bridge,
            icc: request.icc.unwrap_or(icc),
            masquerade,
            host_binding,
            routed,
            sources,
            mtu,
            nat,
            big_tcp,
            sockmap,
            publish_direct,
            device,
            timeouts,
        })
    }
}

/// Whether these can be the options of networks that say nothing of them
/// themselves.
///
/// # Errors
/// One is unknown, has a value that it can't have, or is for a single network:
/// the name of its bridge.
pub fn check_defaults(options: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if let Some(name) = options.get(BRIDGE_NAME) {
        return Err(Refusal::invalid(format!(
            "option {BRIDGE_NAME}={name} can't be that of every network: give it to one, by \
             netdp network create"
        )));
    }
    let request = NetworkRequest {
        ipv6: true,
        ..NetworkRequest::new(Name::predefined(FIRST_NETWORK))
    };
    Options::of(&request, options).map(drop)
}

fn is_routed(key: &str, value: &str) -> Result<bool, Refusal> {
    match value {
        "nat" => Ok(false),
        "routed" => Ok(true),
        "nat-unprotected" | "isolated" => Err(Refusal::unavailable(format!(
            "option {key}={value} is not available: take nat or routed"
        ))),
        _ => Err(bad(key, value, "nat or routed")),
    }
}

fn check_routed(family: Family, request: &NetworkRequest) -> Result<(), Refusal> {
    let (has, instead) = match family {
        Family::V4 => (request.wants_ipv4(), "leave --ipv4=false out"),
        Family::V6 => (request.wants_ipv6(), "add --ipv6, or a --subnet of it"),
    };
    let name = &request.name;
    if !has {
        return Err(Refusal::invalid(format!(
            "network {name} can't be routed over {family}, which it doesn't have: {instead}"
        )));
    }
    if request.internal {
        return Err(Refusal::invalid(format!(
            "an internal network leads nowhere, so {name} can't be routed: leave one of the \
             two out"
        )));
    }
    Ok(())
}

/// An address that the host may have: whether it has it shows when a packet
/// leaves.
fn source(key: &str, value: &str) -> Result<IpAddr, Refusal> {
    let address = match value.parse() {
        Ok(address @ IpAddr::V4(_)) if key == SOURCE4 => address,
        Ok(address @ IpAddr::V6(_)) if key == SOURCE6 => address,
        _ if key == SOURCE4 => return Err(bad(key, value, "an IPv4 address")),
        _ => return Err(bad(key, value, "an IPv6 address")),
    };
    let bound_to_link = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() || bound_to_link
    {
        return Err(bad(key, value, "an address that the outside can answer"));
    }
    Ok(address)
}

fn bad(key: &str, value: &str, what: &str) -> Refusal {
    Refusal::invalid(format!("option {key}={value}: {what} is expected"))
}

fn boolean(key: &str, value: &str) -> Result<bool, Refusal> {
    match value {
        // As Go's strconv.ParseBool, by which Docker reads its own.
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(bad(key, value, "true or false")),
    }
}

/// Whether the kernel takes a text for an interface's name (`dev_valid_name`):
/// up to 15 bytes without '/', ':' and white space, neither "." nor "..".
pub(super) fn is_ifname(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 15
        && text != "."
        && text != ".."
        && text
            .chars()
            .all(|c| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '%'))
}
