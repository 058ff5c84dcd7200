//! Which compiler builds for `bpfel-unknown-none`.
//!
//! The target has no precompiled `core`, so a compiler does only if the source
//! of its standard library is installed beside it, and only if it loads LLVM
//! as a library, because `bpf-linker` borrows that library at run time.

use std::{
    env,
    ffi::OsStr,
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Candidate, environment, linker};
use crate::path;

/// The nightly that is installed where there is none. Dated, since later ones
/// move to an LLVM for which `bpf-linker` has to be built against LLVM itself.
pub const NIGHTLY: &str = "nightly-2026-05-20";

/// Where distributions put their own compiler.
const SYSTEM_RUSTC: &str = "/usr/bin/rustc";

/// A compiler that can build the BPF crate.
#[derive(Debug, Clone)]
pub struct Compiler {
    pub name: String,
    /// The compiler itself, never rustup's proxy.
    pub rustc: PathBuf,
    /// The cargo that drives it.
    pub cargo: PathBuf,
    pub sysroot: PathBuf,
    pub release: String,
    /// The LLVM library that the compiler loads.
    pub libllvm: PathBuf,
}

impl Compiler {
    /// Whether the distribution's package made it.
    pub fn is_system(&self) -> bool {
        self.name == SYSTEM_RUSTC
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (rustc {}, LLVM {})",
            self.name,
            self.release,
            linker::LLVM_MAJOR
        )
    }
}

/// Why a compiler was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    #[error("not installed")]
    Absent,
    #[error("`{command}` did not answer: {reason}")]
    Silent { command: String, reason: String },
    #[error("rustc {release} is older than {}", env!("CARGO_PKG_RUST_VERSION"))]
    TooOld { release: String },
    #[error(
        "uses LLVM {found}, and bpf-linker {} needs {}",
        linker::VERSION,
        linker::LLVM_MAJOR
    )]
    OtherLlvm { found: String },
    #[error(
        "has LLVM built in, and bpf-linker {} needs it as a library",
        linker::VERSION
    )]
    NoLibLlvm,
    #[error("lacks the source of the standard library (rust-src), expected in {}", .0.display())]
    NoSource(PathBuf),
}

/// Compilers in the order of preference: nightlies that rustup has, the dated
/// one first, then the distribution's.
pub fn candidates() -> impl Iterator<Item = Candidate<Compiler, Unfit>> {
    let nightlies = nightlies().into_iter().map(|toolchain| Candidate {
        verdict: from_rustup(&toolchain),
        name: toolchain,
    });
    let system = std::iter::once_with(|| Candidate {
        name: SYSTEM_RUSTC.to_owned(),
        verdict: from_system(),
    });
    nightlies.chain(system)
}

/// The names of rustup's nightly toolchains, without rustup's remarks.
fn nightlies() -> Vec<String> {
    if path::first("rustup").is_none() {
        return Vec::new();
    }
    let listed = run(Command::new("rustup").args(["toolchain", "list"])).unwrap_or_default();
    let mut names: Vec<String> = listed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with("nightly"))
        .map(str::to_owned)
        .collect();
    names.sort_by_key(|name| !name.starts_with(NIGHTLY));
    names
}

fn from_rustup(toolchain: &str) -> Result<Compiler, Unfit> {
    let mut rustc = Command::new("rustup");
    rustc.args(["run", toolchain, "rustc"]);
    examine(toolchain, rustc)
}

fn from_system() -> Result<Compiler, Unfit> {
    if !Path::new(SYSTEM_RUSTC).is_file() {
        return Err(Unfit::Absent);
    }
    examine(SYSTEM_RUSTC, Command::new(SYSTEM_RUSTC))
}

