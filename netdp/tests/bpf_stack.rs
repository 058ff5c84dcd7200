//! How much stack the programs take, counted as the oldest kernels that netdp
//! runs on do: each function's in steps of 32 bytes, 512 for all functions that
//! wait for each other (`check_max_stack_depth`, kernel/bpf/verifier.c, 6.1;
//! from 6.8 on the steps are of 16 where programs are compiled).
#![cfg(target_endian = "little")]

use std::collections::{BTreeMap, BTreeSet};

use netdp::bpf::OBJECT;

const STEP: u32 = 32;
const LIMIT: u32 = 512;

/// Where a function is: its section and the offset of its first byte.
type Place = (usize, u64);

/// An ELF object of 64 bits, as far as it is needed (elf(5)).
struct Object {
    /// Type, file offset, length, linked section, section it is about.
    sections: Vec<(u32, usize, usize, usize, usize)>,
    functions: BTreeMap<Place, Function>,
}

struct Function {
    name: String,
    length: u64,
    /// Bytes of stack that it takes itself.
    own: u32,
    calls: BTreeSet<Place>,
}

fn number<const N: usize>(at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes[..N].copy_from_slice(&OBJECT[at..at + N]);
    u64::from_le_bytes(bytes)
}

fn text(at: usize) -> String {
    let end = OBJECT[at..].iter().position(|byte| *byte == 0).unwrap();
    String::from_utf8_lossy(&OBJECT[at..at + end]).into_owned()
}

/// A symbol: name, kind, place.
struct Symbol(String, u8, Place, u64);

impl Object {
    fn read() -> Self {
        let (table, count) = (number::<8>(0x28) as usize, number::<2>(0x3c) as usize);
        let section = |index| {
            let at = table + 64 * index;
            let field = |offset| number::<8>(at + offset) as usize;
            let word = |offset| number::<4>(at + offset) as usize;
            (word(4) as u32, field(24), field(32), word(40), word(44))
        };
        let mut object = Self {
            sections: (0..count).map(section).collect(),
            functions: BTreeMap::new(),
        };
        let symbols = object.symbols();
        for Symbol(name, kind, place, length) in &symbols {
            const FUNCTION: u8 = 2;
            if *kind == FUNCTION {
                let function = Function {
                    name: name.clone(),
                    length: *length,
                    own: 0,
                    calls: BTreeSet::new(),
                };
                object.functions.insert(*place, function);
            }
        }
        let relocations = object.relocations(&symbols);
        let places: BTreeSet<Place> = object.functions.keys().copied().collect();
        for (place, function) in &mut object.functions {
            let base = object.sections[place.0].1;
            function.look(*place, base, &relocations);
            function.calls.retain(|callee| places.contains(callee));
        }
        object
    }

    fn symbols(&self) -> Vec<Symbol> {
        const SYMBOLS: u32 = 2;
        let is_table = |section: &&(u32, usize, usize, usize, usize)| section.0 == SYMBOLS;
        let (_, start, length, names, _) = *self.sections.iter().find(is_table).unwrap();
        let names = self.sections[names].1;
        (start..start + length)
            .step_by(24)
            .map(|at| {
                let place = (number::<2>(at + 6) as usize, number::<8>(at + 8));
                let name = text(names + number::<4>(at) as usize);
                Symbol(name, OBJECT[at + 4] & 15, place, number::<8>(at + 16))
            })
            .collect()
    }

    /// What instructions refer to: a function, or a section, to be added to.
    fn relocations(&self, symbols: &[Symbol]) -> BTreeMap<Place, (Place, bool)> {
        const RELOCATIONS: u32 = 9;
        const SECTION: u8 = 3;
        let mut found = BTreeMap::new();
        for (kind, start, length, _, about) in &self.sections {
            if *kind != RELOCATIONS {
                continue;
            }
            for at in (*start..start + length).step_by(16) {
                let Symbol(_, kind, place, _) = &symbols[(number::<8>(at + 8) >> 32) as usize];
                let target = (*place, *kind == SECTION);
                found.insert((*about, number::<8>(at)), target);
            }
        }
        found
    }

    /// The most that a function takes with all that it calls, and by which way.
    fn worst(&self, place: Place) -> (u32, Vec<&str>) {
        let function = &self.functions[&place];
        let own = function.own.max(1).next_multiple_of(STEP);
        let below = function.calls.iter().map(|callee| self.worst(*callee));
        let (most, mut way) = below.max().unwrap_or_default();
        way.insert(0, &function.name);
        (own + most, way)
    }
}

impl Function {
    /// Reads its instructions (RFC 9669).
    fn look(&mut self, place: Place, base: usize, relocations: &BTreeMap<Place, (Place, bool)>) {
        const FRAME: u8 = 10;
        const CALL: u8 = 0x85;
        const MOVE: u8 = 0xbf;
        const ADD: u8 = 0x07;
        const WIDE: u8 = 0x18;
        const LOCAL: u8 = 1;
        let (section, mut at) = place;
        let end = at + self.length;
        // Registers that hold the frame's address.
        let mut frame = [false; 16];
        while at < end {
            let instruction = &OBJECT[base + at as usize..][..8];
            let (code, registers) = (instruction[0], instruction[1]);
            let (to, from) = (registers & 15, registers >> 4);
            let offset = i16::from_le_bytes([instruction[2], instruction[3]]);
            let value = i32::from_le_bytes(instruction[4..].try_into().unwrap());
            let mut uses = |below: i32| {
                if below < 0 {
                    self.own = self.own.max(below.unsigned_abs());
                }
            };
            match code & 7 {
                // Loads, and stores.
                1 if from == FRAME => uses(offset.into()),
                2 | 3 if to == FRAME => uses(offset.into()),
                _ => {}
            }
            match code {
                MOVE => frame[usize::from(to)] = from == FRAME,
                ADD if std::mem::take(&mut frame[usize::from(to)]) => uses(value),
                _ => {}
            }
            let named = relocations.get(&(section, at));
            if code == CALL && from == LOCAL {
                // Counted in instructions from the next one on.
                let ahead = |start: u64| start.wrapping_add_signed(i64::from(value + 1) * 8);
                self.calls.insert(match named {
                    Some(((section, start), true)) => (*section, ahead(*start)),
                    Some((function, false)) => *function,
                    None => (section, ahead(at)),
                });
            } else if code == WIDE
                && let Some(((section, start), is_section)) = named
            {
                // A function that a helper calls back; otherwise a map.
                let start = if *is_section {
                    start.wrapping_add_signed(value.into())
                } else {
                    *start
                };
                self.calls.insert((*section, start));
            }
            at += if code == WIDE { 16 } else { 8 };
        }
    }
}

#[test]
fn all_kernels_grant_the_stack_that_programs_take() {
    let object = Object::read();
    let mut seen = 0;
    for (place, function) in &object.functions {
        let programs = [
            "from_container",
            "from_netdev",
            "to_container",
            "to_netdev",
            "connect6",
            "sendmsg6",
            "acc_netdev_in",
            "acc_netdev_out",
            "acc_container",
        ];
        if programs.contains(&function.name.as_str()) {
            let (most, way) = object.worst(*place);
            println!("{}: {most} bytes", function.name);
            assert!(most <= LIMIT, "{most} bytes: {way:#?}");
            seen += 1;
        }
    }
    assert_eq!(seen, 9);
}
