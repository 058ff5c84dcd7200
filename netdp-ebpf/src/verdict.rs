//! What becomes of a packet.

use netdp_common::drop::DropReason;

use crate::count;

/// What a program decided.
#[derive(Clone, Copy)]
pub enum Verdict {
    /// Not ours, or for the kernel's stack: goes on to the next program.
    Pass,
    /// Ends here, and counts as nothing: held, sent anew from the start of this
    /// hook, or for the others on a container's link, where there are none.
    Taken,
    /// A redirect helper has been called; its return code is the action.
    Redirect(i32),
    /// What [`part`] gave, unless that is [`TAKEN`] or has [`ANSWERED`] in it.
    Part(i32),
}

/// `TCX_NEXT` (`include/uapi/linux/bpf.h`, 6.6), which is also `TC_ACT_UNSPEC`.
pub const NEXT: i32 = -1;
/// `TCX_DROP`, which is also `TC_ACT_SHOT`.
pub const DROP: i32 = 2;

/// [`Verdict::Taken`] of a [`part`].
pub const TAKEN: i32 = 0x100;

/// Added to the code that a redirect helper gave, where the packet is dropped
/// and counted, and the ICMP error about it goes back in its place.
pub const ANSWERED: i32 = 0x200;

/// Counts a drop and gives the code that tcx and a clsact filter both take.
#[inline(always)]
pub fn action(verdict: Result<Verdict, DropReason>) -> i32 {
    match verdict {
        Ok(Verdict::Pass) => NEXT,
        Ok(Verdict::Taken) => DROP,
        Ok(Verdict::Redirect(code) | Verdict::Part(code)) => code,
        Err(reason) => {
            count::dropped(reason);
            DROP
        }
    }
}

/// The same as one number, for a part of a program to return: the verifier
/// would follow what a result leaves unwritten.
#[inline(always)]
pub fn part(verdict: Result<Verdict, DropReason>) -> i32 {
    match verdict {
        Ok(Verdict::Taken) => TAKEN,
        verdict => action(verdict),
    }
}
