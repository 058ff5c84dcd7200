//! Handing packets to the programs, and what must have come of them.

use std::time::{Duration, Instant};

use netdp::bpf::{FlowSeen, TableAddress, TestPacket, TestRun};
use netdp_common::{
    addr::{V4Addr, V6Addr},
    drop::DropReason,
    icmp::Refusal,
    maps::{Flow, FlowKey},
};

use super::{
    Container, DROP, NEXT, REDIRECT, World,
    family::{Family, embedded},
    frame::Frame,
    netkit,
};

/// For what takes a second or two.
const LONG: Duration = Duration::from_secs(15);

impl World {
    /// A packet comes in by the uplink.
    pub fn run_from_netdev(&mut self, bytes: &[u8]) -> TestRun {
        let packet = TestPacket::received(bytes, self.uplink);
        self.datapath.test_run("from_netdev", &packet).unwrap()
    }

    /// The host's own stack sends a packet out of the uplink.
    pub fn run_to_netdev(&mut self, bytes: &[u8]) -> TestRun {
        let packet = TestPacket::sent(bytes, self.uplink);
        self.datapath.test_run("to_netdev", &packet).unwrap()
    }

    /// A container sends a packet.
    pub fn run_from_container(&mut self, container: &Container, bytes: &[u8]) -> TestRun {
        if netkit::is_tried()
            && let Some(run) = self.forestalled(container, bytes)
        {
            return run;
        }
        let packet = TestPacket::received(bytes, container.ifindex);
        self.datapath.test_run("from_container", &packet).unwrap()
    }

    /// A packet from outside is handed to a container. Gives it as the
    /// container sees it.
    pub fn enters(&mut self, frame: &Frame, container: &Container) -> Frame {
        let before = self.datapath.stats(container.slot).unwrap();
        let run = self.run_from_netdev(&frame.bytes());
        let after = self.datapath.stats(container.slot).unwrap();
        assert_eq!(run.action, REDIRECT, "{frame:?}: {:?}", self.drops());
        assert_eq!(after.rx_packets, before.rx_packets + 1);
        assert_eq!(after.rx_bytes, before.rx_bytes + frame.bytes().len() as u64);
        let seen = Frame::of(&run.packet);
        assert_eq!(seen.destination, container.mac);
        assert_eq!(seen.source, container.host_mac);
        assert_eq!(seen.payload, frame.payload);
        seen
    }

    /// A packet of a container is sent on, out of the uplink or to another
    /// container. Gives it as it leaves.
    pub fn leaves(&mut self, container: &Container, frame: &Frame) -> Frame {
        let before = self.datapath.stats(container.slot).unwrap();
        let run = self.run_from_container(container, &frame.bytes());
        let after = self.datapath.stats(container.slot).unwrap();
        assert_eq!(run.action, REDIRECT, "{frame:?}: {:?}", self.drops());
        assert_eq!(after.tx_packets, before.tx_packets + 1);
        assert_eq!(after.tx_bytes, before.tx_bytes + frame.bytes().len() as u64);
        let seen = Frame::of(&run.packet);
        assert_eq!(seen.payload, frame.payload);
        seen
    }

    /// A packet of a container goes to the host's stack as it is.
    pub fn is_for_the_stack(&mut self, container: &Container, bytes: &[u8]) {
        let run = self.run_from_container(container, bytes);
        assert_eq!(run.action, NEXT, "{:?}", self.drops());
        assert_eq!(run.packet, bytes);
    }

    /// A packet from outside isn't netdp's.
    pub fn passes(&mut self, bytes: &[u8]) {
        let run = self.run_from_netdev(bytes);
        assert_eq!(run.action, NEXT, "{:?}", self.drops());
        assert_eq!(run.packet, bytes);
    }

    /// A packet of a container is dropped and counted; in its place there may be
    /// an ICMP error about it, for the container.
    pub fn is_refused(&mut self, container: &Container, bytes: &[u8]) -> DropReason {
        let before = self.datapath.stats(container.slot).unwrap().drops;
        let reason = self.reason(|world| world.run_from_container(container, bytes));
        let after = self.datapath.stats(container.slot).unwrap().drops;
        assert_eq!(after, before + 1);
        reason
    }

    /// A packet from outside is dropped, as it is, and counted.
    pub fn is_kept_out(&mut self, bytes: &[u8]) -> DropReason {
        self.reason(|world| world.run_from_netdev(bytes))
    }

