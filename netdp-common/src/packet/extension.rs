//! Extension headers of IPv6 (RFC 8200, section 4).

use super::{Bytes, ETH_LEN, Fragment, Packet, REACH, TcpHeader, V6_LEN, V6Addr};
use crate::{drop::DropReason, fragment, icmp::Quote};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// How many extension headers are looked through.
const LIMIT: usize = 6;
/// Where the transport header may start at most.
const LAST: usize = REACH - size_of::<TcpHeader>();

/// Whether a header of this number is one that is looked behind. Not that
/// of authentication (RFC 4302), which covers what translation changes.
#[inline(always)]
pub const fn is_one(number: u8) -> bool {
    matches!(number, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION)
}

/// Looks for the transport header behind the first extension header, whose
/// number is the packet's protocol.
///
/// Out of line: hardly any packet has one.
#[inline(never)]
pub fn walk(
    bytes: &(impl Bytes + ?Sized),
    packet: &mut Packet<V6Addr>,
    payload: u16,
) -> Result<(), DropReason> {
    let mut offset = ETH_LEN + V6_LEN;
    let mut number = packet.proto;
    // Where the part of the datagram begins that is in fragments.
    let mut begin = offset;
    let mut i = 0;
    while i < LIMIT {
        // The next header, and what each has of its own.
        let header: [[u8; 2]; 4] = bytes.read_anew(offset).ok_or(DropReason::Malformed)?;
        let [next, length] = header[0];
        let length = match number {
            // Only the first may be one.
            HOP_BY_HOP if i != 0 => return Err(DropReason::Malformed),
            // Type 0 is deprecated (RFC 5095). With segments left, the
            // packet is for another destination than it says.
            ROUTING if header[1][0] == 0 || header[1][1] != 0 => {
                return Err(DropReason::Malformed);
            }
            FRAGMENT => 8,
            _ => (usize::from(length) + 1) * 8,
        };
        if number == FRAGMENT {
            let fragment = u16::from_be_bytes(header[1]);
            let end = ETH_LEN + V6_LEN + usize::from(payload);
            packet.more = fragment & 1 != 0;
            packet.begin = fragment & !7;
            packet.end = packet
                .begin
                .saturating_add(end.saturating_sub(offset + 8) as u16);
            packet.id = u32::from(u16::from_ne_bytes(header[2]))
                | u32::from(u16::from_ne_bytes(header[3])) << 16;
            packet.fragment = match (packet.more, fragment >> 3) {
                // A datagram of one fragment (RFC 6946).
                (false, 0) => Fragment::Whole,
                (true, 0) => Fragment::First,
                _ => Fragment::Later,
            };
            begin = offset + 8;
        }
        offset += length;
        if offset > LAST {
            return Err(DropReason::UnknownProtocol);
        }
        number = next;
        if packet.fragment == Fragment::Later || !is_one(number) {
            // GSO packets above 64 KiB say 0 (BIG TCP, Linux 6.3).
            if payload != 0 && offset > ETH_LEN + V6_LEN + usize::from(payload) {
                return Err(DropReason::Malformed);
            }
            packet.proto = number;
            packet.l4 = offset;
            // RFC 7112: the first has all headers.
            let least = (offset - begin) as u16 + fragment::least(number);
            if packet.fragment == Fragment::First && packet.end < least {
                packet.fragment = Fragment::Tiny;
            }
            return Ok(());
        }
        i += 1;
    }
    Err(DropReason::UnknownProtocol)
}

/// Looks for the transport header of a quoted packet, whose first extension
/// header lies at `quote.l4` and has the number `quote.proto`. False where
/// netdp would not have looked so far, or where the quote is of a later
/// fragment.
#[inline(never)]
pub fn walk_quoted(bytes: &(impl Bytes + ?Sized), quote: &mut Quote<V6Addr>) -> bool {
    let mut offset = quote.l4;
    let mut number = quote.proto;
    let mut i = 0;
    while i < LIMIT {
        let Some(header) = bytes.read_anew::<[[u8; 2]; 4]>(offset) else {
            return false;
        };
        let [next, length] = header[0];
        offset += match number {
            HOP_BY_HOP if i != 0 => return false,
            ROUTING if header[1][1] != 0 => return false,
            FRAGMENT if u16::from_be_bytes(header[1]) >> 3 != 0 => return false,
            FRAGMENT => 8,
            _ => (usize::from(length) + 1) * 8,
        };
        number = next;
        if !is_one(number) {
            quote.proto = number;
            quote.l4 = offset;
            return true;
        }
        i += 1;
    }
    false
}
