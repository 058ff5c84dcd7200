//! Where fields of the kernel's structures are, by its own type information
//! (BTF). aya relocates what a compiler of C has marked; rustc marks nothing.

use std::{collections::HashMap, fs};

/// The kernel's types.
const FILE: &str = "/sys/kernel/btf/vmlinux";

/// Kinds of `include/uapi/linux/btf.h` (6.18), by number.
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;

/// How long `struct btf_type` is, bytes: offset of the name, `info`, size or
/// type.
const TYPE: usize = 12;

/// Structures and unions, with their members.
pub(super) struct Structures<'a> {
    strings: &'a [u8],
    /// By number: its members.
    members: HashMap<u32, Vec<Member>>,
    /// By name: its number.
    named: HashMap<&'a [u8], u32>,
}

struct Member {
    name: u32,
    kind: u32,
    /// In bytes.
    offset: u32,
}

/// Offsets of members in `struct tcp_sock`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TcpSock {
    pub write_seq: u32,
    /// That of `struct sock`, with which it begins.
    pub rmem_alloc: u32,
}

/// Of this kernel; none where it doesn't tell.
pub(super) fn tcp_sock() -> Option<TcpSock> {
    let btf = fs::read(FILE).ok()?;
    let structures = Structures::parse(&btf)?;
    Some(TcpSock {
        write_seq: structures.offset("tcp_sock", &["write_seq"])?,
        rmem_alloc: structures.offset("sock", &["sk_backlog", "rmem_alloc"])?,
    })
}

impl<'a> Structures<'a> {
    /// `struct btf_header`: magic, version, flags, its own length at byte 4, and
    /// where types and strings are, counted from its end.
    pub(super) fn parse(btf: &'a [u8]) -> Option<Self> {
        let word = |at: usize| {
            let bytes = btf.get(at..at + 4)?;
            Some(u32::from_ne_bytes(bytes.try_into().ok()?))
        };
        let header = word(4)? as usize;
        let types = header + word(8)? as usize;
        let end = types + word(12)? as usize;
        let strings = btf.get(header + word(16)? as usize..)?;
        let mut this = Self {
            strings,
            members: HashMap::new(),
            named: HashMap::new(),
        };
        let (mut at, mut number) = (types, 0);
        while at < end {
            number += 1;
            let (name, info) = (word(at)?, word(at + 4)?);
            let (kind, length, wide) = (info >> 24 & 0x1f, info & 0xffff, info >> 31 != 0);
            at += TYPE;
            if kind == STRUCT || kind == UNION {
                let mut members = Vec::new();
                for member in 0..length as usize {
                    let at = at + 12 * member;
                    let offset = word(at + 8)?;
                    // Where there are bit fields the upper byte is their width.
                    let bits = if wide { offset & 0xff_ffff } else { offset };
                    members.push(Member {
                        name: word(at)?,
                        kind: word(at + 4)?,
                        offset: bits / 8,
                    });
                }
                this.members.insert(number, members);
                if kind == STRUCT {
                    this.named.insert(string(strings, name)?, number);
                }
            }
            at += trailer(kind, length)?;
        }
        Some(this)
    }

    /// Where a member is, bytes from the structure's beginning. Structures
    /// without a name are looked into.
    pub(super) fn offset(&self, structure: &str, path: &[&str]) -> Option<u32> {
        let mut kind = *self.named.get(structure.as_bytes())?;
        let mut offset = 0;
        for name in path {
            let (at, of) = self.member(kind, name.as_bytes())?;
            offset += at;
            kind = of;
        }
        Some(offset)
    }

    fn member(&self, kind: u32, wanted: &[u8]) -> Option<(u32, u32)> {
        self.members.get(&kind)?.iter().find_map(|member| {
            let name = string(self.strings, member.name)?;
            if name == wanted {
                return Some((member.offset, member.kind));
            }
            let (at, of) = name
                .is_empty()
                .then(|| self.member(member.kind, wanted))??;
            Some((member.offset + at, of))
        })
    }
}

fn string(strings: &[u8], offset: u32) -> Option<&[u8]> {
    strings
        .get(offset as usize..)?
        .split(|byte| *byte == 0)
        .next()
}

/// How many bytes follow `struct btf_type`; none for a kind that isn't known.
fn trailer(kind: u32, length: u32) -> Option<usize> {
    let length = length as usize;
    Some(match kind {
        // Pointers, forward declarations, names, qualifiers, functions, floats,
        // tags of types.
        0 | 2 | 7..=12 | 16 | 18 => 0,
        // Integers, variables, tags of declarations.
        1 | 14 | 17 => 4,
        ARRAY => 12,
        STRUCT | UNION => 12 * length,
        // Enumerations, parameters of functions.
        6 | 13 => 8 * length,
        // Sections, enumerations of 64 bits.
        15 | 19 => 12 * length,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_this_kernels_sockets_are_found() {
        let Some(found) = tcp_sock() else {
            assert!(
                fs::read(FILE).is_err(),
                "it can be read and isn't understood"
            );
            return;
        };
        // Both lie behind the addresses, ports and the state of a socket.
        assert!(
            found.write_seq > found.rmem_alloc && found.rmem_alloc > 64,
            "{found:?}"
        );
    }

    #[test]
    fn what_is_no_type_information_is_none() {
        assert!(Structures::parse(&[]).is_none());
        assert!(Structures::parse(&[0xff; 64]).is_none());
    }
}
