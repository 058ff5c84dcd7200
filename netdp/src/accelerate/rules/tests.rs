use super::{super::view::DockerNetwork, *};

/// What Docker 28 makes, as `iptables-save` prints it.
const DOCKER_28: &str = r#"*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP
-A PREROUTING -d 127.0.0.1/32 ! -i lo -p tcp -m tcp --dport 8443 -j DROP
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-BRIDGE - [0:0]
:DOCKER-CT - [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-INTERNAL - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A FORWARD -j ufw-before-forward
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER ! -i br-0123456789ab -o br-0123456789ab -j DROP
-A DOCKER-BRIDGE -o docker0 -j DOCKER
-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-INTERNAL
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i docker0 -j ACCEPT
-A DOCKER-INTERNAL ! -s 172.21.0.0/16 -o br-fedcba987654 -j DROP
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -s 172.19.0.0/16 ! -o br-0123456789ab -j SNAT --to-source 192.0.2.1
-A POSTROUTING -s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE
-A POSTROUTING -o docker0 -m addrtype --src-type LOCAL -j MASQUERADE
-A POSTROUTING -s 192.168.122.0/24 ! -d 192.168.122.0/24 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER -d 127.0.0.1/32 ! -i docker0 -p tcp -m tcp --dport 8443 -j DNAT --to-destination 172.17.0.2:80
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
-A DOCKER ! -s fe80::/10 ! -i docker0 -p tcp -m tcp --dport 8081 -j DNAT --to-destination [fd00:8::2]:80
COMMIT
"#;

/// The same of Docker 20.10.
const DOCKER_20: &str = "*nat
:PREROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j DROP
-A FORWARD -i eth0 -j DROP
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
";

fn rules(text: &str) -> Rules {
    Rules {
        tables: Tables::parse(text),
        ..Rules::default()
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
    let judged = judged(&view(), &[rules(DOCKER_28), Rules::default()], false);
    assert_eq!(judged.translates, [true, false]);
    let of = |family: usize| judged.masquerades[family].iter().collect::<Vec<_>>();
    assert_eq!(of(0), ["br-0123456789ab", "docker0"]);
    assert!(of(1).is_empty());
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
fn dockers_own_rules_bar_nothing() {
    for text in [DOCKER_28, DOCKER_20] {
        let judged = judged(&view(), &[rules(text), Rules::default()], false);
        assert_eq!(judged.barred, BTreeMap::new());
    }
}

#[test]
fn rules_that_packets_would_skip_bar_networks() {
    // In front of the line that begins so, in its own table.
    for (before, rule) in [
        (
            "-A FORWARD -j DOCKER-USER",
            "-A FORWARD -m set --match-set bad src -j DROP",
        ),
        ("-A FORWARD -j DOCKER-FORWARD", "-A FORWARD -j DOCKER-BLOCK"),
        (
            "-A FORWARD -j DOCKER-FORWARD",
            "-A FORWARD -j LOG --log-prefix \"docker: \"",
        ),
        ("-A DOCKER ", "-A DOCKER-USER -s 203.0.113.0/24 -j DROP"),
        ("-A DOCKER ", "-A DOCKER-USER -j DOCKER-BLOCK"),
        ("-A DOCKER ", "-A DOCKER-USER -j DOCKER-USERS"),
        (
            "-A DOCKER -d 172.17.0.2/32",
            "-A DOCKER -s 203.0.113.0/24 -j DROP",
        ),
        (
            "-A DOCKER -d 172.17.0.2/32",
            "-A DOCKER -s 203.0.113.7/32 -o docker0 -j DROP",
        ),
        (
            "-A POSTROUTING ",
            "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j SNAT --to-source 198.18.0.99",
        ),
        (
            "-A POSTROUTING ",
            "-A POSTROUTING -s 172.17.0.9/32 -j SNAT --to-source 198.18.0.99",
        ),
        ("-A POSTROUTING ", "-A POSTROUTING -j KUBE-POSTROUTING"),
        (
            "-A DOCKER -i docker0",
            "-A DOCKER -s 203.0.113.0/24 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.9:80",
        ),
        (
            "-A PREROUTING -m addrtype",
            "-A PREROUTING -i docker0 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 3128",
        ),
        (
            "-A PREROUTING -d 172",
            "-A PREROUTING -s 203.0.113.0/24 -j DROP",
        ),
        (
            "-A FORWARD -j DOCKER-USER",
            "-A FORWARD -m comment --comment \"no end -j DROP",
        ),
    ] {
        let (first, rest) = DOCKER_28.split_once(before).unwrap();
        let text = format!("{first}{rule}\n{before}{rest}");
        let families = [rules(&text), Rules::default()];
        let judged = |despite| judged(&view(), &families, despite).barred;
        let barred = judged(false);
        let why = barred
            .get("docker0")
            .unwrap_or_else(|| panic!("{rule} bars nothing"));
        assert!(why.contains(rule) && why.contains("--skip-rules"), "{why}");
        assert!(judged(true).is_empty());
    }
    // Behind Docker's, and what only counts or lets pass, has no part in it.
    for (before, rule) in [
        ("-A FORWARD -j ufw", "-A FORWARD -i eth0 -j DROP"),
        ("-A DOCKER ", "-A DOCKER-USER -s 203.0.113.0/24 -j RETURN"),
        (
            "-A FORWARD -j DOCKER-USER",
            "-A FORWARD -p tcp -m tcp --dport 80",
        ),
    ] {
        let (first, rest) = DOCKER_28.split_once(before).unwrap();
        let text = format!("{first}{rule}\n{before}{rest}");
        let judged = judged(&view(), &[rules(&text), Rules::default()], false);
        assert_eq!(judged.barred, BTreeMap::new(), "{rule}");
    }
}

#[test]
fn rules_that_are_not_known_bar_networks() {
    let unread = Rules {
        unread: Some("iptables-save: no".to_owned()),
        ..Rules::default()
    };
    let why = |families: &[Rules; 2]| {
        let judged = judged(&view(), families, true);
        judged.barred.get("docker0").cloned().unwrap_or_default()
    };
    assert!(why(&[unread.clone(), rules(DOCKER_28)]).contains("iptables-save: no"));
    // A kernel without IPv6 has no rules of it, and carries none.
    assert_eq!(why(&[rules(DOCKER_28), unread]), "");
    assert!(why(&[Rules::default(), Rules::default()]).contains("no rules of Docker's"));
}
