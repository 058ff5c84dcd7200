//! How long flows are remembered.

use serde::{Deserialize, Serialize};

/// Most seconds that a time may have: a week, far from where seconds of a clock
/// would wrap.
pub const LONGEST_TIMEOUT: u32 = 604_800;

/// Seconds without a packet after which a flow is forgotten; where there are
/// none, those of the next larger thing hold: the daemon's for a network, those
/// of the RFCs for the daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Timeouts {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_established: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_transitory: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp: Option<u32>,
}

impl Timeouts {
    /// Its own, and where it has none those of `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            tcp_established: self.tcp_established.or(other.tcp_established),
            tcp_transitory: self.tcp_transitory.or(other.tcp_transitory),
            udp: self.udp.or(other.udp),
            icmp: self.icmp.or(other.icmp),
        }
    }

    /// The time that a network's option of this name sets.
    pub(super) fn of_option(&mut self, option: &str) -> Option<&mut Option<u32>> {
        Some(match option.strip_suffix("-timeout")? {
            "tcp-established" => &mut self.tcp_established,
            "tcp-transitory" => &mut self.tcp_transitory,
            "udp" => &mut self.udp,
            "icmp" => &mut self.icmp,
            _ => return None,
        })
    }
}

/// Seconds of a text like 30, 30s, 5m or 2h; none where it is something else or
/// out of range.
pub(super) fn seconds(text: &str) -> Option<u32> {
    let (number, unit) = match text.as_bytes().last()? {
        b's' => (&text[..text.len() - 1], 1),
        b'm' => (&text[..text.len() - 1], 60),
        b'h' => (&text[..text.len() - 1], 3600),
        _ => (text, 1),
    };
    let seconds = number.parse::<u32>().ok()?.checked_mul(unit)?;
    (1..=LONGEST_TIMEOUT).contains(&seconds).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_with_and_without_a_unit() {
        for (text, expected) in [
            ("30", Some(30)),
            ("30s", Some(30)),
            ("5m", Some(300)),
            ("168h", Some(LONGEST_TIMEOUT)),
            ("169h", None),
            ("0", None),
            ("", None),
            ("s", None),
            ("1.5s", None),
            ("-1", None),
            ("5 m", None),
            ("5d", None),
            ("4294967295h", None),
            ("3ä", None),
        ] {
            assert_eq!(seconds(text), expected, "{text:?}");
        }
    }
}
