//! Why a packet of another engine's container was left to that engine.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal;)*) => {
        /// Why a packet was left to the stack as it came. The number is the
        /// index into the map `left`; numbers are never reused.
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Left {
            $($(#[$doc])* $name = $value,)*
        }

        impl Left {
            /// Every reason, by ascending number.
            pub const ALL: &'static [Left] = &[$(Left::$name,)*];

            /// The stable name that commands print and JSON carries.
            pub const fn name(self) -> &'static str {
                match self { $(Left::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// From a container, not for its gateway's MAC address: it stays on the
    /// engine's bridge.
    Bridge = 0, "bridge";
    /// Neither TCP nor UDP nor an echo, a VLAN's, or cut short.
    Protocol = 1, "protocol";
    /// A fragment.
    Fragment = 2, "fragment";
    /// From an address that the container doesn't have, or that nobody outside
    /// has.
    Source = 3, "source";
    /// From a container for the host, another network, or by no uplink; or for a
    /// published port at an address that isn't the host's.
    Elsewhere = 4, "elsewhere";
    /// Longer than the link takes, or the container's interface has gone.
    TooBig = 5, "too-big";
    /// A segment of a connection that began before, by the stack.
    Began = 6, "began-before";
    /// Of a conversation that the stack has.
    Stacks = 7, "of-the-stack";
    /// From a container that leaves under its own address, or by the stack's
    /// translation alone.
    NotTranslated = 8, "not-translated";
    /// There is no room for another flow, or no port or address for it.
    NoRoom = 9, "no-room";
}

/// Entries of `left`: more than there are reasons.
pub const MAX_LEFT: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_place_and_name() {
        for (number, reason) in Left::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
            assert!(number < MAX_LEFT && !reason.name().is_empty());
            let same = |other: &&Left| other.name() == reason.name();
            assert_eq!(Left::ALL.iter().filter(same).count(), 1);
        }
    }
}
