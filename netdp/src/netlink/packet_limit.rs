//! How large the packets are that TCP hands an interface for segmentation, and
//! that GRO puts together from what comes in: 64 KiB, or more (BIG TCP, of
//! IPv6 since Linux 5.19, of IPv4 since 6.3).

use std::fmt;

use rtnetlink::{
    LinkMessageBuilder, LinkUnspec,
    packet_route::link::{LinkAttribute, LinkMessage},
};

use super::{Netlink, NetlinkError};

/// What an interface has unless somebody sets it (`GSO_LEGACY_MAX_SIZE`,
/// include/linux/netdevice.h).
const LEGACY: u32 = 65_536;
/// With this much a bulk transfer between containers is faster than over
/// loopback; more brings nothing.
const BIG: u32 = 185_000;
/// What netdp sets of interfaces that it didn't make. A number that nobody else
/// chooses, so that netdp knows its own again whatever became of its state.
const BIG_UPLINK: u32 = 185_344;

/// The limits of an interface (`gso_max_size`, `gro_max_size`,
/// `gso_ipv4_max_size`, `gro_ipv4_max_size`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PacketLimit {
    /// The kernel's own.
    Legacy,
    /// Those that netdp gives the links that it makes.
    Big,
    /// Those that netdp gives uplinks.
    BigUplink,
    /// Somebody's, which let pass what [`Big`](Self::Big) makes.
    OtherBig,
    /// Somebody's, which don't.
    #[default]
    Other,
    /// Somebody's in part, and in part those that netdp gives uplinks.
    Mixed(Sizes),
}

/// Bytes, in the order of [`PacketLimit`]; none where the kernel has no such limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sizes([Option<u32>; 4]);

impl PacketLimit {
    /// Bytes, network header included.
    const fn sizes(self) -> Sizes {
        match self {
            Self::Legacy | Self::OtherBig | Self::Other => Sizes([Some(LEGACY); 4]),
            Self::Big => Sizes([Some(BIG); 4]),
            Self::BigUplink => Sizes([Some(BIG_UPLINK); 4]),
            Self::Mixed(sizes) => sizes,
        }
    }

    /// The kernel's own in place of those that netdp gives uplinks; nothing where
    /// there are none.
    pub fn without_ours(self) -> Option<Self> {
        let Self::Mixed(Sizes(mut sizes)) = self else {
            return (self == Self::BigUplink).then_some(Self::Legacy);
        };
        for size in sizes.iter_mut().filter(|size| **size == Some(BIG_UPLINK)) {
            *size = Some(LEGACY);
        }
        Some(Self::Mixed(Sizes(sizes)))
    }

    /// Adds the limits to a message that makes or changes an interface. Those
    /// of IPv4 come last: setting the others sets them too.
    pub(super) fn write<T>(self, message: LinkMessageBuilder<T>) -> LinkMessageBuilder<T> {
        let Sizes([gso, gro, gso4, gro4]) = self.sizes();
        let attributes = [
            gso.map(LinkAttribute::GsoMaxSize),
            gro.map(LinkAttribute::GroMaxSize),
            gso4.map(LinkAttribute::GsoIpv4MaxSize),
            gro4.map(LinkAttribute::GroIpv4MaxSize),
        ];
        let attributes = attributes.into_iter().flatten();
        attributes.fold(message, LinkMessageBuilder::append_extra_attribute)
    }

    /// What the kernel says of an interface, and whether its driver takes what
    /// [`BigUplink`](Self::BigUplink) lets pass.
    pub(super) fn read(message: &LinkMessage) -> (Self, bool) {
        let mut sizes = [None; 4];
        let mut takes_big = false;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::GsoMaxSize(size) => sizes[0] = Some(*size),
                LinkAttribute::GroMaxSize(size) => sizes[1] = Some(*size),
                // Before Linux 6.3 there is none of IPv4.
                LinkAttribute::GsoIpv4MaxSize(size) => sizes[2] = Some(*size),
                LinkAttribute::GroIpv4MaxSize(size) => sizes[3] = Some(*size),
                LinkAttribute::TsoMaxSize(size) => takes_big = *size >= BIG_UPLINK,
                _ => {}
            }
        }
        let limits: Vec<u32> = sizes.into_iter().flatten().collect();
        let all = |is: fn(u32) -> bool| !limits.is_empty() && limits.iter().all(|size| is(*size));
        let limit = if all(|size| size == LEGACY) {
            Self::Legacy
        } else if all(|size| size == BIG) {
            Self::Big
        } else if all(|size| size == BIG_UPLINK) {
            Self::BigUplink
        } else if limits.contains(&BIG_UPLINK) {
            Self::Mixed(Sizes(sizes))
        } else if all(|size| size > BIG) {
            Self::OtherBig
        } else {
            Self::Other
        };
        (limit, takes_big)
    }
}

impl fmt::Display for PacketLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sizes(sizes) = self.sizes();
        let mut sizes: Vec<u32> = sizes.into_iter().flatten().collect();
        sizes.dedup();
        let sizes: Vec<String> = sizes.iter().map(u32::to_string).collect();
        write!(f, "{} bytes", sizes.join(", "))
    }
}

impl Netlink {
    /// Sets how large the packets of an interface may be.
    ///
    /// # Errors
    /// When there is no such interface or its driver takes no such packets.
    pub async fn set_packet_limit(
        &self,
        name: &str,
        limit: PacketLimit,
    ) -> Result<(), NetlinkError> {
        let message = limit.write(LinkUnspec::new_with_name(name));
        self.set(name, message, "set the largest packets of interface")
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sizes: [u32; 4], tso: u32) -> (PacketLimit, bool) {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::GsoMaxSize(sizes[0]),
            LinkAttribute::GroMaxSize(sizes[1]),
            LinkAttribute::TsoMaxSize(tso),
        ];
        if sizes[2] != 0 {
            message.attributes.extend([
                LinkAttribute::GsoIpv4MaxSize(sizes[2]),
                LinkAttribute::GroIpv4MaxSize(sizes[3]),
            ]);
        }
        PacketLimit::read(&message)
    }

    #[test]
    fn netdp_knows_its_own_limits_again() {
        for limit in [
            PacketLimit::Legacy,
            PacketLimit::Big,
            PacketLimit::BigUplink,
        ] {
            let size = limit.sizes().0[0].unwrap();
            assert_eq!(of([size; 4], 524_280), (limit, true));
            let message = limit.write(LinkUnspec::new_with_name("eth0")).build();
            assert_eq!(PacketLimit::read(&message).0, limit);
            // As before Linux 6.3.
            assert_eq!(of([size, size, 0, 0], 65_536), (limit, false));
        }
        assert_eq!(of([196_608; 4], 262_144), (PacketLimit::OtherBig, true));
        assert_eq!(
            of([196_608, 196_608, 65_536, 65_536], 262_144).0,
            PacketLimit::Other
        );
        assert_eq!(of([BIG_UPLINK, 30_000, 0, 0], 65_536).0.without_ours(), {
            Some(PacketLimit::Mixed(Sizes([
                Some(LEGACY),
                Some(30_000),
                None,
                None,
            ])))
        });
        assert_eq!(of([62_780; 4], 62_780), (PacketLimit::Other, false));
        assert_eq!(
            PacketLimit::read(&LinkMessage::default()).0,
            PacketLimit::Other
        );
    }
}
