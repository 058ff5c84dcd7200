//! What the command line has measured.

use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{ValueEnum, builder::PossibleValue};

use super::args::{CompareArgs, Subject};
use super::{Growth, Mode, Scenario};
use crate::load::{Kind, WARM_UP, allowed_cpus, last_allowed_cpu};

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
    pub(super) growth: Vec<Grown>,
    pub(super) programs: bool,
    pub(super) drops: bool,
    pub(super) modes: Vec<Mode>,
    pub(super) effort: Effort,
    /// All that may be used, the effort's first.
    pub(super) cpus: Vec<usize>,
    /// Whether hosts spread what they receive, by cores.
    pub(super) rps: bool,
}

/// What there is more and more of.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Grown {
    pub(super) what: Growth,
    pub(super) sizes: Vec<usize>,
    pub(super) workloads: Vec<Kind>,
}

impl Plan {
    /// The CPUs that anything is measured on.
    pub(super) fn claimed(&self) -> &[usize] {
        let cores = self.growth.iter().filter(|it| it.what == Growth::Cores);
        let most = cores.flat_map(|it| &it.sizes).max();
        &self.cpus[..most.copied().unwrap_or(1)]
    }
}

impl CompareArgs {
    /// What is measured, of what the modes carry.
    ///
    /// # Errors
    /// As [`Subject::ensure_carried_by`] for what was asked for by name.
    fn subjects(&self, modes: &[Mode]) -> anyhow::Result<Vec<Subject>> {
        let mut subjects = match (&self.scenario[..], self.quick) {
            ([], false) => Subject::value_variants().to_vec(),
            ([], true) => Scenario::ALL.map(Subject::Traffic).to_vec(),
            (chosen, _) => {
                let chosen = without_repetition(chosen);
                for subject in &chosen {
                    subject.ensure_carried_by(modes)?;
                }
                chosen
            }
        };
        subjects.retain(|subject| subject.is_carried_by(modes));
        Ok(subjects)
    }

    /// # Errors
    /// When a choice makes no sense, or the CPU can't be used.
    pub(super) fn plan(&self) -> anyhow::Result<Plan> {
        let modes = match (&self.mode[..], self.quick) {
            ([], false) => Mode::usual(),
            ([], true) => Mode::few(),
            (chosen, _) => without_repetition(chosen),
        };
        let subjects = self.subjects(&modes)?;
        let (mut scenarios, mut growth) = (Vec::new(), Vec::new());
        let (mut programs, mut drops) = (false, false);
        for subject in subjects {
            match subject {
                Subject::Programs => programs = true,
                Subject::Drops => drops = true,
                Subject::Growth(what) => {
                    let sizes = without_repetition(&self.sizes);
                    let sizes: Vec<usize> = match &sizes[..] {
                        [] => what.sizes().to_vec(),
                        chosen => chosen.iter().map(|size| *size as usize).collect(),
                    };
                    can_be_had(what, &sizes)?;
                    let workloads = match (what, &self.workload[..]) {
                        (Growth::Cores, [_, ..]) => without_repetition(&self.workload),
                        _ => vec![Kind::Crr],
                    };
                    growth.push(Grown {
                        what,
                        sizes,
                        workloads,
                    });
                }
                Subject::Traffic(scenario) => {
                    let workloads = match (&self.workload[..], self.quick) {
                        ([], false) => Kind::ALL.to_vec(),
                        ([], true) => scenario.few(),
                        (chosen, _) => without_repetition(chosen),
                    };
                    scenarios.push((scenario, workloads));
                }
            }
        }
        answered(&self.workload)?;
        let by_cores = growth.iter().any(|it| it.what == Growth::Cores);
        ensure!(
            self.workload.is_empty() || !scenarios.is_empty() || by_cores,
            "--workload is for published, egress, containers, local and cores, none of which is \
             measured"
        );
        ensure!(
            self.sizes.is_empty() || !growth.is_empty(),
            "--sizes is for ports, flows, endpoints and cores, none of which is measured"
        );
        ensure!(
            !self.rps || by_cores,
            "--rps is for cores, which are not measured"
        );
        // Many short rounds tell more than few long ones that take as long.
        let (rounds, milliseconds) = if self.quick { (13, 40) } else { (11, 100) };
        let duration = Duration::from_millis(self.milliseconds.unwrap_or(milliseconds));
        let cpu = chosen_cpu(self.cpu)?;
        let others = allowed_cpus().context("cannot choose CPUs")?;
        let others = others.into_iter().rev().filter(|other| *other != cpu);
        Ok(Plan {
            scenarios,
            growth,
            programs,
            drops,
            modes,
            effort: Effort {
                rounds: self.rounds.unwrap_or(rounds).into(),
                duration,
                warm_up: WARM_UP.min(duration / 3),
                cpu,
            },
            cpus: [cpu].into_iter().chain(others).collect(),
            rps: self.rps,
        })
    }
}

