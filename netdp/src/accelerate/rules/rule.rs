//! Rules as `iptables-save` writes them, and which of them are Docker's.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

/// Chains that Docker makes, in 20.10 to 28.5, and those of ingress networks.
/// `DOCKER-USER` is Docker's to jump to, and users' to fill.
const CHAINS: [&str; 9] = [
    "DOCKER",
    "DOCKER-USER",
    "DOCKER-FORWARD",
    "DOCKER-BRIDGE",
    "DOCKER-CT",
    "DOCKER-INTERNAL",
    "DOCKER-INGRESS",
    "DOCKER-ISOLATION-STAGE-1",
    "DOCKER-ISOLATION-STAGE-2",
];

/// Whether a chain is one of Docker's own, by its whole name.
pub fn is_dockers_chain(name: &str) -> bool {
    CHAINS.contains(&name)
}

/// Whether a bridge is called as Docker calls one whose network has no name for
/// it: that of a network that has just come or gone.
fn is_default_name(name: &str) -> bool {
    name == "docker0"
        || name
            .strip_prefix("br-")
            .is_some_and(|id| id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// What a rule asks of a packet: `-s`, `--dport`, with what follows.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Match {
    negated: bool,
    name: String,
    values: Vec<String>,
}

/// One rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// As it stands there.
    pub line: String,
    matches: Vec<Match>,
    /// None counts packets and does nothing.
    pub target: Option<String>,
}

/// Rules by their tables and chains, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tables(BTreeMap<(String, String), Vec<Rule>>);

impl Tables {
    /// Reads what `iptables-save` prints. A line whose quotes don't end is taken
    /// for a rule of nobody's.
    pub fn parse(text: &str) -> Self {
        let mut tables = Self::default();
        let mut table = "";
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name;
            } else if let Some(chain) = line.strip_prefix(':') {
                let name = chain.split(' ').next().unwrap_or_default();
                tables.0.entry((table.into(), name.into())).or_default();
            } else if let Some((chain, rule)) = Rule::parse(line) {
                let rules = tables.0.entry((table.into(), chain)).or_default();
                rules.push(rule);
            }
        }
        tables
    }

    pub fn has(&self, table: &str, chain: &str) -> bool {
        self.0.contains_key(&(table.to_owned(), chain.to_owned()))
    }

    pub fn chain(&self, table: &str, chain: &str) -> &[Rule] {
        let key = (table.to_owned(), chain.to_owned());
        self.0.get(&key).map_or(&[], Vec::as_slice)
    }

    /// The chains of a table that are Docker's.
    pub fn dockers_chains(&self, table: &str) -> impl Iterator<Item = (&str, &[Rule])> {
        let of_table = self.0.iter().filter(move |((of, _), _)| of == table);
        of_table
            .filter(|((_, chain), _)| is_dockers_chain(chain))
            .map(|((_, chain), rules)| (chain.as_str(), rules.as_slice()))
    }

    /// All rules of a table.
    pub fn table(&self, table: &str) -> impl Iterator<Item = &Rule> {
        let of_table = self.0.iter().filter(move |((of, _), _)| of == table);
        of_table.flat_map(|(_, rules)| rules)
    }
}

impl Rule {
    /// The chain and the rule of an `-A` line.
    fn parse(line: &str) -> Option<(String, Self)> {
        let words = line.strip_prefix("-A ")?;
        let Some(words) = shlex::split(words) else {
            let chain = words.split(' ').next().unwrap_or_default();
            let rule = Self {
                line: line.to_owned(),
                matches: Vec::new(),
                target: Some(String::new()),
            };
            return Some((chain.to_owned(), rule));
        };
        let mut words = words.into_iter();
        let chain = words.next()?;
        let mut rule = Self {
            line: line.to_owned(),
            matches: Vec::new(),
            target: None,
        };
        let mut negated = false;
        while let Some(word) = words.next() {
            match word.as_str() {
                "!" => negated = true,
                // What follows a target is its own.
                "-j" | "-g" => {
                    rule.target = words.next();
                    break;
                }
                name if name.starts_with('-') => {
                    rule.matches.push(Match {
                        negated,
                        name: name.to_owned(),
                        values: Vec::new(),
                    });
                    negated = false;
                }
                _ => rule.matches.last_mut()?.values.push(word),
            }
        }
        Some((chain, rule))
    }

    fn of<'a>(&'a self, name: &'a str, negated: bool) -> impl Iterator<Item = &'a str> {
        let matches = self.matches.iter();
        matches
            .filter(move |it| it.name == name && it.negated == negated)
            .filter_map(|it| it.values.first().map(String::as_str))
    }

