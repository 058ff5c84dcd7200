//! What netdp's programs cost: each kind of packet by itself, as the kernel's
//! test_run hands it to the daemon's own programs, and under traffic.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use netdp_common::addr::Mac;
use nix::net::if_::if_nametoindex;
use serde::Serialize;

use super::Mode;
use super::Scenario;
use super::args::{Effort, Plan};
use super::frame::{self, Body, frame};
use super::report::short;
use super::site::{Outside, Site, Size};
use crate::api::types::Sandbox;
use crate::bpf::TestPacket;
use crate::bpf::cost::{Asked, AskedMaps, Counting, Known, Loaded, Pinned};
use crate::load::{Kind, pin};
use crate::progress::Progress;
use crate::world::load::Load;
use crate::world::process::ProcessError;
use crate::world::{CLIENT_ADDRESS, HOST_ADDRESS, World, host_mac, interrupt};

/// Conversations of each kind whose times are taken, and those whose questions
/// to maps are counted.
const TIMED: u16 = 201;
const ASKED: u16 = 21;
const FIRST_CLIENT_PORT: u16 = 20_000;
/// `TC_ACT_REDIRECT` (`include/uapi/linux/pkt_cls.h`), which is also `TCX_REDIRECT`.
const REDIRECT: i32 = 7;

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

/// Who of a conversation sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    Asking,
    Answering,
}
use By::{Answering, Asking};

/// Between whom it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Published,
    Egress,
    Containers,
}

struct Script {
    title: &'static str,
    way: Way,
    packets: &'static [(&'static str, Body, By)],
}

const TCP: &[(&str, Body, By)] = &[
    ("SYN", frame::SYN, Asking),
    ("SYN, ACK", frame::SYN_ACK, Answering),
    ("ACK", frame::ACK, Asking),
    ("first data", frame::ACK, Asking),
    ("first data back", frame::ACK, Answering),
    ("data", frame::ACK, Asking),
    ("data back", frame::ACK, Answering),
    ("FIN", frame::FIN, Asking),
    ("FIN back", frame::FIN, Answering),
    ("last ACK", frame::ACK, Asking),
];
const UDP: &[(&str, Body, By)] = &[
    ("first datagram", Body::Udp, Asking),
    ("first answer", Body::Udp, Answering),
    ("second datagram", Body::Udp, Asking),
    ("second answer", Body::Udp, Answering),
    ("datagram", Body::Udp, Asking),
    ("answer", Body::Udp, Answering),
];
const SCRIPTS: [Script; 5] = [
    Script {
        title: "published, TCP",
        way: Way::Published,
        packets: TCP,
    },
    Script {
        title: "published, UDP",
        way: Way::Published,
        packets: UDP,
    },
    Script {
        title: "egress, TCP",
        way: Way::Egress,
        packets: TCP,
    },
    Script {
        title: "egress, UDP",
        way: Way::Egress,
        packets: UDP,
    },
    Script {
        title: "containers, TCP",
        way: Way::Containers,
        packets: TCP,
    },
];

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

/// Measures each of the plan's modes that is netdp's, or netdp itself. Everything
/// it makes is gone when it returns.
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
    progress.step("making a host: netdp");
    let mut world = World::new("bench")?;
    let sites = modes
        .iter()
        .map(|mode| Site::build(&mut world, mode, &Size::default(), plan.effort.cpu))
        .collect::<anyhow::Result<Vec<Site>>>()?;
    let _outside = Outside::start(&world, plan.effort.cpu)?;
    let _counting = Counting::begin().context("cannot have the kernel count runs of programs")?;
    sites
        .iter()
        .map(|site| of_site(&world, site, &plan.effort, progress))
        .collect()
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
        anyhow::Ok((empty()?, conversations, not_asked))
    });
    let (empty, conversations, not_asked) = inside??;
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

/// A container as the programs know it.
struct End {
    interface: String,
    address: Ipv4Addr,
    mac: Mac,
}

/// Who is there, and where the first container's ports are.
struct Place {
    first: End,
    second: End,
    tcp: u16,
    udp: u16,
}