impl Subject {
    fn is_carried_by(&self, modes: &[Mode]) -> bool {
        match self {
            Self::Traffic(scenario) => modes.iter().any(|mode| scenario.has(mode)),
            Self::Growth(growth) => modes.iter().any(|mode| growth.has(mode)),
            Self::Programs | Self::Drops => true,
        }
    }

    /// # Errors
    /// When none of the modes carries it: nothing would be measured.
    fn ensure_carried_by(&self, modes: &[Mode]) -> anyhow::Result<()> {
        let names: Vec<String> = modes.iter().map(Mode::to_string).collect();
        let value = self.to_possible_value();
        ensure!(
            self.is_carried_by(modes),
            "{} is not to be had by --mode {}: choose another mode",
            value.as_ref().map_or("it", PossibleValue::get_name),
            names.join(",")
        );
        Ok(())
    }
}

/// # Errors
/// When one isn't there to be chosen.
pub(super) fn answered(workloads: &[Kind]) -> anyhow::Result<()> {
    ensure!(
        !workloads.contains(&Kind::UdpDropped),
        "{} is what --scenario drops measures, and no workload of another",
        Kind::UdpDropped
    );
    Ok(())
}

/// # Errors
/// When a host can't have as few or as many.
fn can_be_had(what: Growth, sizes: &[usize]) -> anyhow::Result<()> {
    let (least, most, name) = (what.least(), what.most(), what.name());
    for size in sizes {
        ensure!(
            *size <= most,
            "{size} {name} are more than can be had here: at most {most}"
        );
        ensure!(
            *size >= least,
            "{size} {name} are fewer than every host here has: at least {least}"
        );
    }
    Ok(())
}

