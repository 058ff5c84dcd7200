//! The same by a direct port, whose socket is the host's own.

use std::net::{Ipv4Addr, SocketAddr};

use super::checks::{Check, From, eventually, fetch, named, saw, start_web_server};
use crate::progress::Progress;
use crate::world::direct::{NotDirect, expect_direct};
use crate::world::docker_bridge::PublishedPort;
use crate::world::{CLIENT_ADDRESS, HOST_ADDRESS, World};

const NAME: &str = "direct";
const PORT: u16 = 8083;

/// Starts a web server with a direct port and fetches from everywhere.
///
/// # Errors
/// When the server can't even be started; what a fetch shows is in the checks.
pub(super) fn run(world: &World, progress: &Progress) -> anyhow::Result<Vec<Check>> {
    progress.step("the same by a direct port");
    start_web_server(world, NAME, &format!("{PORT}:80,direct"), "0.0.0.0", &[])?;
    let published = SocketAddr::from((HOST_ADDRESS, PORT));
    let seen = eventually(|| fetch(world, &From::Client, published))?;
    let own = seen.as_ref().ok().map(|who| who.server);
    let port = PublishedPort {
        protocol: "tcp",
        port: PORT,
    };
    let is_direct = match expect_direct(&world.host, &[port]) {
        Ok(()) => Ok(format!("at {published}")),
        Err(why @ NotDirect::Unlisted(_)) => Ok(format!("left out: {why}")),
        Err(why) => Err(why.to_string()),
    };
    let mut checks = vec![
        Check::new("a direct port is a socket of the host's own", is_direct),
        Check::new(
            format!("client to {published}: {NAME} sees the client's own address"),
            seen.and_then(|who| named(&who, NAME).and(saw(&who, CLIENT_ADDRESS))),
        ),
    ];
    let by_host = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let mut ways = vec![("host to", From::Host, by_host)];
    ways.extend(own.map(|own| ("web1 directly to", From::Container("web1"), own)));
    for (way, from, target) in ways {
        let seen = fetch(world, &from, target)?;
        checks.push(Check::new(
            format!("{way} {target}: {NAME}"),
            seen.and_then(|who| named(&who, NAME)),
        ));
    }
    Ok(checks)
}
