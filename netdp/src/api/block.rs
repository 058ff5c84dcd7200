//! What keeps sources out, as answers show it.

use netdp_common::drop::DropReason;

use super::types::{Blocked, Limit, UplinkStatus, WithoutXdp};
use crate::{
    bpf::{BpfError, DriverProgram, Xdp},
    daemon::change::Core,
    plan::Uplink,
};

/// All that are, by address.
pub fn blocked(core: &Core) -> Result<Vec<Blocked>, BpfError> {
    let datapath = &core.engine().target().datapath;
    let blocked = core.state().blocked.iter();
    blocked
        .map(|(source, blocked)| {
            Ok(Blocked {
                source: *source,
                since: blocked.since,
                packets: datapath.blocked_packets(*source)?,
            })
        })
        .collect()
}

/// What every source may begin, if that is limited.
pub fn limit(core: &Core) -> Result<Option<Limit>, BpfError> {
    let Some(limit) = core.state().limit else {
        return Ok(None);
    };
    let drops = core.engine().target().datapath.drops()?;
    let mut limited = drops.iter();
    let limited = limited.find(|(reason, _)| *reason == DropReason::SourceLimit);
    Ok(Some(Limit {
        rate: limit.rate,
        burst: limit.burst,
        since: limit.since,
        packets: limited.map_or(0, |(_, packets)| *packets),
    }))
}

/// An uplink that is there.
pub fn uplink(core: &Core, uplink: &Uplink) -> UplinkStatus {
    let mut status = UplinkStatus {
        interface: uplink.ifname.clone(),
        present: true,
        addresses: uplink.addresses.clone(),
        drops_by: None,
        without_xdp: None,
    };
    if core.state().blocked.is_empty() && core.state().limit.is_none() {
        return status;
    }
    let datapath = &core.engine().target().datapath;
    let by_driver = datapath.xdp().get(&uplink.ifindex);
    if by_driver == Some(&DriverProgram::Attached) {
        status.drops_by = Some("xdp".to_owned());
        return status;
    }
    status.drops_by = Some(datapath.mechanism().to_string());
    status.without_xdp = Some(match (core.engine().facts().xdp, by_driver) {
        (Xdp::Off, _) => WithoutXdp {
            why: "the daemon was started with --xdp off".to_owned(),
            refused: false,
        },
        (_, Some(DriverProgram::Refused(why))) => WithoutXdp {
            why: why.clone(),
            refused: true,
        },
        _ => WithoutXdp {
            why: uplink.driver.reluctance().unwrap_or_default(),
            refused: false,
        },
    });
    status
}
