//! What the guest reports, and whether that is all that was asked for.

use std::fmt;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::test::sum::Sum;

/// What has to be reported, in this order (`init.sh`), and what besides where
/// the machine has tests, with their options of networks.
const SECTIONS: [&str; 4] = ["load", "doctor", "unload", "demo"];
const WITH_OPTIONS: [&str; 2] = ["demo-with-options", "tests-with-options"];

pub struct Report {
    /// By which programs are attached to interfaces.
    mechanism: Option<String>,
    /// Each program, with the number of instructions that the verifier walked.
    programs: Vec<(String, u32)>,
    sections: Vec<Section>,
    checks: Vec<Check>,
    /// Options of networks, and what the tests with them came to.
    tests: Option<(String, Sum)>,
}

/// A command, what it printed, and how it ended.
struct Section {
    name: &'static str,
    /// None where the machine ended first.
    status: Option<u8>,
    output: String,
}

/// A check of `netdp demo`.
#[derive(Deserialize)]
struct Check {
    name: String,
    passed: bool,
    detail: String,
}

#[derive(Deserialize)]
struct Demo {
    checks: Vec<Check>,
}

impl Report {
    pub fn read(text: &str, options: Option<&str>) -> Result<Self> {
        let sections = SECTIONS.map(|name| section(text, name));
        let [load, _, _, demo] = &sections;
        let mut checks = checks(demo)?;
        let with_options = options.map(|it| (it, WITH_OPTIONS.map(|name| section(text, name))));
        let tests = match &with_options {
            Some((options, [demo, tests])) => {
                checks.extend(self::checks(demo)?.into_iter().map(|check| Check {
                    name: format!("{options}: {}", check.name),
                    ..check
                }));
                let mut sum = Sum::default();
                for line in tests.output.lines() {
                    sum.read(line);
                }
                Some(((*options).to_owned(), sum))
            }
            None => None,
        };
        let mechanism = after(&load.output, "programs are attached by ")
            .next()
            .map(str::to_owned);
        let mut programs: Vec<_> = after(&load.output, "program ")
            .filter_map(verified)
            .collect();
        programs.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        Ok(Self {
            mechanism,
            programs,
            checks,
            tests,
            sections: sections
                .into_iter()
                .chain(with_options.into_iter().flat_map(|(_, sections)| sections))
                .collect(),
        })
    }

    pub fn passed(&self) -> bool {
        self.sections.iter().all(|it| it.status == Some(0))
            && !self.checks.is_empty()
            && self.checks.iter().all(|check| check.passed)
            && !self.programs.is_empty()
            && self.tests.as_ref().is_none_or(|(_, sum)| sum.ran() > 0)
    }
}

/// Those of a demo that ran. It ends with 1 and none where it could not make
/// them.
fn checks(demo: &Section) -> Result<Vec<Check>> {
    if demo.status.is_none() || demo.output.is_empty() {
        return Ok(Vec::new());
    }
    let demo: Demo = serde_json::from_str(&demo.output)
        .with_context(|| format!("the demo printed no report: {}", demo.output))?;
    Ok(demo.checks)
}

/// What `netdp bench` printed, and whether it went well.
pub fn bench(text: &str) -> (String, bool) {
    let section = section(text, "bench");
    (section.output, section.status == Some(0))
}

fn section(text: &str, name: &'static str) -> Section {
    let begin = format!("begin {name}");
    let mut status = None;
    let mut output = String::new();
    // The lines of a raw terminal may still end with a carriage return.
    let lines = text.lines().map(|line| line.trim_end_matches('\r'));
    for line in lines.skip_while(|line| *line != begin).skip(1) {
        let end = line
            .strip_prefix("end ")
            .and_then(|rest| rest.strip_suffix(name));
        if let Some(code) = end.and_then(|code| code.trim().parse().ok()) {
            status = Some(code);
            break;
        }
        output.push_str(line);
        output.push('\n');
    }
    Section {
        name,
        status,
        output,
    }
}

/// The rest of each line of the daemon's log after `words`.
fn after<'a>(log: &'a str, words: &'a str) -> impl Iterator<Item = &'a str> {
    log.lines()
        .filter_map(move |line| line.split_once(words).map(|(_, rest)| rest))
}

