//! The scenarios, each on every mode that can be had.

use anyhow::bail;

use super::claim::Claim;
use super::drops;
use super::measure::{Lane, measure};
use super::plan::Plan;
use super::programs;
use super::report::{Failed, LeftOut, Machine, Report, ScenarioResult};
use super::site::{Outside, Site, Size};
use super::sizes;
use crate::printed::one_line;
use crate::progress::Progress;
use crate::world::process::ProcessError;
use crate::world::{World, interrupt};

/// Everything it makes is gone when it returns, whichever way it does.
pub(super) fn run(plan: &Plan) -> anyhow::Result<Report> {
    let progress = Progress::new();
    let claim = Claim::of(plan.claimed(), &progress)?;
    let mut report = Report {
        machine: Machine::here(plan.effort.text("client and server")),
        effort: plan.effort.into(),
        busy: claim.busy,
        left_out: Vec::new(),
        failed: Vec::new(),
        scenarios: Vec::new(),
        growth: Vec::new(),
        programs: Vec::new(),
    };
    let mut failures = Vec::new();
    if !plan.scenarios.is_empty() {
        let done = scenarios(plan, &mut report, &progress);
        failures.extend(failure("scenarios", done, &progress)?);
    }
    if !plan.growth.is_empty() {
        let pieces = plan.growth.iter().map(|grown| sizes::pieces(plan, grown));
        progress.expect(pieces.sum::<usize>() as u64);
        for grown in &plan.growth {
            let done = sizes::run(plan, grown, &progress);
            let done = done.map(|results| report.growth.extend(results));
            failures.extend(failure(grown.what.name(), done, &progress)?);
        }
    }
    if plan.programs {
        let done = programs::run(plan, &progress);
        let done = done.map(|results| report.programs = results);
        failures.extend(failure("programs", done, &progress)?);
    }
    if plan.drops {
        progress.expect((drops::WAYS * plan.effort.rounds) as u64);
        let done = drops::run(plan, &mut report.left_out, &progress);
        let done = done.map(|result| report.scenarios.push(result));
        failures.extend(failure("drops", done, &progress)?);
    }
    progress.step("removing everything");
    finish(report, failures)
}

/// What went wrong in one part of all.
struct Failure {
    part: &'static str,
    error: anyhow::Error,
}

/// What other parts measured isn't lost by one that fails.
///
/// # Errors
/// On an interrupt, which ends all.
fn failure(
    part: &'static str,
    done: anyhow::Result<()>,
    progress: &Progress,
) -> anyhow::Result<Option<Failure>> {
    let Err(error) = done else { return Ok(None) };
    if interrupt::received().is_some() {
        return Err(error);
    }
    progress.note(&format!("left out: {part}: {}", one_line(&error)));
    Ok(Some(Failure { part, error }))
}

/// # Errors
/// The first of `failures`, where nothing was measured.
fn finish(mut report: Report, failures: Vec<Failure>) -> anyhow::Result<Report> {
    let mut failures = failures.into_iter();
    if report.is_empty()
        && let Some(first) = failures.next()
    {
        return Err(first.error);
    }
    report.failed = failures
        .map(|Failure { part, error }| Failed {
            part: part.into(),
            why: one_line(&error),
        })
        .collect();
    Ok(report)
}

fn scenarios(plan: &Plan, report: &mut Report, progress: &Progress) -> anyhow::Result<()> {
    progress.step("making a client and hosts");
    let mut world = World::new("bench")?;
    let sites = sites(&mut world, plan, &mut report.left_out, progress)?;
    let _outside = Outside::start(&world, &Size::on(&[plan.effort.cpu]))?;
    let pieces = plan.scenarios.iter().map(|(scenario, workloads)| {
        let modes = sites.iter().filter(|site| scenario.has(&site.mode));
        modes.count() * workloads.len() * plan.effort.rounds
    });
    progress.expect(pieces.sum::<usize>() as u64);
    for (scenario, workloads) in &plan.scenarios {
        let mut results = Vec::new();
        for &kind in workloads {
            progress.step(&format!("{}: {kind}", scenario.title()));
            let sites = sites.iter().filter(|site| scenario.has(&site.mode));
            let lanes: Vec<Lane<'_>> = sites
                .map(|site| {
                    let route = site.route(&world, *scenario);
                    Lane {
                        name: site.mode.to_string(),
                        title: site.title(*scenario),
                        pairs: route.pairs(kind),
                        client: Box::new(move || route.client()),
                        judge: None,
                    }
                })
                .collect();
            if !lanes.is_empty() {
                results.push(measure(&lanes, kind, &plan.effort, progress)?);
            }
        }
        report.scenarios.push(ScenarioResult {
            scenario: scenario.name().into(),
            title: scenario.title().into(),
            workloads: results,
        });
    }
    Ok(())
}

/// What can't be had here is left out, with a note.
fn sites(
    world: &mut World,
    plan: &Plan,
    left_out: &mut Vec<LeftOut>,
    progress: &Progress,
) -> anyhow::Result<Vec<Site>> {
    let mut sites = Vec::new();
    for mode in &plan.modes {
        progress.step(&format!("making a host: {}", mode.title()));
        match Site::apart(world, mode, &Size::on(&[plan.effort.cpu])) {
            Ok(site) => sites.push(site),
            Err(_) if interrupt::received().is_some() => {
                return Err(ProcessError::Interrupted.into());
            }
            Err(why) => {
                let why = one_line(&why);
                progress.note(&format!("left out: {}: {why}", mode.title()));
                left_out.push(LeftOut {
                    mode: mode.to_string(),
                    title: mode.title(),
                    why,
                });
            }
        }
    }
    if sites.is_empty() {
        bail!("nothing to measure: none of the modes can be had here");
    }
    Ok(sites)
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::super::report::tests::report;
    use super::*;

    fn failures() -> Vec<Failure> {
        [("flows", "no room"), ("programs", "too old")]
            .map(|(part, why)| Failure {
                part,
                error: anyhow!(why),
            })
            .into()
    }

    #[test]
    fn what_was_measured_stays_when_another_part_fails() {
        let kept = finish(report(0), failures()).unwrap();
        assert_eq!(kept.scenarios.len(), 1);
        let parts: Vec<&str> = kept.failed.iter().map(|it| it.part.as_str()).collect();
        assert_eq!(parts, ["flows", "programs"]);
        assert!(finish(report(0), Vec::new()).unwrap().is_complete());
    }

    #[test]
    fn where_nothing_was_measured_the_first_failure_is_told() {
        let mut nothing = report(0);
        nothing.scenarios.clear();
        nothing.programs.clear();
        let error = finish(nothing, failures()).unwrap_err();
        assert_eq!(error.to_string(), "no room");
    }
}
