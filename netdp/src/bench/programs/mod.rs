//! What netdp's programs cost: each kind of packet by itself, as the kernel's
//! test_run hands it to the daemon's own programs, under traffic, and with
//! several CPUs at once.

mod cores;
mod packets;
mod table;

use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;

use super::Mode;
use super::Scenario;
use super::plan::{Effort, Plan};
use super::report::short;
use super::site::{Outside, Site, Size};
use crate::bpf::TestPacket;
use crate::bpf::cost::{AskedMaps, Counting, Known, Loaded, Pinned};
use crate::load::{Kind, allowed_cpus, pin};
use crate::progress::Progress;
use crate::world::World;
use crate::world::load::Load;
use packets::{Place, SCRIPTS, Stand, TIMED};

pub(super) use cores::Shared;
#[cfg(test)]
pub(super) use table::tests;

/// The programs of one mode of netdp.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ProgramsResult {
    pub(super) mode: String,
    pub(super) title: String,
    pub(super) programs: Vec<ProgramSize>,
    /// What counting takes of each run, nanoseconds: that of an empty program.
    pub(super) empty: f64,
    /// Why nothing asked of maps was counted.
    pub(super) not_asked: Option<String>,
    pub(super) conversations: Vec<Conversation>,
    pub(super) traffic: Vec<Traffic>,
    pub(super) shared: Vec<Shared>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct ProgramSize {
    pub(super) program: String,
    /// Instructions that the verifier walked.
    pub(super) verified: u32,
    pub(super) instructions: u32,
    /// Machine code, bytes.
    pub(super) bytes: u32,
}

/// All packets of a conversation, in their order.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Conversation {
    pub(super) title: &'static str,
    pub(super) packets: Vec<PacketCost>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct PacketCost {
    pub(super) packet: &'static str,
    pub(super) program: &'static str,
    /// Median.
    pub(super) nanoseconds: f64,
    /// None where the kernel doesn't let them be counted.
    pub(super) asked: Option<AskedResult>,
}

/// See [`Asked`].
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct AskedResult {
    pub(super) lookups: u64,
    pub(super) inserts: u64,
    pub(super) removals: u64,
    pub(super) pushes: u64,
}

/// One workload, as long as a round.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Traffic {
    pub(super) scenario: String,
    pub(super) title: String,
    pub(super) workload: Kind,
    pub(super) operations: u64,
    pub(super) programs: Vec<Ran>,
    /// In all programs, nanoseconds.
    pub(super) nanoseconds_per_operation: f64,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Ran {
    pub(super) program: String,
    pub(super) runs_per_operation: f64,
    pub(super) nanoseconds_per_run: f64,
}
/// What is measured under traffic.
const TRAFFIC: [(Scenario, &[Kind]); 4] = [
    (
        Scenario::Published,
        &[Kind::Rr, Kind::UdpRr, Kind::Crr, Kind::UdpPps],
    ),
    (Scenario::Egress, &[Kind::Rr, Kind::UdpRr, Kind::Crr]),
    (Scenario::Containers, &[Kind::Rr, Kind::Crr]),
    (Scenario::Local, &[Kind::Crr]),
];

/// Measures each of the plan's modes that is netdp's, or netdp itself, one after
/// the other: each has a world and a daemon of its own, gone when it has been
/// measured.
///
/// # Errors
/// On an interrupt, when netdp can't be had here, or where the kernel doesn't
/// count (before Linux 5.8).
pub(super) fn run(plan: &Plan, progress: &Progress) -> anyhow::Result<Vec<ProgramsResult>> {
    let mut modes: Vec<Mode> = plan.modes.clone();
    modes.retain(|mode| matches!(mode, Mode::Netdp(_)));
    if modes.is_empty() {
        modes.push(Mode::Netdp(Vec::new()));
    }
    modes
        .iter()
        .map(|mode| of_mode(mode, &plan.effort, progress))
        .collect()
}

fn of_mode(mode: &Mode, effort: &Effort, progress: &Progress) -> anyhow::Result<ProgramsResult> {
    progress.step(&format!("making a host: {}", mode.title()));
    let mut world = World::new("bench")?;
    let size = Size::on(&[effort.cpu]);
    let site = Site::build(&mut world, mode, &size)?;
    let _outside = Outside::start(&world, &size)?;
    let _counting = Counting::begin().context("cannot have the kernel count runs of programs")?;
    of_site(&world, &site, effort, progress)
}

