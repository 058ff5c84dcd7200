//! `netdp doctor`: what this kernel and this host can do, and what to do about
//! the rest.

mod block;
mod direct;
mod ipv6;
mod kernel;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use serde::Serialize;

use super::{
    args::{DoctorArgs, Format},
    output, runtime,
};
use crate::{
    api::{
        client::{Client, ClientError},
        types::{Sandbox, Status},
    },
    bpf::has_netkit,
    daemon::environment::{self, BPFFS},
};
use kernel::Helper;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// Works, but less well.
    Warning,
    /// Nothing works without it.
    Missing,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    /// What was found.
    found: String,
    /// What to do about it; empty when there is nothing to do.
    advice: String,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            state: State::Ok,
            found: found.into(),
            advice: String::new(),
        }
    }

    fn warning(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            name,
            state: State::Warning,
            found: found.into(),
            advice: advice.into(),
        }
    }

    fn missing(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            name,
            state: State::Missing,
            found: found.into(),
            advice: advice.into(),
        }
    }
}

/// The exit status is 1 when something is missing.
pub fn run(run_dir: &Path, args: DoctorArgs) -> Result<ExitCode> {
    let asked = asked(run_dir)?;
    let of_daemon = asked
        .as_ref()
        .ok()
        .and_then(|(status, _)| status.bpffs.clone());
    let privileges = privileges();
    let privileged = privileges.state == State::Ok;
    let mut checks = vec![privileges];
    checks.extend(programs(privileged));
    checks.extend([
        btf(),
        jit(),
        cgroup(privileged),
        bpffs(args.bpffs, of_daemon, privileged),
        namespaces(),
        direct::ports(),
    ]);
    checks.extend(sysctls());
    checks.push(Check::ok(
        "netfilter",
        "not used: no rule is made, none is needed",
    ));
    checks.extend(daemon(asked));

    let row = |check: &Check| {
        let state = match check.state {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Missing => "missing",
        };
        vec![
            check.name.to_owned(),
            state.to_owned(),
            check.found.clone(),
            check.advice.clone(),
        ]
    };
    output::print(
        args.format,
        &checks,
        &["CHECK", "STATE", "FOUND", "WHAT TO DO"],
        checks.iter().map(row),
    )?;
    let missing = checks.iter().any(|check| check.state == State::Missing);
    if missing && args.format == Format::Table {
        eprintln!("netdp: something that is needed is missing: see 'what to do' above");
    }
    Ok(ExitCode::from(u8::from(missing)))
}

fn privileges() -> Check {
    let name = "privileges";
    match environment::missing_capabilities() {
        Ok(missing) if missing.is_empty() => {
            Check::ok(name, "the daemon may do all that it needs to")
        }
        Ok(missing) => Check::missing(
            name,
            format!("without {}", missing.join(", ")),
            "run the daemon, and this check, as root",
        ),
        Err(error) => Check::missing(name, error.to_string(), "mount proc at /proc"),
    }
}

fn programs(privileged: bool) -> Vec<Check> {
    let bpf = "bpf syscall";
    if let Err(error) = kernel::loads() {
        let advice = if privileged {
            "use a kernel with CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_ACT, without lockdown"
        } else {
            "run this check as root"
        };
        return vec![Check::missing(
            bpf,
            format!("a program was refused: {error}"),
            advice,
        )];
    }
    let helper = |name, helper, since| {
        if kernel::has_helper(helper) {
            Check::ok(name, "can be called")
        } else {
            Check::missing(
                name,
                "unknown to this kernel",
                format!("use Linux {since} or later"),
            )
        }
    };
    let tcx = match kernel::has_tcx() {
        Ok(true) => Check::ok("tcx", "programs of uplinks are attached by it"),
        _ => Check::warning(
            "tcx",
            "unknown to this kernel: clsact filters take its place",
            "use Linux 6.6 or later, so that nothing else gets at packets first",
        ),
    };
    vec![
        Check::ok(bpf, "a program was loaded"),
        tcx,
        filters(),
        Check::ok(
            "netkit",
            if has_netkit() {
                "networks with device=netkit or auto have it"
            } else {
                "unknown to this kernel: veth pairs take its place"
            },
        ),
        helper("redirect_peer", Helper::RedirectPeer, "5.10"),
        helper("redirect_neigh", Helper::RedirectNeigh, "5.10"),
    ]
}

