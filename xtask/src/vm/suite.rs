//! Integration tests that run in a machine, once more than on this one: with
//! pairs of netkit in place of veth, or with other options of networks.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Result, bail};
use xtask::workspace::Workspace;

use crate::test::programs::{self, Built, Program};

/// Test programs, and what the names of those of their tests hold that run; all
/// of a program where nothing is named. They are those that differ by the kind
/// of a pair: by the way of what a container sends, who carries it while no
/// daemon runs, and what is left. Emulated, a test takes 10 s or more.
const CHOSEN: [(&str, &[&str]); 11] = [
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
    (
        "direct",
        &[
            "every_place_reach_the_same",
            "both_families_hears_both",
            "unpublished_port_is_closed",
        ],
    ),
];

/// Programs that are of no use there: they need engines or this source, play
/// Docker, whose pairs are its own, or measure.
const ELSEWHERE: [&str; 6] = [
    "accelerate",
    "bench",
    "docker_replays",
    "docs",
    "engine_",
    "volume",
];

/// How long the chosen ones may take together.
const LIMIT: Duration = Duration::from_secs(1200);
/// And a program of those that were asked for. Most take a few minutes.
const PROGRAM_LIMIT: Duration = Duration::from_secs(1800);

/// What networks have in them unless it is said.
const NETKIT: &str = "device=netkit";

/// Which tests run in a machine.
pub struct Wanted {
    /// Programs of them, such as `restart`, or `all`; chosen tests where none is
    /// named.
    pub programs: Vec<String>,
    /// Options of networks that say nothing of them themselves, in place of
    /// `device=netkit`.
    pub network_opts: Vec<String>,
}

/// What the machine runs.
pub struct Tests {
    pub programs: Vec<Program>,
    /// What they start.
    pub helpers: Vec<PathBuf>,
    /// A line for each: its name, and what the names of its tests hold.
    pub list: String,
    /// Options of networks, as `NETDP_DEFAULT_NETWORK_OPTS` takes them.
    pub options: String,
    /// How long they may take together.
    pub limit: Duration,
}

impl Wanted {
    pub fn options(&self) -> String {
        if self.network_opts.is_empty() {
            return NETKIT.into();
        }
        self.network_opts.join(",")
    }

    /// Whether they need a kernel that has netkit.
    pub fn needs_netkit(&self) -> bool {
        self.options().split(',').any(|option| option == NETKIT)
    }

    /// Builds them.
    ///
    /// # Errors
    /// When they can't be built, or one that is named is none.
    pub fn build(&self, workspace: &Workspace) -> Result<Tests> {
        let lines = self.lines(&sources(workspace)?)?;
        let mut wanted = vec!["--package", "netdp-tests"];
        for (program, _) in &lines {
            wanted.extend(["--test", program]);
        }
        let limit = if self.programs.is_empty() {
            LIMIT
        } else {
            PROGRAM_LIMIT * u32::try_from(lines.len())?
        };
        let Built { tests, helpers } = programs::build(&workspace.root, &wanted)?;
        Ok(Tests {
            programs: tests,
            helpers,
            list: list(&lines),
            options: self.options(),
            limit,
        })
    }

    /// Programs of `all`, and what the names of those of their tests hold that
    /// run.
    fn lines(&self, all: &[String]) -> Result<Vec<Line>> {
        if self.programs.is_empty() {
            return Ok(CHOSEN
                .map(|(program, names)| (program.to_owned(), names))
                .into());
        }
        let mut lines: Vec<Line> = Vec::new();
        for wanted in &self.programs {
            let found = all
                .iter()
                .filter(|it| wanted == "all" && is_of_use(it) || wanted == *it);
            let found: Vec<Line> = found.map(|it| (it.clone(), &[][..])).collect();
            if found.is_empty() {
                bail!("tests/tests has no {wanted}.rs");
            }
            lines.extend(found);
        }
        Ok(lines)
    }
}

type Line = (String, &'static [&'static str]);

fn is_of_use(program: &str) -> bool {
    !ELSEWHERE.iter().any(|it| program.starts_with(it))
}

/// The names of all test programs with sockets.
fn sources(workspace: &Workspace) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(workspace.root.join("tests/tests"))? {
        let path: PathBuf = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        if let Some(stem) = stem.filter(|_| path.extension().is_some_and(|end| end == "rs")) {
            names.push(stem.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn list(lines: &[Line]) -> String {
    let line = |(program, names): &Line| format!("{program} {}\n", names.join(" "));
    lines.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(programs: &[&str]) -> Wanted {
        Wanted {
            programs: programs.iter().map(|&it| it.to_owned()).collect(),
            network_opts: Vec::new(),
        }
    }

    #[test]
    fn a_line_names_a_program_and_its_tests() {
        let list = list(&wanted(&[]).lines(&[]).unwrap());
        assert!(list.contains("\nisolation internal_network closed_to_each_other\n"));
        assert_eq!(list.lines().count(), CHOSEN.len());
    }

    #[test]
    fn programs_that_are_named_run_whole() {
        let all = ["bench", "engine_docker", "names", "restart"].map(str::to_owned);
        let lines = |programs: &[&str]| wanted(programs).lines(&all).map(|lines| list(&lines));
        assert_eq!(lines(&["restart"]).unwrap(), "restart \n");
        assert_eq!(lines(&["all"]).unwrap(), "names \nrestart \n");
        assert_eq!(lines(&["bench"]).unwrap(), "bench \n");
        assert!(lines(&["names", "misspelt"]).is_err());
    }

    #[test]
    fn other_options_need_no_netkit() {
        let mut wanted = wanted(&[]);
        assert!(wanted.needs_netkit());
        wanted.network_opts = vec!["device=veth".into(), "sockmap=on".into()];
        assert!(!wanted.needs_netkit());
        assert_eq!(wanted.options(), "device=veth,sockmap=on");
    }

    #[test]
    fn what_is_chosen_is_there() {
        let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/tests");
        for (program, names) in CHOSEN {
            let source = fs::read_to_string(format!("{tests}/{program}.rs")).unwrap();
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
