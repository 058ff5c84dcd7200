//! By which means blocked sources are dropped.

use super::Check;
use crate::api::types::{Status, UplinkStatus};

const NAME: &str = "blocked sources";

/// None where nothing is blocked.
pub(super) fn blocked(status: &Status) -> Option<Check> {
    if status.blocked == 0 {
        return None;
    }
    let present: Vec<&UplinkStatus> = status.uplinks.iter().filter(|it| it.present).collect();
    let means: Vec<String> = present.iter().filter_map(|it| means(it)).collect();
    let found = match &means[..] {
        [] => format!("{}, and no uplink", status.blocked),
        means => format!("{}, dropped {}", status.blocked, means.join("; ")),
    };
    let refused = present.iter().any(|uplink| {
        let without = uplink.without_xdp.as_ref();
        without.is_some_and(|without| without.refused)
    });
    Some(if refused {
        Check::warning(
            NAME,
            found,
            "nothing, or free the driver to drop them at less cost; --xdp off of the daemon \
             leaves it alone",
        )
    } else {
        Check::ok(NAME, found)
    })
}

fn means(uplink: &UplinkStatus) -> Option<String> {
    let by = uplink.drops_by.as_ref()?;
    let why = match &uplink.without_xdp {
        Some(without) => format!(" (not by xdp: {})", without.why),
        None => String::new(),
    };
    Some(format!("by {by} on {}{why}", uplink.interface))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::WithoutXdp;

    fn uplink(by: Option<&str>, without_xdp: Option<WithoutXdp>) -> UplinkStatus {
        UplinkStatus {
            interface: "eth0".to_owned(),
            present: true,
            addresses: Vec::new(),
            drops_by: by.map(str::to_owned),
            without_xdp,
        }
    }

    fn status(blocked: usize, uplink: UplinkStatus) -> Status {
        Status {
            version: String::new(),
            pid: 1,
            log_dir: "/".into(),
            bpffs: None,
            mechanism: "tcx".to_owned(),
            uplinks: vec![uplink],
            blocked,
            problems: Vec::new(),
        }
    }

    #[test]
    fn means_and_reasons_are_told() {
        assert!(blocked(&status(0, uplink(None, None))).is_none());
        let check = blocked(&status(2, uplink(Some("xdp"), None))).unwrap();
        assert_eq!(check.found, "2, dropped by xdp on eth0");
        assert!(check.advice.is_empty());
        let without = |refused| WithoutXdp {
            why: "another one is there".to_owned(),
            refused,
        };
        let check = blocked(&status(2, uplink(Some("tcx"), Some(without(true))))).unwrap();
        assert!(
            check
                .found
                .contains("by tcx on eth0 (not by xdp: another one")
        );
        assert!(!check.advice.is_empty());
        let check = blocked(&status(2, uplink(Some("tcx"), Some(without(false))))).unwrap();
        assert!(check.advice.is_empty());
    }
}
