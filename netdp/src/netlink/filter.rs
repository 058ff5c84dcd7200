//! Whether the kernel has what programs hang by on endpoints: filters of a clsact
//! qdisc.

use nix::errno::Errno;
use nix::libc;
use rtnetlink::packet_core::NLM_F_CREATE;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage};

use super::{Netlink, Refusal};

/// The index that loopback has in every namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: i32 = 1;

impl Netlink {
    /// Whether the kernel has this qdisc without a queue, such as `clsact`. Puts it
    /// on loopback.
    ///
    /// # Errors
    /// When it may not be put there.
    pub async fn has_qdisc(&self, kind: &str) -> Result<bool, Refusal> {
        let mut message = of_kind(kind);
        message.header.parent = TcHandle::CLSACT;
        message.header.handle = TcHandle {
            major: TcHandle::CLSACT.major,
            minor: 0,
        };
        let message = RouteNetlinkMessage::NewQueueDiscipline(message);
        match self.request(message, NLM_F_CREATE).await {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.is(Errno::ENOENT) => Ok(false),
            Err(refusal) => Err(refusal),
        }
    }

    /// Whether the kernel has this classifier, such as `bpf`, where loopback has
    /// `clsact`: one that it knows has nothing to go by, and refuses that
    /// (`cls_bpf_change`, net/sched/cls_bpf.c).
    ///
    /// # Errors
    /// When none may be put there.
    pub async fn has_classifier(&self, kind: &str) -> Result<bool, Refusal> {
        let mut message = of_kind(kind);
        message.header.parent = TcHandle {
            major: TcHandle::CLSACT.major,
            minor: TcHandle::MIN_INGRESS,
        };
        // The protocol, as packets have it, below a priority for the kernel to choose.
        message.header.info = u32::from((libc::ETH_P_ALL as u16).to_be());
        let message = RouteNetlinkMessage::NewTrafficFilter(message);
        match self.request(message, NLM_F_CREATE).await {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.is(Errno::EINVAL) => Ok(true),
            Err(refusal) if refusal.is(Errno::ENOENT) => Ok(false),
            Err(refusal) => Err(refusal),
        }
    }
}

fn of_kind(kind: &str) -> TcMessage {
    let mut message = TcMessage::with_index(LOOPBACK);
    message.attributes.push(TcAttribute::Kind(kind.to_owned()));
    message
}
