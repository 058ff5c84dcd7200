//! What holds of a packet and what came of it, whatever went before.

use netdp::bpf::TestRun;
use netdp_common::packet::{Fragment, Transport};

use super::{
    header::ETHERNET,
    read::{destination, is_of_family, mac, parse, source, sums_are_right},
};
use crate::program_world::{Container, Family};

/// The mark by which `to_netdev` knows what `from_container` sends.
pub const LEAVES: u32 = 0x6e64_7001;

pub type Verdict = Result<&'static str, String>;

pub fn require(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

/// As it came, but for a first fragment that others wait for: it is sent in
/// again by another way, and what is left at the hook may be any of them. An
/// error's quote is written before its source is known to be wrong.
pub fn dropped(bytes: &[u8], run: &TestRun, end: &'static str) -> Verdict {
    match parse(bytes) {
        Ok(parsed)
            if is_of_family(bytes)
                && (parsed.fragment != Fragment::Whole
                    || parsed.transport == Transport::IcmpError) =>
        {
            Ok(end)
        }
        _ => unchanged(bytes, run, end),
    }
}

/// Whether a container hears that its packet was refused: an error that nobody
/// but its gateway sends, and never about an error.
pub fn is_refusal(sender: &Container, bytes: &[u8], run: &TestRun) -> bool {
    let out = &run.packet;
    let (kinds, l4) = refusal();
    !is_transport(bytes, Transport::IcmpError)
        && run.mark != LEAVES
        && out.len() >= l4 + 8
        && mac(out, 0) == sender.mac
        && source(out) == sender.gateway
        && is_transport(out, Transport::IcmpError)
        && kinds.contains(&out[l4])
}

/// Destination unreachable; of IPv6 also too big and time exceeded, which the
/// stack says of IPv4; and where that is said.
fn refusal() -> (&'static [u8], usize) {
    match Family::of_world() {
        Family::V4 => (&[3], ETHERNET + 20),
        Family::V6 => (&[1, 2, 3], ETHERNET + 40),
    }
}

pub fn is_transport(bytes: &[u8], transport: Transport) -> bool {
    is_of_family(bytes) && parse(bytes).is_ok_and(|read| read.transport == transport)
}

/// Neighbour discovery is answered to who asked, and never sent on.
pub fn answered(sender: &Container, run: &TestRun) -> Verdict {
    require(run.mark != LEAVES, "a solicitation left")?;
    require(mac(&run.packet, 0) == sender.mac, "another was answered")?;
    Ok("out: answered to a neighbour")
}

/// What is refused is quoted as it was sent, and nothing else is said.
pub fn refused(sender: &Container, bytes: &[u8], run: &TestRun) -> Verdict {
    let out = &run.packet;
    require(mac(out, 6) == sender.host_mac, "told with another's MAC")?;
    require(destination(out) == sender.addr, "told to another's address")?;
    require(sums_are_right(out) == Some(true), "told with wrong sums")?;
    let quote = &out[refusal().1 + 8..];
    require(bytes[ETHERNET..].starts_with(quote), "told another's bytes")?;
    Ok("out: refused, and told")
}

pub fn unchanged(bytes: &[u8], run: &TestRun, end: &'static str) -> Verdict {
    require(run.packet == bytes, "changed what it doesn't send on")?;
    Ok(end)
}

/// What a translated packet still is: as long, with the same payload, and with
/// right checksums if they were right.
pub fn whole(bytes: &[u8], out: &[u8], l4: usize, transport: Transport) -> Result<(), String> {
    require(out.len() == bytes.len(), "another length")?;
    let end = match transport {
        Transport::Tcp(_) => l4 + 20,
        Transport::Later => l4,
        Transport::IcmpError => bytes.len(),
        _ => l4 + 8,
    };
    require(out.get(end..) == bytes.get(end..), "another payload")?;
    if sums_are_right(bytes) == Some(true) {
        require(sums_are_right(out) == Some(true), "a checksum is wrong now")?;
    }
    Ok(())
}
