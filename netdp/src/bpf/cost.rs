//! What loaded programs cost: how long and how often they run, what the verifier
//! did for them, and how often maps are asked.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Layout, TestPacket,
    instruction::{Attached, Hook, Instruction, ProgramType, attach, load, load_for_function},
    kernel_types, link,
    syscall::bpf,
    test_run::context,
};

/// While this lives the kernel counts runs of programs and their time
/// (`BPF_ENABLE_STATS`, Linux 5.8), of all programs of the machine.
#[derive(Debug)]
pub struct Counting(#[expect(dead_code, reason = "ends the counting")] OwnedFd);

impl Counting {
    /// # Errors
    /// What the kernel refused.
    pub fn begin() -> io::Result<Self> {
        /// `union bpf_attr`, `enable_stats` (`include/uapi/linux/bpf.h`, 5.8).
        #[repr(C)]
        struct EnableStats {
            kind: u32,
        }
        const BPF_ENABLE_STATS: libc::c_long = 32;
        const RUN_TIME: u32 = 0;

        let mut attr = EnableStats { kind: RUN_TIME };
        // SAFETY: no pointers.
        let fd = unsafe { bpf(BPF_ENABLE_STATS, &mut attr) }?;
        // SAFETY: the kernel has just opened it for this process.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
    }
}

/// What the kernel knows of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Known {
    /// While there was a [`Counting`].
    pub runs: u64,
    /// Of all these runs.
    pub time: Duration,
    /// Instructions that the verifier walked, on all paths (Linux 5.16).
    pub verified: u32,
    /// Instructions that there are, as the kernel runs them.
    pub instructions: u32,
    /// Bytes for the CPU.
    pub jited: u32,
}

/// A loaded program.
#[derive(Debug)]
pub struct Loaded {
    program: OwnedFd,
}

impl Loaded {
    /// One that does nothing, to see what counting itself takes.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn nothing() -> io::Result<Self> {
        let program = [Instruction::mov(0, 0), Instruction::EXIT];
        Ok(Self {
            program: load(ProgramType::SchedCls, &program)?,
        })
    }

    /// # Errors
    /// What the kernel refused.
    pub fn known(&self) -> io::Result<Known> {
        /// `union bpf_attr`, `info` (`include/uapi/linux/bpf.h`, 4.13).
        #[repr(C)]
        struct ObjectInfo {
            fd: u32,
            length: u32,
            info: u64,
        }
        const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
        /// As long as `struct bpf_prog_info` of Linux 5.16, bytes, with what it
        /// has where: lengths in bytes, time in ns.
        const LENGTH: usize = 224;
        const JITED_LENGTH: usize = 16;
        const TRANSLATED_LENGTH: usize = 20;
        const RUN_TIME: usize = 192;
        const RUNS: usize = 200;
        const VERIFIED: usize = 216;
        const INSTRUCTION: u32 = 8;

        let mut info = [0u8; LENGTH];
        let mut attr = ObjectInfo {
            fd: self.program.as_raw_fd() as u32,
            length: LENGTH as u32,
            info: info.as_mut_ptr() as u64,
        };
        // SAFETY: the kernel writes no more than the length given.
        unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
        let word =
            |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
        let long = |at: usize| {
            let halves = [word(at), word(at + 4)].map(u64::from);
            if cfg!(target_endian = "little") {
                halves[0] | halves[1] << 32
            } else {
                halves[0] << 32 | halves[1]
            }
        };
        Ok(Known {
            runs: long(RUNS),
            time: Duration::from_nanos(long(RUN_TIME)),
            verified: word(VERIFIED),
            instructions: word(TRANSLATED_LENGTH) / INSTRUCTION,
            jited: word(JITED_LENGTH),
        })
    }

    /// Runs a classifier on a packet, as
    /// [`Datapath::test_run`](super::Datapath::test_run) does. Gives its action.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn run(&self, packet: &TestPacket<'_>) -> io::Result<i32> {
        /// `union bpf_attr`, `test` (`include/uapi/linux/bpf.h`, 5.2).
        #[repr(C)]
        #[derive(Default)]
        struct Test {
            program: u32,
            action: u32,
            length: u32,
            length_out: u32,
            packet: u64,
            packet_out: u64,
            repeat: u32,
            duration: u32,
            context_length: u32,
            context_length_out: u32,
            context: u64,
            context_out: u64,
        }
        const BPF_PROG_TEST_RUN: libc::c_long = 10;

        let context = context(packet);
        let mut attr = Test {
            program: self.program.as_raw_fd() as u32,
            length: packet.bytes.len() as u32,
            packet: packet.bytes.as_ptr() as u64,
            context_length: context.len() as u32,
            context: context.as_ptr() as u64,
            ..Test::default()
        };
        // SAFETY: the kernel reads the packet and the context, which live on.
        unsafe { bpf(BPF_PROG_TEST_RUN, &mut attr) }?;
        Ok(attr.action.cast_signed())
    }
}

