//! What more of something costs: published ports, flows, endpoints.
//!
//! Each size is a world of its own, with a host for each mode, so that all sizes
//! are measured in turn.

use std::fs;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde::Serialize;

use super::Mode;
use super::args::{Effort, Plan};
use super::measure::{Lane, LaneResult, measure};
use super::scenario::Scenario;
use super::site::{Site, Size};
use crate::load::Kind;
use crate::progress::Progress;
use crate::world::process::{self, ProcessError};
use crate::world::{World, interrupt};

/// What there is more and more of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Growth {
    /// Published ports of one container; the one measured was published last.
    Ports,
    /// Idle flows of a container to the outside.
    Flows,
    /// Containers on one network.
    Endpoints,
}

impl Growth {
    pub const ALL: [Self; 3] = [Self::Ports, Self::Flows, Self::Endpoints];

    pub fn title(self) -> &'static str {
        match self {
            Self::Ports => "TCP CRR by published ports",
            Self::Flows => "TCP CRR by idle flows",
            Self::Endpoints => "TCP CRR by endpoints",
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ports => "ports",
            Self::Flows => "flows",
            Self::Endpoints => "endpoints",
        }
    }

    /// That every host has: the ports that are measured, and two containers.
    pub(super) fn least(self) -> usize {
        match self {
            Self::Ports => Kind::ALL.len(),
            Self::Flows => 0,
            Self::Endpoints => 2,
        }
    }

    /// A bridge has a thousand ports, and other numbers are those of ports.
    pub(super) fn most(self) -> usize {
        match self {
            Self::Ports => 40_000,
            Self::Flows => 1_000_000,
            Self::Endpoints => 1_000,
        }
    }

    /// From the one that the others are compared with.
    pub fn sizes(self) -> &'static [usize] {
        match self {
            Self::Ports => &[10, 100, 1_000, 10_000],
            Self::Flows => &[0, 10_000, 1_000_000],
            Self::Endpoints => &[2, 100, 1_000],
        }
    }
}

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

/// The modes that have ports, flows and endpoints.
fn modes(plan: &Plan, what: Growth) -> Vec<Mode> {
    let has = |mode: &&Mode| match mode {
        Mode::Host | Mode::HostRules | Mode::Floor | Mode::FloorUplink | Mode::Direct => false,
        Mode::Accelerated => what == Growth::Ports,
        _ => true,
    };
    let modes = plan.modes.iter();
    modes.filter(has).cloned().collect()
}

/// How many measurements [`run`] will make at most.
pub(super) fn pieces(plan: &Plan, what: Growth, sizes: &[usize]) -> usize {
    modes(plan, what).len() * sizes.len() * plan.effort.rounds
}

/// A host of one size.
struct Stand {
    mode: Mode,
    size: usize,
    world: usize,
    site: Result<Site, String>,
}

/// Everything it makes is gone when it returns.
///
/// # Errors
/// On an interrupt, or when not even a world can be made.
pub(super) fn run(
    plan: &Plan,
    growth: Growth,
    sizes: &[usize],
    progress: &Progress,
) -> anyhow::Result<GrowthResult> {
    let modes = modes(plan, growth);
    let mut worlds = Vec::new();
    let mut stands = Vec::new();
    for &size in sizes {
        let mut world = World::new("bench")?;
        for mode in &modes {
            progress.step(&format!("{}: {size}, {}", growth.title(), mode.title()));
            let site = stand(&mut world, mode, growth, size, &plan.effort);
            if interrupt::received().is_some() {
                return Err(ProcessError::Interrupted.into());
            }
            let site = site.map_err(|why| format!("{why:#}"));
            if let Err(why) = &site {
                progress.note(&format!("left out: {}, {size}: {why}", mode.title()));
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
    progress.step(growth.title());
    let measured = lanes(&stands, &worlds);
    let results = match measured.is_empty() {
        true => Vec::new(),
        false => measure(&measured, Kind::Crr, &plan.effort, progress)?.modes,
    };
    drop(measured);
    Ok(GrowthResult {
        growth,
        title: growth.title().into(),
        workload: Kind::Crr,
        modes: collect(&modes, stands, results),
    })
}

fn lanes<'a>(stands: &'a [Stand], worlds: &'a [World]) -> Vec<Lane<'a>> {
    let sites = stands.iter().filter_map(|stand| {
        let site = stand.site.as_ref().ok()?;
        Some((stand, site, &worlds[stand.world]))
    });
    sites
        .map(|(stand, site, world)| {
            let route = site.route(world, Scenario::Published);
            Lane {
                name: stand.mode.to_string(),
                title: stand.mode.title(),
                target: route.target(Kind::Crr).into(),
                client: Box::new(move || route.client()),
            }
        })
        .collect()
}

/// `results` are of those stands that have a site, in their order.
fn collect(modes: &[Mode], stands: Vec<Stand>, results: Vec<LaneResult>) -> Vec<GrowthMode> {
    let mut results = results.into_iter();
    let points: Vec<(Mode, Point)> = stands
        .into_iter()
        .map(|stand| {
            let result = stand.site.is_ok().then(|| results.next()).flatten();
            let point = Point {
                size: stand.size,
                result,
                left_out: stand.site.err(),
            };
            (stand.mode, point)
        })
        .collect();
    let of = |mode: &Mode| {
        let own = points.iter().filter(|(theirs, _)| theirs == mode);
        let mut points: Vec<Point> = own.map(|(_, point)| point.clone()).collect();
        compare_with_first(&mut points);
        GrowthMode {
            mode: mode.to_string(),
            title: mode.title(),
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
    growth: Growth,
    size: usize,
    effort: &Effort,
) -> anyhow::Result<Site> {
    let shape = match growth {
        Growth::Ports => Size {
            ports: size,
            ..Size::default()
        },
        Growth::Endpoints => Size {
            endpoints: size,
            ..Size::default()
        },
        Growth::Flows => {
            if !matches!(mode, Mode::Netdp(_)) {
                room_in_conntrack(size)?;
            }
            Size {
                flows: size,
                ..Size::default()
            }
        }
    };
    let site = Site::build(world, mode, &shape, effort.cpu)?;
    if growth == Growth::Flows && size > 0 {
        fill(world, &site, size)?;
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
        let stands = [10, 100].into_iter().flat_map(|size| {
            [Mode::Nft, Mode::DockerNft].map(|mode| Stand {
                site: Err("not needed here".into()),
                world: 0,
                mode,
                size,
            })
        });
        let modes = collect(&[Mode::DockerNft, Mode::Nft], stands.collect(), Vec::new());
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

    #[test]
    fn sizes_grow() {
        for growth in Growth::ALL {
            assert!(growth.sizes().is_sorted(), "{growth:?}");
            assert!(growth.sizes().last() <= Some(&growth.most()), "{growth:?}");
            assert!(growth.sizes()[0] >= growth.least(), "{growth:?}");
        }
    }
}