fn filters() -> Check {
    let name = "clsact, cls_bpf";
    match kernel::missing_of_filters() {
        Ok(None) => Check::ok(name, "programs of containers' interfaces are such filters"),
        Ok(Some(missing)) => Check::missing(
            name,
            format!("{missing} is unknown to this kernel"),
            "install the package with this kernel's modules sch_ingress and cls_bpf, or use a \
             kernel with CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF",
        ),
        Err(error) => Check::warning(
            name,
            format!("not tried: {error:#}"),
            "run this check as root",
        ),
    }
}

fn btf() -> Check {
    let (name, path) = ("btf", "/sys/kernel/btf/vmlinux");
    if Path::new(path).exists() {
        return Check::ok(name, path);
    }
    Check::missing(
        name,
        format!("no {path}"),
        "use a kernel with CONFIG_DEBUG_INFO_BTF, and mount sysfs at /sys",
    )
}

fn jit() -> Check {
    let name = "bpf jit";
    match sysctl("net/core/bpf_jit_enable").as_deref() {
        Some("0") => Check::warning(
            name,
            "programs are interpreted",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        // Hidden from network namespaces other than the first.
        None => Check::ok(name, "not shown in this namespace"),
        Some(_) => Check::ok(name, "programs are compiled"),
    }
}

fn cgroup(privileged: bool) -> Check {
    let name = "cgroup v2";
    match environment::cgroup_root() {
        Ok(Some(path)) => Check::ok(name, format!("mounted at {}", path.display())),
        _ if !environment::knows_filesystem("cgroup2") => Check::missing(
            name,
            "unknown to this kernel",
            "use a kernel with CONFIG_CGROUP_BPF",
        ),
        _ if privileged => Check::ok(name, "not mounted: the daemon mounts it in its run folder"),
        _ => Check::missing(
            name,
            "not mounted",
            "mount -t cgroup2 none DIR, or run the daemon as root",
        ),
    }
}

/// Of the folder that was asked for, or else of the one in use.
fn bpffs(asked: Option<PathBuf>, of_daemon: Option<PathBuf>, privileged: bool) -> Check {
    let name = "bpffs";
    let used = of_daemon.is_some();
    let differs = asked.is_some() && used && asked != of_daemon;
    let path = asked.or(of_daemon.clone());
    let path = path.unwrap_or_else(|| PathBuf::from(BPFFS));
    let shown = path.display();
    if environment::is_bpffs(&path) {
        let by = match of_daemon {
            Some(daemons) if differs => format!("; the daemon uses {}", daemons.display()),
            Some(_) => ", in use by the daemon".to_owned(),
            None => String::new(),
        };
        Check::ok(name, format!("mounted at {shown}{by}"))
    } else if !environment::knows_filesystem("bpf") {
        Check::missing(
            name,
            "unknown to this kernel",
            "use a kernel with CONFIG_BPF_SYSCALL",
        )
    } else if used && !differs {
        Check::warning(
            name,
            format!("not mounted at {shown}, which the daemon uses"),
            "run this where the daemon runs, in its mount namespace; or restart the daemon, which \
             mounts it",
        )
    } else if privileged {
        Check::ok(
            name,
            format!("not mounted: the daemon mounts it at {shown}"),
        )
    } else {
        Check::missing(
            name,
            "not mounted",
            format!("mount -t bpf bpf {shown}, or run the daemon as root"),
        )
    }
}

fn namespaces() -> Check {
    let name = "namespaces";
    let missing: Vec<&str> = ["net", "mnt", "uts"]
        .into_iter()
        .filter(|kind| !Path::new("/proc/self/ns").join(kind).exists())
        .collect();
    if missing.is_empty() {
        return Check::ok(name, "network, mount and UTS");
    }
    Check::missing(
        name,
        format!("without {}", missing.join(", ")),
        "use a kernel with CONFIG_NET_NS and CONFIG_UTS_NS, and mount proc at /proc",
    )
}

fn sysctls() -> Vec<Check> {
    let forwarding = match sysctl("net/ipv4/ip_forward").as_deref() {
        Some("1") => "on for the whole host, which netdp doesn't need",
        _ => "off for the whole host, which netdp leaves so",
    };
    let name = "rp_filter";
    // The stricter of all's and the interface's counts (ip-sysctl.rst).
    let rp_filter = match sysctl("net/ipv4/conf/all/rp_filter").as_deref() {
        None => Check::missing(name, "no net.ipv4 sysctls", "mount proc at /proc"),
        Some("0") => Check::ok(name, "off"),
        Some("2") => Check::ok(name, "loose"),
        Some(_) => Check::ok(name, "strict: routes to containers lead back the same way"),
    };
    let unprivileged = match sysctl("kernel/unprivileged_bpf_disabled").as_deref() {
        Some("0") => Check::warning(
            "unprivileged bpf",
            "any user may load programs",
            "sysctl -w kernel.unprivileged_bpf_disabled=1: netdp has no need of it",
        ),
        _ => Check::ok("unprivileged bpf", "off, and not needed"),
    };
    vec![
        Check::ok("forwarding", forwarding),
        rp_filter,
        ipv6(),
        unprivileged,
    ]
}

fn ipv6() -> Check {
    let name = "ipv6";
    if let Some(reason) = environment::no_ipv6() {
        return Check::warning(name, "networks can't have it", reason);
    }
    Check::ok(name, "networks can have it")
}

fn sysctl(path: &str) -> Option<String> {
    let value = fs::read_to_string(Path::new("/proc/sys").join(path)).ok()?;
    Some(value.trim().to_owned())
}

/// What a running daemon says of itself and its sandboxes.
type Answers = Result<(Status, Vec<Sandbox>), ClientError>;

fn asked(run_dir: &Path) -> Result<Answers> {
    let client = Client::new(run_dir);
    let answers = async { Ok((client.status().await?, client.sandboxes().await?)) };
    Ok(runtime()?.block_on(answers))
}

fn daemon(asked: Answers) -> Vec<Check> {
    let name = "daemon";
    let (status, sandboxes) = match asked {
        Ok(answers) => answers,
        Err(ClientError::NoDaemon { path }) => {
            return vec![Check::warning(
                name,
                format!("none answers at {}", path.display()),
                "netdp daemon",
            )];
        }
        Err(error) => {
            return vec![Check::warning(
                name,
                "does not answer as it should",
                error.to_string(),
            )];
        }
    };
    let mut checks = vec![Check::ok(
        name,
        format!("version {}, pid {}", status.version, status.pid),
    )];
    let present: Vec<&str> = status
        .uplinks
        .iter()
        .filter(|uplink| uplink.present)
        .map(|uplink| uplink.interface.as_str())
        .collect();
    checks.push(if present.is_empty() {
        Check::warning(
            "uplinks",
            "none: nothing outside this host is reached",
            "bring up an interface with a default route, or start the daemon with --uplink",
        )
    } else {
        Check::ok("uplinks", present.join(", "))
    });
    checks.extend(block::checks(&status));
    checks.push(host_ends(&sandboxes));
    checks.extend(ipv6::uplinks(&sandboxes, &status.uplinks));
    checks.extend(
        status
            .problems
            .into_iter()
            .map(|problem| Check::warning(name, problem.what, problem.advice)),
    );
    checks
}

/// Whether the kernel forwards what containers send: it does so by the setting
/// of each container's own interface of the host.
fn host_ends(sandboxes: &[Sandbox]) -> Check {
    let name = "forwarding";
    let (mut on, mut off) = (0, Vec::new());
    for endpoint in sandboxes.iter().flat_map(|sandbox| &sandbox.endpoints) {
        let host_end = &endpoint.host_interface;
        let mut addresses = endpoint.addresses.iter();
        let ipv6 =
            addresses.any(|address| address.addr().is_ipv6()) && environment::no_ipv6().is_none();
        let forwards = |family| sysctl(&format!("net/{family}/conf/{host_end}/forwarding"));
        match (forwards("ipv4").as_deref(), forwards("ipv6").as_deref()) {
            (Some("1"), v6) if !ipv6 || v6 == Some("1") => on += 1,
            (Some("1"), _) => off.push(format!("off for IPv6 on {host_end}")),
            (Some(_), _) => off.push(format!("off on {host_end}")),
            (None, _) => off.push(format!("{host_end} is not in this namespace")),
        }
    }
    if off.is_empty() {
        let s = if on == 1 { "" } else { "s" };
        return Check::ok(name, format!("on for {on} container interface{s}"));
    }
    Check::warning(
        name,
        off.join(", "),
        "the daemon turns it on again: see what it logs, and run this where it runs",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn works_without_a_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let checks = daemon(asked(dir.path()).unwrap());
        assert_eq!(checks.len(), 1);
        assert_eq!(checks[0].state, State::Warning);
        assert_eq!(checks[0].advice, "netdp daemon");
    }

    #[test]
    fn every_complaint_comes_with_advice() {
        let mut checks = vec![
            privileges(),
            btf(),
            jit(),
            cgroup(false),
            bpffs(None, None, false),
            namespaces(),
            direct::ports(),
        ];
        checks.extend(programs(false));
        checks.extend(sysctls());
        for check in checks {
            assert_eq!(
                check.state == State::Ok,
                check.advice.is_empty(),
                "{check:?}"
            );
        }
    }
}
