//! Why a packet was dropped: one reason for each way to drop.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal;)*) => {
        /// Why a packet was dropped. The number is the index into the map
        /// `drops`; numbers are never reused.
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum DropReason {
            $($(#[$doc])* $name = $value,)*
        }

        impl DropReason {
            /// Every reason, by ascending number.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name,)*];

            /// The stable name that commands print and JSON carries.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// Shorter than its headers say, or a header field contradicts another.
    Malformed = 0, "malformed";
    /// A container sent from an address or MAC that isn't its own, or the
    /// outside from one that has no place there.
    SpoofedSource = 1, "spoofed-source";
    /// Of a kind that the container's network doesn't carry: neither IPv4 nor
    /// ARP, nor IPv6 where it has an address of it.
    UnknownEthertype = 2, "unknown-ethertype";
    /// A packet from outside for a container, neither published nor a reply.
    NotPublished = 3, "not-published";
    /// From one network to an endpoint of another.
    OtherNetwork = 4, "other-network";
    /// From an interface whose endpoint is not in the tables.
    NoEndpoint = 5, "no-endpoint";
    /// No route, or one that leads to no uplink.
    NoRoute = 6, "no-route";
    /// From a network that is internal to something outside it.
    Internal = 7, "internal";
    /// The network has `icc=false`.
    NoIcc = 8, "no-icc";
    /// Multicast or broadcast from a container: not carried.
    Multicast = 9, "multicast";
    /// No free source port for a masqueraded flow.
    PortExhausted = 10, "port-exhausted";
    /// The flow table is full.
    TableFull = 11, "table-full";
    /// A protocol that can't be masqueraded or published.
    UnknownProtocol = 12, "unknown-protocol";
    /// A later fragment whose first has not been seen.
    FragmentWithoutFirst = 13, "fragment-without-first";
    /// Neither SYN nor a packet of a known flow, so nothing to translate it by.
    NoFlow = 14, "no-flow";
    /// A BPF helper refused what the program asked of it.
    HelperFailed = 15, "helper-failed";
    /// An ARP request for an address that isn't to be had on this network.
    ArpUnknown = 16, "arp-unknown";
    /// The uplink has no address to masquerade with.
    NoUplinkAddress = 17, "no-uplink-address";
    /// ICMP of a kind that belongs to no flow.
    IcmpUnrelated = 18, "icmp-unrelated";
    /// Another flow of the container has the very same client address and port.
    TupleTaken = 19, "tuple-taken";
    /// Longer than the link out takes; of IPv4, and allowed to be fragmented,
    /// which BPF can't do.
    TooBig = 20, "too-big";
    /// A container gave itself out for a neighbour or a router: a neighbour or
    /// router advertisement, or a redirect.
    SpoofedNeighbour = 21, "spoofed-neighbour";
    /// A fragment that keeps the transport header, or a part of it, out of the
    /// first one.
    FragmentTiny = 22, "fragment-tiny";
    /// A fragment that lies over what another of its datagram has brought.
    FragmentOverlap = 23, "fragment-overlap";
    /// A container's answer to a client of a port that is no longer published.
    Unpublished = 24, "unpublished";
    /// For a published port, from an address that it is not published to.
    NotAllowed = 25, "not-allowed";
    /// The endpoint has its share of the flow tables already.
    EndpointLimit = 26, "endpoint-limit";
    /// From outside, of a source that is blocked.
    BlockedSource = 27, "blocked-source";
    /// Of IPv6, and its hop limit doesn't take it out of the host.
    Expired = 30, "expired";
    /// A neighbour solicitation for an address that isn't to be had on this
    /// network.
    NeighbourUnknown = 31, "neighbour-unknown";
    /// From outside, of a source that begins more conversations with published
    /// ports than it may.
    SourceLimit = 32, "source-limit";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_ascending_and_have_counters() {
        let numbers: std::vec::Vec<u32> = DropReason::ALL.iter().map(|it| *it as u32).collect();
        assert!(numbers.is_sorted_by(|one, next| one < next));
        assert!(
            numbers.iter().all(|number| *number < 64),
            "entries of `drops`"
        );
    }
}