/// The programs that a daemon has pinned.
#[derive(Debug)]
pub struct Pinned {
    folder: PathBuf,
}

impl Pinned {
    /// Of the daemon that pins in this bpffs.
    pub fn of(bpffs: &Path) -> Self {
        Self {
            folder: Layout::of(bpffs).programs(),
        }
    }

    /// By name, in order.
    ///
    /// # Errors
    /// When no daemon has pinned any here.
    pub fn all(&self) -> io::Result<Vec<(String, Loaded)>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        let open = |name: String| Ok((name.clone(), self.open(&name)?));
        names.into_iter().map(open).collect()
    }

    /// # Errors
    /// When there is no such program.
    pub fn open(&self, name: &str) -> io::Result<Loaded> {
        let program = link::open_pin(&self.folder.join(name))?;
        Ok(Loaded { program })
    }
}

/// How often programs and others of the machine asked maps for something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Asked {
    /// In hash tables and tries. The kernel has none in arrays: it makes loads
    /// of them.
    pub lookups: u64,
    /// Entries made or replaced in hash tables, LRU ones included.
    pub inserts: u64,
    pub removals: u64,
    /// Entries put into queues.
    pub pushes: u64,
}

/// Counts what is asked of maps, while a [`Counting`] lives: by programs at the
/// beginning of the kernel's functions for it, which do nothing but run.
#[derive(Debug)]
pub struct AskedMaps {
    counters: Vec<(What, Loaded, Attached)>,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Lookup,
    Insert,
    Removal,
    Push,
}

/// The functions (kernel/bpf/hashtab.c, lpm_trie.c and queue_stack_maps.c, 6.18),
/// of which programs call the first directly (`htab_map_gen_lookup`).
const FUNCTIONS: [(&str, What); 7] = [
    ("__htab_map_lookup_elem", What::Lookup),
    ("trie_lookup_elem", What::Lookup),
    ("htab_map_update_elem", What::Insert),
    ("htab_lru_map_update_elem", What::Insert),
    ("htab_map_delete_elem", What::Removal),
    ("htab_lru_map_delete_elem", What::Removal),
    ("queue_stack_map_push_elem", What::Push),
];

impl AskedMaps {
    /// # Errors
    /// When the kernel doesn't tell its types (BTF), has one of the functions
    /// no more, or attaches nothing to functions.
    pub fn begin() -> io::Result<Self> {
        let names = FUNCTIONS.map(|(name, _)| name);
        let numbers = kernel_types::functions(&names).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::Unsupported,
                "this kernel doesn't name its functions for maps",
            )
        })?;
        let counters = FUNCTIONS.iter().zip(numbers).map(|((_, what), number)| {
            let program = [Instruction::mov(0, 0), Instruction::EXIT];
            let program = load_for_function(number, &program)?;
            let attached = attach(program.as_fd(), Hook::Fentry, 0)?;
            Ok((*what, Loaded { program }, attached))
        });
        Ok(Self {
            counters: counters.collect::<io::Result<_>>()?,
        })
    }

    /// Since [`AskedMaps::begin`].
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn so_far(&self) -> io::Result<Asked> {
        let mut asked = Asked::default();
        for (what, counter, _) in &self.counters {
            let runs = counter.known()?.runs;
            match what {
                What::Lookup => asked.lookups += runs,
                What::Insert => asked.inserts += runs,
                What::Removal => asked.removals += runs,
                What::Push => asked.pushes += runs,
            }
        }
        Ok(asked)
    }
}
