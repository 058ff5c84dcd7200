//! `netdp limit`.

use clap::Args;

use super::Format;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                  netdp limit 200               200 a second, and 400 at once\n  \
                  netdp limit 200 --burst 1000\n  \
                  netdp limit                   what the limit is, and what was dropped\n  \
                  netdp limit --off")]
pub struct LimitArgs {
    /// Conversations that a source outside (an IPv4 address, a /64 of IPv6) may
    /// begin in a second.
    #[arg(value_name = "PER-SECOND")]
    pub rate: Option<u64>,
    /// Those that it may begin at once when it has begun none for a while
    /// [default: twice as many as in a second].
    #[arg(long, value_name = "NUMBER", requires = "rate")]
    pub burst: Option<u64>,
    /// Ends the limit.
    #[arg(long, conflicts_with_all = ["rate", "burst"])]
    pub off: bool,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}
