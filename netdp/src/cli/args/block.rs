//! `netdp block` and `unblock`.

use std::path::PathBuf;

use clap::Args;

use super::Format;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                  netdp block 203.0.113.0/24 2001:db8:bad::/48\n  \
                  netdp block --file drop.txt   one to a line; # and ; begin remarks\n  \
                  curl -s https://example.org/drop.txt | netdp block -\n  \
                  netdp block                   what is blocked, and what was dropped")]
pub struct BlockArgs {
    /// Networks or addresses; - reads them from standard input. Without any,
    /// those that are blocked are listed.
    #[arg(value_name = "CIDR")]
    pub sources: Vec<String>,
    /// Reads them from a file, one to a line.
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                  netdp unblock 203.0.113.0/24\n  \
                  netdp unblock --all")]
pub struct UnblockArgs {
    /// Networks or addresses, as they were blocked; - reads them from standard
    /// input.
    #[arg(value_name = "CIDR", required_unless_present_any = ["file", "all"])]
    pub sources: Vec<String>,
    /// Reads them from a file, one to a line.
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// All that are blocked.
    #[arg(long, conflicts_with_all = ["sources", "file"])]
    pub all: bool,
}
