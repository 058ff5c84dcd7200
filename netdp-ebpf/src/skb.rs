//! The packet in the kernel's hands: reading, writing, sending it on.

use aya_ebpf::{
    EbpfContext,
    bindings::{
        __sk_buff, BPF_F_INGRESS, BPF_F_INVALIDATE_HASH, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR,
        BPF_F_RECOMPUTE_CSUM, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
        bpf_check_mtu_flags::BPF_MTU_CHK_SEGS,
    },
    cty::c_void,
    helpers::{
        bpf_check_mtu, bpf_clone_redirect, bpf_csum_update, bpf_l4_csum_replace, bpf_redirect,
        bpf_redirect_peer, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_change_type,
        bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use core::{arch::asm, mem::MaybeUninit};

use netdp_common::{
    addr::Mac,
    checksum::Sum,
    drop::DropReason,
    maps::Delivery,
    nat::L4Change,
    packet::{Bytes, ETH_LEN, REACH, Wire, plain::LEAD},
};

use crate::{count, verdict::Verdict};

/// Bytes that hold every header that is looked at.
const HEADERS: u32 = REACH as u32;

/// `skb->mark` of a packet that `from_container` sends out of an uplink, until
/// `to_netdev` takes it off.
pub const MARK_OURS: u32 = 0x6e64_7001;

/// The same of one that `acc_container` sends, until `acc_netdev_out` makes it
/// [`MARK_OURS`].
pub const MARK_ACCELERATED: u32 = 0x6e64_7002;

/// A packet at a tcx hook.
pub struct Skb {
    skb: *mut __sk_buff,
}

impl Skb {
    #[inline(always)]
    pub fn new(ctx: &TcContext) -> Self {
        Self {
            skb: ctx.as_ptr().cast(),
        }
    }

    /// Of the context itself.
    #[inline(always)]
    pub fn from_raw(skb: *mut __sk_buff) -> Self {
        Self { skb }
    }

    /// The context itself.
    #[inline(always)]
    pub fn raw(&self) -> *mut __sk_buff {
        self.skb
    }

    /// The context as helpers take it.
    #[inline(always)]
    pub fn as_ptr(&self) -> *mut c_void {
        self.skb.cast()
    }

    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.skb).data as usize }
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: as above.
        unsafe { (*self.skb).data_end as usize }
    }

    /// Length from the Ethernet header on, all segments of a GSO packet
    /// together, in bytes.
    #[inline(always)]
    pub fn len(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.skb).len }
    }

    /// Whether the segments that a GSO packet will be cut into are no longer
    /// than the link takes, whose `mtu` it gives. True for others.
    #[inline(always)]
    pub fn segments_fit(&self, ifindex: u32, mtu: &mut u32) -> bool {
        // SAFETY: as above.
        let whole = unsafe { (*self.skb).gso_size == 0 };
        whole || self.is_taken_by(ifindex, mtu)
    }

    /// Whether a link, whose `mtu` it gives, takes the packet, or the segments
    /// that it will be cut into.
    #[inline(always)]
    pub fn is_taken_by(&self, ifindex: u32, mtu: &mut u32) -> bool {
        let mut link = 0u32;
        // SAFETY: the number lives on this stack.
        let ret = unsafe {
            bpf_check_mtu(
                self.as_ptr(),
                ifindex,
                &raw mut link,
                0,
                u64::from(BPF_MTU_CHK_SEGS),
            )
        };
        *mtu = link;
        ret == 0
    }

    /// Whether a link of this MTU takes the packet; of one that will be cut
    /// into segments, [`Self::segments_fit`] tells.
    #[inline(always)]
    pub fn fits(&self, mtu: u32) -> bool {
        // SAFETY: as above.
        self.len() <= mtu + ETH_LEN as u32 || unsafe { (*self.skb).gso_size } != 0
    }

    /// Ethertype, host order.
    #[inline(always)]
    pub fn ethertype(&self) -> u16 {
        // SAFETY: as above. The field holds a __be16 (`skb->protocol`).
        u16::from_be(unsafe { (*self.skb).protocol } as u16)
    }

    /// What the header of the frame says of itself, host order; 0 where there is
    /// none.
    #[inline(always)]
    pub fn header_ethertype(&self) -> u16 {
        self.read::<[u8; 2]>(ETH_LEN - 2)
            .map_or(0, u16::from_be_bytes)
    }

    /// The interface that the hook belongs to.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.skb).ifindex }
    }

    /// The interface that the packet came to this host by; 0 where the host
    /// itself sends it.
    #[inline(always)]
    pub fn ingress_ifindex(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.skb).ingress_ifindex }
    }

    /// Whether the packet is for this host and none of its VLAN interfaces:
    /// drivers also pass up what they hear in promiscuous mode, and take VLAN
    /// tags off.
    #[inline(always)]
    pub fn is_for_interface(&self) -> bool {
        /// `PACKET_HOST` of `include/uapi/linux/if_packet.h`.
        const HOST: u32 = 0;
        // SAFETY: as above.
        unsafe { (*self.skb).pkt_type == HOST && !self.is_of_vlan() }
    }

    /// Whether a frame is for all or some on its link, this interface included.
    #[inline(always)]
    pub fn is_for_many(&self) -> bool {
        /// `PACKET_BROADCAST` and `PACKET_MULTICAST`.
        const BROADCAST: u32 = 1;
        const MULTICAST: u32 = 2;
        // SAFETY: as above.
        let kind = unsafe { (*self.skb).pkt_type };
        (kind == BROADCAST || kind == MULTICAST) && !self.is_of_vlan()
    }

    /// Whether a frame came with a VLAN tag.
    #[inline(always)]
    pub fn is_tagged(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.skb).vlan_present != 0 }
    }

    /// Whether a frame is another interface's, that of a VLAN. A tag of VLAN 0
    /// says no more than a priority (IEEE 802.1Q, section 6.9).
    #[inline(always)]
    fn is_of_vlan(&self) -> bool {
        const VID: u32 = 0xfff;
        // SAFETY: as above.
        self.is_tagged() && unsafe { (*self.skb).vlan_tci & VID != 0 }
    }

    /// Makes a packet that was sent to many one for a single host.
    #[inline(always)]
    pub fn set_for_host(&self) {
        /// `PACKET_HOST` of `include/uapi/linux/if_packet.h`.
        const HOST: u32 = 0;
        // SAFETY: as above. Where it fails, the packet is still for many.
        unsafe { bpf_skb_change_type(self.skb, HOST) };
    }

    #[inline(always)]
    pub fn mark(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.skb).mark }
    }

    #[inline(always)]
    pub fn set_mark(&self, mark: u32) {
        // SAFETY: as above; the field may be written by a classifier.
        unsafe { (*self.skb).mark = mark };
    }

    /// Makes sure that the headers can be read directly: drivers may leave them
    /// in pages. False where they were already, as far as there are any.
    #[inline(always)]
    pub fn pull_headers(&self) -> bool {
        let linear = (self.data_end() - self.data()) as u32;
        let length = self.len();
        if linear >= HEADERS || linear >= length {
            return false;
        }
        let wanted = if length < HEADERS { length } else { HEADERS };
        // SAFETY: as above. A failure shows as a short packet.
        unsafe { bpf_skb_pull_data(self.skb, wanted) };
        true
    }

    /// Writes a value, as it lies in memory, at an offset from the Ethernet
    /// header.
    ///
    /// By the helper, not in place: a program that writes in place has the
    /// kernel copy the head of every clone first, and every TCP segment of a
    /// local sender is one (`tc_cls_act_prologue`, net/core/filter.c). The
    /// helper knows that TCP leaves the headers to whoever comes after it.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] where the packet is shorter.
    #[inline(always)]
    pub fn write<T: Copy>(&self, offset: usize, value: T) -> Result<(), DropReason> {
        self.store(offset, value, 0)
    }

    /// The same for what changes the sum of the packet that hardware may have
    /// taken (`CHECKSUM_COMPLETE`). What a checksum in the packet makes up for,
    /// such as addresses of IPv4 by that of the header, doesn't.
    ///
    /// # Errors
    /// As [`Self::write`].
    #[inline(always)]
    pub fn write_summed<T: Copy>(&self, offset: usize, value: T) -> Result<(), DropReason> {
        self.store(offset, value, u64::from(BPF_F_RECOMPUTE_CSUM))
    }

    #[inline(always)]
    fn store<T: Copy>(&self, offset: usize, value: T, flags: u64) -> Result<(), DropReason> {
        // SAFETY: the context is valid, the value lies on this stack and has
        // the size given.
        let ret = unsafe {
            bpf_skb_store_bytes(
                self.skb.cast(),
                offset as u32,
                (&raw const value).cast(),
                size_of::<T>() as u32,
                flags,
            )
        };
        if ret == 0 {
            Ok(())
        } else {
            Err(DropReason::Malformed)
        }
    }

    /// Writes the first `length` bytes of the packet, which lie behind [`LEAD`] bytes
    /// at `words`. As by [`Self::write`], no sum of hardware's is changed.
    ///
    /// # Errors
    /// As [`Self::write`].
    ///
    /// # Safety
    /// There are so many bytes, all of them written.
    #[inline(always)]
    pub unsafe fn write_headers(&self, words: *const u32, length: usize) -> Result<(), DropReason> {
        // SAFETY: the context is valid, and so says the caller of the bytes.
        let ret = unsafe {
            let bytes = words.cast::<u8>().add(LEAD);
            bpf_skb_store_bytes(self.skb.cast(), 0, bytes.cast(), length as u32, 0)
        };
        if ret == 0 {
            Ok(())
        } else {
            Err(DropReason::Malformed)
        }
    }

    /// Adds to the sum of the packet that hardware may have taken
    /// (`CHECKSUM_COMPLETE`).
    #[inline(always)]
    pub fn add_to_sum(&self, change: Sum) {
        if change != Sum::default() {
            // SAFETY: the context is valid. Where there is no such sum, it fails.
            unsafe { bpf_csum_update(self.skb, change.wsum()) };
        }
    }

    /// Cuts the packet, or adds zeros, to this length from the Ethernet header
    /// on, in bytes.
    ///
    /// # Errors
    /// [`DropReason::HelperFailed`].
    #[inline(always)]
    pub fn resize(&self, length: u32) -> Result<(), DropReason> {
        // SAFETY: the context is valid.
        if unsafe { bpf_skb_change_tail(self.skb, length, 0) } == 0 {
            Ok(())
        } else {
            Err(DropReason::HelperFailed)
        }
    }

    /// Writes both addresses of the Ethernet header.
    #[inline(always)]
    pub fn write_macs(&self, destination: Mac, source: Mac) -> Result<(), DropReason> {
        self.write(0, netdp_common::nd::ethernet(destination, source))
    }

    /// Updates the transport checksum, also one that hardware will complete
    /// (`CHECKSUM_PARTIAL`: only the pseudo header counts there).
    #[inline(always)]
    pub fn update_l4(&self, change: &L4Change) -> Result<(), DropReason> {
        let mut flags = 0;
        if change.zero_means_none {
            flags |= u64::from(BPF_F_MARK_MANGLED_0);
        }
        if change.pseudo != Sum::default() {
            self.csum_replace(
                change.offset,
                change.pseudo.wsum(),
                flags | u64::from(BPF_F_PSEUDO_HDR),
            )?;
        }
        if change.header != Sum::default() {
            self.csum_replace(change.offset, change.header.wsum(), flags)?;
        }
        Ok(())
    }

    /// `bpf_l4_csum_replace` with size 0: adds a difference.
    #[inline(always)]
    fn csum_replace(&self, offset: usize, difference: u32, flags: u64) -> Result<(), DropReason> {
        // SAFETY: the context is valid; the helper checks the offset.
        let ret = unsafe {
            bpf_l4_csum_replace(self.skb, offset as u32, 0, u64::from(difference), flags)
        };
        if ret == 0 {
            Ok(())
        } else {
            Err(DropReason::HelperFailed)
        }
    }

    /// Hands the packet to a container: straight to the other side of the
    /// veth pair, without a second pass through the backlog.
    #[inline(always)]
    pub fn deliver(&self, to: &Delivery) -> Result<Verdict, DropReason> {
        self.write_macs(to.mac, to.host_mac)?;
        count::received(to.slot, self.len());
        Ok(self.to_peer(to.ifindex))
    }

    /// Sends the frame into the namespace at the other side of a veth's host
    /// end, as it is.
    #[inline(always)]
    pub fn to_peer(&self, ifindex: u32) -> Verdict {
        Verdict::Redirect(self.to_peer_code(ifindex))
    }

    /// The same; gives the action.
    #[inline(always)]
    pub fn to_peer_code(&self, ifindex: u32) -> i32 {
        // SAFETY: no pointers.
        unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
    }

    /// Sends the frame out of `ifindex` as it is.
    #[inline(always)]
    pub fn redirect(&self, ifindex: u32) -> Verdict {
        Verdict::Redirect(self.redirect_code(ifindex))
    }

    /// The same; gives the action.
    #[inline(always)]
    pub fn redirect_code(&self, ifindex: u32) -> i32 {
        // SAFETY: no pointers.
        unsafe { bpf_redirect(ifindex, 0) as i32 }
    }

    /// Sends a copy of the frame in by `ifindex`, as if it arrived there. False
    /// where the kernel has no memory for it.
    #[inline(always)]
    pub fn arrive_again(&self, ifindex: u32) -> bool {
        // SAFETY: the context is valid.
        unsafe { bpf_clone_redirect(self.skb, ifindex, u64::from(BPF_F_INGRESS)) == 0 }
    }

    /// Makes the frame these `length` bytes; what was in it is lost.
    #[inline(always)]
    pub fn replace(&self, frame: *const u8, length: u32) -> bool {
        let flags = u64::from(BPF_F_RECOMPUTE_CSUM) | u64::from(BPF_F_INVALIDATE_HASH);
        // SAFETY: the context is valid; the caller's frame has the bytes.
        unsafe {
            bpf_skb_change_tail(self.skb, length, 0) == 0
                && bpf_skb_store_bytes(self.skb.cast(), 0, frame.cast(), length, flags) == 0
        }
    }

    /// Makes room of `length` bytes behind the Ethernet header.
    #[inline(always)]
    pub fn make_room(&self, length: usize) -> bool {
        // SAFETY: the context is valid.
        unsafe { bpf_skb_adjust_room(self.skb, length as i32, BPF_ADJ_ROOM_MAC, 0) == 0 }
    }

    /// The destination address of the Ethernet header.
    #[inline(always)]
    pub fn destination_mac(&self) -> Result<Mac, DropReason> {
        self.read(0).ok_or(DropReason::Malformed)
    }

    /// The source address of the Ethernet header.
    #[inline(always)]
    pub fn source_mac(&self) -> Result<Mac, DropReason> {
        self.read(size_of::<Mac>()).ok_or(DropReason::Malformed)
    }
}