fn of_site(
    world: &World,
    site: &Site,
    effort: &Effort,
    progress: &Progress,
) -> anyhow::Result<ProgramsResult> {
    progress.step("programs under traffic");
    let pinned = Pinned::of(&world.bpffs());
    let traffic = traffic(world, site, effort, &pinned)?;
    progress.step("programs, packet by packet");
    let place = Place::of(world, site)?;
    let cpus = allowed_cpus()?;
    let inside = world.host.run(|| {
        pin(effort.cpu)?;
        let stand = Stand::new(&place, &pinned)?;
        let mut conversations = Vec::new();
        for script in &SCRIPTS {
            conversations.push(stand.time(script)?);
        }
        let not_asked = match AskedMaps::begin() {
            Ok(maps) => {
                for (script, conversation) in SCRIPTS.iter().zip(&mut conversations) {
                    stand.count(script, &maps, conversation)?;
                }
                None
            }
            Err(why) => Some(format!("questions to maps cannot be counted here: {why}")),
        };
        let empty = empty()?;
        progress.step("programs, on several CPUs at once");
        let shared = cores::measure(&stand, &cpus)?;
        anyhow::Ok((empty, conversations, not_asked, shared))
    });
    let (empty, conversations, not_asked, shared) = inside??;
    let mut programs = Vec::new();
    for (program, loaded) in pinned.all()? {
        let known = loaded.known()?;
        programs.push(ProgramSize {
            program,
            verified: known.verified,
            instructions: known.instructions,
            bytes: known.jited,
        });
    }
    Ok(ProgramsResult {
        mode: site.mode.to_string(),
        title: site.mode.title(),
        programs,
        empty,
        not_asked,
        conversations,
        traffic,
        shared,
    })
}

/// What counting adds to each run, in nanoseconds.
fn empty() -> anyhow::Result<f64> {
    let nothing = Loaded::nothing().context("cannot load an empty program")?;
    let bytes = [0; 64];
    let packet = TestPacket::received(&bytes, 1);
    let times = (0..TIMED).map(|_| timed(&nothing, &packet).map(|(time, _)| time));
    Ok(median(times.collect::<anyhow::Result<_>>()?))
}

/// One run, in nanoseconds, and its action.
fn timed(program: &Loaded, packet: &TestPacket<'_>) -> anyhow::Result<(f64, i32)> {
    let before = program.known()?.time;
    let action = program.run(packet)?;
    let time = program.known()?.time.saturating_sub(before);
    Ok((time.as_nanos() as f64, action))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
fn traffic(
    world: &World,
    site: &Site,
    effort: &Effort,
    pinned: &Pinned,
) -> anyhow::Result<Vec<Traffic>> {
    let programs = pinned.all()?;
    let known = || {
        let all = programs.iter().map(|(_, program)| program.known());
        all.collect::<std::io::Result<Vec<Known>>>()
    };
    let mut results = Vec::new();
    for (scenario, kinds) in TRAFFIC {
        let route = site.route(world, scenario);
        for &kind in kinds {
            let load = Load {
                kind,
                target: route.target(kind).into(),
                duration: effort.duration,
                // As good as none: its runs would count.
                warm_up: Duration::from_micros(1),
                cpu: effort.cpu,
            };
            let before = known()?;
            let done = load.run(route.client())?.operations;
            let after = known()?;
            if done == 0 {
                bail!("{}, {}: nothing got through", scenario.title(), short(kind));
            }
            let changes = programs.iter().zip(before.iter().zip(&after));
            let (mut all, mut ran) = (Duration::ZERO, Vec::new());
            for ((name, _), (before, after)) in changes {
                let (runs, time) = (after.runs - before.runs, after.time - before.time);
                all += time;
                // What isn't of each operation is of something else.
                if runs * 10 >= done {
                    ran.push(Ran {
                        program: name.clone(),
                        runs_per_operation: runs as f64 / done as f64,
                        nanoseconds_per_run: time.as_nanos() as f64 / runs as f64,
                    });
                }
            }
            results.push(Traffic {
                scenario: scenario.name().into(),
                title: scenario.title().into(),
                workload: kind,
                operations: done,
                programs: ran,
                nanoseconds_per_operation: all.as_nanos() as f64 / done as f64,
            });
        }
    }
    Ok(results)
}
