//! What is known of programs, as tables.

use super::{AskedResult, ProgramsResult};
use crate::bench::report::short;

/// A table of a report.
pub(in crate::bench) struct Figures {
    pub(in crate::bench) header: Vec<String>,
    /// So many columns, the first, are words.
    pub(in crate::bench) words: usize,
    pub(in crate::bench) rows: Vec<Vec<String>>,
}

impl ProgramsResult {
    pub(in crate::bench) fn tables(&self) -> [Figures; 4] {
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
        let figures = |header: Vec<&str>, words, rows| Figures {
            header: header.into_iter().map(str::to_owned).collect(),
            words,
            rows,
        };
        [
            figures(traffic, 3, self.traffic_rows()),
            figures(packets, 3, self.packet_rows()),
            self.shared(),
            figures(sizes, 1, self.size_rows()),
        ]
    }

    pub(in crate::bench) fn remark(&self) -> String {
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

    fn shared(&self) -> Figures {
        let mut header = vec!["ns a packet, CPUs at once".to_owned()];
        if let Some(shared) = self.shared.first() {
            header.extend(shared.by_cpus.iter().map(|it| it.cpus.to_string()));
        }
        let rows = self.shared.iter().map(|shared| {
            let times = shared.by_cpus.iter();
            let times = times.map(|it| format!("{:.0}", it.nanoseconds));
            [shared.title.to_owned()].into_iter().chain(times).collect()
        });
        Figures {
            header,
            words: 1,
            rows: rows.collect(),
        }
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
pub(in crate::bench) mod tests {
    use super::*;
    use crate::bench::programs::cores::{AtOnce, Shared};
    use crate::bench::programs::packets::FROM_NETDEV;
    use crate::bench::programs::{Conversation, PacketCost, ProgramSize, Ran, Traffic, median};
    use crate::load::Kind;

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
            shared: vec![Shared {
                title: "published, TCP",
                by_cpus: [(1, 100.0), (2, 150.0)]
                    .map(|(cpus, nanoseconds)| AtOnce { cpus, nanoseconds })
                    .to_vec(),
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
        let shared = uncounted.shared();
        assert_eq!(shared.header[1..], ["1", "2"]);
        assert_eq!(shared.rows, [["published, TCP", "100", "150"]]);
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
