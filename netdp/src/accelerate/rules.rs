//! What the host's own rules say of Docker's networks: whether Docker translates
//! them at all, and whether somebody else's rules have a part in what they send
//! and get, which the programs' packets would skip.

mod rule;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use self::rule::{Rule, Tables};
use super::view::View;

/// Within this time the rules can be read, however many there are.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Judged {
    /// Why networks are left as they are, by the name of their bridge.
    pub barred: BTreeMap<String, String>,
    /// Whether Docker publishes ports by rules: of IPv4, and of IPv6.
    pub translates: [bool; 2],
    /// Bridges whose networks leave under an address of the host.
    pub masquerades: [BTreeSet<String>; 2],
}

/// The rules of one family.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Rules {
    tables: Tables,
    /// Docker's table where it makes its rules by nftables (from Docker 29 on).
    nft: String,
    /// Why they are not known.
    unread: Option<String>,
}

/// Reads the rules. `despite`: rules of the host's own are to be skipped.
pub async fn judge(view: &View, despite: bool) -> Judged {
    let (v4, v6) = tokio::join!(
        Rules::read("iptables-save", "ip"),
        Rules::read("ip6tables-save", "ip6"),
    );
    judged(view, &[v4, v6], despite)
}

fn judged(view: &View, families: &[Rules; 2], despite: bool) -> Judged {
    let mut judged = Judged::default();
    let bridges = view.networks.iter().filter(|it| it.driver == "bridge");
    let bridges: Vec<String> = bridges.map(|it| it.bridge()).collect();
    let names: BTreeSet<&str> = bridges.iter().map(String::as_str).collect();
    for (family, rules) in families.iter().enumerate() {
        judged.translates[family] = rules.translate();
        let masquerading = bridges.iter().filter(|it| rules.masquerade(it));
        judged.masquerades[family] = masquerading.cloned().collect();
    }
    // Where those of IPv6 aren't, nothing of it is carried.
    let why = if let Some(why) = &families[0].unread {
        Some(format!("the host's rules are not known: {why}"))
    } else if judged.translates == [false; 2] {
        Some("there are no rules of Docker's on this host: nothing is translated".to_owned())
    } else if despite {
        None
    } else {
        let foreign = families.iter().find_map(|it| it.foreign(&names));
        foreign.map(|(table, rule)| {
            format!(
                "its packets would skip a rule of this host, `-t {table} {}`: take it away, or \
                 say --skip-rules",
                rule.line
            )
        })
    };
    if let Some(why) = why {
        judged.barred = bridges.iter().map(|it| (it.clone(), why.clone())).collect();
    }
    judged
}

impl Rules {
    async fn read(save: &str, family: &str) -> Self {
        let nft = ["list", "table", family, "docker-bridges"];
        match said(save, &[]).await {
            Ok(text) => Self {
                tables: Tables::parse(&text),
                // Where there is no such table, or no nft, Docker has none.
                nft: said("nft", &nft).await.unwrap_or_default(),
                unread: None,
            },
            Err(why) => Self {
                unread: Some(why),
                ..Self::default()
            },
        }
    }

    fn translate(&self) -> bool {
        self.tables.has("nat", "DOCKER") || !self.nft.is_empty()
    }

    fn masquerade(&self, bridge: &str) -> bool {
        let one = BTreeSet::from([bridge]);
        let mut rules = self.tables.chain("nat", "POSTROUTING").iter();
        rules.any(|rule| rule.masquerades(&one).is_some())
            || self.nft.lines().any(|line| {
                let mut words = line.split([' ', '"']);
                words.any(|word| word == bridge)
                    && (line.contains("masquerade") || line.contains("snat"))
                    && line.contains("oifname !=")
            })
    }

    /// The first rule, and its table, that is not Docker's and has a part in
    /// what becomes of packets that Docker's rules let pass.
    fn foreign(&self, bridges: &BTreeSet<&str>) -> Option<(&'static str, &Rule)> {
        let filter = self.foreign_filter(bridges).map(|it| ("filter", it));
        let nat = || self.foreign_nat(bridges).map(|it| ("nat", it));
        let raw = || {
            let mut rules = self.tables.table("raw");
            let foreign = rules.find(|it| !it.is_innocent() && !it.is_dockers_raw(bridges));
            foreign.map(|it| ("raw", it))
        };
        let mangle = || {
            let mut rules = self.tables.table("mangle");
            rules.find(|it| !it.is_innocent()).map(|it| ("mangle", it))
        };
        filter.or_else(nat).or_else(raw).or_else(mangle)
    }

    /// In `FORWARD`, those before the last of Docker's; in Docker's own chains,
    /// whatever isn't its own.
    fn foreign_filter(&self, bridges: &BTreeSet<&str>) -> Option<&Rule> {
        let strange = |rule: &&Rule| !rule.is_innocent() && !rule.is_dockers_filter(bridges);
        let forward = self.tables.chain("filter", "FORWARD");
        let is_dockers = |rule: &Rule| rule.is_dockers_filter(bridges);
        let dockers = forward.iter().rposition(is_dockers);
        let before = &forward[..dockers.unwrap_or(0)];
        let mut of_docker = self.tables.dockers_chains("filter");
        before.iter().find(strange).or_else(|| {
            of_docker.find_map(|(chain, rules)| match chain {
                // All of it is the user's.
                "DOCKER-USER" => rules.iter().find(|rule| !rule.is_innocent()),
                _ => rules.iter().find(strange),
            })
        })
    }

    /// What is translated otherwise than by Docker, unless it is of others'
    /// subnets alone.
    fn foreign_nat(&self, bridges: &BTreeSet<&str>) -> Option<&Rule> {
        let leaving = self.tables.chain("nat", "POSTROUTING").iter();
        let masquerading = leaving.filter(|it| it.masquerades(bridges).is_some());
        let subnets = masquerading.filter_map(Rule::source).collect();
        let strange = |rule: &&Rule| rule.target.is_some() && !rule.is_dockers_nat(bridges);
        let chains = ["PREROUTING", "DOCKER"];
        let mut arriving = chains.iter().flat_map(|it| self.tables.chain("nat", it));
        let mut leaving = self.tables.chain("nat", "POSTROUTING").iter();
        arriving
            .find(strange)
            .or_else(|| leaving.find(|it| strange(it) && !it.is_of_others(&subnets)))
            .or_else(|| self.second_masquerade(bridges))
    }

    /// One that looks like Docker's, which makes a single one for each subnet.
    fn second_masquerade(&self, bridges: &BTreeSet<&str>) -> Option<&Rule> {
        let mut seen: BTreeMap<_, &Rule> = BTreeMap::new();
        for rule in self.tables.chain("nat", "POSTROUTING") {
            let Some(bridge) = rule.masquerades(bridges) else {
                continue;
            };
            if let Some(first) = seen.insert((bridge, rule.source()), rule) {
                let is_snat = first.target.as_deref() == Some("SNAT");
                return Some(if is_snat { first } else { rule });
            }
        }
        None
    }
}

/// What a command prints.
async fn said(program: &str, words: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match timeout(PATIENCE, output).await {
        Ok(Ok(output)) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(Ok(output)) => {
            let why = String::from_utf8_lossy(&output.stderr);
            Err(format!("{program}: {}", why.trim()))
        }
        Ok(Err(error)) => Err(format!("cannot run {program}: {error}")),
        Err(_) => Err(format!(
            "{program} takes longer than {} s",
            PATIENCE.as_secs()
        )),
    }
}

#[cfg(test)]
mod tests;
