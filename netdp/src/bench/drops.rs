//! What it takes to drop a packet: a source outside sends datagrams as fast as it
//! can, and nobody gets any.
//!
//! Sender and host share a CPU, so the rate says what sending one and dropping it
//! takes. Who drops counts, and what it didn't count was no drop of its own.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, bail};

use super::measure::{Lane, Pair, measure};
use super::plan::Plan;
use super::report::{LeftOut, ScenarioResult};
use crate::api::types::Blocked;
use crate::load::{Kind, Measurement};
use crate::printed::one_line;
use crate::progress::Progress;
use crate::world::process::{self, ProcessError};
use crate::world::{Host, World, feed, interrupt, ip};

/// Whose datagrams are dropped: of TEST-NET-3 (RFC 5737), for the client's own
/// address is the host's gateway, which netdp doesn't block.
const SOURCE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
/// Nobody listens there.
const PORT: u16 = 7000;
const PATIENCE: Duration = Duration::from_secs(20);

/// Who drops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// A rule of nftables, before connections are looked for.
    Nft,
    /// One at the hook of the interface, before the host's stack.
    NftIngress,
    /// netdp at tcx.
    Netdp,
    /// netdp in the driver, too.
    NetdpXdp,
}

/// How many there are: for the progress bar.
pub(super) const WAYS: usize = Way::ALL.len();

impl Way {
    const ALL: [Self; 4] = [Self::Nft, Self::NftIngress, Self::Netdp, Self::NetdpXdp];

    fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::NftIngress => "nft-ingress",
            Self::Netdp => "netdp",
            Self::NetdpXdp => "netdp-xdp",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Nft => "host mode, nftables at prerouting (raw)",
            Self::NftIngress => "host mode, nftables at ingress of the interface",
            Self::Netdp => "netdp, --xdp off",
            Self::NetdpXdp => "netdp, --xdp native",
        }
    }

    /// The rule, where it is one of nftables.
    fn rule(self) -> Option<String> {
        let (family, hook) = match self {
            Self::Nft => ("ip", "prerouting priority raw"),
            Self::NftIngress => ("netdev", "ingress device eth0 priority 0"),
            Self::Netdp | Self::NetdpXdp => return None,
        };
        Some(format!(
            "table {family} bench {{\nchain in {{ type filter hook {hook};\n\
             ip saddr {SOURCE} counter drop\n}}\n}}\n"
        ))
    }

    /// The daemon's words, where it is netdp.
    fn words(self) -> [&'static str; 2] {
        [
            "--xdp",
            if self == Self::NetdpXdp {
                "native"
            } else {
                "off"
            },
        ]
    }
}

/// A host that drops.
struct Stand {
    way: Way,
    host: Host,
    /// netdp has a world of its own.
    own: Option<World>,
    /// What had been dropped here when it was last asked.
    before: Cell<u64>,
}

impl Stand {
    fn build(world: &mut World, way: Way) -> anyhow::Result<Self> {
        if let Some(rule) = way.rule() {
            let host = world.add_host()?;
            feed(&host.namespace, "nft", &["-f", "-"], &rule, PATIENCE)?;
            send_as_source(world, &host)?;
            return Ok(Self::new(way, host, None));
        }
        let mut world = World::new("bench-netdp")?;
        world.start_daemon(&way.words())?;
        world.netdp_ok(&["block", &SOURCE.to_string()])?;
        let host = world.first_host();
        send_as_source(&world, &host)?;
        Ok(Self::new(way, host, Some(world)))
    }

    fn new(way: Way, host: Host, own: Option<World>) -> Self {
        let before = Cell::new(0);
        Self {
            way,
            host,
            own,
            before,
        }
    }

    fn lane<'a>(&'a self, world: &'a World, cpu: usize) -> Lane<'a> {
        let world = self.own.as_ref().unwrap_or(world);
        Lane {
            name: self.way.name().into(),
            title: self.way.title().into(),
            pairs: vec![Pair {
                target: (self.host.address, PORT).into(),
                cpu,
            }],
            client: Box::new(|| world.on_client(world.netdp_path())),
            judge: Some(Box::new(|round| {
                let now = self.dropped()?;
                judge(round, now - self.before.replace(now));
                Ok(())
            })),
        }
    }

