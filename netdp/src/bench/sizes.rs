//! The sizes of what there is more and more of: ports, flows, endpoints, cores.
//!
//! Each size is a world of its own, with a host for each mode, so that all sizes
//! are measured in turn.

use std::fs;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;

use super::measure::{Lane, LaneResult, measure};
use super::plan::{Grown, Plan};
use super::rps;
use super::scenario::Scenario;
use super::site::{Site, Size};
use super::{Growth, Mode};
use crate::load::Kind;
use crate::printed::one_line;
use crate::progress::Progress;
use crate::world::process::{self, ProcessError};
use crate::world::{World, interrupt};

/// One workload over all sizes.
#[derive(Clone, Debug, Serialize)]
pub(super) struct GrowthResult {
    pub(super) growth: Growth,
    pub(super) title: String,
    pub(super) workload: Kind,
    pub(super) modes: Vec<GrowthMode>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct GrowthMode {
    pub(super) mode: String,
    pub(super) title: String,
    pub(super) points: Vec<Point>,
}

/// One size; compared with the first of the same mode.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Point {
    pub(super) size: usize,
    /// None where that size can't be had in this mode.
    pub(super) result: Option<LaneResult>,
    pub(super) left_out: Option<String>,
}

/// How many measurements [`run`] will make at most.
pub(super) fn pieces(plan: &Plan, grown: &Grown) -> usize {
    let points = modes(plan, grown.what).len() * grown.sizes.len();
    points * grown.workloads.len() * plan.effort.rounds
}

fn modes(plan: &Plan, what: Growth) -> Vec<Mode> {
    let modes = plan.modes.iter();
    modes.filter(|mode| what.has(mode)).cloned().collect()
}

/// A host of one size.
struct Stand {
    mode: Mode,
    size: usize,
    world: usize,
    site: Result<Site, String>,
}

/// Everything it makes is gone when it returns. A result for each workload.
///
/// # Errors
/// On an interrupt, or when not even a world can be made.
pub(super) fn run(
    plan: &Plan,
    grown: &Grown,
    progress: &Progress,
) -> anyhow::Result<Vec<GrowthResult>> {
    let modes = modes(plan, grown.what);
    let mut worlds = Vec::new();
    let mut stands = Vec::new();
    for &size in &grown.sizes {
        let mut world = World::new("bench")?;
        for mode in &modes {
            let name = grown.what.name();
            progress.step(&format!("making a host: {size} {name}, {}", mode.title()));
            let site = stand(&mut world, mode, plan, grown.what, size);
            if interrupt::received().is_some() {
                return Err(ProcessError::Interrupted.into());
            }
            let site = site.map_err(|why| one_line(&why));
            if let Err(why) = &site {
                progress.note(&format!("left out: {}, {size} {name}: {why}", mode.title()));
            }
            stands.push(Stand {
                mode: mode.clone(),
                size,
                world: worlds.len(),
                site,
            });
        }
        worlds.push(world);
    }
    let each = grown.workloads.iter().map(|&workload| {
        let title = grown.what.title(workload);
        progress.step(&title);
        let measured = lanes(&stands, &worlds, workload);
        let results = match measured.is_empty() {
            true => Vec::new(),
            false => measure(&measured, workload, &plan.effort, progress)?.modes,
        };
        Ok(GrowthResult {
            growth: grown.what,
            title,
            workload,
            modes: collect(&modes, &stands, results),
        })
    });
    each.collect()
}

fn lanes<'a>(stands: &'a [Stand], worlds: &'a [World], workload: Kind) -> Vec<Lane<'a>> {
    let sites = stands.iter().filter_map(|stand| {
        let site = stand.site.as_ref().ok()?;
        Some((stand, site, &worlds[stand.world]))
    });
    sites
        .map(|(stand, site, world)| {
            let route = site.route(world, Scenario::Published);
            Lane {
                name: stand.mode.to_string(),
                title: site.title(Scenario::Published),
                pairs: route.pairs(workload),
                client: Box::new(move || route.client()),
                judge: None,
            }
        })
        .collect()
}

/// `results` are of those stands that have a site, in their order.
fn collect(modes: &[Mode], stands: &[Stand], results: Vec<LaneResult>) -> Vec<GrowthMode> {
    let mut results = results.into_iter();
    let points: Vec<(&Mode, Point)> = stands
        .iter()
        .map(|stand| {
            let result = stand.site.is_ok().then(|| results.next()).flatten();
            let point = Point {
                size: stand.size,
                result,
                left_out: stand.site.as_ref().err().cloned(),
            };
            (&stand.mode, point)
        })
        .collect();
    let of = |mode: &Mode| {
        let own = points.iter().filter(|(theirs, _)| *theirs == mode);
        let mut points: Vec<Point> = own.map(|(_, point)| point.clone()).collect();
        compare_with_first(&mut points);
        // Where somebody else's program carries it, with its version.
        let known = points.iter().find_map(|point| point.result.as_ref());
        GrowthMode {
            mode: mode.to_string(),
            title: known.map_or_else(|| mode.title(), |result| result.title.clone()),
            points,
        }
    };
    modes.iter().map(of).collect()
}

