//! The output of detached programs: one file a name, kept until the name is
//! used again or removed.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{args::LogsArgs, runtime};
use crate::{api::client::Client, model::Name};

/// How often a followed file is looked at.
const INTERVAL: Duration = Duration::from_millis(100);

/// Where the output of the program called `name` is kept.
pub fn path(log_dir: &Path, name: &Name) -> PathBuf {
    log_dir.join(format!("{name}.log"))
}

pub fn show(run_dir: &Path, args: LogsArgs) -> Result<()> {
    let client = Client::new(run_dir);
    let runtime = runtime()?;
    let path = match runtime.block_on(client.sandbox(&args.name)) {
        Ok(sandbox) => sandbox.log.with_context(|| {
            format!(
                "no output of {} is kept: only that of programs run with -d is",
                sandbox.name
            )
        })?,
        Err(error) if error.is_not_found() => {
            let status = runtime.block_on(client.status())?;
            match args.name.parse() {
                Ok(name) if path(&status.log_dir, &name).exists() => path(&status.log_dir, &name),
                _ => return Err(error.into()),
            }
        }
        Err(error) => return Err(error.into()),
    };
    let mut file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut out = io::stdout().lock();
    loop {
        // Asked before reading: what was written before the end is then read.
        let running = args.follow && runtime.block_on(client.sandbox(&args.name)).is_ok();
        let copied = match io::copy(&mut file, &mut out).and_then(|_| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            copied => copied,
        };
        copied.with_context(|| format!("cannot print {}", path.display()))?;
        if !running {
            return Ok(());
        }
        thread::sleep(INTERVAL);
    }
}

/// Removes what a program that has ended left; whether there was something.
pub fn remove(log_dir: &Path, name: &Name) -> Result<bool> {
    let path = path(log_dir, name);
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => bail!("cannot remove {}: {error}", path.display()),
    }
}