/// A length of 1 to `MAX`, a power of two, which the verifier sees to be so:
/// the compiler knows bounds that the verifier has lost, and would leave this
/// out.
#[inline(always)]
pub fn bounded<const MAX: u64>(length: u32) -> u32 {
    const { assert!(MAX.is_power_of_two()) };
    let mut last = u64::from(length.wrapping_sub(1));
    // SAFETY: arithmetic.
    unsafe {
        asm!("{0} &= {1}", inout(reg) last, const MAX - 1, options(nomem, nostack));
    }
    last as u32 + 1
}

impl Bytes for Skb {
    #[inline(always)]
    fn read<T: Wire>(&self, offset: usize) -> Option<T> {
        let start = self.data() + offset;
        if start + size_of::<T>() > self.data_end() {
            return None;
        }
        // SAFETY: checked against data_end, and any bytes are valid.
        Some(unsafe { (start as *const T).read_unaligned() })
    }

    #[inline(always)]
    fn read_anew<T: Wire>(&self, offset: usize) -> Option<T> {
        // SAFETY: as in `data`.
        let (data, end) = unsafe {
            (
                (&raw const (*self.skb).data).read_volatile(),
                (&raw const (*self.skb).data_end).read_volatile(),
            )
        };
        let start = data as usize + offset;
        if start + size_of::<T>() > end as usize {
            return None;
        }
        // SAFETY: as above.
        Some(unsafe { (start as *const T).read_unaligned() })
    }
}

/// The packet read by copies: slower, for what lies behind the headers, where
/// the verifier's bounds don't reach and drivers leave bytes in pages.
pub struct Copied<'a>(pub &'a Skb);

impl Bytes for Copied<'_> {
    #[inline(always)]
    fn read<T: Wire>(&self, offset: usize) -> Option<T> {
        let mut value = MaybeUninit::<T>::zeroed();
        // SAFETY: the value lies on this stack and has the size given.
        let ret = unsafe {
            bpf_skb_load_bytes(
                self.0.as_ptr(),
                offset as u32,
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            )
        };
        if ret != 0 {
            return None;
        }
        // SAFETY: zeroed, and any bytes are valid.
        Some(unsafe { value.assume_init() })
    }
}
