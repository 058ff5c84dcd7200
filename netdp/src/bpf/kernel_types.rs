//! Where fields of the kernel's structures are, by its own type information
//! (BTF). aya relocates what a compiler of C has marked; rustc marks nothing.

use std::fs;

/// The kernel's types.
const FILE: &str = "/sys/kernel/btf/vmlinux";

/// Kinds of `include/uapi/linux/btf.h` (6.18), by number.
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const FUNCTION: u32 = 12;

/// How long `struct btf_type` is, bytes: offset of the name, `info`, size or
/// type.
const TYPE: usize = 12;

/// How long `struct btf_member` is, bytes: offset of the name, type, offset.
const MEMBER: usize = 12;

/// Structures and unions, with their members. A kernel has some 100,000 types,
/// of which few are looked at: what is kept of the others is where they are.
pub(super) struct Structures<'a> {
    btf: &'a [u8],
    strings: &'a [u8],
    /// By number, from 1 on.
    places: Vec<usize>,
    /// Those of structures.
    structures: Vec<usize>,
}

/// `info` of a type.
#[derive(Clone, Copy)]
struct Info(u32);

impl Info {
    fn kind(self) -> u32 {
        self.0 >> 24 & 0x1f
    }

    /// How many members, or whatever follows.
    fn length(self) -> usize {
        (self.0 & 0xffff) as usize
    }

    /// Whether there are bit fields: then the upper byte of an offset is a width.
    fn has_bit_fields(self) -> bool {
        self.0 >> 31 != 0
    }
}

/// What programs are told of this kernel's structures; nothing where it doesn't
/// tell.
#[derive(Clone, Copy, Default)]
pub(super) struct Offsets {
    pub tcp_sock: Option<TcpSock>,
    pub datagram: Option<Datagram>,
}

/// Offsets of members in `struct tcp_sock`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TcpSock {
    pub write_seq: u32,
    /// That of `struct sock`, with which it begins.
    pub rmem_alloc: u32,
}

/// Where the mark is that a datagram is sent with, for the programs that are asked
/// whether it may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Datagram {
    /// Of the pointer to the source address, in `struct bpf_sock_addr_kern`.
    pub t_ctx: u64,
    /// From the source address to the mark, modulo 2^64: of IPv4, and of IPv6.
    pub mark4: u64,
    pub mark6: u64,
}

impl Offsets {
    pub fn of_this_kernel() -> Self {
        let btf = fs::read(FILE).unwrap_or_default();
        let Some(structures) = Structures::parse(&btf) else {
            return Self::default();
        };
        Self {
            tcp_sock: TcpSock::of(&structures),
            datagram: Datagram::of(&structures),
        }
    }
}

impl TcpSock {
    fn of(structures: &Structures<'_>) -> Option<Self> {
        Some(Self {
            write_seq: structures.offset("tcp_sock", &["write_seq"])?,
            rmem_alloc: structures.offset("sock", &["sk_backlog", "rmem_alloc"])?,
        })
    }
}

impl Datagram {
    fn of(structures: &Structures<'_>) -> Option<Self> {
        let offset = |structure, path: &[&str]| structures.offset(structure, path).map(u64::from);
        let between = |structure, mark: &[&str], addr| {
            Some(offset(structure, mark)?.wrapping_sub(offset(structure, &[addr])?))
        };
        Some(Self {
            t_ctx: offset("bpf_sock_addr_kern", &["t_ctx"])?,
            mark4: between("ipcm_cookie", &["sockc", "mark"], "addr")?,
            mark6: between("flowi6", &["__fl_common", "flowic_mark"], "saddr")?,
        })
    }
}

/// Numbers of functions of this kernel, by name; none where it lacks one, or
/// doesn't tell.
pub(super) fn functions<const N: usize>(names: &[&str; N]) -> Option<[u32; N]> {
    let btf = fs::read(FILE).ok()?;
    let types = Structures::parse(&btf)?;
    let mut found = [0; N];
    for (number, place) in (1..).zip(&types.places) {
        if Info(word(&btf, place + 4)?).kind() == FUNCTION
            && let Some(at) = names.iter().position(|name| types.is_named(*place, name))
        {
            found[at] = number;
        }
    }
    (!found.contains(&0)).then_some(found)
}

