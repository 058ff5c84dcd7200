//! What a function that isn't inlined gives back in one register.

use core::mem;

use netdp_common::drop::DropReason;

/// Yes, no, or why not, as a number that is always written whole.
///
/// Of a `Result<bool, DropReason>` the half of the register that holds the
/// reason is left as it was where there is none, and the verifier refuses to
/// shift what may be a pointer.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Found(u32);

/// The number of the first reason.
const REASONS: u32 = 3;

impl Found {
    pub const NO: Self = Self(0);
    pub const YES: Self = Self(1);
    /// See [`first_reply`](crate::published::first_reply).
    pub const CLOSED: Self = Self(2);

    /// For a function that gives a plain number.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self.0
    }

    #[inline(always)]
    pub fn from_number(number: u32) -> Self {
        Self(number)
    }

    #[inline(always)]
    pub const fn refused(reason: DropReason) -> Self {
        Self(reason as u32 + REASONS)
    }

    /// Yes, or why not.
    #[inline(always)]
    pub fn done(result: Result<(), DropReason>) -> Self {
        match result {
            Ok(()) => Self::YES,
            Err(reason) => Self::refused(reason),
        }
    }

    /// To be asked of what a call has given, not of what was decided here.
    #[inline(always)]
    pub fn result(self) -> Result<bool, DropReason> {
        match self {
            Self::NO => Ok(false),
            Self::YES => Ok(true),
            // SAFETY: the number of a reason, see `refused`.
            Self(number) => Err(unsafe { mem::transmute::<u32, DropReason>(number - REASONS) }),
        }
    }
}
