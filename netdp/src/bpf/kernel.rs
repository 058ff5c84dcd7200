//! What this kernel's BPF can do, where no attempt of a program tells.

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
    use super::is_at_least;

    #[test]
    fn releases_are_compared_by_their_numbers() {
        assert!(is_at_least("6.7.0", (6, 7)) && is_at_least("6.12.4-amd64", (6, 7)));
        assert!(is_at_least("7.0-rc1", (6, 7)));
        assert!(!is_at_least("6.1.0-31-amd64", (6, 7)) && !is_at_least("5.15", (6, 7)));
        assert!(!is_at_least("unknown", (6, 7)));
    }
}
