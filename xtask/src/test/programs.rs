//! The test programs: finding them, and running several at a time. One after
//! another, as cargo runs them, leaves half of the machine idle: each ends with
//! its longest test alone.

use std::{
    collections::VecDeque,
    ffi::OsString,
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::sum::Sum;
use crate::process;

/// A program that cargo has built of tests.
#[derive(Debug, PartialEq, Eq)]
pub struct Program {
    /// As cargo writes it: `tests/NAME.rs`, or `src/lib.rs` for unit tests.
    name: String,
    executable: PathBuf,
    /// Its package's, in which cargo runs it.
    folder: PathBuf,
}

/// What cargo has built for tests to run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Built {
    pub tests: Vec<Program>,
    /// Programs of the same packages, which tests may start.
    pub helpers: Vec<PathBuf>,
}

/// What cargo tells of what it has built, as far as it matters here
/// (`--message-format=json`).
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    manifest_path: PathBuf,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    src_path: PathBuf,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

impl Program {
    /// The file's name without its end: `published` of `tests/published.rs`.
    pub fn stem(&self) -> &str {
        let name = Path::new(&self.name).file_stem();
        name.and_then(|name| name.to_str()).unwrap_or_default()
    }

    pub fn executable(&self) -> &Path {
        &self.executable
    }
}

impl Built {
    fn read(messages: &str) -> Self {
        let mut built = Self::default();
        for message in messages.lines() {
            built.add(message);
        }
        built
    }

    /// Nothing where a message tells of no program.
    fn add(&mut self, message: &str) -> Option<()> {
        let message: Message = serde_json::from_str(message).ok()?;
        if message.reason != "compiler-artifact" {
            return None;
        }
        let (profile, executable) = (message.profile?, message.executable?);
        if !profile.test {
            self.helpers.push(executable);
            return Some(());
        }
        let folder = message.manifest_path.parent()?.to_owned();
        let source = message.target?.src_path;
        let name = source.strip_prefix(&folder).unwrap_or(&source);
        self.tests.push(Program {
            name: name.display().to_string(),
            executable,
            folder,
        });
        Some(())
    }
}

/// Builds what `cargo test ARGS` would run.
///
/// # Errors
/// Something can't be built; cargo has said what.
pub fn build(root: &Path, args: &[&str]) -> Result<Built> {
    let mut cargo = process::cargo();
    cargo
        .current_dir(root)
        .args(["test", "--locked", "--no-run"])
        .arg("--message-format=json-render-diagnostics")
        .args(args);
    let messages = process::output(&mut cargo)?;
    let mut built = Built::read(&messages);
    // Those with sockets and daemons take longest, and what takes long shall not
    // begin last.
    built.tests.sort_by_key(|program| {
        let is_slow = program.folder.ends_with("tests");
        (!is_slow, program.folder.clone(), program.name.clone())
    });
    Ok(built)
}

/// How test programs are run.
pub struct How<'a> {
    /// Words before the program, for the rights that it needs.
    pub prefix: &'a [OsString],
    pub args: &'a [OsString],
    pub environment: &'a [(&'a str, OsString)],
    /// How many at a time.
    pub at_once: usize,
}

/// Runs all of them, shows what each said when it has ended, and adds up.
///
/// # Errors
/// Some failed: the others are run nevertheless.
pub fn run(programs: Vec<Program>, how: &How<'_>, sum: &mut Sum) -> Result<()> {
    let waiting = Mutex::new(VecDeque::from(programs));
    let ended = Mutex::new((sum, Vec::new()));
    thread::scope(|scope| {
        for _ in 0..how.at_once {
            scope.spawn(|| {
                while let Some(program) = next(&waiting) {
                    // Alone, it may be watched.
                    let is_watched = how.at_once == 1;
                    if is_watched {
                        program.announce();
                    }
                    let run =
                        program.run(how, |line| is_watched && show(lock(&ended).0, line).is_ok());
                    let (sum, failed) = &mut *lock(&ended);
                    if !is_watched {
                        program.announce();
                    }
                    if let Err(error) = program.report(run, sum) {
                        eprintln!("{error:#}");
                        failed.push(program.name);
                    }
                }
            });
        }
    });
    let (_, failed) = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !failed.is_empty() {
        bail!("of the test programs, {} failed", failed.join(", "));
    }
    Ok(())
}

