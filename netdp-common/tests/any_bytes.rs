//! Millions of packets, most of them wrong somewhere, through the pure packet
//! logic. `cargo fuzz` does the same with `fuzz/fuzz_targets/walk.rs`, and both
//! begin with the packets in `fuzz/corpus/walk`.

mod walk;

use std::{fs, num::NonZero, path::Path, thread};

const CASES: u32 = 200_000;
const MANY: u32 = 10_000_000;

/// splitmix64 (Steele, Lea, Flood 2014).
struct Dice(u64);

impl Dice {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        self.number() as usize % end
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/walk");
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// A packet of the corpus with some of it changed: bits, octets, the length,
/// the end of another packet.
fn change(dice: &mut Dice, corpus: &[Vec<u8>], bytes: &mut Vec<u8>) {
    const ODD: [u8; 8] = [0, 1, 4, 8, 20, 0x45, 0x7f, 0xff];
    bytes.clear();
    bytes.extend_from_slice(&corpus[dice.below(corpus.len())]);
    for _ in 0..dice.below(5) {
        if bytes.is_empty() {
            return;
        }
        let at = dice.below(bytes.len());
        match dice.below(8) {
            0..3 => bytes[at] ^= 1 << dice.below(8),
            3 | 4 => bytes[at] = ODD[dice.below(ODD.len())],
            5 => bytes[at] = dice.number() as u8,
            6 => bytes.truncate(at),
            _ => {
                let other = &corpus[dice.below(corpus.len())];
                if at < other.len() {
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[at..]);
                }
            }
        }
    }
}

fn walk_many(cases: u32, seed: u64) {
    let corpus = corpus();
    assert!(corpus.len() > 10);
    for bytes in &corpus {
        walk::walk(bytes);
    }
    let mut dice = Dice(seed);
    let mut bytes = Vec::new();
    for case in 0..cases {
        change(&mut dice, &corpus, &mut bytes);
        if std::panic::catch_unwind(|| walk::walk(&bytes)).is_err() {
            panic!("case {case} of seed {seed}: {bytes:02x?}");
        }
    }
}

#[test]
fn changed_packets_are_read_as_they_are() {
    walk_many(CASES, 1);
}

#[test]
#[ignore = "takes long"]
fn ten_million_changed_packets_are_read_as_they_are() {
    let workers = thread::available_parallelism().map_or(1, NonZero::get) as u32;
    thread::scope(|scope| {
        for seed in 0..workers {
            scope.spawn(move || walk_many(MANY.div_ceil(workers), 2 + u64::from(seed)));
        }
    });
}
