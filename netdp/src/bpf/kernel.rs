//! What this kernel's BPF can do, where no attempt of a program tells.

use aya::{
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};
use nix::sys::utsname::uname;

/// Whether programs can ask which address of the host a route prefers
/// (`BPF_FIB_LOOKUP_SRC`, Linux 6.7).
pub fn tells_preferred_sources() -> bool {
    is_of_version((6, 7))
}

/// Whether a global function may look up keys that it gets by pointers
/// (`mem_types` in kernel/bpf/verifier.c, Linux 6.2).
pub(super) fn takes_keys_by_pointer() -> bool {
    is_of_version((6, 2))
}

/// Whether programs that are asked about datagrams may read the kernel's memory
/// (`bpf_probe_read_kernel`): not where it is locked down for confidentiality
/// (kernel_lockdown(7)).
pub(super) fn lets_programs_read_memory() -> bool {
    let (asked, helper) = (
        ProgramType::CgroupSockAddr,
        BpfHelper::BPF_FUNC_probe_read_kernel,
    );
    is_helper_supported(asked, helper).unwrap_or(false)
}

/// The first patch levels, by version, that join sockets without harm. From 6.18
/// on all do.
///
/// Two mends are needed. Before `d888b7af7c14` (6.13, 6.12.7, 6.6.68, 6.1.122)
/// what lies in a socket's queue is not counted, so that nothing tells when to
/// stop. Before `c77b3b79a92e` (6.18, and of others at the end of 2025) the
/// connection that a listener of MPTCP accepts from a client of plain TCP is
/// handled as one of MPTCP once it is in a sockmap (`mptcp_stream_accept`).
const JOINING: [(u32, u32, u32); 4] = [(6, 1, 160), (6, 6, 120), (6, 12, 61), (6, 17, 11)];

/// Why this kernel must join no sockets, where that is so.
pub(super) fn joins_sockets() -> Result<(), String> {
    let uname = uname().map_err(|errno| format!("the kernel's version is not known: {errno}"))?;
    let release = uname.release().to_str().unwrap_or_default();
    let build = uname.version().to_str().unwrap_or_default();
    if may_join(release, build) {
        return Ok(());
    }
    let least = JOINING.map(|(major, minor, patch)| format!("{major}.{minor}.{patch}"));
    Err(format!(
        "Linux {release} has faults in its sockmaps: take 6.18 or later, or a version from {} on",
        least.join(", ")
    ))
}

/// `build` is the kernel's own note about itself, where Debian has the patch
/// level (`Debian 6.1.164-1`), which its releases (6.1.0-43-amd64) don't name.
fn may_join(release: &str, build: &str) -> bool {
    let noted = build
        .split_once("Debian ")
        .map_or(release, |(_, version)| version);
    let Some((major, minor, patch)) = numbers(noted) else {
        return false;
    };
    (major, minor) >= (6, 18)
        || JOINING
            .iter()
            .any(|it| (it.0, it.1) == (major, minor) && patch >= it.2)
}

fn numbers(version: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = version
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    let mut next = || numbers.next()?.ok();
    Some((next()?, next()?, next().unwrap_or(0)))
}

fn is_of_version(version: (u32, u32)) -> bool {
    uname().is_ok_and(|uname| {
        let release = uname.release().to_str().unwrap_or_default();
        is_at_least(release, version)
    })
}

/// Whether a release, such as 6.12.4-amd64, is of this version or a later one.
fn is_at_least(release: &str, version: (u32, u32)) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= version,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{is_at_least, may_join};

    #[test]
    fn releases_are_compared_by_their_numbers() {
        assert!(is_at_least("6.7.0", (6, 7)) && is_at_least("6.12.4-amd64", (6, 7)));
        assert!(is_at_least("7.0-rc1", (6, 7)));
        assert!(!is_at_least("6.1.0-31-amd64", (6, 7)) && !is_at_least("5.15", (6, 7)));
        assert!(!is_at_least("unknown", (6, 7)));
    }

    #[test]
    fn sockets_are_joined_where_the_kernels_faults_are_mended() {
        let join = |release| may_join(release, "#1 SMP PREEMPT_DYNAMIC");
        assert!(join("6.18.0") && join("6.18-rc7") && join("7.1.2-arch1") && join("6.12.61"));
        assert!(!join("6.12.60") && !join("6.17.1") && !join("6.14.0-37-generic"));
        assert!(!join("6.1.0-43-amd64") && !join("unknown"));
        let debian = |build| may_join("6.1.0-43-amd64", build);
        assert!(debian(
            "#1 SMP PREEMPT_DYNAMIC Debian 6.1.164-1 (2026-03-09)"
        ));
        assert!(!debian(
            "#1 SMP PREEMPT_DYNAMIC Debian 6.1.153-1 (2025-09-20)"
        ));
    }
}
