//! Receive packet steering: the kernel hands what an uplink receives to a CPU that
//! it chooses by the flow, as RSS does in hardware, which asks nobody where the
//! program runs that the packet is for.

use std::fs;

use anyhow::Context;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::netns::Namespace;

const QUEUE: &str = "/sys/class/net/eth0/queues/rx-0/rps_cpus";

/// Has the host spread what it receives over these CPUs.
///
/// # Errors
/// When the kernel has no RPS.
pub(super) fn spread(host: &Namespace, cpus: &[usize]) -> anyhow::Result<()> {
    host.run(|| {
        // Each mount of sysfs shows the interfaces of one network namespace. That of
        // this thread's ends with it.
        let nothing: Option<&str> = None;
        unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
        mount(
            nothing,
            "/",
            nothing,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            nothing,
        )
        .and_then(|()| {
            mount(
                Some("sysfs"),
                "/sys",
                Some("sysfs"),
                MsFlags::empty(),
                nothing,
            )
        })
        .context("cannot mount sysfs")?;
        fs::write(QUEUE, mask(cpus)).context("cannot set rps_cpus of eth0")
    })?
}

/// As the kernel reads sets of CPUs: 32 to a word, the highest first.
fn mask(cpus: &[usize]) -> String {
    let highest = cpus.iter().max().copied().unwrap_or_default();
    let mut words = vec![0_u32; highest / 32 + 1];
    for cpu in cpus {
        words[cpu / 32] |= 1 << (cpu % 32);
    }
    let words: Vec<String> = words
        .iter()
        .rev()
        .map(|word| format!("{word:08x}"))
        .collect();
    words.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_cpus_are_written_as_the_kernel_reads_them() {
        assert_eq!(mask(&[0, 1]), "00000003");
        assert_eq!(mask(&[31, 4]), "80000010");
        assert_eq!(mask(&[0, 33]), "00000002,00000001");
    }
}
