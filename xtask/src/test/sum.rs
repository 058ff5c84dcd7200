//! What the test programs report, added up.

use std::fmt;

/// What a test prints on standard error, before it returns, where it can't do
/// its work on this machine.
const SKIPPED: &str = "skipped: ";

/// Counts over all test programs that were read.
#[derive(Debug, Default)]
pub struct Sum {
    passed: usize,
    failed: usize,
    ignored: usize,
    skipped: usize,
    part: Part,
}

/// Where in a test program's report the last line stood.
#[derive(Debug, Default, PartialEq)]
enum Part {
    /// One line a test, or what failed tests said.
    #[default]
    Results,
    /// What tests that passed said: the name of the test, and whether it has
    /// been counted as skipped.
    Said { test: String, counted: bool },
}

impl Sum {
    /// Takes the next line of the report and returns what to show of it. Of
    /// what passed tests said only the reasons for skipping are shown.
    pub fn read(&mut self, line: &str) -> Option<String> {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.part = Part::Results;
            self.add(result);
            return Some(line.to_owned());
        }
        if line == "successes:" {
            self.part = Part::Said {
                test: String::new(),
                counted: false,
            };
            return None;
        }
        if line == "failures:" {
            self.part = Part::Results;
        }
        let Part::Said { test, counted } = &mut self.part else {
            return Some(line.to_owned());
        };
        if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            *test = name.to_owned();
            *counted = false;
            return None;
        }
        let reason = line.strip_prefix(SKIPPED)?;
        if !*counted {
            *counted = true;
            self.skipped += 1;
        }
        Some(format!("test {test} skipped: {reason}"))
    }

    /// Adds `ok. 3 passed; 0 failed; 1 ignored; ...`.
    fn add(&mut self, result: &str) {
        let counts = result.split_once(". ").map_or(result, |(_, counts)| counts);
        for count in counts.split("; ") {
            let Some((number, what)) = count.split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse::<usize>() else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }

    /// Tests that found that they can't do their work here.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// Tests that did their work, whatever came of it.
    pub fn ran(&self) -> usize {
        self.passed.saturating_sub(self.skipped) + self.failed
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed.saturating_sub(self.skipped),
            self.failed,
            self.skipped + self.ignored
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Sum;

    const REPORT: &str = "
running 4 tests
test a ... ok
test b ... FAILED
test c ... ok
test d ... ignored

successes:

---- c stdout ----
skipped: no cgroup v2 here
skipped: nor bpffs
failures to look at

successes:
    a
    c

failures:

---- b stdout ----
skipped: not counted, the test failed

failures:
    b

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    fn read(report: &str) -> (Sum, Vec<String>) {
        let mut sum = Sum::default();
        let shown = report.lines().filter_map(|line| sum.read(line)).collect();
        (sum, shown)
    }

    #[test]
    fn skipped_tests_are_not_passed_ones() {
        let (sum, shown) = read(REPORT);
        assert_eq!(sum.to_string(), "1 passed, 1 failed, 2 skipped");
        assert_eq!(sum.ran(), 2);
        assert!(
            shown.contains(&"test c skipped: no cgroup v2 here".to_owned()),
            "{shown:?}"
        );
        assert!(
            shown.contains(&"---- b stdout ----".to_owned()),
            "{shown:?}"
        );
        assert!(
            !shown.contains(&"failures to look at".to_owned()),
            "{shown:?}"
        );
    }

    #[test]
    fn programs_add_up() {
        let (sum, _) = read(&REPORT.repeat(3));
        assert_eq!(sum.to_string(), "3 passed, 3 failed, 6 skipped");
    }

    #[test]
    fn a_program_without_tests_ran_none() {
        let (sum, _) = read(
            "running 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0.00s\n",
        );
        assert_eq!(sum.ran(), 0);
    }
}
