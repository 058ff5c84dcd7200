//! A server for each of several CPUs, in a process of its own: threads of one
//! process would share its memory map and its table of files, and be measured for
//! that.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, ExitCode, Stdio};

use super::args::{Served, print_line};
use super::{Listen, LoadError};
use crate::world::process::end_with_this_thread;

/// Serves until it, or one of its processes, is killed. Once all of them listen it
/// prints a line. What names no CPU is served by any.
///
/// # Errors
/// When one of them can't be started, or doesn't listen.
pub(super) fn serve(
    listen: &[Served],
    name: &str,
    congestion: Option<&str>,
) -> Result<ExitCode, LoadError> {
    let mut by_cpu: BTreeMap<Option<usize>, Vec<Listen>> = BTreeMap::new();
    for served in listen {
        by_cpu.entry(served.cpu).or_default().push(served.listen);
    }
    let refused = |cpu: Option<usize>| {
        let cpu = cpu.map_or("any CPU".into(), |cpu| format!("CPU {cpu}"));
        move |source| LoadError::Process { cpu, source }
    };
    let started = by_cpu.iter().map(|(&cpu, listen)| {
        let server = start(cpu, listen, name, congestion);
        server.map_err(refused(cpu))
    });
    let mut servers = started.collect::<Result<Vec<Child>, LoadError>>()?;
    for (&cpu, server) in by_cpu.keys().zip(&mut servers) {
        listening(server).map_err(refused(cpu))?;
    }
    print_line(&format!("{} processes listen", servers.len()));
    for server in &mut servers {
        // It said itself why it ended.
        let _ = server.wait();
    }
    Ok(ExitCode::FAILURE)
}

fn start(
    cpu: Option<usize>,
    listen: &[Listen],
    name: &str,
    congestion: Option<&str>,
) -> io::Result<Child> {
    let mut server = Command::new(std::env::current_exe()?);
    server.args(["__load-server", "--name", name]);
    if let Some(cpu) = cpu {
        server.args(["--cpu", &cpu.to_string()]);
    }
    for Listen { service, bind } in listen {
        server.args(["--listen", &format!("{service}={bind}")]);
    }
    if let Some(congestion) = congestion {
        server.args(["--congestion", congestion]);
    }
    server.stdin(Stdio::null()).stdout(Stdio::piped());
    end_with_this_thread(&mut server);
    server.spawn()
}

/// Returns once it has said that it listens.
fn listening(server: &mut Child) -> io::Result<()> {
    let mut line = String::new();
    if let Some(stdout) = &mut server.stdout {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    match line.is_empty() {
        false => Ok(()),
        // It said why on standard error, which is ours.
        true => Err(io::Error::other("it ended")),
    }
}
