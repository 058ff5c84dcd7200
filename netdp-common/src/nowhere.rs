//! Interfaces that there aren't. A socket that is bound to one of them
//! (`SO_BINDTOIFINDEX`) keeps its port and hears nobody.

/// The first of their numbers: far more than interfaces have been made.
pub const FIRST: i32 = 1 << 30;

/// Whether no interface has this number.
#[inline(always)]
pub const fn is(ifindex: i32) -> bool {
    ifindex >= FIRST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_and_none_are_not_among_them() {
        for ifindex in [i32::MIN, -1, 0, 1, FIRST - 1] {
            assert!(!is(ifindex));
        }
        assert!(is(FIRST) && is(i32::MAX));
    }
}
