//! What the host's own rules say of Docker's networks: whether Docker translates
//! them at all, and whether somebody filters what they send and get, which the
//! programs' packets would skip.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
};

use tokio::process::Command;

use super::view::View;

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

/// The rules of one family, as `iptables -S` and `nft list` write them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Rules {
    nat: String,
    /// Docker's table where it makes its rules by nftables (from Docker 29 on).
    nft: String,
    forward: String,
    user: String,
}

/// Reads the rules. `despite`: rules of the host's own are to be skipped.
pub async fn judge(view: &View, despite: bool) -> Judged {
    let families = [
        Rules::read("iptables", "ip").await,
        Rules::read("ip6tables", "ip6").await,
    ];
    judged(view, &families, despite)
}

fn judged(view: &View, families: &[Rules; 2], despite: bool) -> Judged {
    let mut judged = Judged::default();
    let bridges = view.networks.iter().filter(|it| it.driver == "bridge");
    let bridges: Vec<String> = bridges.map(|it| it.bridge()).collect();
    for (family, rules) in families.iter().enumerate() {
        judged.translates[family] = rules.translate();
        let masquerading = bridges.iter().filter(|it| rules.masquerade(it));
        judged.masquerades[family] = masquerading.cloned().collect();
    }
    let filter = families.iter().find_map(Rules::filter);
    if let (Some(rule), false) = (filter, despite) {
        let why = format!(
            "its packets would skip a rule of this host, `{rule}`: take it away, or say \
             --skip-rules"
        );
        judged.barred = bridges.into_iter().map(|it| (it, why.clone())).collect();
    }
    judged
}

impl Rules {
    /// What can't be read is as if it were not there: then nothing is translated.
    async fn read(iptables: &str, family: &str) -> Self {
        let nft = ["list", "table", family, "docker-bridges"];
        Self {
            nat: said(iptables, &["-w", "-t", "nat", "-S"]).await,
            forward: said(iptables, &["-w", "-S", "FORWARD"]).await,
            user: said(iptables, &["-w", "-S", "DOCKER-USER"]).await,
            nft: said("nft", &nft).await,
        }
    }

    fn translate(&self) -> bool {
        self.nat.lines().any(|line| line == "-N DOCKER") || !self.nft.is_empty()
    }

    fn masquerade(&self, bridge: &str) -> bool {
        self.nat.lines().chain(self.nft.lines()).any(|line| {
            let mut words = line.split([' ', '"']);
            let lower = line.to_ascii_lowercase();
            words.any(|word| word == bridge)
                && (lower.contains("masquerade") || lower.contains("snat"))
                && (lower.contains("! -o") || lower.contains("oifname !="))
        })
    }

    /// The first rule that a forwarded packet meets before Docker's own, or
    /// that is in the chain that Docker leaves to users.
    fn filter(&self) -> Option<&str> {
        let is_own = |line: &&str| {
            !line.starts_with("-A ")
                || line.contains("-j DOCKER")
                || line.ends_with("-j RETURN") && line.split(' ').count() == 4
        };
        let is_dockers = |line: &&str| line.contains("-j DOCKER");
        let before = self.forward.lines().take_while(|line| !is_dockers(line));
        let has_dockers = self.forward.lines().any(|line| is_dockers(&line));
        self.user
            .lines()
            .chain(before.filter(|_| has_dockers))
            .find(|line| !is_own(line))
    }
}

/// What a command prints; nothing where it fails or isn't there.
async fn said(program: &str, words: &[&str]) -> String {
    let output = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::view::DockerNetwork, *};

    const NAT: &str = "-P POSTROUTING ACCEPT\n-N DOCKER\n\
        -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\n\
        -A POSTROUTING -s 172.19.0.0/16 ! -o br-0123456789ab -j SNAT --to-source 192.0.2.1\n\
        -A POSTROUTING -s 172.20.0.2/32 -d 172.20.0.2/32 -o br-other -j MASQUERADE\n\
        -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80\n";
    const FORWARD: &str = "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n-A FORWARD -j \
        DOCKER-ISOLATION-STAGE-1\n-A FORWARD -j ufw-before-forward\n";
    const USER: &str = "-N DOCKER-USER\n-A DOCKER-USER -j RETURN\n";

    fn rules(nat: &str, forward: &str, user: &str) -> Rules {
        Rules {
            nat: nat.to_owned(),
            forward: forward.to_owned(),
            user: user.to_owned(),
            nft: String::new(),
        }
    }

    fn view() -> View {
        let network = |name: &str| DockerNetwork {
            driver: "bridge".to_owned(),
            options: [("com.docker.network.bridge.name", name)]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..DockerNetwork::default()
        };
        View {
            networks: ["docker0", "br-0123456789ab", "br-other"]
                .map(network)
                .to_vec(),
            ..View::default()
        }
    }

    #[test]
    fn dockers_rules_tell_what_it_translates() {
        let v4 = rules(NAT, FORWARD, USER);
        let judged = judged(&view(), &[v4, Rules::default()], false);
        assert_eq!(judged.translates, [true, false]);
        let of = |family: usize| judged.masquerades[family].iter().collect::<Vec<_>>();
        assert_eq!(of(0), ["br-0123456789ab", "docker0"]);
        assert!(of(1).is_empty());
        assert!(judged.barred.is_empty());
        // Docker 29 by nftables.
        let nft = Rules {
            nft: "table ip docker-bridges {\n\t\toifname != \"docker0\" ip saddr 172.17.0.0/16 \
                  counter packets 0 bytes 0 masquerade comment \"MASQUERADE\"\n}\n"
                .to_owned(),
            ..Rules::default()
        };
        assert!(nft.translate() && nft.masquerade("docker0") && !nft.masquerade("docker1"));
    }

    #[test]
    fn rules_that_packets_would_skip_bar_networks() {
        let drop = "-N DOCKER-USER\n-A DOCKER-USER -s 203.0.113.0/24 -j DROP\n-A DOCKER-USER -j \
                    RETURN\n";
        let some = "-N DOCKER-USER\n-A DOCKER-USER -s 203.0.113.0/24 -j RETURN\n-A DOCKER-USER -j \
                    DROP\n";
        let before = "-P FORWARD DROP\n-A FORWARD -m set --match-set bad src -j DROP\n-A FORWARD \
                      -j DOCKER-USER\n";
        for (forward, user) in [(FORWARD, drop), (FORWARD, some), (before, USER)] {
            let families = [rules(NAT, forward, user), Rules::default()];
            let barred = judged(&view(), &families, false).barred;
            assert!(barred["docker0"].contains("--skip-rules"), "{barred:?}");
            assert!(judged(&view(), &families, true).barred.is_empty());
        }
        // Without Docker's rules before it, a rule of FORWARD is no filter of
        // what Docker lets through.
        let after = "-P FORWARD DROP\n-A FORWARD -i eth0 -j ACCEPT\n";
        assert_eq!(rules("", after, "").filter(), None);
    }
}
