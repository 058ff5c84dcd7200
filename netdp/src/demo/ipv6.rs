//! The same over IPv6, as far as it goes by ways of its own.

use std::net::{Ipv6Addr, SocketAddr};

use super::checks::{Check, From, eventually, fetch, masqueraded, named, saw, start_web_server};
use crate::daemon::environment::no_ipv6;
use crate::progress::Progress;
use crate::world::{CLIENT_ADDRESS6, HOST_ADDRESS6, OUTSIDE_ADDRESS6, World};

const NAME: &str = "web6";
const PORT: u16 = 8082;

/// Gives the world IPv6, starts a web server in a network that has it, and
/// fetches from everywhere.
///
/// # Errors
/// When the server can't even be started; what a fetch shows is in the checks.
pub(super) fn run(world: &World, progress: &Progress) -> anyhow::Result<Vec<Check>> {
    if let Some(reason) = world.host.run(no_ipv6)? {
        let left_out = Ok(format!("left out: {reason}"));
        return Ok(vec![Check::new("IPv6", left_out)]);
    }
    progress.step("the same over IPv6");
    // The daemon runs already, and follows.
    world.add_ipv6()?;
    world.netdp_ok(&["network", "create", "six", "--ipv6"])?;
    let publish = format!("{PORT}:80");
    start_web_server(world, NAME, &publish, "[::]", &["--network", "six"])?;
    let published = SocketAddr::from((HOST_ADDRESS6, PORT));
    let seen = eventually(|| fetch(world, &From::Client, published))?;
    let mut checks = vec![Check::new(
        format!("client to {published}: {NAME} sees the client's own address"),
        seen.and_then(|who| named(&who, NAME).and(saw(&who, CLIENT_ADDRESS6))),
    )];
    let target = SocketAddr::from((Ipv6Addr::LOCALHOST, PORT));
    let seen = fetch(world, &From::Host, target)?;
    checks.push(Check::new(
        format!("host to {target}: {NAME}"),
        seen.and_then(|who| named(&who, NAME)),
    ));
    let outside = SocketAddr::from((OUTSIDE_ADDRESS6, 80));
    checks.push(masqueraded(world, NAME, outside, HOST_ADDRESS6.into())?);
    Ok(checks)
}
