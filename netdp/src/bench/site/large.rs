//! Packets above 64 KiB from outside, where a host takes them (BIG TCP).

use anyhow::Context;

use crate::netlink::{Netlink, PacketLimit};
use crate::world::World;

/// Lets the client send packets as large as netdp has its host's uplink take them.
/// What comes by a wire is put together by GRO up to the uplink's limit; between the
/// ends of a veth pair nothing is, and packets are as large as their sender has made
/// them.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn allow_to_client(world: &World) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a tokio runtime")?;
    runtime.block_on(async {
        let uplink = Netlink::open_in(&world.host)?.link("eth0").await?;
        match uplink.map(|link| link.packet_limit) {
            Some(limit @ PacketLimit::BigUplink) => {
                let client = Netlink::open_in(&world.client)?;
                Ok(client.set_packet_limit("wire0", limit).await?)
            }
            _ => Ok(()),
        }
    })
}