    /// The one reason for which a program drops a packet.
    pub fn reason(&mut self, run: impl FnOnce(&mut Self) -> TestRun) -> DropReason {
        let before = self.datapath.drops().unwrap();
        let run = run(self);
        let after = self.datapath.drops().unwrap();
        let mut counted = before.iter().zip(&after).filter(|(old, new)| old != new);
        let (old, new) = counted.next().expect("a drop is counted");
        assert_eq!(new.1, old.1 + 1);
        assert!(counted.next().is_none(), "a drop has one reason");
        match run.action {
            DROP => {}
            REDIRECT => assert_ne!(Refusal::of(new.0), Refusal::Silent),
            action => panic!("{action} of {:?}", new.0),
        }
        new.0
    }

    /// The reasons counted so far.
    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        let mut drops = self.datapath.drops().unwrap();
        drops.retain(|(_, count)| *count != 0);
        drops
    }

    /// The conversations in the main table.
    pub fn flows(&self) -> Vec<FlowSeen<V4Addr>> {
        self.entries(false)
    }

    /// What isn't answered yet.
    pub fn pending(&self) -> Vec<FlowSeen<V4Addr>> {
        self.entries(true)
    }

    fn entries(&self, pending: bool) -> Vec<FlowSeen<V4Addr>> {
        let mut flows = self.all_flows();
        flows.retain(|flow| flow.pending == pending);
        flows.sort_by_key(|flow| flow.key);
        flows
    }

    /// Both tables of the world's family, as one of IPv4.
    pub fn all_flows(&self) -> Vec<FlowSeen<V4Addr>> {
        match Family::of_world() {
            Family::V4 => self.datapath.flows().unwrap(),
            Family::V6 => {
                let flows = self.datapath.flows().unwrap();
                flows.iter().map(as_v4).collect()
            }
        }
    }

    /// Asserts how many entries the main and the pending table hold.
    pub fn holds(&self, flows: usize, pending: usize) {
        assert_eq!(
            (self.flows().len(), self.pending().len()),
            (flows, pending),
            "{:#?}",
            self.all_flows()
        );
    }

    /// Makes all entries as old as they were so many seconds from now.
    pub fn let_pass(&self, seconds: u32) {
        self.grow_older::<V4Addr>(seconds);
        self.grow_older::<V6Addr>(seconds);
    }

    fn grow_older<A: TableAddress>(&self, seconds: u32) {
        let mut seen = self.datapath.flows::<A>().unwrap();
        for seen in &mut seen {
            seen.flow.last_seen = seen.flow.last_seen.wrapping_sub(seconds);
        }
        let tables = self.datapath.flow_tables::<A>();
        tables.rewrite(&seen).unwrap();
    }

    /// Waits until this holds: entries expire by the kernel's timer.
    pub fn wait_until(&self, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + LONG;
        while !holds(self) {
            self.in_time(deadline);
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The same without the time between two sweeps: one follows the other.
    pub fn sweep_until(&mut self, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + LONG;
        while !holds(self) {
            self.in_time(deadline);
            // The timer runs at once, and goes on where it was.
            let packet = TestPacket::received(&[0; 64], self.uplink);
            let started = self.datapath.test_run("sweep_start", &packet).unwrap();
            assert_eq!(started.action, 0, "the error of the timer");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn in_time(&self, deadline: Instant) {
        assert!(
            Instant::now() < deadline,
            "still there: {:#?}",
            self.all_flows()
        );
    }
}

/// An entry of IPv6 as one of IPv4.
fn as_v4(seen: &FlowSeen<V6Addr>) -> FlowSeen<V4Addr> {
    let addr = |addr: V6Addr| V4Addr::from(embedded(addr.into()));
    let FlowSeen { key, flow, pending } = *seen;
    FlowSeen {
        key: FlowKey {
            remote: addr(key.remote),
            local: addr(key.local),
            remote_port: key.remote_port,
            local_port: key.local_port,
            proto: key.proto,
            mapping: key.mapping,
            pad: key.pad,
        },
        flow: Flow {
            addr: addr(flow.addr),
            external: addr(flow.external),
            port: flow.port,
            kind: flow.kind,
            state: flow.state,
            timeout: flow.timeout,
            to: flow.to,
            last_seen: flow.last_seen,
            ifindex: flow.ifindex,
            tag: flow.tag,
            generation: flow.generation,
            pad: flow.pad,
        },
        pending,
    }
}