impl Place {
    fn of(world: &World, site: &Site) -> anyhow::Result<Self> {
        let end = |which: &str| -> anyhow::Result<End> {
            let name = site.sandbox(which);
            let text = world.netdp_ok(&["inspect", &name])?;
            let sandboxes: Vec<Sandbox> = serde_json::from_str(&text)?;
            let mut endpoints = sandboxes.iter().flat_map(|sandbox| &sandbox.endpoints);
            let endpoint = endpoints
                .next()
                .with_context(|| format!("{name} has no endpoint"))?;
            let address = endpoint.addresses.iter().find_map(|net| match net.addr() {
                std::net::IpAddr::V4(address) => Some(address),
                std::net::IpAddr::V6(_) => None,
            });
            Ok(End {
                interface: endpoint.host_interface.clone(),
                address: address.with_context(|| format!("{name} got no IPv4 address"))?,
                mac: endpoint.mac.bytes(),
            })
        };
        let published = site.route(world, Scenario::Published);
        Ok(Self {
            first: end("first")?,
            second: end("second")?,
            tcp: published.target(Kind::Rr).1,
            udp: published.target(Kind::UdpRr).1,
        })
    }
}

/// The programs with what they are handed. In the host's namespace.
struct Stand<'a> {
    place: &'a Place,
    uplink: u32,
    /// Host ends of both containers.
    ends: [u32; 2],
    from_netdev: Loaded,
    from_container: Loaded,
}

const FROM_NETDEV: &str = "from_netdev";
const FROM_CONTAINER: &str = "from_container";
/// Of whoever the programs don't ask for one.
const ANY_MAC: Mac = [2, 0, 0, 0, 0, 1];

impl<'a> Stand<'a> {
    fn new(place: &'a Place, pinned: &Pinned) -> anyhow::Result<Self> {
        let open = |name: &str| {
            pinned
                .open(name)
                .with_context(|| format!("cannot open {name}"))
        };
        let index =
            |name: &str| if_nametoindex(name).with_context(|| format!("cannot find {name}"));
        Ok(Self {
            uplink: index("eth0")?,
            ends: [
                index(&place.first.interface)?,
                index(&place.second.interface)?,
            ],
            from_netdev: open(FROM_NETDEV)?,
            from_container: open(FROM_CONTAINER)?,
            place,
        })
    }

    /// The program that meets a packet, its name, the interface and the packet,
    /// of the conversation that a client's port begins.
    fn packet(
        &self,
        way: Way,
        (_, body, by): (&str, Body, By),
        client: u16,
    ) -> (&Loaded, &'static str, u32, Vec<u8>) {
        let port = match body {
            Body::Tcp(_) => self.place.tcp,
            Body::Udp => self.place.udp,
        };
        let (first, second) = (&self.place.first, &self.place.second);
        let at = SocketAddrV4::new;
        // As the sender of the packet has them.
        let (from, to) = match (way, by) {
            (Way::Published, Asking) => (at(CLIENT_ADDRESS, client), at(HOST_ADDRESS, port)),
            (Way::Published, Answering) => (at(first.address, port), at(CLIENT_ADDRESS, client)),
            (Way::Egress, Asking) => (at(second.address, client), at(CLIENT_ADDRESS, port)),
            (Way::Egress, Answering) => (at(CLIENT_ADDRESS, port), at(HOST_ADDRESS, client)),
            (Way::Containers, Asking) => (at(second.address, client), at(first.address, port)),
            (Way::Containers, Answering) => (at(first.address, port), at(second.address, client)),
        };
        let outside = *from.ip() == CLIENT_ADDRESS;
        if outside {
            let bytes = frame([ANY_MAC, host_mac()], from, to, body);
            return (&self.from_netdev, FROM_NETDEV, self.uplink, bytes);
        }
        let is_first = *from.ip() == first.address;
        let (mac, end) = match is_first {
            true => (first.mac, self.ends[0]),
            false => (second.mac, self.ends[1]),
        };
        let bytes = frame([mac, ANY_MAC], from, to, body);
        (&self.from_container, FROM_CONTAINER, end, bytes)
    }

