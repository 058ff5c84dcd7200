//! Both sides of the load generator as processes in a world.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use super::process::{self, ProcessError, Running};
use crate::load::{Kind, Measurement, Service};

/// The machine's default may be another, and bulk depends on it.
pub(crate) const CONGESTION: &str = "cubic";
/// What a measurement may take beyond its own time.
const GRACE: Duration = Duration::from_secs(15);

/// What is served on one CPU, by a process of its own.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) cpu: usize,
    pub(crate) listen: Vec<(Service, u16)>,
}

/// Words for a netdp that serves these at all addresses of its namespace.
pub(crate) fn server_args(served: &[Served]) -> Vec<String> {
    let mut args = vec!["__load-server".to_owned()];
    for Served { cpu, listen } in served {
        for (service, port) in listen {
            let listen = format!("{service}=0.0.0.0:{port}@{cpu}");
            args.extend(["--listen".into(), listen]);
        }
    }
    args.extend(["--congestion".into(), CONGESTION.into()]);
    args
}

/// A load server, ended with this value.
pub(crate) struct LoadServer(Child);

impl LoadServer {
    /// Adds the words to `netdp`, a command of that program, and returns once it
    /// listens.
    ///
    /// # Errors
    /// When it can't be started or does not listen.
    pub(crate) fn start(mut netdp: Command, served: &[Served]) -> anyhow::Result<Self> {
        netdp.args(server_args(served));
        Self::wait_for(netdp)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// As [`LoadServer::start`], of a command that has its words.
    ///
    /// # Errors
    /// As that.
    pub(crate) fn wait_for(mut netdp: Command) -> anyhow::Result<Self> {
        netdp.stdout(Stdio::piped());
        process::end_with_this_thread(&mut netdp);
        let mut server = Self(process::spawn(netdp)?);
        let mut line = String::new();
        if let Some(stdout) = server.0.stdout.take() {
            BufReader::new(stdout)
                .read_line(&mut line)
                .context("cannot read from the load server")?;
        }
        // It said why on standard error, which is ours.
        anyhow::ensure!(!line.is_empty(), "the load server did not start");
        Ok(server)
    }
}

impl Drop for LoadServer {
    fn drop(&mut self) {
        process::kill(&mut self.0);
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) kind: Kind,
    pub(crate) target: SocketAddr,
    pub(crate) duration: Duration,
    pub(crate) warm_up: Duration,
    pub(crate) cpu: usize,
}

impl Load {
    /// Measures by `netdp`, a command of that program.
    ///
    /// # Errors
    /// When the target can't be reached at all, or on an interrupt.
    pub(crate) fn run(&self, mut netdp: Command) -> anyhow::Result<Measurement> {
        self.add_words(&mut netdp);
        self.read(process::output(netdp, self.timeout())?)
    }

    /// Measures all of these at once, each by a command of netdp: of several, they
    /// begin when all are ready.
    ///
    /// # Errors
    /// As [`Load::run`], for any of them.
    pub(crate) fn run_at_once(mut loads: Vec<(Self, Command)>) -> anyhow::Result<Vec<Measurement>> {
        if loads.len() == 1
            && let Some((load, netdp)) = loads.pop()
        {
            return Ok(vec![load.run(netdp)?]);
        }
        let start = |(load, mut netdp): (Self, Command)| {
            load.add_words(&mut netdp);
            netdp.arg("--wait").stdin(Stdio::piped());
            Ok((load, Running::start(netdp)?))
        };
        let started = loads.into_iter().map(start);
        let mut started: Vec<(Self, Running)> = started.collect::<Result<_, ProcessError>>()?;
        for (_, client) in &mut started {
            client.wait_for_word(GRACE)?;
        }
        for (_, client) in &mut started {
            client.end_input();
        }
        let ended = started.into_iter().map(|(load, client)| {
            let output = client.end(load.timeout())?;
            load.read(output)
        });
        ended.collect()
    }

    fn add_words(&self, netdp: &mut Command) {
        let seconds = |time: Duration| time.as_secs_f64().to_string();
        netdp.arg("__load-client");
        netdp.arg("--kind").arg(self.kind.to_string());
        netdp.arg("--target").arg(self.target.to_string());
        netdp.arg("--seconds").arg(seconds(self.duration));
        netdp.arg("--warm-up").arg(seconds(self.warm_up));
        netdp.arg("--cpu").arg(self.cpu.to_string());
        netdp.args(["--congestion", CONGESTION]);
    }

    fn timeout(&self) -> Duration {
        self.warm_up + self.duration + GRACE
    }

    fn read(&self, output: Output) -> anyhow::Result<Measurement> {
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).context("the load client printed no result")
    }
}
