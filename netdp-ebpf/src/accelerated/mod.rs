//! Containers of another engine, on that engine's own bridge networks.
//!
//! Everything about them is the engine's: bridge, addresses, routes and rules.
//! These programs only shorten the way of what they know: conversations that
//! began with them. All else goes on to the stack as it came, and is never
//! dropped, so that the engine's rules decide about it: a port that isn't in
//! the tables, a packet for a container's own address, what stays on the
//! bridge, a segment of a connection that began before, fragments, what is too
//! long. They are loaded a second time with tables of their own, which end with
//! the daemon; none of the other programs sees these.

mod from_container;
mod from_netdev;
mod to_netdev;

pub use from_container::from_container;
pub use from_netdev::from_netdev;
pub use to_netdev::to_netdev;

use netdp_common::{addr::proto, left::Left, tcp};

use crate::{
    count,
    verdict::{self, Verdict},
};

/// The action that leaves a packet to the next program, and the stack.
#[inline(always)]
fn pass() -> i32 {
    verdict::action(Ok(Verdict::Pass))
}

/// The same of a packet that a container sent or a published port was sent, and
/// counts it.
#[inline(always)]
fn leave(why: Left) -> i32 {
    count::left(why);
    pass()
}

/// Whether a connection is over with this segment: both sides have sent their
/// last before it. Kept any longer it would only fill the table.
#[inline(always)]
fn is_last(proto: u8, before: u8, after: u8) -> bool {
    proto == proto::TCP && before == tcp::state::CLOSED && after == tcp::state::CLOSED
}