fn next(waiting: &Mutex<VecDeque<Program>>) -> Option<Program> {
    lock(waiting).pop_front()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn show(sum: &mut Sum, line: &str) -> io::Result<()> {
    match sum.read(line) {
        Some(shown) => writeln!(io::stdout(), "{shown}"),
        None => Ok(()),
    }
}

impl Program {
    /// Runs it to its end, and gives what it said that `shown` has not shown.
    fn run(
        &self,
        how: &How<'_>,
        shown: impl Fn(&str) -> bool,
    ) -> Result<(ExitStatus, Vec<String>)> {
        let (output, input) = io::pipe().context("make a pipe")?;
        let mut words = how
            .prefix
            .iter()
            .cloned()
            .chain([self.executable.clone().into()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command
            .args(words)
            .args(how.args)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(input.try_clone().context("share a pipe")?)
            .stderr(input);
        for (name, value) in how.environment {
            command.env(name, value);
        }
        let mut child = command
            .spawn()
            .with_context(|| format!("start `{}`", process::words(&command)))?;
        // Its own ends of the pipe.
        drop(command);
        let mut said = Vec::new();
        for line in BufReader::new(output).split(b'\n') {
            let line = line.context("read what tests say")?;
            let line = String::from_utf8_lossy(&line).into_owned();
            if !shown(&line) {
                said.push(line);
            }
        }
        let status = child.wait().context("wait for tests")?;
        Ok((status, said))
    }

    fn announce(&self) {
        println!("     Running {} ({})", self.name, self.executable.display());
    }

    fn report(&self, run: Result<(ExitStatus, Vec<String>)>, sum: &mut Sum) -> Result<()> {
        let (status, said) = run.with_context(|| self.name.clone())?;
        for line in said {
            show(sum, &line)?;
        }
        if !status.success() {
            bail!("{} ended with {status}", self.name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_tests_are_told_from_all_else_that_is_built() {
        let message = |reason: &str, test: bool, executable: &str| {
            format!(
                r#"{{"reason":"{reason}","package_id":"x","manifest_path":"/w/tests/Cargo.toml","target":{{"kind":["test"],"name":"floods","src_path":"/w/tests/tests/floods.rs"}},"profile":{{"test":{test},"opt_level":"0"}},"executable":{executable},"fresh":true}}"#
            )
        };
        let path = r#""/w/target/debug/deps/floods-1""#;
        let Built { tests, helpers } = Built::read(&message("compiler-artifact", true, path));
        let [found] = &tests[..] else {
            panic!("{tests:?}");
        };
        assert_eq!(helpers, <Vec<PathBuf>>::new());
        assert_eq!(found.name, "tests/floods.rs");
        assert_eq!(found.folder, Path::new("/w/tests"));
        assert_eq!(found.executable, Path::new("/w/target/debug/deps/floods-1"));
        let helper = Built::read(&message("compiler-artifact", false, path));
        assert_eq!((helper.tests, helper.helpers.len()), (Vec::new(), 1));
        for other in [
            message("compiler-artifact", true, "null"),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
            "no JSON".to_owned(),
        ] {
            assert_eq!(Built::read(&other), Built::default(), "{other}");
        }
    }

    fn shell(name: &str, script: &str) -> Program {
        let path = std::env::temp_dir().join(format!("xtask-{}-{name}", std::process::id()));
        std::fs::write(&path, script).unwrap();
        Program {
            name: name.into(),
            executable: path,
            folder: std::env::temp_dir(),
        }
    }

    #[test]
    fn all_are_run_and_added_up_whatever_fails() {
        let result = |passed: usize| format!("echo 'test result: ok. {passed} passed; 0 failed'\n");
        let programs = [
            shell("good", &result(2)),
            shell("bad", &(result(3) + "exit 1\n")),
            shell("late", &result(4)),
        ];
        let paths: Vec<_> = programs.iter().map(|it| it.executable.clone()).collect();
        for at_once in [1, 2] {
            let programs = paths.iter().map(|path| Program {
                name: path.file_name().unwrap().to_string_lossy().into_owned(),
                executable: path.clone(),
                folder: std::env::temp_dir(),
            });
            let mut sum = Sum::default();
            let how = How {
                prefix: &["sh".into()],
                args: &[],
                environment: &[],
                at_once,
            };
            let failed = run(programs.collect(), &how, &mut sum)
                .unwrap_err()
                .to_string();
            assert!(
                failed.contains("bad") && !failed.contains("good"),
                "{failed}"
            );
            assert_eq!(sum.to_string(), "9 passed, 0 failed, 0 skipped");
        }
        for path in paths {
            std::fs::remove_file(path).unwrap();
        }
    }
}
