//! What the daemon holds on to.

use std::fs;

use anyhow::{Context, bail};

use crate::world::World;

/// What the daemon has.
pub(super) struct Held {
    pub(super) resident: f64,
    pub(super) anonymous: f64,
    pub(super) threads: f64,
    pub(super) descriptors: f64,
    /// On its host.
    pub(super) interfaces: f64,
}

impl Held {
    pub(super) fn by(world: &World) -> anyhow::Result<Self> {
        let Some(pid) = world.daemon_pid() else {
            bail!("the daemon has ended");
        };
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let field = |name: &str| {
            field(&status, name).with_context(|| format!("{path} does not tell {name}"))
        };
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        let interfaces = world.host.run(|| {
            let text = fs::read_to_string("/proc/thread-self/net/dev")?;
            std::io::Result::Ok(text.lines().count())
        })??;
        Ok(Self {
            resident: field("VmRSS")? * 1024.0,
            anonymous: field("RssAnon")? * 1024.0,
            threads: field("Threads")?,
            descriptors: descriptors as f64,
            interfaces: interfaces as f64,
        })
    }
}

/// The number of a line such as `VmRSS:     1234 kB`.
fn field(status: &str, name: &str) -> Option<f64> {
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(key, _)| *key == name)?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_process_are_read() {
        let status = "Name:\tnetdp\nVmRSS:\t   27648 kB\nThreads:\t5\n";
        assert_eq!(field(status, "VmRSS"), Some(27648.0));
        assert_eq!(field(status, "Threads"), Some(5.0));
        assert_eq!(field(status, "Name"), None);
        assert_eq!(field(status, "RssAnon"), None);
    }
}
