//! That keys and values have no implicit padding, and may be read as bytes.

use crate::{
    addr::{V4Addr, V6Addr},
    block::BlockPlace,
    limit::Limit,
    range::{AllowPlace, RangePlace},
};

use super::{
    Asked, Back, BackRange, Client, ClientKey, Config, Datagrams, Delivery, Early, EarlyGroup,
    Endpoint, Flow, FlowKey, Frag, FragKey, Joined, Known, LinkKey, Local, MadeFor, Member,
    OwnPlace, OwnPort, OwnWay, Owner, Pair, Path, PortKey, Published, PublishedRange, Refusals,
    Share, Short, SockKey, SocketKey, Stats, Sweep, TimedSweep, Times, Uplink, Usage,
};

/// Asserts that no bytes of a type are implicit padding.
macro_rules! assert_layout {
    ($($type:ty: $size:literal = $($part:expr),+;)*) => {
        $(const _: () = {
            assert!(size_of::<$type>() == $size);
            assert!(0 $(+ $part)+ == $size);
        };)*
    };
}

assert_layout! {
    Config: 48 = 4 * 4, 2 * 2, 4, 4 * 3, 4, 8;
    SocketKey: 32 = 8 * 3, 8;
    Joined: 56 = 32, 4 * 6;
    Pair: 32 = 16 * 2;
    Member: 24 = 8, 8, 8;
    Short: 24 = 24;
    Known<V4Addr>: 16 = 4, 4, 8;
    Known<V6Addr>: 32 = 16, 4, 8, 4;
    OwnPort: 16 = 8, 2, 2, 4;
    OwnPlace<V4Addr>: 12 = 4, 4, 4;
    OwnPlace<V6Addr>: 40 = 16, 16, 4, 4;
    OwnWay: 56 = 40, 12, 4;
    MadeFor: 24 = 4, 4, 16;
    ClientKey<V4Addr>: 16 = 4, 4, 2, 2, 4;
    ClientKey<V6Addr>: 40 = 16, 16, 2, 2, 4;
    Client<V4Addr>: 8 = 4, 4;
    Client<V6Addr>: 24 = 16, 4, 4;
    Datagrams: 8 = 8;
    Times: 16 = 4 * 4;
    Endpoint: 88 = 8, 8, 8, 8, 32, 8, 16;
    Delivery: 20 = 8, 12;
    Owner: 28 = 20, 8;
    PortKey<V4Addr>: 8 = 4, 2, 1, 1;
    PortKey<V6Addr>: 24 = 16, 2, 1, 1, 4;
    Published<V4Addr>: 48 = 4, 4, 20, 4, 8, 8;
    Published<V6Addr>: 72 = 16, 4, 20, 16, 8, 8;
    PublishedRange<V4Addr>: 56 = 48, 4, 4;
    PublishedRange<V6Addr>: 80 = 72, 4, 4;
    Back<V4Addr>: 16 = 4, 4, 4, 4;
    Back<V6Addr>: 32 = 16, 4, 4, 4, 4;
    BackRange<V4Addr>: 24 = 16, 4, 4;
    BackRange<V6Addr>: 40 = 32, 4, 4;
    RangePlace<V4Addr>: 16 = 4, 4, 4, 2, 2;
    RangePlace<V6Addr>: 32 = 4, 4, 16, 2, 2, 4;
    AllowPlace<V4Addr>: 16 = 4, 4, 4, 4;
    AllowPlace<V6Addr>: 32 = 4, 4, 16, 4, 4;
    BlockPlace<V4Addr>: 8 = 4, 4;
    BlockPlace<V6Addr>: 24 = 16, 4, 4;
    Limit: 16 = 8, 8;
    LinkKey<V4Addr>: 16 = 8, 4, 4;
    LinkKey<V6Addr>: 40 = 32, 4, 4;
    Local: 8 = 4, 4;
    Uplink: 56 = 8, 4, 4, 16, 16, 4, 4;
    FlowKey<V4Addr>: 16 = 4, 4, 4, 4;
    FlowKey<V6Addr>: 40 = 16, 16, 4, 4;
    Flow<V4Addr>: 56 = 8, 4, 4, 20, 8, 4, 8;
    Flow<V6Addr>: 80 = 32, 4, 4, 20, 8, 4, 8;
    FragKey<V4Addr>: 16 = 8, 8;
    FragKey<V6Addr>: 40 = 32, 8;
    Frag: 24 = 4, 4, 4, 4, 8;
    Early: 2080 = 8, 4, 4, 4, 4, 4, 4, 2048;
    EarlyGroup: 16 = 8, 8;
    SockKey<V4Addr>: 16 = 8, 8;
    SockKey<V6Addr>: 32 = 8, 16, 4, 4;
    Asked<V4Addr>: 8 = 8;
    Asked<V6Addr>: 24 = 16, 4, 4;
    Stats: 40 = 40;
    Share: 24 = 8 * 3;
    Usage: 96 = 24 * 4;
    Sweep: 40 = 8, 8, 8, 8, 4, 4;
    TimedSweep: 56 = 16, 40;
    Refusals: 8 = 4, 4;
    Path<V4Addr>: 28 = 4, 8, 12, 4;
    Path<V6Addr>: 40 = 16, 8, 12, 4;
}

#[cfg(feature = "user")]
mod pod {
    use super::*;
    use crate::addr::Address;

    macro_rules! pod {
        ($($type:ty),* $(,)?) => {
            // SAFETY: repr(C), Copy, without padding (asserted above), and any
            // bytes are a valid value.
            $(unsafe impl aya::Pod for $type {})*
        };
    }

    macro_rules! family_pod {
        ($($type:ident),* $(,)?) => {
            // SAFETY: as above, for both kinds of address that there are.
            $(unsafe impl<A: Address> aya::Pod for $type<A> {})*
        };
    }

    pod!(
        Config, Datagrams, MadeFor, Member, OwnPort, OwnWay, Pair, Short, SocketKey, Endpoint,
        Owner, Limit, Local, Uplink, Frag, Stats, Usage, TimedSweep, Times, V4Addr, V6Addr,
    );
    family_pod!(
        PortKey,
        Published,
        Back,
        FlowKey,
        Flow,
        FragKey,
        SockKey,
        Asked,
        Path,
        LinkKey,
        PublishedRange,
        BackRange,
        RangePlace,
        AllowPlace,
        BlockPlace,
        ClientKey,
        Client,
    );
}
