//! What becomes of a packet.

use netdp_common::{
    drop::DropReason,
    maps::Delivery,
    packet::{Packet, Tuple},
};

use crate::count;

/// What a program decided.
#[derive(Clone, Copy)]
pub enum Verdict {
    /// Not ours, or for the kernel's stack: goes on to the next program.
    Pass,
    /// A redirect helper has been called; its return code is the action.
    Redirect(i32),
}

/// Where a packet goes once it is translated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// To the kernel's stack.
    Stack,
    /// Into a container of this host.
    Container,
    /// Out of an uplink.
    Uplink,
}

/// What the tables say about a packet: its new addresses and ports, and where
/// it goes. Filled in place and without options inside: the verifier refuses
/// to move what was never written, which is how the compiler treats the
/// payload of a `None`. Aligned because it refuses to read the stack across
/// eight bytes.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct Decision<A> {
    /// The container, where that is the exit.
    pub container: Delivery,
    pub exit: Exit,
    pub to: Tuple<A>,
}

impl<A: Copy> Decision<A> {
    /// To the stack as it is.
    #[inline(always)]
    pub fn new(packet: &Packet<A>) -> Self {
        Self {
            container: Delivery::default(),
            exit: Exit::Stack,
            to: packet.tuple,
        }
    }

    #[inline(always)]
    pub fn enter(&mut self, container: &Delivery) {
        self.exit = Exit::Container;
        self.container = *container;
    }
}

/// `TCX_NEXT` (`include/uapi/linux/bpf.h`, 6.6), which is also `TC_ACT_UNSPEC`.
const NEXT: i32 = -1;
/// `TCX_DROP`, which is also `TC_ACT_SHOT`.
const DROP: i32 = 2;

/// Counts a drop and gives the code that tcx and a clsact filter both take.
#[inline(always)]
pub fn action(verdict: Result<Verdict, DropReason>) -> i32 {
    match verdict {
        Ok(Verdict::Pass) => NEXT,
        Ok(Verdict::Redirect(code)) => code,
        Err(reason) => {
            count::dropped(reason);
            DROP
        }
    }
}
