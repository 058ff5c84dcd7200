//! A program run on one packet, without traffic: `BPF_PROG_TEST_RUN`.

use std::{path::Path, sync::Barrier, thread};

use aya::programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions};
use netdp_common::maps::{Config, EARLY_FRAME};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use super::{BpfError, Datapath, datapath::classifier};

/// Size of `struct __sk_buff` (`include/uapi/linux/bpf.h`, 6.1), bytes.
const CONTEXT: usize = 192;
/// Offsets of its fields, bytes.
const MARK: usize = 8;
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;
const GSO_SIZE: usize = 176;

/// A packet as a program would meet it at its hook.
#[derive(Clone, Copy, Debug)]
pub struct TestPacket<'a> {
    /// From the Ethernet header on; at least that, and at most about a page.
    pub bytes: &'a [u8],
    /// The interface of the hook. It must be in the calling thread's network
    /// namespace.
    pub ifindex: u32,
    /// The interface that the packet came to this host by; 0 for none.
    pub ingress_ifindex: u32,
    /// `skb->mark`.
    pub mark: u32,
    /// Bytes of payload of each segment that it is to be cut into; 0 for one that
    /// isn't.
    pub gso_size: u32,
}

impl<'a> TestPacket<'a> {
    /// A packet that comes in by the hook's own interface, unmarked.
    pub fn received(bytes: &'a [u8], ifindex: u32) -> Self {
        Self {
            bytes,
            ifindex,
            ingress_ifindex: ifindex,
            mark: 0,
            gso_size: 0,
        }
    }

    /// A packet that the host itself sends, unmarked.
    pub fn sent(bytes: &'a [u8], ifindex: u32) -> Self {
        Self {
            ingress_ifindex: 0,
            ..Self::received(bytes, ifindex)
        }
    }
}

/// What a program made of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TestRun {
    /// `TCX_*` of `include/uapi/linux/bpf.h`; -1 hands the packet on.
    pub action: i32,
    /// The packet as the program left it.
    pub packet: Vec<u8>,
    /// `skb->mark` as the program left it.
    pub mark: u32,
}

/// What the kernel is told of a packet besides its bytes.
pub(super) fn context(packet: &TestPacket<'_>) -> [u8; CONTEXT] {
    let mut context = [0; CONTEXT];
    let mut set = |at: usize, value: u32| {
        context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    };
    set(MARK, packet.mark);
    set(INGRESS_IFINDEX, packet.ingress_ifindex);
    set(IFINDEX, packet.ifindex);
    set(GSO_SIZE, packet.gso_size);
    context
}

impl Datapath {
    /// Goes on as a datapath that was just opened, for tests: all maps have been
    /// emptied, and the timer with them.
    ///
    /// # Errors
    /// What the kernel refused.
    #[doc(hidden)]
    pub fn begin_anew(&mut self, config: Config) -> Result<(), BpfError> {
        self.config = config;
        self.derive()?;
        self.start_sweeper()
    }

    /// Pins those programs in a folder that are loaded, for tests to find their
    /// maps by.
    ///
    /// # Errors
    /// What the kernel refused.
    #[doc(hidden)]
    pub fn pin_programs(&mut self, folder: &Path) -> Result<(), BpfError> {
        for (name, program) in self.ebpf.programs_mut() {
            let path = folder.join(name);
            if program.fd().is_ok() {
                let failed = |source| BpfError::Pin {
                    path: path.clone(),
                    source: Box::new(source),
                };
                program.pin(&path).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Runs a classifier on a packet that is thrown away afterwards, for tests
    /// and diagnosis. A redirect is not carried out, but maps and counters
    /// change as under traffic.
    ///
    /// # Errors
    /// [`BpfError::Missing`] where there is no such classifier, and
    /// [`BpfError::TestRun`] for what the kernel refuses: a packet shorter than
    /// an Ethernet header, longer than a page, or an interface that isn't there.
    pub fn test_run(
        &mut self,
        program: &str,
        packet: &TestPacket<'_>,
    ) -> Result<TestRun, BpfError> {
        let context_in = context(packet);
        let mut context_out = [0; CONTEXT];
        // A first fragment gives its room to those that waited for it, and a
        // neighbour solicitation grows to its answer.
        let mut left = vec![0; packet.bytes.len().max(EARLY_FRAME)];
        let result = classifier(&mut self.ebpf, program)?
            .test_run(TestRunOptions {
                data_in: Some(packet.bytes),
                data_out: Some(&mut left),
                ctx_in: Some(&context_in),
                ctx_out: Some(&mut context_out),
                repeat: 1,
                ..TestRunOptions::default()
            })
            .map_err(|source| BpfError::TestRun {
                name: program.to_owned(),
                length: packet.bytes.len(),
                source: Box::new(source),
            })?;
        left.truncate(result.data_size_out as usize);
        let mut mark = [0; 4];
        mark.copy_from_slice(&context_out[MARK..MARK + 4]);
        Ok(TestRun {
            action: result.return_value.cast_signed(),
            packet: left,
            mark: u32::from_ne_bytes(mark),
        })
    }

    /// Runs a classifier so often on a packet that it leaves as it is, at the same
    /// time on each of these CPUs, for tests.
    ///
    /// # Errors
    /// As [`test_run`](Self::test_run), and what the kernel refuses of a CPU.
    #[doc(hidden)]
    pub fn test_at_once(
        &mut self,
        program: &str,
        packet: &TestPacket<'_>,
        cpus: &[usize],
        times: u32,
    ) -> Result<(), BpfError> {
        let context_in = context(packet);
        let failed = |source: ProgramError| BpfError::TestRun {
            name: program.to_owned(),
            length: packet.bytes.len(),
            source: Box::new(source),
        };
        let program: &SchedClassifier = classifier(&mut self.ebpf, program)?;
        let together = Barrier::new(cpus.len());
        let run = |cpu: usize| {
            let mut alone = CpuSet::new();
            let set = alone.set(cpu);
            let set = set.and_then(|()| sched_setaffinity(Pid::from_raw(0), &alone));
            together.wait();
            set.map_err(|errno| ProgramError::IOError(errno.into()))?;
            program.test_run(TestRunOptions {
                data_in: Some(packet.bytes),
                ctx_in: Some(&context_in),
                repeat: times,
                ..TestRunOptions::default()
            })
        };
        thread::scope(|scope| {
            let runs = cpus.iter().map(|cpu| scope.spawn(|| run(*cpu)));
            let runs: Vec<_> = runs.collect();
            runs.into_iter().try_for_each(|run| match run.join() {
                Ok(run) => run.map(drop).map_err(failed),
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    }
}
