//! netdp in the place of an OCI runtime. As `netdp-runc` it makes containers as
//! runc does, as `netdp-crun` as crun does, and starts a supervisor of direct ports beside each: what engines
//! can't be told about filters (`listenerPath`) is written into the container's
//! `config.json` on its way to the runtime.
//!
//! The supervisor listens at a socket of its own, so neither a container's start
//! nor a program that enters it later needs the daemon.

mod call;
mod config;

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Write},
    os::unix::{fs::PermissionsExt, net::UnixListener, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use serde_json::{Value, json};
use thiserror::Error;

use crate::{
    api::{RUN_DIR, RUN_DIR_VARIABLE},
    direct::{self, DirectError, Hears, Site},
    netns::Namespace,
    sandbox::refuse_foreign_options,
    whole,
};

use call::Call;
use config::{ConfigError, Profile};

/// What netdp is called as, and in the place of which runtime: the first that there
/// is.
const RUNTIMES: [(&str, &[&str]); 2] =
    [("netdp-runc", &["runc", "crun"]), ("netdp-crun", &["crun"])];

/// Where runtimes are where `PATH` doesn't have them.
const FOLDERS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Folder inside the run folder with one for each container.
const CONTAINERS: &str = "seccomp";

#[derive(Debug, Error)]
enum OciError {
    #[error("{what} {}: {source}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("can't read {}: {source}", path.display())]
    Json {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{source}: {said}")]
    Supervisor { source: DirectError, said: String },
    #[error(
        "can't keep programs of 32 bits from setting options of direct ports' sockets: {0}; the \
         runtime needs CAP_SYS_ADMIN"
    )]
    Filter(io::Error),
    #[error("can't run {}, whose place netdp takes: {why}", path.display())]
    Runtime { path: PathBuf, why: io::Error },
    #[error("can't run {names}, whose place netdp takes: not found in PATH")]
    NoRuntime { names: String },
}

/// Whether netdp was called as a runtime.
pub fn is_called() -> bool {
    runtime().is_some()
}

/// What it is called as, and the runtimes whose place it takes.
fn runtime() -> Option<(&'static str, &'static [&'static str])> {
    let program = env::args_os().next()?;
    let name = Path::new(&program).file_name()?.to_owned();
    let mut runtimes = RUNTIMES.into_iter();
    runtimes.find(|(own, _)| name == OsStr::new(own))
}

/// Does what the runtime would; returns only why not.
pub fn main() -> ExitCode {
    let Some((name, of)) = runtime() else {
        return ExitCode::FAILURE;
    };
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let call = Call::read(&arguments);
    let error = match prepare(&call, &run_dir()).and_then(|()| find(of)) {
        Ok(path) => OciError::Runtime {
            why: Command::new(&path).args(&arguments).exec(),
            path,
        },
        Err(error) => error,
    };
    tell(&call, &format!("{name}: {error}"));
    ExitCode::FAILURE
}

/// What the runtime starts has it from its parent that it can't set options unseen.
fn prepare(call: &Call, run_dir: &Path) -> Result<(), OciError> {
    let is_supervised = match &call.bundle {
        Some(bundle) => supervise(bundle, run_dir)?,
        None => call.enters && run_dir.join(Site::FILE).exists(),
    };
    if is_supervised {
        refuse_foreign_options().map_err(OciError::Filter)?;
    }
    Ok(())
}

fn run_dir() -> PathBuf {
    let named = env::var_os(RUN_DIR_VARIABLE).filter(|named| !named.is_empty());
    named.map_or_else(|| RUN_DIR.into(), PathBuf::from)
}

/// Has a supervisor look at the ports that programs of a bundle bind, if they
/// have a network of their own and may bind any. False where nobody does.
fn supervise(bundle: &Path, run_dir: &Path) -> Result<bool, OciError> {
    // Without it no daemon has ever been here, and nothing is on its networks.
    let Some(site) = read_if_there::<Site>(&run_dir.join(Site::FILE))? else {
        return Ok(false);
    };
    let path = bundle.join("config.json");
    let Some(mut config) = read_if_there::<Value>(&path)? else {
        // The runtime says what it misses.
        return Ok(false);
    };
    let containers = run_dir.join(CONTAINERS);
    if !has_own_network(&config) {
        return Ok(false);
    }
    match Profile::of(&config, &containers)? {
        Profile::Binds => {}
        Profile::BindsNothing => return Ok(false),
        Profile::IsHeard => return Ok(true),
    }
    let folder = folder_in(&containers)?;
    let socket = folder.join("socket");
    let listener = UnixListener::bind(&socket).map_err(failed("can't listen at", &socket))?;
    let log = folder.join("log");
    let file = File::create(&log).map_err(failed("can't write", &log))?;
    let task = site.task(Hears::Runtime {
        folder: folder.clone(),
    });
    let program = Path::new("/proc/self/exe");
    if let Err(source) = direct::start(program, listener.into(), &task, Some(file)) {
        let said = fs::read_to_string(&log).unwrap_or_default();
        // Nobody else does.
        let _ = fs::remove_dir_all(&folder);
        let said = said.trim().to_owned();
        return Err(OciError::Supervisor { source, said });
    }
    config::hand_over_bind(&mut config, &socket)?;
    // It may name secrets in its environment.
    const ROOTS: u32 = 0o600;
    let written = whole::write(&path, config.to_string().as_bytes(), ROOTS);
    written.map_err(failed("can't write", &path))?;
    Ok(true)
}

fn read_if_there<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, OciError> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(failed("can't read", path))?,
    };
    let value = serde_json::from_slice(&text);
    value.map(Some).map_err(|source| OciError::Json {
        path: path.to_owned(),
        source,
    })
}

