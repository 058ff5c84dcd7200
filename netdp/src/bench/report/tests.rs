use super::super::sizes::{GrowthMode, Point};
use super::super::{Growth, Mode};
use super::*;
use crate::load::Series;

fn lane(mode: &str, values: &[f64], errors: u64) -> LaneResult {
    let series = Series::new(mode, values.repeat(2));
    let host = Series::new("host", [100.0, 101.0, 99.0].repeat(2));
    LaneResult {
        mode: mode.into(),
        title: mode.into(),
        against_reference: (mode != "host").then(|| series.against(&host)),
        series: Some(series),
        latency: None,
        cpu_per_operation: Some(9e-6),
        errors,
        lost: 7,
        first_error: (errors > 0).then(|| "connect: refused".into()),
        rounds: Vec::new(),
    }
}

pub(in crate::bench) fn report(errors: u64) -> Report {
    let modes = vec![
        lane("host", &[100.0, 101.0, 99.0], 0),
        lane("docker", &[67.0, 66.0, 68.0], errors),
        lane("netdp", &[99.0, 97.0, 101.0], 0),
    ];
    let effort = Effort {
        rounds: 3,
        duration: std::time::Duration::from_millis(400),
        warm_up: std::time::Duration::from_millis(100),
        cpu: 1,
    };
    Report {
        machine: Machine::here(effort.text("client and server")),
        effort: effort.into(),
        busy: Some(Busy {
            cpu: 1,
            share: 0.25,
        }),
        growth: Vec::new(),
        programs: vec![super::super::programs::tests::programs()],
        left_out: vec![LeftOut {
            mode: Mode::Nft.to_string(),
            title: Mode::Nft.title(),
            why: "nft is not installed".into(),
        }],
        failed: Vec::new(),
        scenarios: vec![ScenarioResult {
            scenario: "published".into(),
            title: "published port".into(),
            workloads: vec![Workload {
                workload: Kind::Rr,
                unit: Unit::PerSecond,
                modes,
            }],
        }],
    }
}

#[test]
fn a_difference_below_the_spread_is_in_brackets() {
    let table = report(0).table();
    assert!(table.contains(" 0.67 "), "{table}");
    assert!(table.contains("(0.99)"), "{table}");
    assert!(table.contains("nft is not installed"), "{table}");
    assert!(table.contains("58123"), "{table}");
    assert!(table.contains("25 % busy"), "{table}");
}

#[test]
fn what_went_wrong_is_told_and_fails() {
    assert!(report(0).is_complete());
    let failed = report(3);
    assert!(!failed.is_complete());
    assert!(
        failed.table().contains("connect: refused"),
        "{}",
        failed.table()
    );
    let mut unmeasured = report(0);
    unmeasured.scenarios[0].workloads[0].modes[2].series = None;
    assert!(!unmeasured.is_complete());
    assert!(unmeasured.table().contains("none"));
}

#[test]
fn a_part_that_failed_is_named_beside_what_was_measured() {
    let mut report = report(0);
    report.failed.push(Failed {
        part: "programs".into(),
        why: "cannot have the kernel count".into(),
    });
    assert!(!report.is_complete() && !report.is_empty());
    let table = report.table();
    assert!(table.contains(" 0.67 "), "{table}");
    assert!(table.contains("Left out: programs: cannot have"), "{table}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["failed"][0]["part"], "programs");
}

#[test]
fn what_was_measured_with_and_on_is_told() {
    let machine = Machine {
        netdp: "0.1.0".into(),
        commit: Some("12ab34c-dirty".into()),
        kernel: "6.18.0".into(),
        cpus: 2,
        cpu_model: Some("Cool Processor".into()),
        command: "netdp bench".into(),
        method: "in turn".into(),
    };
    let unknown = Machine {
        commit: None,
        cpu_model: None,
        ..machine.clone()
    };
    let mut report = report(0);
    let told = "netdp 0.1.0 (12ab34c-dirty), Linux 6.18.0, 2 CPUs (Cool Processor); in turn";
    report.machine = machine;
    assert!(report.table().contains(told), "{}", report.table());
    let page = super::super::html::page(&report).unwrap();
    assert!(page.contains(told), "{page}");
    let told = "netdp 0.1.0, Linux 6.18.0, 2 CPUs; in turn";
    assert_eq!(unknown.conditions(), told);
}

#[test]
fn one_of_a_kind_is_told_as_one() {
    let mut one = report(1);
    assert!(
        one.table().contains("\n1 error: published"),
        "{}",
        one.table()
    );
    assert!(report(3).table().contains("\n3 errors: published"));
    one.machine = Machine::here(
        Effort {
            rounds: 1,
            duration: std::time::Duration::from_millis(60),
            warm_up: std::time::Duration::ZERO,
            cpu: 1,
        }
        .text("client"),
    );
    assert!(one.table().contains("median of 1 round of 60 ms"));
}

#[test]
fn growth_is_shown_with_where_the_ratios_are() {
    let mut report = report(0);
    let point = |size, lane| Point {
        size,
        result: lane,
        left_out: None,
    };
    report.growth = vec![GrowthResult {
        growth: Growth::Ports,
        title: "ports".into(),
        workload: Kind::Crr,
        modes: vec![GrowthMode {
            mode: "netdp".into(),
            title: "netdp".into(),
            points: vec![
                point(10, Some(lane("host", &[99.0, 100.0, 101.0], 0))),
                point(100, Some(lane("netdp", &[99.0, 97.0, 101.0], 0))),
                point(1000, None),
            ],
        }],
    }];
    let rows = growth_rows(&report.growth[0]);
    assert_eq!(rows, [["netdp", "100 /s", "(0.99), 0.96 to 1.02", "none"]]);
    assert!(report.table().contains("(0.99), 0.96 to 1.02"));
}

#[test]
fn a_bound_is_shown_as_1_where_it_is_1_alone() {
    let compared = |low, high| Comparison {
        ratio: 0.98,
        interval: [low, high],
        verdict: Verdict::Slower,
    };
    for (low, high, shown) in [
        (0.974, 0.986, "0.97 to 0.99"),
        (0.974, 0.996, "0.97 to 0.996"),
        (0.999_96, 1.0, "0.99996 to 1.00"),
        (1.001, f64::INFINITY, "1.001 to inf"),
    ] {
        assert_eq!(interval(&compared(low, high)), shown);
    }
}

#[test]
fn fields_of_json_are_there() {
    let json = serde_json::to_value(report(0)).unwrap();
    let mode = &json["scenarios"][0]["workloads"][0]["modes"][1];
    assert_eq!(mode["mode"], "docker");
    assert_eq!(mode["series"]["median"], 67.0);
    assert_eq!(mode["against_reference"]["verdict"], "slower");
    assert_eq!(json["scenarios"][0]["workloads"][0]["workload"], "rr");
    assert_eq!(json["left_out"][0]["mode"], "nft");
    assert_eq!(json["busy_before"], 0.25);
    let packet = &json["programs"][0]["conversations"][0]["packets"][0];
    assert_eq!(packet["asked"]["lookups"], 3);
}