/// `NAME: N instructions verified`.
fn verified(line: &str) -> Option<(String, u32)> {
    let (name, rest) = line.split_once(": ")?;
    let count = rest.strip_suffix(" instructions verified")?;
    Some((name.to_owned(), count.parse().ok()?))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in &self.programs {
            writeln!(f, "  {name:<16} {count:>7} instructions verified")?;
        }
        let mechanism = self.mechanism.as_deref().unwrap_or("nothing");
        writeln!(f, "  attached by {mechanism}")?;
        for check in &self.checks {
            let mark = if check.passed { "ok" } else { "FAILED" };
            writeln!(f, "  {mark:<6} {}: {}", check.name, check.detail)?;
        }
        if let Some((options, sum)) = &self.tests {
            writeln!(f, "  tests with {options}: {sum}")?;
        }
        for section in &self.sections {
            match section.status {
                Some(0) => writeln!(f, "  ok     {}", section.name)?,
                status => {
                    let ending = status.map_or("no end".to_owned(), |it| format!("status {it}"));
                    writeln!(
                        f,
                        "  FAILED {} ({ending})\n{}",
                        section.name, section.output
                    )?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "begin load\r\n\
        2025-01-01T00:00:00Z DEBUG program to_netdev: 321 instructions verified\r\n\
        2025-01-01T00:00:00Z DEBUG programs are attached by tcx\r\n\
        end 0 load\r\n\
        begin doctor\r\nend 0 doctor\r\n\
        begin unload\r\nend 0 unload\r\n\
        begin demo\r\n\
        {\"passed\": true, \"checks\": [{\"name\": \"a\", \"passed\": true, \"detail\": \"b\"}]}\r\n\
        end 0 demo\r\n";

    #[test]
    fn a_whole_report_passes() {
        let report = Report::read(GOOD, None).unwrap();
        assert!(report.passed());
        assert_eq!(report.programs, [("to_netdev".to_owned(), 321)]);
        assert_eq!(report.mechanism.as_deref(), Some("tcx"));
    }

    #[test]
    fn whatever_is_missing_or_fails_fails() {
        for (from, to) in [
            ("end 0 demo", ""),
            ("end 0 doctor", "end 1 doctor"),
            (
                "\"detail\": \"b\"}",
                "\"detail\": \"b\"}, {\"name\": \"c\", \"passed\": false, \"detail\": \"\"}",
            ),
            (
                "[{\"name\": \"a\", \"passed\": true, \"detail\": \"b\"}]",
                "[]",
            ),
            ("321 instructions verified", ""),
        ] {
            let report = Report::read(&GOOD.replace(from, to), None).unwrap();
            assert!(!report.passed(), "{from} became {to}");
        }
        assert!(!Report::read("", None).unwrap().passed());
    }

    const OPTIONS: &str = "begin demo-with-options\r\n\
        {\"passed\": true, \"checks\": [{\"name\": \"a\", \"passed\": true, \"detail\": \"b\"}]}\r\n\
        end 0 demo-with-options\r\n\
        begin tests-with-options\r\n\
        test result: ok. 2 passed; 0 failed; 0 ignored\r\n\
        end 0 tests-with-options\r\n";

    #[test]
    fn of_a_bench_all_is_shown_and_its_end_counts() {
        let table = "begin bench\r\nhost mode 1\r\nend 0 bench\r\n";
        assert_eq!(bench(table), ("host mode 1\n".to_owned(), true));
        assert!(!bench(&table.replace("end 0", "end 1")).1);
        let cut = bench("begin bench\r\nhost mode 1\r\n");
        assert_eq!(cut, ("host mode 1\n".to_owned(), false));
    }

    #[test]
    fn where_there_are_tests_they_count() {
        let good = format!("{GOOD}{OPTIONS}");
        let report = Report::read(&good, Some("device=netkit")).unwrap();
        assert!(report.passed());
        assert!(report.to_string().contains("netkit: 2 passed, 0 failed"));
        assert!(!Report::read(GOOD, Some("")).unwrap().passed());
        for (from, to) in [
            ("end 0 tests-with-options", "end 1 tests-with-options"),
            ("ok. 2 passed", "ok. 0 passed"),
            ("end 0 demo-with-options", "end 1 demo-with-options"),
        ] {
            let report = Report::read(&good.replace(from, to), Some("")).unwrap();
            assert!(!report.passed(), "{from} became {to}");
        }
    }
}
