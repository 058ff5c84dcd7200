//! What a program knows of its packet and decides about it.
//!
//! It lies in a per-CPU map: the stack, 512 bytes for all functions of a
//! program together, has no room for it, and the verifier would follow every
//! byte of it through every branch.

use core::ptr;

use netdp_common::{
    addr::{Address, Mac},
    drop::DropReason,
    icmp::Quote,
    maps::{Delivery, FlowKey},
    packet::{Header, Packet, Tuple, parse_into},
};

use crate::{
    flows,
    maps::{WORK, WORK_WORDS},
    skb::Skb,
};

/// Where a packet goes once it is translated.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// To the kernel's stack, as it is.
    Stack = 0,
    /// To a socket of the host that had to give way, or that a container's program
    /// has.
    Host,
    /// Into a container of this host.
    Container,
    /// Out of an uplink.
    Uplink,
    /// To the container whose mapping it is for, if there is one.
    Mapping,
}

/// Puts a map's type in another place, word by word: where the compiler can't
/// tell that the two don't overlap it calls memmove, which goes byte by byte.
#[inline(always)]
pub fn copy<T: Copy>(to: &mut T, from: &T) {
    const { assert!(align_of::<T>() >= 4 && size_of::<T>().is_multiple_of(4)) };
    let (to, from) = (
        ptr::from_mut(to).cast::<u32>(),
        ptr::from_ref(from).cast::<u32>(),
    );
    for word in 0..size_of::<T>() / 4 {
        // SAFETY: words of the two, of which neither has padding.
        unsafe { to.add(word).write_volatile(from.add(word).read_volatile()) }
    }
}

/// What the tables say about a packet: its new addresses and ports, and where
/// it goes.
pub struct Decision<A> {
    pub to: Tuple<A>,
    pub exit: Exit,
    /// The container, where that is the exit.
    pub container: Delivery,
    /// The uplink of the packet's flow, where that is the exit; 0 where the
    /// route alone says.
    pub uplink: u32,
    /// Whether the flow ends once that uplink leads nowhere.
    pub bound: bool,
}

impl<A> Decision<A> {
    #[inline(always)]
    pub fn enter(&mut self, container: &Delivery) {
        self.exit = Exit::Container;
        copy(&mut self.container, container);
    }
}

/// How a packet leaves.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The kernel's stack has to answer or fragment.
    Stack = 0,
    /// The MAC addresses are known.
    Macs,
    /// By way of the neighbour table.
    Neighbour,
}

/// The way out of the host.
pub struct Way<A> {
    pub by: By,
    pub ifindex: u32,
    /// Own and next hop's address, where they are known.
    pub smac: Mac,
    pub dmac: Mac,
    /// Where the neighbour table has to find it.
    pub nexthop: A,
    /// Of the link, bytes, where that is too small for the packet.
    pub mtu: u32,
}

/// A source port that is being looked for.
pub struct Search {
    /// The range that others than the own one come from.
    pub first: u16,
    pub last: u16,
    /// 1 once one has been found.
    pub found: u32,
}

/// A packet in the making. All bytes zero are a valid value.
pub struct Work<A> {
    /// Second in which it came, see [`flows::now`], where [`begin_timed`] was
    /// asked for it.
    pub now: u32,
    pub packet: Packet<A>,
    pub decision: Decision<A>,
    pub way: Way<A>,
    /// The key that is looked for, where the stack has no room for it.
    pub key: FlowKey<A>,
    pub search: Search,
    /// What an ICMP error is about, and the addresses and ports that its quote
    /// gets. Of another packet unless `icmp` has written it.
    pub quote: Quote<A>,
    pub quoted_to: Tuple<A>,
}

/// The packet that this program has begun with; of another one before that.
#[inline(always)]
pub fn current<H: Header>() -> Option<&'static Work<H::Addr>> {
    Work::<H::Addr>::last().map(|work| &*work)
}

/// The same, to go on with.
#[inline(always)]
pub fn resume<H: Header>() -> Option<&'static mut Work<H::Addr>> {
    Work::<H::Addr>::last()
}

impl<A: Address> Work<A> {
    /// What was left of the CPU's last packet; nothing only where the kernel
    /// has no such map.
    #[inline(always)]
    fn last() -> Option<&'static mut Self> {
        const {
            assert!(size_of::<Self>() <= WORK_WORDS * 8);
            assert!(align_of::<Self>() <= 8);
        }
        let work = WORK.get_ptr_mut(0)?.cast::<Self>();
        // SAFETY: the value is large enough, this CPU's own, and either zero or
        // a Work; tcx programs run with softirqs disabled and don't interrupt
        // each other. `begin` writes every field that has invalid values, for
        // the last packet may have been of the other family.
        Some(unsafe { &mut *work })
    }
}

/// As [`begin`], with the time.
///
/// # Errors
/// As that.
#[inline(always)]
pub fn begin_timed<H: Header>(skb: &Skb) -> Result<&'static mut Work<H::Addr>, DropReason> {
    let work = begin::<H>(skb)?;
    work.now = flows::now();
    Ok(work)
}

/// Parses the packet and decides for now that it goes to the stack as it is.
/// [`Work::now`] is left as it was.
///
/// # Errors
/// As [`parse_into`].
#[inline(always)]
pub fn begin<H: Header>(skb: &Skb) -> Result<&'static mut Work<H::Addr>, DropReason> {
    let work = Work::<H::Addr>::last().ok_or(DropReason::HelperFailed)?;
    if let Err(reason) = parse_into::<H>(skb, &mut work.packet) {
        parse_pulled::<H>(skb, &mut work.packet, reason)?;
    }
    work.decision.to = work.packet.tuple;
    work.decision.exit = Exit::Stack;
    work.decision.uplink = 0;
    work.decision.bound = false;
    work.way.by = By::Stack;
    work.way.ifindex = 0;
    Ok(work)
}

/// Parses once more where the headers were not all in reach; where they were,
/// `reason` it is.
#[inline(never)]
fn parse_pulled<H: Header>(
    skb: &Skb,
    packet: &mut Packet<H::Addr>,
    reason: DropReason,
) -> Result<(), DropReason> {
    if !skb.pull_headers() {
        return Err(reason);
    }
    parse_into::<H>(skb, packet)
}
