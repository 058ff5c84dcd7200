//! Both sides of the load generator as processes in a world.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use super::process;
use crate::load::{Kind, Measurement, Service};

/// The machine's default may be another, and bulk depends on it.
pub(crate) const CONGESTION: &str = "cubic";
/// What a measurement may take beyond its own time.
const GRACE: Duration = Duration::from_secs(15);

/// Words for a netdp that serves these at all addresses of its namespace, on one
/// CPU.
pub(crate) fn server_args(listen: &[(Service, u16)], cpu: usize) -> Vec<String> {
    let mut args = vec!["__load-server".to_owned()];
    for (service, port) in listen {
        args.extend(["--listen".into(), format!("{service}=0.0.0.0:{port}")]);
    }
    args.extend(["--cpu".into(), cpu.to_string()]);
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
    pub(crate) fn start(
        mut netdp: Command,
        listen: &[(Service, u16)],
        cpu: usize,
    ) -> anyhow::Result<Self> {
        netdp.args(server_args(listen, cpu));
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
        let seconds = |time: Duration| time.as_secs_f64().to_string();
        netdp.arg("__load-client");
        netdp.arg("--kind").arg(self.kind.to_string());
        netdp.arg("--target").arg(self.target.to_string());
        netdp.arg("--seconds").arg(seconds(self.duration));
        netdp.arg("--warm-up").arg(seconds(self.warm_up));
        netdp.arg("--cpu").arg(self.cpu.to_string());
        netdp.args(["--congestion", CONGESTION]);
        let output = process::output(netdp, self.warm_up + self.duration + GRACE)?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).context("the load client printed no result")
    }
}
