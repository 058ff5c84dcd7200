//! Containers behind netkit pairs: what they send meets `from_netkit`, and
//! `from_container` where that lets it go on. The programs need no kernel that
//! has netkit; it is tried by any program test with `NETDP_NETKIT=1`.

use std::{
    env,
    sync::atomic::{AtomicBool, Ordering},
};

use netdp::bpf::{TestPacket, TestRun};

use super::{Container, NEXT, World};

static TRIED: AtomicBool = AtomicBool::new(false);

/// From now on, in every world of this test program.
pub fn try_it() {
    TRIED.store(true, Ordering::Relaxed);
}

pub fn is_tried() -> bool {
    TRIED.load(Ordering::Relaxed) || env::var_os("NETDP_NETKIT").is_some()
}

impl World {
    /// What `from_netkit` makes of a packet; none where it lets it go on.
    pub fn forestalled(&mut self, container: &Container, bytes: &[u8]) -> Option<TestRun> {
        let packet = TestPacket::sent(bytes, container.ifindex);
        let run = self.datapath.test_run("from_netkit", &packet).unwrap();
        if run.action != NEXT {
            return Some(run);
        }
        assert_eq!(
            (&run.packet[..], run.mark),
            (bytes, 0),
            "it is not as it came"
        );
        None
    }
}
