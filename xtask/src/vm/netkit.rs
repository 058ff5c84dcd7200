//! Integration tests that run in a machine whose kernel has netkit, with pairs
//! of it in place of veth.

use std::time::Duration;

use anyhow::Result;
use xtask::workspace::Workspace;

use crate::test::programs::{self, Program};

/// Test programs, and what the names of those of their tests hold that run; all
/// of a program where nothing is named. They are those that differ by the kind
/// of a pair: by the way of what a container sends, who carries it while no
/// daemon runs, and what is left. Emulated, a test takes 10 s or more.
const CHOSEN: [(&str, &[&str]); 10] = [
    ("spoofing", &[]),
    (
        "published",
        &[
            "tcp_arrives",
            "udp_answers",
            "unpublish_works",
            "large_datagrams",
        ],
    ),
    (
        "masquerade",
        &["same_port_to_the_same", "ping_is", "first_hop"],
    ),
    ("isolation", &["internal_network", "closed_to_each_other"]),
    ("icmp_errors", &["narrow_uplink", "closed_port"]),
    (
        "ipv6",
        &[
            "keep_the_clients",
            "leaves_under",
            "not_the_containers",
            "outlive_the_daemon",
        ],
    ),
    ("restart", &["lost_state"]),
    ("lifecycle", &["when_it_ends", "a_namespace"]),
    ("fragments", &["overtake"]),
    ("big_tcp", &["by_every_way"]),
];

/// How long they may take together.
pub const LIMIT: Duration = Duration::from_secs(1200);

/// What the machine runs.
pub struct Tests {
    pub programs: Vec<Program>,
    /// A line for each: its name, and what the names of its tests hold.
    pub list: String,
}

impl Tests {
    /// # Errors
    /// When they can't be built.
    pub fn build(workspace: &Workspace) -> Result<Self> {
        let mut wanted = vec!["--package", "netdp-tests"];
        for (program, _) in CHOSEN {
            wanted.extend(["--test", program]);
        }
        Ok(Self {
            programs: programs::build(&workspace.root, &wanted)?,
            list: list(),
        })
    }
}

fn list() -> String {
    let line = |(program, names): (&str, &[&str])| format!("{program} {}\n", names.join(" "));
    CHOSEN.map(line).concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_a_program_and_its_tests() {
        assert!(list().contains("\nisolation internal_network closed_to_each_other\n"));
        assert_eq!(list().lines().count(), CHOSEN.len());
    }

    #[test]
    fn what_is_chosen_is_there() {
        let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/tests");
        for (program, names) in CHOSEN {
            let source = std::fs::read_to_string(format!("{tests}/{program}.rs")).unwrap();
            for name in names {
                let mut found = source.lines().filter(|line| line.starts_with("fn "));
                assert!(
                    found.any(|line| line.contains(name)),
                    "{program} has no test {name}"
                );
            }
        }
    }
}
