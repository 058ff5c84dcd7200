//! `netdp bench` where Docker is installed: `cargo xtask test engines`.

use netdp_tests::engine::EngineHost;
use serde_json::Value;

mod docker_20_10 {
    #[test]
    #[ignore = "needs a real Docker: cargo xtask test engines"]
    fn docker_itself_is_measured_and_leaves_nothing() {
        super::docker_itself_is_measured_and_leaves_nothing("debian-12");
    }
}

mod docker_newest {
    #[test]
    #[ignore = "needs a real Docker: cargo xtask test engines"]
    fn docker_itself_is_measured_and_leaves_nothing() {
        super::docker_itself_is_measured_and_leaves_nothing("newest");
    }
}

/// Files, mounts, programs, interfaces and an engine's control groups.
const LEFT: &str = "\
find /etc /opt /root /run /tmp /usr /var -xdev
cut -d ' ' -f 3- /proc/1/mountinfo
cat /proc/[0-9]*/comm 2>/dev/null | grep -E 'docker|containerd|runc' || :
ls /sys/class/net
ls -d /sys/fs/cgroup/*/netdp-bench-*/engine 2>/dev/null || :";

fn docker_itself_is_measured_and_leaves_nothing(packages: &str) {
    let Some(host) = EngineHost::start("bench", packages) else {
        return;
    };
    let before = host.sh(LEFT);
    let said = host.sh("dockerd --version");
    let version = said.strip_prefix("Docker version ").unwrap();
    let version = version.split(',').next().unwrap().to_owned();
    let report = host.sh(
        "netdp bench --mode host,dockerd --scenario published,egress,containers,local,ports \
         --sizes 20 --workload rr,udp-rr,crr --rounds 1 --milliseconds 60 --format json",
    );
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["left_out"], Value::Array(Vec::new()), "{report:#}");
    let scenarios = report["scenarios"].as_array().unwrap();
    assert_eq!(scenarios.len(), 4);
    for workload in scenarios
        .iter()
        .flat_map(|it| it["workloads"].as_array().unwrap())
    {
        let mode = &workload["modes"][1];
        assert_eq!(mode["mode"], "dockerd");
        let title = mode["title"].as_str().unwrap();
        assert!(title.ends_with(&version), "{title}, not {version}");
        assert_eq!(mode["errors"], 0, "{workload:#}");
        let round = &mode["rounds"][0];
        assert!(round["operations"].as_u64() > Some(0), "{workload:#}");
    }
    let point = &report["growth"][0]["modes"][0]["points"][0];
    let round = &point["result"]["rounds"][0];
    assert!(round["operations"].as_u64() > Some(0), "{report:#}");
    // Another test's may be under way.
    host.wait_until("as it was before", || host.sh(LEFT) == before);
}