/// A container on the host's network binds the host's ports anyway.
fn has_own_network(config: &Value) -> bool {
    match config::network(config) {
        None => false,
        Some(None) => true,
        Some(Some(path)) => match (Namespace::open(path), Namespace::current()) {
            (Ok(asked), Ok(host)) => asked.inode() != host.inode(),
            _ => true,
        },
    }
}

/// One of its own, for root alone.
fn folder_in(containers: &Path) -> Result<PathBuf, OciError> {
    let what = "can't make the folder";
    fs::create_dir_all(containers).map_err(failed(what, containers))?;
    let folder = tempfile::Builder::new()
        .prefix("")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(containers)
        .map_err(failed(what, containers))?;
    // Its supervisor removes it.
    Ok(folder.keep())
}

/// The program of the first runtime that there is, which is not netdp.
fn find(names: &[&str]) -> Result<PathBuf, OciError> {
    let path = env::var_os("PATH").unwrap_or_default();
    let own = fs::canonicalize("/proc/self/exe").ok();
    let program = |name: &&str| {
        let folders = env::split_paths(&path).chain(env::split_paths(FOLDERS));
        let mut programs = folders.map(|folder| folder.join(name));
        programs.find(|path| path.is_file() && fs::canonicalize(path).ok() != own)
    };
    let found = names.iter().find_map(program);
    found.ok_or_else(|| OciError::NoRuntime {
        names: names.join(" or "),
    })
}

/// Where engines look for what a runtime has to say: in its log, and on standard
/// error.
fn tell(call: &Call, text: &str) {
    eprintln!("{text}");
    let Some(path) = &call.log else { return };
    let line = match call.log_is_json {
        true => json!({"level": "error", "msg": text}).to_string(),
        false => text.to_owned(),
    };
    let log = File::options().create(true).append(true).open(path);
    // Standard error has it, too.
    let _ = log.and_then(|mut log| writeln!(log, "{line}"));
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OciError {
    let path = path.to_owned();
    move |source| OciError::Io { what, path, source }
}