fn compare_with_first(points: &mut [Point]) {
    let series = |point: &Point| point.result.as_ref()?.series.clone();
    let first = points.first().and_then(series);
    for (index, point) in points.iter_mut().enumerate() {
        let own = series(point);
        if let Some(result) = &mut point.result {
            let compared = own.zip(first.as_ref()).filter(|_| index > 0);
            result.against_reference = compared.map(|(own, first)| own.against(first));
        }
    }
}

fn stand(
    world: &mut World,
    mode: &Mode,
    plan: &Plan,
    growth: Growth,
    size: usize,
) -> anyhow::Result<Site> {
    let usual = Size::on(&[plan.effort.cpu]);
    let shape = match growth {
        Growth::Ports => Size {
            ports: size,
            ..usual
        },
        Growth::Endpoints => Size {
            endpoints: size,
            ..usual
        },
        Growth::Flows => Size {
            flows: size,
            ..usual
        },
        Growth::Cores => Size::on(&plan.cpus[..size]),
    };
    let site = Site::apart(world, mode, &shape)?;
    if growth == Growth::Flows {
        if !matches!(mode, Mode::Netdp(_)) {
            room_in_conntrack(size)?;
        }
        if size > 0 {
            fill(site.world(world), &site, size)?;
        }
    }
    if growth == Growth::Cores && plan.rps {
        rps::spread(site.host(), &shape.cpus)?;
    }
    Ok(site)
}

/// The kernel's connection tracking has one limit for all namespaces, which is
/// the machine's and left as it is.
fn room_in_conntrack(flows: usize) -> anyhow::Result<()> {
    let path = "/proc/sys/net/netfilter/nf_conntrack_max";
    let most: usize = fs::read_to_string(path)
        .with_context(|| format!("cannot read {path}"))?
        .trim()
        .parse()
        .with_context(|| format!("{path} holds no number"))?;
    // Connections are measured in what is left.
    if flows + 60_000 > most {
        bail!("net.netfilter.nf_conntrack_max is {most} on this machine");
    }
    Ok(())
}

/// Answered UDP flows from the first container to the outside.
fn fill(world: &World, site: &Site, flows: usize) -> anyhow::Result<()> {
    let route = site.route(world, Scenario::Egress);
    let (address, _) = route.target(Kind::UdpRr);
    let ports: Vec<u16> = (0..FILL_PORTS)
        .map(|offset| FIRST_FILL_PORT + offset)
        .collect();
    let mut server = world.on_client(world.netdp_path());
    server.arg("__load-server");
    for port in &ports {
        server.args(["--listen", &format!("udp-echo={address}:{port}")]);
    }
    let server = crate::world::load::LoadServer::wait_for(server)?;
    let mut client = route.client();
    client.args(["__load-fill", "--flows", &flows.to_string()]);
    for port in &ports {
        client.args(["--target", &format!("{address}:{port}")]);
    }
    let output = process::output(client, FILL_TIMEOUT)?;
    drop(server);
    if !output.status.success() {
        bail!(
            "cannot make {flows} flows: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

const FIRST_FILL_PORT: u16 = 7301;
/// With 50,000 ports of the container each, a million flows.
const FILL_PORTS: u16 = 20;
const FILL_TIMEOUT: Duration = Duration::from_secs(180);

/// Settings of a daemon whose tables hold so many flows.
pub(super) fn settings(world: &World, flows: usize) -> anyhow::Result<std::path::PathBuf> {
    let path = world.dir().join("netdp.toml");
    let most = flows + 100_000;
    fs::File::create(&path)
        .and_then(|mut file| write!(file, "max-flows = {most}\nflows-per-endpoint = {most}\n"))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::super::measure::tests::{lane, measurement};
    use super::*;

    fn result(rate: f64) -> LaneResult {
        let rounds = [0.99, 1.0, 1.01].map(|drift| measurement(rate * drift, 9));
        LaneResult::new(&lane("nft"), rounds.to_vec(), None)
    }

    #[test]
    fn each_mode_is_compared_with_its_own_smallest_size() {
        let stands: Vec<Stand> = [10, 100]
            .into_iter()
            .flat_map(|size| {
                [Mode::Nft, Mode::DockerNft].map(|mode| Stand {
                    site: Err("not needed here".into()),
                    world: 0,
                    mode,
                    size,
                })
            })
            .collect();
        let modes = collect(&[Mode::DockerNft, Mode::Nft], &stands, Vec::new());
        assert_eq!(modes[1].mode, "nft");
        assert_eq!(modes[1].points.len(), 2);
        assert!(modes[1].points[1].result.is_none());
        assert_eq!(
            modes[0].points[0].left_out.as_deref(),
            Some("not needed here")
        );

        let mut points: Vec<Point> = [100.0, 50.0]
            .into_iter()
            .map(|rate| Point {
                size: 10,
                result: Some(result(rate)),
                left_out: None,
            })
            .collect();
        compare_with_first(&mut points);
        let compared = |point: &Point| point.result.as_ref().unwrap().against_reference;
        assert!(compared(&points[0]).is_none());
        let second = compared(&points[1]).unwrap();
        assert!((second.ratio - 0.5).abs() < 1e-9, "{second:?}");
    }
}