    /// Whether it asks for nothing but these.
    fn asks_only(&self, names: &[&str]) -> bool {
        let known = |it: &Match| names.contains(&it.name.as_str()) || it.name == "--comment";
        let mut matches = self.matches.iter();
        matches.all(|it| known(it) || it.name == "-m")
    }

    fn is_to(&self, target: &str) -> bool {
        self.target.as_deref() == Some(target)
    }

    /// Whether it has no part in what becomes of a packet that Docker's rules
    /// let pass: it counts, or lets pass as well.
    pub fn is_innocent(&self) -> bool {
        matches!(self.target.as_deref(), None | Some("ACCEPT" | "RETURN"))
    }

    /// Whether it speaks of one of these bridges alone.
    fn names_bridge(&self, bridges: &BTreeSet<&str>) -> bool {
        let either = self.of("-i", false).chain(self.of("-o", false));
        either
            .into_iter()
            .any(|it| bridges.contains(it) || is_default_name(it))
    }

    /// Whether Docker makes a rule of this form in the table `filter`, or
    /// `raw`, for one of these bridges.
    pub fn is_dockers_filter(&self, bridges: &BTreeSet<&str>) -> bool {
        if self.target.as_deref().is_some_and(is_dockers_chain) {
            return true;
        }
        let plain = ["-s", "-d", "-p", "--dport", "--sport"];
        let narrow = plain.iter().any(|it| self.of(it, false).next().is_some());
        let refuses = self.is_to("DROP") || self.is_to("REJECT");
        refuses
            && !narrow
            && self.names_bridge(bridges)
            && self.asks_only(&["-i", "-o", "-s", "-d"])
    }

    /// The same of what it makes in `raw` for addresses and ports of containers:
    /// what comes for them by another interface than their bridge.
    pub fn is_dockers_raw(&self, bridges: &BTreeSet<&str>) -> bool {
        let mut others = self.of("-i", true);
        self.is_to("DROP")
            && self.of("-d", false).next().is_some()
            && self.of("-s", false).next().is_none()
            && others.all(|it| it == "lo" || bridges.contains(it) || is_default_name(it))
            && self.asks_only(&["-d", "-i", "-p", "--dport"])
    }

    /// The same of what it makes in the table `nat`.
    pub fn is_dockers_nat(&self, bridges: &BTreeSet<&str>) -> bool {
        match self.target.as_deref() {
            Some(chain) if is_dockers_chain(chain) => {
                self.asks_only(&["-d", "--dst-type", "--limit-iface-in"])
                    && self.of("-d", false).next().is_none()
            }
            Some("RETURN") => self.asks_only(&["-i"]) && self.names_bridge(bridges),
            Some("DNAT") => {
                self.of("--dport", false).next().is_some()
                    && self.of("-s", false).next().is_none()
                    && self.asks_only(&["-s", "-d", "-i", "-p", "--dport"])
            }
            Some("MASQUERADE" | "SNAT") => {
                self.masquerades(bridges).is_some() || self.is_hairpin(bridges)
            }
            _ => false,
        }
    }

    /// The bridge whose containers leave translated by this rule.
    pub fn masquerades<'a>(&self, bridges: &BTreeSet<&'a str>) -> Option<&'a str> {
        let is = self.is_to("MASQUERADE") || self.is_to("SNAT");
        let bridge = self.of("-o", true).find_map(|it| bridges.get(it))?;
        (is && self.asks_only(&["-s", "-o"])).then_some(*bridge)
    }

    /// What comes back to the container, or the bridge, that it is from.
    fn is_hairpin(&self, bridges: &BTreeSet<&str>) -> bool {
        let (from, to) = (self.of("-s", false).next(), self.of("-d", false).next());
        let itself = from.is_some() && from == to;
        let local = self.of("--src-type", false).next() == Some("LOCAL");
        itself || local && self.names_bridge(bridges)
    }

    /// Whether no packet from one of these subnets meets it.
    pub fn is_of_others(&self, subnets: &BTreeSet<IpNet>) -> bool {
        let source = self.of("-s", false).next();
        let source: Option<IpNet> = source.and_then(|it| it.parse().ok());
        let apart = |one: &IpNet, other: &IpNet| !one.contains(other) && !other.contains(one);
        source.is_some_and(|source| subnets.iter().all(|subnet| apart(&source, subnet)))
    }

    /// The subnet of what leaves by it.
    pub fn source(&self) -> Option<IpNet> {
        self.of("-s", false).next()?.parse().ok()
    }
}
