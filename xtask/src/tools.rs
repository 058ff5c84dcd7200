//! Programs that tests and the demo run beside netdp.

use xtask::path;

use crate::apt;

/// A program, Debian's package for it, and what can't be done without it.
pub struct Tool {
    pub program: &'static str,
    pub package: &'static str,
    pub purpose: &'static str,
}

pub const TOOLS: [Tool; 6] = [
    Tool {
        program: "ip",
        package: "iproute2",
        purpose: "tests that look at links and routes",
    },
    Tool {
        program: "ping",
        package: "iputils-ping",
        purpose: "tests of ICMP echo",
    },
    Tool {
        program: "curl",
        package: "curl",
        purpose: "tests that fetch from published ports",
    },
    Tool {
        program: "bpftool",
        package: "bpftool",
        purpose: "tests that dump maps",
    },
    Tool {
        program: "iptables",
        package: "iptables",
        purpose: "comparing with Docker's rules",
    },
    Tool {
        program: "nft",
        package: "nftables",
        purpose: "tests that no rule was made, comparing with plain nftables",
    },
];

/// Installs what is missing where that is allowed, and says otherwise what
/// will be left out. Never an error: what needs a tool skips without it.
pub fn provide() {
    let missing = missing();
    if missing.is_empty() {
        return;
    }
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    if apt::may_install() {
        // One by one: a distribution may lack one of them.
        for package in &packages {
            if let Err(error) = apt::install(&[package]) {
                eprintln!("xtask: {error:#}");
            }
        }
    }
    for tool in self::missing() {
        eprintln!(
            "xtask: {} is missing, left out: {}",
            tool.program, tool.purpose
        );
    }
    if apt::is_present() && !apt::may_install() {
        eprintln!("xtask: to have them: {}", apt::advice(&packages));
    }
}

fn missing() -> Vec<&'static Tool> {
    TOOLS
        .iter()
        .filter(|tool| path::first(tool.program).is_none())
        .collect()
}
