//! Packets that are wrong, and what may come of them.

pub mod generate;
pub mod header;
pub mod judge;
mod read;
mod rules;