fn examine(name: &str, mut through: Command) -> Result<Compiler, Unfit> {
    // Either may be a proxy, which would put its toolchain's LLVM before the
    // one that is shown to the linker: from here on the compiler itself.
    let sysroot = PathBuf::from(run(through.args(["--print", "sysroot"]))?.trim());
    let rustc = sysroot.join("bin/rustc");
    let own_cargo = sysroot.join("bin/cargo");

    let verbose = run(Command::new(&rustc).arg("-vV"))?;
    let release = field(&verbose, "release").unwrap_or_default().to_owned();
    if !at_least(&release, env!("CARGO_PKG_RUST_VERSION")) {
        return Err(Unfit::TooOld { release });
    }
    let llvm = field(&verbose, "LLVM version").unwrap_or("of an unknown version");
    if llvm.split('.').next() != Some(linker::LLVM_MAJOR) {
        return Err(Unfit::OtherLlvm {
            found: llvm.to_owned(),
        });
    }
    let libllvm = libllvm(&rustc)?;
    // A file of the source is asked for, not the folder: distributions make
    // the folder a link into a package that may not be installed.
    let source = sysroot.join("lib/rustlib/src/rust/library");
    if !source.join("core/src/lib.rs").is_file() {
        return Err(Unfit::NoSource(source));
    }
    Ok(Compiler {
        name: name.to_owned(),
        rustc,
        cargo: if own_cargo.is_file() {
            own_cargo
        } else {
            running_cargo()
        },
        sysroot,
        release,
        libllvm,
    })
}

/// The cargo that runs this program, for a compiler that has none.
fn running_cargo() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// The value of `name: value` in the answer of `rustc -vV`.
fn field<'a>(verbose: &'a str, name: &str) -> Option<&'a str> {
    verbose
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// Whether a version, of rustc or of a package of it, is `least` or later.
pub fn at_least(version: &str, least: &str) -> bool {
    minor(version) >= minor(least)
}

/// `(1, 96)` of `1.96.0-nightly`.
fn minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// What the dynamic linker would load as LLVM for `rustc`. Looking into
/// folders instead would meet linker scripts and other versions.
fn libllvm(rustc: &Path) -> Result<PathBuf, Unfit> {
    let libraries = run(Command::new("ldd").arg(rustc))?;
    loaded_llvm(&libraries).ok_or(Unfit::NoLibLlvm)
}

fn loaded_llvm(libraries: &str) -> Option<PathBuf> {
    libraries.lines().find_map(|line| {
        let (name, found) = line.trim().split_once(" => ")?;
        name.starts_with("libLLVM")
            .then(|| found.split(" (0x").next().map(PathBuf::from))?
    })
}

fn run(command: &mut Command) -> Result<String, Unfit> {
    environment::isolate(command);
    let answer = command.output().map_err(|error| error.to_string());
    let reason = match answer {
        Ok(output) if output.status.success() => {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr)
            .lines()
            .last()
            .unwrap_or("no message")
            .to_owned(),
        Err(error) => error,
    };
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    Err(Unfit::Silent {
        command: words.join(" "),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{at_least, field, loaded_llvm};

    #[test]
    fn rustc_tells_release_and_llvm() {
        let verbose =
            "rustc 1.96.0 (built from a source tarball)\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(field(verbose, "release"), Some("1.96.0"));
        assert_eq!(field(verbose, "LLVM version"), Some("22.1.8"));
        assert_eq!(field(verbose, "host"), None);
    }

    #[test]
    fn releases_compare_by_number() {
        assert!(at_least("1.97.0-nightly", "1.95"));
        assert!(at_least("1.95.0", "1.95"));
        assert!(at_least("1.100.0", "1.95"));
        assert!(at_least("1.96.0+dfsg1-1~deb12u2", "1.95"));
        assert!(!at_least("1.85.1", "1.95"));
        assert!(!at_least("unknown", "1.95"));
    }

    #[test]
    fn llvm_is_the_library_that_would_be_loaded() {
        let libraries = "\tlinux-vdso.so.1 (0x00007f00)\n\
             \tlibLLVM.so.22.1 => /lib/x86_64-linux-gnu/libLLVM.so.22.1 (0x00007f68)\n\
             \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f67)\n";
        assert_eq!(
            loaded_llvm(libraries),
            Some(PathBuf::from("/lib/x86_64-linux-gnu/libLLVM.so.22.1"))
        );
        assert_eq!(
            loaded_llvm("\tlibc.so.6 => /lib/libc.so.6 (0x00007f67)\n"),
            None
        );
        assert_eq!(
            loaded_llvm("\tlibLLVM.so.22.1 => not found\n"),
            Some(PathBuf::from("not found"))
        );
    }
}
