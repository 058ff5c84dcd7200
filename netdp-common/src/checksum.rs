//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! A sum is taken over 32-bit words in memory order, as the kernel's `__wsum`
//! (`include/net/checksum.h`, Linux 6.1): the ones' complement sum doesn't
//! care about byte order as long as it stays the same.

/// A running ones' complement sum, folded to 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds a 32-bit word in memory order.
    #[inline(always)]
    pub const fn add(self, word: u32) -> Self {
        Self(self.0 + word as u64)
    }

    /// Takes such a word away again.
    #[inline(always)]
    pub const fn sub(self, word: u32) -> Self {
        self.add(!word)
    }

    /// Adds the change of a 16-bit word in memory order.
    #[inline(always)]
    pub const fn change16(self, old: u16, new: u16) -> Self {
        self.add(!old as u32).add(new as u32)
    }

    /// Adds the change of words of equal number.
    #[inline(always)]
    pub fn change(mut self, old: &[u32], new: &[u32]) -> Self {
        for (old, new) in old.iter().zip(new) {
            self = self.sub(*old).add(*new);
        }
        self
    }

    /// Nothing, where the change of so many words is none.
    #[inline(always)]
    pub const fn or_nothing(self, words: usize) -> Self {
        if self.0 == 0xffff_ffff * words as u64 {
            Self(0)
        } else {
            self
        }
    }

    /// As the kernel's `__wsum`: 32 bits, carries folded in.
    #[inline(always)]
    pub const fn wsum(self) -> u32 {
        let folded = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        ((folded & 0xffff_ffff) + (folded >> 32)) as u32
    }

    /// The 16-bit ones' complement sum.
    #[inline(always)]
    pub const fn fold(self) -> u16 {
        let sum = self.wsum();
        let folded = (sum & 0xffff) + (sum >> 16);
        ((folded & 0xffff) + (folded >> 16)) as u16
    }
}

/// A checksum field (memory order) after the summed data changed by `change`
/// (RFC 1624, equation 3).
#[inline(always)]
pub const fn update(field: u16, change: Sum) -> u16 {
    !change.add(!field as u32).fold()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071, section 4.1, over bytes; independent of the code above.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
        }
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn update_equals_recomputing(mut bytes in proptest::collection::vec(any::<u8>(), 20..60),
                                     at in 0usize..5, word: [u8; 4], half: [u8; 2]) {
            prop_assume!(bytes[16..20].iter().any(|byte| *byte != 0));
            let field = u16::from_be_bytes(reference(&bytes).to_ne_bytes());
            let old: [u8; 4] = bytes[at * 4..at * 4 + 4].try_into().unwrap();
            bytes[at * 4..at * 4 + 4].copy_from_slice(&word);
            let old_half: [u8; 2] = bytes[2..4].try_into().unwrap();
            bytes[2..4].copy_from_slice(&half);
            prop_assume!(bytes.iter().any(|byte| *byte != 0));
            let change = Sum::default()
                .change(&[u32::from_ne_bytes(old)], &[u32::from_ne_bytes(word)])
                .change16(u16::from_ne_bytes(old_half), u16::from_ne_bytes(half));
            let expected = u16::from_be_bytes(reference(&bytes).to_ne_bytes());
            prop_assert_eq!(update(field, change), expected);
        }
    }

    #[test]
    fn what_stays_as_it_was_is_no_change() {
        let (old, new) = ([0x0a00_0001, 0], [0x0a00_0001, 1]);
        let stays = Sum::default().change(&old, &old);
        assert_eq!(stays.or_nothing(2), Sum::default());
        let changes = Sum::default().change(&old, &new);
        assert_eq!(changes.or_nothing(2), changes);
    }

    #[test]
    fn example_of_rfc_1624() {
        // Section 4: field 0xdd2f, a word changes from 0x5555 to 0x3285.
        let change = Sum::default().change16(0x5555u16.to_be(), 0x3285u16.to_be());
        assert_eq!(update(0xdd2fu16.to_be(), change), 0x0000u16.to_be());
    }
}
