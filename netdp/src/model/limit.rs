//! How many conversations a source outside may begin.

use netdp_common::limit::{MAX_BURST, MAX_RATE};
use serde::{Deserialize, Serialize};

use super::{Refusal, State};

/// What a source may begin with published ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Limit {
    /// Conversations a second, never 0.
    pub rate: u32,
    /// Conversations at once, of one that has begun none for a while; never fewer
    /// than a second's.
    pub burst: u32,
    /// Since when, seconds since the Unix epoch.
    pub since: u64,
}

impl From<Limit> for netdp_common::limit::Limit {
    fn from(limit: Limit) -> Self {
        Self::new(limit.rate, limit.burst)
    }
}

impl State {
    /// Limits what every source may begin; without a burst to what two seconds
    /// have. Takes the place of another limit.
    ///
    /// # Errors
    /// Numbers that make no sense, or that no limit can have.
    pub fn set_limit(&mut self, rate: u64, burst: Option<u64>, now: u64) -> Result<(), Refusal> {
        if rate == 0 {
            return Err(Refusal::invalid(
                "a limit of 0 would let nobody in: unpublish the ports, or block sources \
                 (`netdp block`); to end the limit, say `netdp limit --off`",
            ));
        }
        let rate = at_most(rate, MAX_RATE, "conversations a second")?;
        let burst = burst.unwrap_or(2 * u64::from(rate));
        if burst < u64::from(rate) {
            return Err(Refusal::invalid(format!(
                "--burst {burst} is less than what a second has: say at least {rate}"
            )));
        }
        let burst = at_most(burst, MAX_BURST, "conversations at once")?;
        let since = match self.limit {
            Some(limit) if (limit.rate, limit.burst) == (rate, burst) => limit.since,
            _ => now,
        };
        self.limit = Some(Limit { rate, burst, since });
        Ok(())
    }

    /// Whether what is kept is a limit that could be asked for.
    pub(super) fn check_limit(&self) -> Result<(), String> {
        let Some(Limit { rate, burst, .. }) = self.limit else {
            return Ok(());
        };
        if rate == 0 || rate > MAX_RATE || burst < rate || burst > MAX_BURST {
            return Err(format!(
                "there is a limit of {rate} with a burst of {burst}"
            ));
        }
        Ok(())
    }
}

fn at_most(number: u64, most: u32, what: &str) -> Result<u32, Refusal> {
    match u32::try_from(number) {
        Ok(number) if number <= most => Ok(number),
        _ => Err(Refusal::invalid(format!(
            "cannot limit to {number} {what}: {most} is the most"
        ))),
    }
}