/// # Errors
/// When there is no such CPU.
pub(super) fn chosen_cpu(chosen: Option<usize>) -> anyhow::Result<usize> {
    let Some(cpu) = chosen else {
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

/// In the order in which they first come.
pub(super) fn without_repetition<T: Clone + PartialEq>(items: &[T]) -> Vec<T> {
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

    use super::super::BenchArgs;
    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn args(words: &str) -> Result<CompareArgs, clap::Error> {
        let words = ["bench"].into_iter().chain(words.split_whitespace());
        Line::try_parse_from(words).map(|line| line.args.compare)
    }

    fn plan(words: &str) -> Plan {
        args(words).unwrap().plan().unwrap()
    }

    #[test]
    fn all_is_measured_unless_told_otherwise() {
        let all = plan("");
        assert_eq!(all.scenarios.len(), Scenario::ALL.len());
        let growth: Vec<Growth> = all.growth.iter().map(|it| it.what).collect();
        assert_eq!(growth, Growth::ALL);
        assert!(all.programs);
        assert_eq!(all.modes, Mode::usual());
        let workloads = all.scenarios.iter().map(|(_, workloads)| workloads.len());
        assert!(workloads.min() == Some(Kind::ALL.len()));
        assert_eq!(all.effort.rounds, 11);
    }

    #[test]
    fn quick_leaves_out_what_was_not_asked_for() {
        let quick = plan("--quick");
        assert!(quick.modes.len() < Mode::usual().len());
        assert!(quick.growth.is_empty() && !quick.programs);
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
        let plan = plan("--scenario local,published,ports,local --mode netdp --mode netdp");
        let ports = Grown {
            what: Growth::Ports,
            sizes: Growth::Ports.sizes(),
            workloads: vec![Kind::Crr],
        };
        assert_eq!(plan.growth, [ports]);
        let scenarios: Vec<Scenario> = plan.scenarios.iter().map(|(name, _)| *name).collect();
        assert_eq!(scenarios, [Scenario::Local, Scenario::Published]);
        assert_eq!(plan.modes.len(), 1);
    }

    #[test]
    fn sizes_are_as_chosen_where_they_can_be_had() {
        let chosen = plan("--scenario flows --sizes 0,7,7").growth;
        assert_eq!(chosen[0].sizes, [0, 7]);
        let refused = args("--scenario endpoints --sizes 2,5000").unwrap();
        let refusal = refused.plan().unwrap_err().to_string();
        assert!(refusal.contains("5000 endpoints"), "{refusal}");
        for (words, said) in [
            ("--scenario ports --sizes 7,6", "6 ports are fewer"),
            ("--scenario endpoints --sizes 1,2", "at least 2"),
            ("--scenario flows,ports --sizes 0,10", "at least 7"),
        ] {
            let refusal = args(words).unwrap().plan().unwrap_err().to_string();
            assert!(refusal.contains(said), "{words}: {refusal}");
        }
    }

    #[test]
    fn choices_that_change_nothing_are_refused() {
        for (words, said) in [
            (
                "--scenario ports,programs --workload bulk",
                "--workload is for",
            ),
            ("--scenario published --sizes 10", "--sizes is for"),
            ("--quick --sizes 10", "--sizes is for"),
            ("--scenario published --rps", "--rps is for"),
            ("--scenario local --mode floor", "local is not to be had"),
            (
                "--scenario ports --mode host,floor",
                "ports is not to be had by --mode host,floor",
            ),
            ("--workload udp-dropped", "udp-dropped is what"),
        ] {
            let refusal = args(words).unwrap().plan().unwrap_err().to_string();
            assert!(refusal.starts_with(said), "{words}: {refusal}");
        }
        let both = plan("--scenario local,flows --workload rr --sizes 5");
        assert_eq!((both.scenarios.len(), both.growth.len()), (1, 1));
    }

    #[test]
    fn cores_are_measured_by_the_workloads_that_were_chosen() {
        let cores = plan("--scenario cores,ports --workload rr,crr");
        let kinds = cores.growth.iter().map(|it| it.workloads.as_slice());
        let kinds: Vec<&[Kind]> = kinds.collect();
        assert_eq!(kinds, [&[Kind::Rr, Kind::Crr][..], &[Kind::Crr]]);
    }

    #[test]
    fn all_cpus_that_are_measured_on_are_claimed() {
        let all = allowed_cpus().unwrap();
        let first = all[0];
        let cores = plan(&format!("--scenario cores --cpu {first}"));
        assert_eq!(cores.claimed().len(), all.len());
        assert_eq!(cores.cpus[0], first);
        let one = plan(&format!("--scenario cores --sizes 1 --cpu {first}"));
        assert_eq!(one.claimed(), [first]);
        assert_eq!(plan("--scenario ports").claimed().len(), 1);
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
            ("--rounds 0", "1..=1000"),
            ("--milliseconds 5", "20..="),
            ("--format html", "json"),
            ("server --quick", "--quick"),
            ("client", "HOST:PORT"),
            ("client 192.0.2.1", "HOST:PORT"),
            ("control --endpoints 0", "1..="),
            ("control --quick --cycles 3", "--cycles"),
        ] {
            let error = args(words).unwrap_err().render().to_string();
            assert!(error.contains(said), "{words}: {error}");
        }
        let absent = args("--cpu 1023").unwrap().plan().unwrap_err().to_string();
        assert!(absent.contains("taskset"), "{absent}");
    }
}