    /// Each step of so many conversations, from this client's port on, by `step`.
    fn talk(
        &self,
        script: &Script,
        clients: std::ops::Range<u16>,
        mut step: impl FnMut(usize, &Loaded, &TestPacket<'_>) -> anyhow::Result<i32>,
    ) -> anyhow::Result<()> {
        for client in clients {
            for (number, packet) in script.packets.iter().enumerate() {
                let (program, name, ifindex, bytes) = self.packet(script.way, *packet, client);
                let action = step(number, program, &TestPacket::received(&bytes, ifindex))?;
                ensure!(
                    action == REDIRECT,
                    "{name} sent on no {} of {}: it gave {action}",
                    packet.0,
                    script.title
                );
            }
            if interrupt::received().is_some() {
                bail!(ProcessError::Interrupted);
            }
        }
        Ok(())
    }

    fn time(&self, script: &Script) -> anyhow::Result<Conversation> {
        let mut times = vec![Vec::new(); script.packets.len()];
        let clients = FIRST_CLIENT_PORT..FIRST_CLIENT_PORT + TIMED;
        self.talk(script, clients, |number, program, packet| {
            let (time, action) = timed(program, packet)?;
            times[number].push(time);
            Ok(action)
        })?;
        let packets = script
            .packets
            .iter()
            .zip(times)
            .map(|(packet, times)| PacketCost {
                packet: packet.0,
                program: self.packet(script.way, *packet, FIRST_CLIENT_PORT).1,
                nanoseconds: median(times),
                asked: None,
            });
        Ok(Conversation {
            title: script.title,
            packets: packets.collect(),
        })
    }

    /// Others ask maps of theirs now and then: the median leaves them out.
    fn count(
        &self,
        script: &Script,
        maps: &AskedMaps,
        conversation: &mut Conversation,
    ) -> anyhow::Result<()> {
        let mut asked = vec![Vec::new(); script.packets.len()];
        let first = FIRST_CLIENT_PORT + TIMED;
        self.talk(script, first..first + ASKED, |number, program, packet| {
            let before = maps.so_far()?;
            let action = program.run(packet)?;
            asked[number].push((before, maps.so_far()?));
            Ok(action)
        })?;
        for (packet, pairs) in conversation.packets.iter_mut().zip(asked) {
            let middle = |of: fn(&Asked) -> u64| {
                let counts = pairs.iter().map(|(before, after)| of(after) - of(before));
                let mut counts: Vec<u64> = counts.collect();
                counts.sort_unstable();
                counts[counts.len() / 2]
            };
            packet.asked = Some(AskedResult {
                lookups: middle(|asked| asked.lookups),
                inserts: middle(|asked| asked.inserts),
                removals: middle(|asked| asked.removals),
                pushes: middle(|asked| asked.pushes),
            });
        }
        Ok(())
    }
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
            let done = load.run(route.client(world))?.operations;
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

/// A table of a report.
pub(super) struct Figures {
    pub(super) header: Vec<&'static str>,
    /// So many columns, the first, are words.
    pub(super) words: usize,
    pub(super) rows: Vec<Vec<String>>,
}

impl ProgramsResult {
    pub(super) fn tables(&self) -> [Figures; 3] {
        let traffic = vec![
            "programs under traffic",
            "workload",
            "program",
            "runs",
            "ns a run",
            "ns",
        ];
        let packets = vec![
            "packet by packet",
            "packet",
            "program",
            "ns",
            "lookups",
            "inserts",
            "removals",
            "queued",
        ];
        let sizes = vec!["program", "verified", "instructions", "bytes"];
        let figures = |header, words, rows| Figures {
            header,
            words,
            rows,
        };
        [
            figures(traffic, 3, self.traffic_rows()),
            figures(packets, 3, self.packet_rows()),
            figures(sizes, 1, self.size_rows()),
        ]
    }

    pub(super) fn remark(&self) -> String {
        let mut text = format!(
            "Programs of {}. Runs and ns are of one operation, or of one packet the median; counting \
             itself takes {:.0} ns of each run. Lookups, inserts and removals are those in hash \
             tables and tries.",
            self.title, self.empty
        );
        if let Some(why) = &self.not_asked {
            text = format!("{text} {why}");
        }
        text
    }

    fn traffic_rows(&self) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        for traffic in &self.traffic {
            rows.push(vec![
                traffic.title.clone(),
                short(traffic.workload).into(),
                "all".into(),
                String::new(),
                String::new(),
                format!("{:.0}", traffic.nanoseconds_per_operation),
            ]);
            for ran in &traffic.programs {
                let all = ran.runs_per_operation * ran.nanoseconds_per_run;
                rows.push(vec![
                    String::new(),
                    String::new(),
                    ran.program.clone(),
                    format!("{:.2}", ran.runs_per_operation),
                    format!("{:.0}", ran.nanoseconds_per_run),
                    format!("{all:.0}"),
                ]);
            }
        }
        rows
    }

    fn packet_rows(&self) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        for conversation in &self.conversations {
            let times = conversation.packets.iter().map(|packet| packet.nanoseconds);
            let asked = conversation.packets.iter().map(|packet| packet.asked);
            let all: Option<AskedResult> = asked.reduce(|sum, one| Some(sum?.and(one?))).flatten();
            rows.push(row(
                [conversation.title, "all", ""],
                times.sum(),
                all.as_ref(),
            ));
            for packet in &conversation.packets {
                rows.push(row(
                    ["", packet.packet, packet.program],
                    packet.nanoseconds,
                    packet.asked.as_ref(),
                ));
            }
        }
        rows
    }