    /// How many packets have been dropped here.
    fn dropped(&self) -> anyhow::Result<u64> {
        if let Some(world) = &self.own {
            let text = world.netdp_ok(&["block", "--format", "json"])?;
            let blocked: Vec<Blocked> = serde_json::from_str(&text)?;
            return Ok(blocked.iter().map(|blocked| blocked.packets).sum());
        }
        let mut command = self.host.namespace.command("nft");
        command.args(["list", "ruleset"]);
        let output = process::output(command, PATIENCE)?;
        let rules = String::from_utf8_lossy(&output.stdout);
        counted(&rules).context("the rule that drops has no counter")
    }
}

/// Of the first rule that counts.
fn counted(rules: &str) -> Option<u64> {
    let (_, counter) = rules.split_once("counter packets ")?;
    counter.split(' ').next()?.parse().ok()
}

/// Lets the client speak to a host by another address than the wire's.
fn send_as_source(world: &World, host: &Host) -> anyhow::Result<()> {
    let Host {
        address,
        client_address,
        ..
    } = host;
    let wire = client_address.octets()[2];
    let lines = format!(
        "addr add {SOURCE}/32 dev wire{wire}\n\
         route add {address}/32 dev wire{wire} src {SOURCE}\n"
    );
    Ok(ip(&world.client, &lines)?)
}

/// Everything it makes is gone when it returns. What can't be had here is left
/// out, with a note.
///
/// # Errors
/// On an interrupt; where nothing drops anything here.
pub(super) fn run(
    plan: &Plan,
    left_out: &mut Vec<LeftOut>,
    progress: &Progress,
) -> anyhow::Result<ScenarioResult> {
    let mut world = World::new("bench")?;
    let mut stands = Vec::new();
    for way in Way::ALL {
        progress.step(&format!("making a host: {}", way.title()));
        match Stand::build(&mut world, way) {
            Ok(stand) => stands.push(stand),
            Err(_) if interrupt::received().is_some() => {
                return Err(ProcessError::Interrupted.into());
            }
            Err(why) => {
                let (mode, title) = (way.name().into(), way.title().to_owned());
                let why = one_line(&why);
                progress.note(&format!("left out: {title}: {why}"));
                left_out.push(LeftOut { mode, title, why });
            }
        }
    }
    if stands.is_empty() {
        bail!("nothing drops anything here");
    }
    progress.step("datagrams that are dropped");
    let lanes: Vec<Lane<'_>> = stands
        .iter()
        .map(|stand| stand.lane(&world, plan.effort.cpu))
        .collect();
    let workload = measure(&lanes, Kind::UdpDropped, &plan.effort, progress)?;
    Ok(ScenarioResult {
        scenario: "drops".into(),
        title: "datagrams that are dropped".into(),
        workloads: vec![workload],
    })
}

/// What was sent in a round and not dropped where it should be has been lost
/// elsewhere, or got through: then the rate is of something else.
fn judge(round: &mut Measurement, dropped: u64) {
    const MOST_LOST: u64 = 100;

    let sent = round.operations;
    round.lost = sent.saturating_sub(dropped);
    if round.lost > sent / MOST_LOST {
        round.errors += round.lost;
        round
            .first_error
            .get_or_insert_with(|| format!("{dropped} of {sent} datagrams were dropped there"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::measure::tests::measurement;
    use super::*;

    #[test]
    fn the_counter_of_a_rule_is_read() {
        let rules = "table ip bench {\n\tchain in {\n\t\ttype filter hook prerouting priority raw; \
                     policy accept;\n\t\tip saddr 203.0.113.7 counter packets 1234 bytes 99 drop\n";
        assert_eq!(counted(rules), Some(1234));
        assert_eq!(counted("table ip bench {}"), None);
    }

    #[test]
    fn what_was_not_dropped_is_an_error() {
        let judged = |dropped| {
            let mut round = measurement(1000.0, 1);
            judge(&mut round, dropped);
            (round.lost, round.errors, round.first_error.is_some())
        };
        assert_eq!(judged(1000), (0, 0, false));
        assert_eq!(judged(1001), (0, 0, false));
        assert_eq!(judged(990), (10, 0, false));
        assert_eq!(judged(989), (11, 11, true));
        assert_eq!(judged(0), (1000, 1000, true));
    }
}
