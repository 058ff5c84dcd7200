//! The command line of `netdp bench`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::ValueEnum;

use super::{Mode, Scenario};
use crate::load::{Kind, WARM_UP, last_allowed_cpu};

/// `netdp bench`
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
                  netdp bench --quick                       the comparison in a minute\n  \
                  netdp bench                               all of it, a quarter of an hour\n  \
                  netdp bench --scenario published --workload rr,crr --rounds 15\n  \
                  netdp bench --mode host,netdp             only these; the first is compared with")]
pub struct BenchArgs {
    /// A minute instead of a quarter of an hour: fewer modes, scenarios with the
    /// two workloads that tell most, short rounds
    #[arg(long)]
    pub quick: bool,
    /// Who speaks to whom [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SCENARIO")]
    pub scenario: Vec<Scenario>,
    /// What carries it: host, host-rules, docker-nft, docker-legacy, nft, netdp,
    /// or netdp with options of its network, such as netdp:KEY=VALUE; the first
    /// is what the others are compared with [default: all]
    #[arg(long, value_delimiter = ',', value_name = "MODE")]
    pub mode: Vec<Mode>,
    /// What is measured [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WORKLOAD")]
    pub workload: Vec<Kind>,
    /// How often each mode is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub rounds: u8,
    /// How long each measurement takes [default: 400, with --quick 100]
    #[arg(long, value_parser = clap::value_parser!(u64).range(20..=60_000))]
    pub milliseconds: Option<u64>,
    /// The CPU that client and server share [default: the last that may be used]
    #[arg(long, value_name = "NUMBER")]
    pub cpu: Option<usize>,
    /// Also write a page with charts to this file
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// How to print the results
    #[arg(long, value_enum, default_value = "table")]
    pub format: BenchFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchFormat {
    Table,
    Json,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    pub(super) rounds: usize,
    pub(super) duration: Duration,
    pub(super) warm_up: Duration,
    /// That client and server share.
    pub(super) cpu: usize,
}

/// What is measured.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) scenarios: Vec<(Scenario, Vec<Kind>)>,
    pub(super) modes: Vec<Mode>,
    pub(super) effort: Effort,
}

impl BenchArgs {
    /// # Errors
    /// When a choice makes no sense, or the CPU can't be used.
    pub(super) fn plan(&self) -> anyhow::Result<Plan> {
        let modes = match (&self.mode[..], self.quick) {
            ([], false) => Mode::usual(),
            ([], true) => Mode::few(),
            (chosen, _) => without_repetition(chosen),
        };
        let scenarios = match &self.scenario[..] {
            [] => Scenario::ALL.to_vec(),
            chosen => without_repetition(chosen),
        };
        let scenarios = scenarios.into_iter().map(|scenario| {
            let workloads = match (&self.workload[..], self.quick) {
                ([], false) => Kind::ALL.to_vec(),
                ([], true) => scenario.few(),
                (chosen, _) => without_repetition(chosen),
            };
            (scenario, workloads)
        });
        let usual = if self.quick { 100 } else { 400 };
        let duration = Duration::from_millis(self.milliseconds.unwrap_or(usual));
        Ok(Plan {
            scenarios: scenarios.collect(),
            modes,
            effort: Effort {
                rounds: self.rounds.into(),
                duration,
                warm_up: WARM_UP.min(duration / 3),
                cpu: self.chosen_cpu()?,
            },
        })
    }

    fn chosen_cpu(&self) -> anyhow::Result<usize> {
        let Some(cpu) = self.cpu else {
            return last_allowed_cpu().context("cannot choose a CPU");
        };
        let may_be_used = std::thread::scope(|scope| {
            let pinned = scope.spawn(|| crate::load::pin(cpu).is_ok());
            pinned.join().unwrap_or(false)
        });
        ensure!(
            may_be_used,
            "there is no CPU {cpu} that may be used here; taskset -p $$ shows which may"
        );
        Ok(cpu)
    }
}

/// In the order in which they first come.
fn without_repetition<T: Clone + PartialEq>(items: &[T]) -> Vec<T> {
    let mut kept: Vec<T> = Vec::new();
    for item in items {
        if !kept.contains(item) {
            kept.push(item.clone());
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn args(words: &str) -> Result<BenchArgs, clap::Error> {
        let words = ["bench"].into_iter().chain(words.split_whitespace());
        Line::try_parse_from(words).map(|line| line.args)
    }

    fn plan(words: &str) -> Plan {
        args(words).unwrap().plan().unwrap()
    }

    #[test]
    fn all_is_measured_unless_told_otherwise() {
        let all = plan("");
        assert_eq!(all.scenarios.len(), Scenario::ALL.len());
        assert_eq!(all.modes, Mode::usual());
        let workloads = all.scenarios.iter().map(|(_, workloads)| workloads.len());
        assert!(workloads.min() == Some(Kind::ALL.len()));
        assert_eq!(all.effort.rounds, 5);
    }

    #[test]
    fn quick_leaves_out_what_was_not_asked_for() {
        let quick = plan("--quick");
        assert!(quick.modes.len() < Mode::usual().len());
        assert!(quick.effort.duration < plan("").effort.duration);
        let asked = plan("--quick --mode docker-legacy,host --workload http --milliseconds 700");
        assert_eq!(asked.modes, [Mode::DockerLegacy, Mode::Host]);
        assert!(
            asked
                .scenarios
                .iter()
                .all(|(_, kinds)| *kinds == [Kind::Http])
        );
        assert_eq!(asked.effort.duration, Duration::from_millis(700));
    }

    #[test]
    fn what_is_said_twice_is_measured_once() {
        let plan = plan("--scenario local,published,local --mode netdp --mode netdp");
        let scenarios: Vec<Scenario> = plan.scenarios.iter().map(|(name, _)| *name).collect();
        assert_eq!(scenarios, [Scenario::Local, Scenario::Published]);
        assert_eq!(plan.modes.len(), 1);
    }

    #[test]
    fn warming_up_never_takes_longer_than_measuring() {
        let effort = plan("--milliseconds 30").effort;
        assert!(effort.warm_up < effort.duration);
    }

    #[test]
    fn wrong_usage_is_refused_with_what_is_possible() {
        for (words, said) in [
            ("--scenario inside", "published"),
            ("--mode podman", "docker-nft"),
            ("--mode netdp:fast", "KEY=VALUE"),
            ("--workload ping", "udp-rr"),
            ("--rounds 0", "1..=100"),
            ("--milliseconds 5", "20..="),
            ("--format html", "json"),
        ] {
            let error = args(words).unwrap_err().render().to_string();
            assert!(error.contains(said), "{words}: {error}");
        }
        let absent = args("--cpu 1023").unwrap().plan().unwrap_err().to_string();
        assert!(absent.contains("taskset"), "{absent}");
    }
}
