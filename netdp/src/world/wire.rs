//! Links, addresses and neighbours between the namespaces of a world.
//!
//! Neighbours are static and IPv6 does not configure itself: nothing but what
//! a test sends crosses a wire, and the first packet waits for no ARP.

use std::fmt::Write as _;
use std::fs;
use std::io::{Seek, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{WorldError, process};
use crate::netns::Namespace;

/// Wires lie in 198.18.0.0/16 and the outside in 198.19.0.0/16: together the
/// range for measurements of RFC 2544, which no real network uses.
pub const CLIENT_ADDRESS: Ipv4Addr = wire_client_address(0);
pub const HOST_ADDRESS: Ipv4Addr = wire_host_address(0);
pub const OUTSIDE_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 2);
/// The same of IPv6, in RFC 5180's range for measurements, where
/// [`World::add_ipv6`](super::World::add_ipv6) gave them.
pub const CLIENT_ADDRESS6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0x18, 0, 0, 0, 1);
pub const HOST_ADDRESS6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0x18, 0, 0, 0, 2);
pub const OUTSIDE_ADDRESS6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0x19, 0, 0, 0, 2);
const ROUTER_ADDRESS6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0x19, 0, 0, 0, 1);
const ROUTER_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);

pub(super) const MAX_WIRES: u8 = 250;
const OUTSIDE_WIRE: u8 = 255;
/// A thousand links take some seconds.
const IP_TIMEOUT: Duration = Duration::from_secs(60);

/// The client's address on the wire to host number `wire`.
pub const fn wire_client_address(wire: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, wire, 1)
}

/// The address of host number `wire`.
pub const fn wire_host_address(wire: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, wire, 2)
}

/// Runs the lines as one batch of iproute2's `ip` inside `namespace`.
///
/// # Errors
/// When `ip` is missing or refuses a line.
pub fn ip(namespace: &Namespace, lines: &str) -> Result<(), WorldError> {
    feed(namespace, "ip", &["-batch", "-"], lines, IP_TIMEOUT)
}

