use serde_json::json;

use super::*;

fn conf(extra: Value) -> NetConf {
    let mut conf = json!({"cniVersion": "1.1.0", "name": "mine", "type": "netdp"});
    let (Value::Object(conf), Value::Object(extra)) = (&mut conf, extra) else {
        panic!("objects are expected");
    };
    conf.extend(extra);
    serde_json::from_value(Value::Object(conf.clone())).unwrap()
}

fn refused(extra: Value) -> (u32, String) {
    let error = Config::read(&conf(extra)).unwrap_err();
    (u32::from(&error), error.details().to_owned())
}

#[test]
fn the_network_is_called_as_the_list_unless_it_says() {
    assert_eq!(Config::read(&conf(json!({}))).unwrap().network, "mine");
    let other = conf(json!({"network": "blue"}));
    assert_eq!(Config::read(&other).unwrap().network, "blue");
    assert_eq!(Config::read_leniently(&other).network, "blue");
}

#[test]
fn a_network_may_be_described() {
    let config = Config::read(&conf(json!({
        "subnets": ["10.9.0.0/24", "fd09::/64"], "gateways": ["10.9.0.9"],
        "ipRanges": ["10.9.0.128/25"], "ipv6": true, "internal": true, "icc": false,
        "mtu": 1400, "options": {"nat": "endpoint-independent"}, "ipMasq": false,
        "runDir": "/tmp/run", "holdPorts": false, "disableCheck": true, "cni.dev/x": 1,
    })))
    .unwrap();
    assert_eq!(config.run_dir, Some("/tmp/run".into()));
    assert_eq!(config.hold_ports, Some(false));
    let request = config.network_request().unwrap();
    assert_eq!(request.subnets.len(), 2);
    assert_eq!(request.gateways, ["10.9.0.9".parse::<IpAddr>().unwrap()]);
    assert_eq!(request.ip_ranges.len(), 1);
    assert!(request.ipv6 && request.internal);
    assert_eq!((request.icc, request.mtu), (Some(false), Some(1400)));
    assert_eq!(request.options.len(), 2);
    assert_eq!(request.options[MASQUERADE], "false");
}

#[test]
fn what_netdp_does_not_know_is_refused_by_name_and_value() {
    for (extra, key, value) in [
        (json!({"bridge": "cni0"}), "bridge", "cni0"),
        (json!({"subnte": "10.9.0.0/24"}), "subnte", "10.9.0.0/24"),
        (
            json!({"runtimeConfig": {"bandwidth": {"ingressRate": 7}}}),
            "runtimeConfig.bandwidth",
            "7",
        ),
        (
            json!({"runtimeConfig": {"portMappings": [
                {"hostPort": 80, "containerPort": 80, "via": "x"}
            ]}}),
            "portMappings.via",
            "x",
        ),
    ] {
        let (code, text) = refused(extra);
        assert_eq!(code, 2, "{text}");
        assert!(text.contains(key) && text.contains(value), "{text}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (extra, why) in [
        (json!({"ipam": {"type": "host-local"}}), "host-local"),
        (json!({"subnets": "10.9.0.0/24"}), "expected a sequence"),
        (json!({"subnets": ["10.9.0.0"]}), "configuration"),
        (json!({"runtimeConfig": {"ips": "10.9.0.2"}}), "ips"),
        (
            json!({"runtimeConfig": {"portMappings": [{"hostPort": 0, "containerPort": 80}]}}),
            "hostPort 0",
        ),
        (
            json!({"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 65536}]}}),
            "containerPort 65536",
        ),
        (
            json!({"runtimeConfig": {"portMappings": [
                {"hostPort": 80, "containerPort": 80, "hostIP": "localhost"}
            ]}}),
            "hostIP localhost",
        ),
    ] {
        let (code, text) = refused(extra);
        assert_eq!(code, 7, "{text}");
        assert!(text.contains(why), "{text}");
    }
    let name = Config::read(&conf(json!({"network": "x"}))).unwrap();
    let error = name.network_request().unwrap_err();
    assert!(error.details().contains("\"network\""), "{error}");
    // What has to be removed is removed all the same.
    let wrong = conf(json!({"subnte": 1, "ipam": {"type": "x"}, "network": "blue"}));
    assert_eq!(Config::read_leniently(&wrong).network, "blue");
}

#[test]
fn ports_are_those_of_the_runtime() {
    let config = Config::read(&conf(json!({"runtimeConfig": {"portMappings": [
        {"hostPort": 8081, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 9000, "containerPort": 9001, "protocol": "UDP", "hostIP": ""},
        {"hostPort": 8082, "containerPort": 80, "hostIP": "127.0.0.1"},
        {"hostPort": 8083, "containerPort": 80, "hostIP": "::", "protocol": "sctp"},
    ]}})))
    .unwrap();
    let ports: Vec<String> = config.ports().iter().map(ToString::to_string).collect();
    assert_eq!(
        ports,
        [
            "8081:80/tcp",
            "9000:9001/udp",
            "127.0.0.1:8082:80/tcp",
            "[::]:8083:80/sctp"
        ]
    );
}

#[test]
fn a_runtimes_words_about_dns_count_before_the_configurations() {
    let dns = |extra| Config::read(&conf(extra)).unwrap().dns;
    assert_eq!(dns(json!({})), None);
    let configured = json!({"nameservers": ["10.0.0.1"], "search": ["a"], "options": ["x"]});
    let both = dns(json!({
        "dns": configured,
        "runtimeConfig": {"dns": {"servers": ["10.0.0.2"], "searches": ["b"]}},
    }))
    .unwrap();
    assert_eq!(both.nameservers, ["10.0.0.2"]);
    assert_eq!(both.search, Some(vec!["b".to_owned()]));
    assert_eq!(both.options, Some(vec!["x".to_owned()]));
}

#[test]
fn arguments_are_pairs_that_netdp_knows() {
    let given = cni_args("IP=10.9.0.7;MAC=02:00:00:00:00:07;K8S_POD_NAME=m1").unwrap();
    assert_eq!(given["IP"], "10.9.0.7");
    assert_eq!(given["K8S_POD_NAME"], "m1");
    assert!(cni_args("").unwrap().is_empty());
    assert!(cni_args("IP=").unwrap().is_empty());
    assert!(cni_args("IgnoreUnknown=1;COLOUR=red").is_ok());
    for wrong in ["COLOUR=red", "IgnoreUnknown=0;COLOUR=red", "COLOUR"] {
        let error = cni_args(wrong).unwrap_err();
        assert_eq!(u32::from(&error), 4);
        assert!(error.details().contains("COLOUR"), "{error}");
    }
}

#[test]
fn addresses_come_with_or_without_a_prefix() {
    assert_eq!(
        address("10.9.0.7").unwrap(),
        address("10.9.0.7/24").unwrap()
    );
    assert!(address("fd09::7/64").unwrap().is_ipv6());
    assert!(address("10.9.0").is_err());
}
