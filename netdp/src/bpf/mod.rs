//! The BPF side of userspace: loading, pinning, attaching, tables. The only
//! module that speaks to aya.

mod entry;

pub use entry::{Entry, Key, Tables};