    fn size_rows(&self) -> Vec<Vec<String>> {
        let rows = self.programs.iter().map(|size| {
            let numbers = [size.verified, size.instructions, size.bytes];
            let numbers = numbers.iter().map(u32::to_string);
            [size.program.clone()].into_iter().chain(numbers).collect()
        });
        rows.collect()
    }
}

fn row(words: [&str; 3], nanoseconds: f64, asked: Option<&AskedResult>) -> Vec<String> {
    let counts = match asked {
        Some(asked) => {
            [asked.lookups, asked.inserts, asked.removals, asked.pushes].map(|count| match count {
                0 => String::new(),
                count => count.to_string(),
            })
        }
        None => Default::default(),
    };
    let words = words.into_iter().map(str::to_owned);
    words
        .chain([format!("{nanoseconds:.0}")])
        .chain(counts)
        .collect()
}

impl AskedResult {
    fn and(self, other: Self) -> Self {
        Self {
            lookups: self.lookups + other.lookups,
            inserts: self.inserts + other.inserts,
            removals: self.removals + other.removals,
            pushes: self.pushes + other.pushes,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::bench) fn programs() -> ProgramsResult {
        let packet = |packet, lookups| PacketCost {
            packet,
            program: FROM_NETDEV,
            nanoseconds: 100.0,
            asked: Some(AskedResult {
                lookups,
                ..AskedResult::default()
            }),
        };
        ProgramsResult {
            mode: "netdp".into(),
            title: "netdp".into(),
            programs: vec![ProgramSize {
                program: FROM_NETDEV.into(),
                verified: 58_123,
                instructions: 4_321,
                bytes: 20_000,
            }],
            empty: 17.0,
            not_asked: None,
            conversations: vec![Conversation {
                title: "published, TCP",
                packets: vec![packet("SYN", 3), packet("ACK", 2)],
            }],
            traffic: vec![Traffic {
                scenario: "published".into(),
                title: "published port".into(),
                workload: Kind::Rr,
                operations: 1000,
                programs: vec![Ran {
                    program: FROM_NETDEV.into(),
                    runs_per_operation: 1.0,
                    nanoseconds_per_run: 123.0,
                }],
                nanoseconds_per_operation: 123.0,
            }],
        }
    }

    #[test]
    fn a_conversation_is_the_sum_of_its_packets() {
        let result = programs();
        let rows = result.packet_rows();
        assert_eq!(
            rows[0],
            ["published, TCP", "all", "", "200", "5", "", "", ""]
        );
        assert_eq!(rows[1][..5], ["", "SYN", FROM_NETDEV, "100", "3"]);
        let mut uncounted = result;
        uncounted.conversations[0].packets[1].asked = None;
        assert_eq!(uncounted.packet_rows()[0][4], "");
    }

    #[test]
    fn every_table_is_as_wide_as_its_head() {
        for Figures {
            header,
            words,
            rows,
        } in programs().tables()
        {
            assert!(words < header.len());
            assert!(
                rows.iter().all(|row| row.len() == header.len()),
                "{header:?}"
            );
        }
    }

    #[test]
    fn the_middle_of_odd_and_even_numbers_of_values() {
        assert_eq!(median(vec![9.0, 1.0, 5.0]), 5.0);
        assert_eq!(median(Vec::new()), 0.0);
    }
}
