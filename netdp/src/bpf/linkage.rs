//! Functions that the verifier checks once, by themselves: global ones.

use std::{borrow::Cow, collections::BTreeSet};

use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind, read};

use super::kernel;

/// Length of `struct btf_type` (include/uapi/linux/btf.h, 6.12), bytes: offset of
/// the name, `info`, and a size or type. What comes behind it depends on the
/// kind.
const TYPE: usize = 12;

/// `BTF_KIND_FUNC`; its linkage, `enum btf_func_linkage`, is the lower half of
/// its `info`.
const FUNC: u8 = 12;
const STATIC: u16 = 0;

/// The object as this kernel takes it.
///
/// Before Linux 6.2 what a global function gets by a pointer can't be the key
/// of a map (`map_key_value_types`, kernel/bpf/verifier.c). There all functions
/// are marked static, and the verifier follows every call, which takes longer.
///
/// # Errors
/// The object is none that the linker has made.
pub(super) fn suited(object: &[u8]) -> read::Result<Cow<'_, [u8]>> {
    if kernel::takes_keys_by_pointer() {
        Ok(Cow::Borrowed(object))
    } else {
        Ok(Cow::Owned(without_globals(object)?))
    }
}

/// The object with all functions static but the programs.
fn without_globals(object: &[u8]) -> read::Result<Vec<u8>> {
    let file = read::File::parse(object)?;
    let functions = functions(&file);
    let mut changed = object.to_vec();
    let Some(range) = file.section_by_name(".BTF").and_then(|it| it.file_range()) else {
        return Ok(changed);
    };
    let (start, end) = (range.0 as usize, (range.0 + range.1) as usize);
    for at in linkages(&object[start..end], &functions) {
        changed[start + at..][..2].copy_from_slice(&STATIC.to_ne_bytes());
    }
    Ok(changed)
}

/// Names of the functions that programs call.
fn functions<'a>(file: &read::File<'a>) -> BTreeSet<&'a [u8]> {
    let text = file.section_by_name(".text").map(|section| section.index());
    file.symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.section_index() == text)
        .filter_map(|symbol| symbol.name_bytes().ok())
        .collect()
}

/// Where in a section of BTF the linkages of these functions are. Its header,
/// `struct btf_header`, has its own length at byte 4, then the types' offset and
/// length and the strings' offset, which count from the header's end.
fn linkages(btf: &[u8], functions: &BTreeSet<&[u8]>) -> Vec<usize> {
    let word = |at: usize| {
        let bytes = btf.get(at..at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let name = |offset: u32, strings: usize| {
        let rest = btf.get(strings + offset as usize..)?;
        rest.split(|byte| *byte == 0).next()
    };
    let mut found = Vec::new();
    let mut walk = || {
        let header = word(4)? as usize;
        let mut at = header + word(8)? as usize;
        let end = at + word(12)? as usize;
        let strings = header + word(16)? as usize;
        while at + TYPE <= end {
            let info = word(at + 4)?;
            let (kind, count) = ((info >> 24 & 0x1f) as u8, (info & 0xffff) as usize);
            if kind == FUNC && functions.contains(name(word(at)?, strings)?) {
                found.push(at + 4 + usize::from(cfg!(target_endian = "big")) * 2);
            }
            at += TYPE + behind(kind, count);
        }
        Some(())
    };
    walk();
    found
}

/// Bytes behind a type of this kind with so many members.
fn behind(kind: u8, count: usize) -> usize {
    match kind {
        // INT, VAR, DECL_TAG
        1 | 14 | 17 => 4,
        // ARRAY
        3 => 12,
        // STRUCT, UNION, DATASEC, ENUM64
        4 | 5 | 15 | 19 => 12 * count,
        // ENUM, FUNC_PROTO
        6 | 13 => 8 * count,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::OBJECT;

    /// Those of the object's functions that are global, by how many there are.
    fn global(object: &[u8]) -> usize {
        let file = read::File::parse(object).unwrap();
        let btf = file.section_by_name(".BTF").unwrap().data().unwrap();
        let places = linkages(btf, &functions(&file));
        assert!(places.len() > 20, "{} functions", places.len());
        places
            .into_iter()
            .filter(|at| u16::from_ne_bytes([btf[*at], btf[at + 1]]) != STATIC)
            .count()
    }

    #[test]
    fn functions_become_static_and_nothing_else_changes() {
        assert!(global(OBJECT) > 4);
        let changed = without_globals(OBJECT).unwrap();
        assert_eq!(global(&changed), 0);
        let differing = OBJECT.iter().zip(&changed).filter(|(a, b)| a != b).count();
        assert_eq!((OBJECT.len(), global(OBJECT)), (changed.len(), differing));
    }

    #[test]
    fn bytes_that_are_no_object_are_refused() {
        assert!(without_globals(b"no ELF").is_err());
        assert!(linkages(&[0xff; 40], &BTreeSet::new()).is_empty());
    }
}
