//! Packets that are wrong, and what may come of them.

pub mod generate;
pub mod judge;
