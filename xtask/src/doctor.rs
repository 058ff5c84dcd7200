//! What the build and the tests need, and what of it is there.

use std::{fmt::Display, process::ExitCode};

use rustix::fs;
use xtask::{
    bpf::{self, Candidate, compiler, linker, object},
    path,
    workspace::Workspace,
};

use crate::{apt, install, process, tools::TOOLS};

const GB: u64 = 1_000_000_000;

/// What `cargo xtask lint` and `cargo xtask test` leave in a target folder that
/// was empty, rounded up.
const BUILD_BYTES: u64 = 12 * GB;

/// A line of the table.
struct Row {
    what: String,
    state: State,
    found: String,
    todo: String,
}

#[derive(PartialEq, Clone, Copy)]
enum State {
    Ok,
    /// One of several candidates, and another is taken, or this does not fit.
    Passed,
    /// The build does without it.
    Optional,
    /// There, and maybe not enough.
    Short,
    Missing,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Passed => "not used",
            Self::Optional => "optional",
            Self::Short => "short",
            Self::Missing => "MISSING",
        }
    }
}

/// Prints the table; fails if the build can't be done.
pub fn run(workspace: &Workspace) -> ExitCode {
    let mut rows = vec![cargo(), c_linker(), disk(workspace)];
    rows.extend(candidates("BPF compiler", compiler::candidates(), || {
        install::advice().join(" or ")
    }));
    rows.extend(candidates(
        "bpf-linker",
        linker::candidates(workspace),
        || {
            format!(
                "cargo install bpf-linker --version {} --locked",
                linker::VERSION
            )
        },
    ));
    rows.push(bpf_clippy(workspace));
    rows.extend(
        TOOLS
            .iter()
            .map(|tool| optional(tool.program, tool.purpose, &apt::advice(&[tool.package]))),
    );
    rows.push(optional(
        "qemu-system-x86_64",
        "tests on other kernels",
        &apt::advice(&["qemu-system-x86"]),
    ));
    print(&rows);

    if rows.iter().any(|row| row.state == State::Missing) {
        eprintln!("xtask: netdp can't be built here yet; `cargo xtask build` installs what it may");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn cargo() -> Row {
    let output = process::cargo().arg("--version").output();
    let version = output.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned());
    Row {
        what: "cargo".to_owned(),
        state: State::Ok,
        found: version.unwrap_or_default(),
        todo: String::new(),
    }
}

fn c_linker() -> Row {
    match path::first("cc") {
        Some(found) => Row {
            what: "cc".to_owned(),
            state: State::Ok,
            found: found.display().to_string(),
            todo: String::new(),
        },
        None => Row {
            what: "cc".to_owned(),
            state: State::Missing,
            found: "rustc links with it".to_owned(),
            todo: apt::advice(&["build-essential"]),
        },
    }
}

/// What is free on the disk of the target folder: a linker that finds it full
/// says only that it failed.
fn disk(workspace: &Workspace) -> Row {
    let existing = workspace.target.ancestors().find(|dir| dir.exists());
    let (state, found, todo) = match fs::statvfs(existing.unwrap_or(&workspace.root)) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let todo = format!(
                "lint and tests write up to {} GB: make room, or set CARGO_TARGET_DIR to a folder of another disk",
                BUILD_BYTES / GB
            );
            let enough = free >= BUILD_BYTES;
            (
                if enough { State::Ok } else { State::Short },
                format!("{} GB free", free / GB),
                if enough { String::new() } else { todo },
            )
        }
        Err(error) => (
            State::Optional,
            format!("can't be asked: {error}"),
            String::new(),
        ),
    };
    Row {
        what: "disk".to_owned(),
        state,
        found,
        todo,
    }
}

/// Every candidate with what was found out about it, the first that fits as
/// the one in use; a row of its own if none does.
fn candidates<T: Describe, E: Display>(
    what: &str,
    candidates: impl Iterator<Item = Candidate<T, E>>,
    todo: impl Fn() -> String,
) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut taken = false;
    for candidate in candidates {
        let (state, found) = match candidate.verdict {
            Ok(fit) if !taken => {
                taken = true;
                (State::Ok, fit.describe())
            }
            Ok(_) => (State::Passed, format!("{}: would do", candidate.name)),
            Err(reason) => (State::Passed, format!("{}: {reason}", candidate.name)),
        };
        rows.push(Row {
            what: what.to_owned(),
            state,
            found,
            todo: String::new(),
        });
    }
    if !taken {
        rows.push(Row {
            what: what.to_owned(),
            state: State::Missing,
            found: "none that fits".to_owned(),
            todo: todo(),
        });
    }
    rows
}

/// What the table says about the candidate that is in use.
trait Describe {
    fn describe(&self) -> String;
}

impl Describe for compiler::Compiler {
    fn describe(&self) -> String {
        format!("{self}, LLVM in {}", self.libllvm.display())
    }
}

impl Describe for linker::Linker {
    fn describe(&self) -> String {
        format!(
            "{} (version {}, for LLVM {})",
            self.path.display(),
            self.version,
            linker::LLVM_MAJOR
        )
    }
}

fn bpf_clippy(workspace: &Workspace) -> Row {
    let what = "BPF clippy".to_owned();
    let todo = String::new();
    let driver = bpf::find(workspace)
        .ok()
        .and_then(|toolchain| object::clippy(&toolchain));
    match driver {
        Some(driver) => Row {
            what,
            state: State::Ok,
            found: driver.display().to_string(),
            todo,
        },
        None => Row {
            what,
            state: State::Optional,
            found: "not there: `lint` checks compiler warnings alone".to_owned(),
            todo,
        },
    }
}

fn optional(program: &str, purpose: &str, todo: &str) -> Row {
    let what = program.to_owned();
    match path::first(program) {
        Some(found) => Row {
            what,
            state: State::Ok,
            found: found.display().to_string(),
            todo: String::new(),
        },
        None => Row {
            what,
            state: State::Optional,
            found: format!("not there, left out: {purpose}"),
            todo: todo.to_owned(),
        },
    }
}

fn print(rows: &[Row]) {
    let width = rows
        .iter()
        .map(|row| row.what.len())
        .max()
        .unwrap_or_default();
    for row in rows {
        println!("{:width$}  {:8}  {}", row.what, row.state.word(), row.found);
        if !row.todo.is_empty() {
            println!("{:width$}  {:8}  -> {}", "", "", row.todo);
        }
    }
}