/// Runs a program inside `namespace` with `input` on its standard input.
///
/// # Errors
/// When it is missing, takes longer than `timeout`, or refuses.
pub(crate) fn feed(
    namespace: &Namespace,
    program: &str,
    args: &[&str],
    input: &str,
    timeout: Duration,
) -> Result<(), WorldError> {
    let file = || {
        let mut file = tempfile::tempfile()?;
        file.write_all(input.as_bytes())?;
        file.rewind()?;
        std::io::Result::Ok(file)
    };
    let file = file().map_err(|source| WorldError::Io {
        doing: "write a file in",
        path: std::env::temp_dir(),
        source,
    })?;
    let mut command = namespace.command(program);
    command.args(args).stdin(file);
    let output = process::output(command, timeout)?;
    if output.status.success() {
        return Ok(());
    }
    let words: Vec<&str> = [&[program], args].concat();
    Err(WorldError::Refused {
        command: format!("{} in {}", words.join(" "), namespace.path().display()),
        status: output.status,
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// Writes sysctls of `namespace`, by their paths below `/proc/sys/net`.
///
/// # Errors
/// When one can't be written.
pub fn set_sysctls(namespace: &Namespace, values: &[(&str, &str)]) -> Result<(), WorldError> {
    namespace.run(|| {
        for (name, value) in values {
            let path = Path::new("/proc/sys/net").join(name);
            fs::write(&path, value).map_err(|source| WorldError::Io {
                doing: "write",
                path,
                source,
            })?;
        }
        Ok(())
    })?
}

/// What every namespace of a world has: no IPv6 address that nobody gave.
pub(super) fn prepare(namespace: &Namespace) -> Result<(), WorldError> {
    let ipv6 = PathBuf::from("/proc/sys/net/ipv6");
    if ipv6.exists() {
        set_sysctls(
            namespace,
            &[
                ("ipv6/conf/default/accept_ra", "0"),
                ("ipv6/conf/default/autoconf", "0"),
                ("ipv6/conf/default/addr_gen_mode", "1"),
            ],
        )?;
    }
    Ok(())
}

pub(super) fn connect_host(
    client: &Namespace,
    host: &Namespace,
    wire: u8,
) -> Result<(), WorldError> {
    if wire == 0 {
        prepare(client)?;
        prepare(host)?;
    }
    let near = End {
        namespace: client,
        interface: format!("wire{wire}"),
        address: wire_client_address(wire),
        mac: mac(wire, 1),
    };
    let far = End {
        namespace: host,
        interface: "eth0".into(),
        address: wire_host_address(wire),
        mac: mac(wire, 2),
    };
    connect(&near, &far)
}

pub(super) fn connect_outside(client: &Namespace, outside: &Namespace) -> Result<(), WorldError> {
    prepare(outside)?;
    let near = End {
        namespace: client,
        interface: "outside".into(),
        address: ROUTER_ADDRESS,
        mac: mac(OUTSIDE_WIRE, 1),
    };
    let far = End {
        namespace: outside,
        interface: "eth0".into(),
        address: OUTSIDE_ADDRESS,
        mac: mac(OUTSIDE_WIRE, 2),
    };
    connect(&near, &far)?;
    set_sysctls(client, &[("ipv4/ip_forward", "1")])
}

struct End<'a> {
    namespace: &'a Namespace,
    interface: String,
    address: Ipv4Addr,
    mac: String,
}

/// A veth pair, and at its far end a default route to the near one.
fn connect(near: &End<'_>, far: &End<'_>) -> Result<(), WorldError> {
    let create = format!(
        "link add {} address {} type veth peer name {} address {} netns {}\n",
        near.interface,
        near.mac,
        far.interface,
        far.mac,
        far.namespace.path().display(),
    );
    ip(near.namespace, &(create + &configure(near, far)))?;
    let mut lines = configure(far, near);
    // Writing to a String can't fail.
    let _ = writeln!(lines, "route add default via {}", near.address);
    ip(far.namespace, &lines)
}

fn configure(end: &End<'_>, peer: &End<'_>) -> String {
    let End {
        interface, address, ..
    } = end;
    format!(
        "link set {interface} up\n\
         addr add {address}/24 dev {interface}\n\
         neigh replace {} lladdr {} dev {interface} nud permanent\n",
        peer.address, peer.mac,
    )
}

/// IPv6 for client, host and outside, as they have IPv4.
pub(super) fn add_ipv6(
    client: &Namespace,
    host: &Namespace,
    outside: &Namespace,
) -> Result<(), WorldError> {
    let lines = |interface: &str, own: Ipv6Addr, peer: Ipv6Addr, peer_mac: &str| {
        format!(
            "addr add {own}/64 dev {interface} nodad\n\
             neigh replace {peer} lladdr {peer_mac} dev {interface} nud permanent\n"
        )
    };
    let wires = [
        ("wire0", CLIENT_ADDRESS6, host, HOST_ADDRESS6, 0),
        (
            "outside",
            ROUTER_ADDRESS6,
            outside,
            OUTSIDE_ADDRESS6,
            OUTSIDE_WIRE,
        ),
    ];
    for (interface, near, other, far, wire) in wires {
        ip(client, &lines(interface, near, far, &mac(wire, 2)))?;
        let route = format!("route add default via {near} dev eth0\n");
        ip(other, &(lines("eth0", far, near, &mac(wire, 1)) + &route))?;
    }
    set_sysctls(client, &[("ipv6/conf/all/forwarding", "1")])
}

/// That of the host that runs netdp, on its wire.
pub const fn host_mac() -> [u8; 6] {
    [0x02, 0x6e, 0x64, 0x70, 0, 2]
}

/// Locally administered; unique within a world, which is all that matters.
pub(super) fn mac(wire: u8, end: u8) -> String {
    format!("02:6e:64:70:{wire:02x}:{end:02x}")
}
