//! What becomes of a packet.

use netdp_common::drop::DropReason;

use crate::count;

/// What a program decided.
#[derive(Clone, Copy)]
pub enum Verdict {
    /// Not ours, or for the kernel's stack: goes on to the next program.
    Pass,
    /// Held, or sent anew from the start of this hook.
    Taken,
    /// A redirect helper has been called; its return code is the action.
    Redirect(i32),
}

/// `TCX_NEXT` (`include/uapi/linux/bpf.h`, 6.6), which is also `TC_ACT_UNSPEC`.
const NEXT: i32 = -1;
/// `TCX_DROP`, which is also `TC_ACT_SHOT`.
const DROP: i32 = 2;

/// Counts a drop and gives the code that tcx and a clsact filter both take.
#[inline(always)]
pub fn action(verdict: Result<Verdict, DropReason>) -> i32 {
    match verdict {
        Ok(Verdict::Pass) => NEXT,
        Ok(Verdict::Taken) => DROP,
        Ok(Verdict::Redirect(code)) => code,
        Err(reason) => {
            count::dropped(reason);
            DROP
        }
    }
}
