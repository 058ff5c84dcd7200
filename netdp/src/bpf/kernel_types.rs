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

/// Numbers of functions of this kernel, by name; none where it lacks one, or
/// doesn't tell.
pub(super) fn functions<const N: usize>(names: &[&str; N]) -> Option<[u32; N]> {
    const FUNCTION: u32 = 12;

    let btf = fs::read(FILE).ok()?;
    let mut found = [0; N];
    each_type(&btf, |kind| {
        if kind.kind == FUNCTION
            && let Some(name) = string(kind.strings, kind.name)
            && let Some(at) = names.iter().position(|wanted| wanted.as_bytes() == name)
        {
            found[at] = kind.number;
        }
        Some(())
    })?;
    (!found.contains(&0)).then_some(found)
}

/// One of the types.
struct Type<'a> {
    strings: &'a [u8],
    number: u32,
    name: u32,
    kind: u32,
    /// Of its members.
    length: u32,
    /// `kind_flag`.
    wide: bool,
    /// Where what follows `struct btf_type` is.
    at: usize,
}

/// None where `btf` isn't understood, or `see` gives none.
fn each_type<'a>(btf: &'a [u8], mut see: impl FnMut(Type<'a>) -> Option<()>) -> Option<()> {
    // `struct btf_header`: magic, version, flags, its own length at byte 4, and
    // where types and strings are, counted from its end.
    let header = word(btf, 4)? as usize;
    let types = header + word(btf, 8)? as usize;
    let end = types + word(btf, 12)? as usize;
    let strings = btf.get(header + word(btf, 16)? as usize..)?;
    let (mut at, mut number) = (types, 0);
    while at < end {
        number += 1;
        let (name, info) = (word(btf, at)?, word(btf, at + 4)?);
        let (kind, length, wide) = (info >> 24 & 0x1f, info & 0xffff, info >> 31 != 0);
        at += TYPE;
        see(Type {
            strings,
            number,
            name,
            kind,
            length,
            wide,
            at,
        })?;
        at += trailer(kind, length)?;
    }
    Some(())
}

fn word(btf: &[u8], at: usize) -> Option<u32> {
    let bytes = btf.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

impl<'a> Structures<'a> {
    pub(super) fn parse(btf: &'a [u8]) -> Option<Self> {
        let mut this = Self {
            strings: &[],
            members: HashMap::new(),
            named: HashMap::new(),
        };
        each_type(btf, |of| {
            this.strings = of.strings;
            if of.kind != STRUCT && of.kind != UNION {
                return Some(());
            }
            let mut members = Vec::new();
            for member in 0..of.length as usize {
                let at = of.at + 12 * member;
                let offset = word(btf, at + 8)?;
                // Where there are bit fields the upper byte is their width.
                let bits = if of.wide { offset & 0xff_ffff } else { offset };
                members.push(Member {
                    name: word(btf, at)?,
                    kind: word(btf, at + 4)?,
                    offset: bits / 8,
                });
            }
            this.members.insert(of.number, members);
            if of.kind == STRUCT {
                this.named.insert(string(of.strings, of.name)?, of.number);
            }
            Some(())
        })?;
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
    fn functions_of_this_kernel_are_found() {
        let found = functions(&["tcp_sendmsg", "tcp_recvmsg"]);
        assert_eq!(found.is_some(), fs::read(FILE).is_ok());
        assert!(found.is_none_or(|[send, receive]| send != receive));
        assert_eq!(functions(&["tcp_sendmsg", "no_such_function"]), None);
    }

    #[test]
    fn what_is_no_type_information_is_none() {
        assert!(Structures::parse(&[]).is_none());
        assert!(Structures::parse(&[0xff; 64]).is_none());
    }
}