impl<'a> Structures<'a> {
    /// `struct btf_header`: magic, version, flags, its own length at byte 4, and
    /// where types and strings are, counted from its end.
    pub(super) fn parse(btf: &'a [u8]) -> Option<Self> {
        let header = word(btf, 4)? as usize;
        let types = header + word(btf, 8)? as usize;
        let end = types + word(btf, 12)? as usize;
        let strings = btf.get(header + word(btf, 16)? as usize..)?;
        let (mut places, mut structures) = (Vec::new(), Vec::new());
        let mut at = types;
        while at < end {
            let info = Info(word(btf, at + 4)?);
            places.push(at);
            if info.kind() == STRUCT {
                structures.push(at);
            }
            at += TYPE + trailer(info)?;
        }
        Some(Self {
            btf,
            strings,
            places,
            structures,
        })
    }

    /// Where a member is, bytes from the structure's beginning. Structures
    /// without a name are looked into.
    pub(super) fn offset(&self, structure: &str, path: &[&str]) -> Option<u32> {
        let is_it = |at: &&usize| self.is_named(**at, structure);
        let mut place = *self.structures.iter().find(is_it)?;
        let mut offset = 0;
        for name in path {
            let (at, of) = self.member(place, name)?;
            offset += at;
            place = self.place(of)?;
        }
        Some(offset)
    }

    /// Offset and type of a member, of the type at `place`.
    fn member(&self, place: usize, wanted: &str) -> Option<(u32, u32)> {
        let info = Info(word(self.btf, place + 4)?);
        if !matches!(info.kind(), STRUCT | UNION) {
            return None;
        }
        (0..info.length()).find_map(|number| {
            let at = place + TYPE + MEMBER * number;
            let (of, offset) = (word(self.btf, at + 4)?, word(self.btf, at + 8)?);
            let bits = if info.has_bit_fields() {
                offset & 0xff_ffff
            } else {
                offset
            };
            if self.is_named(at, wanted) {
                return Some((bits / 8, of));
            }
            let (inner, of) = self
                .is_named(at, "")
                .then(|| self.member(self.place(of)?, wanted))??;
            Some((bits / 8 + inner, of))
        })
    }

    fn place(&self, number: u32) -> Option<usize> {
        self.places.get((number as usize).checked_sub(1)?).copied()
    }

    /// Whether this is the name of the type or member at `place`.
    fn is_named(&self, place: usize, name: &str) -> bool {
        let found = word(self.btf, place).and_then(|offset| self.strings.get(offset as usize..));
        found
            .and_then(|found| found.strip_prefix(name.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0))
    }
}

fn word(btf: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*btf.get(at..)?.first_chunk()?))
}

/// How many bytes follow `struct btf_type`; none for a kind that isn't known.
fn trailer(info: Info) -> Option<usize> {
    let length = info.length();
    Some(match info.kind() {
        // Pointers, forward declarations, names, qualifiers, functions, floats,
        // tags of types.
        0 | 2 | 7..=12 | 16 | 18 => 0,
        // Integers, variables, tags of declarations.
        1 | 14 | 17 => 4,
        ARRAY => 12,
        STRUCT | UNION => MEMBER * length,
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
        let Some(found) = Offsets::of_this_kernel().tcp_sock else {
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
    fn the_mark_of_a_datagram_lies_before_its_source() {
        let found = Offsets::of_this_kernel().datagram;
        assert_eq!(found.is_some(), fs::read(FILE).is_ok());
        let lies_near = |offset: u64| (-128..0).contains(&(offset as i64));
        assert!(
            found.is_none_or(|it| lies_near(it.mark4) && lies_near(it.mark6)),
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
