//! By which means sources are kept out.

use super::Check;
use crate::api::types::{Status, UplinkStatus};

/// What is blocked and what is limited, as far as there is any.
pub(super) fn checks(status: &Status) -> impl Iterator<Item = Check> {
    let blocked = (status.blocked != 0).then(|| status.blocked.to_string());
    let blocked = blocked.map(|it| check(status, "blocked sources", &it));
    let limit = status.limit.map(|rate| {
        let told = format!("{rate} a second from each source");
        check(status, "new conversations", &told)
    });
    blocked.into_iter().chain(limit)
}

fn check(status: &Status, name: &'static str, what: &str) -> Check {
    let present: Vec<&UplinkStatus> = status.uplinks.iter().filter(|it| it.present).collect();
    let means: Vec<String> = present.iter().filter_map(|it| means(it)).collect();
    let found = match &means[..] {
        [] => format!("{what}, and no uplink"),
        means => format!("{what}, dropped {}", means.join("; ")),
    };
    let refused = present.iter().any(|uplink| {
        let without = uplink.without_xdp.as_ref();
        without.is_some_and(|without| without.refused)
    });
    if refused {
        Check::warning(
            name,
            found,
            "nothing, or free the driver to drop them at less cost; --xdp off of the daemon \
             leaves it alone",
        )
    } else {
        Check::ok(name, found)
    }
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
            limit: None,
            problems: Vec::new(),
        }
    }

    fn blocked(status: &Status) -> Option<Check> {
        checks(status).next()
    }

    #[test]
    fn a_limit_is_told_by_itself() {
        let mut status = status(2, uplink(Some("tcx"), None));
        status.limit = Some(200);
        let both: Vec<Check> = checks(&status).collect();
        assert_eq!(both[0].found, "2, dropped by tcx on eth0");
        assert_eq!(both[1].name, "new conversations");
        assert_eq!(
            both[1].found,
            "200 a second from each source, dropped by tcx on eth0"
        );
        status.blocked = 0;
        assert_eq!(checks(&status).count(), 1);
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
