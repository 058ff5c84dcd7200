//! What netdp's BPF programs and its userspace share, and the pure packet
//! logic.
//!
//! Nothing here calls a BPF helper or the operating system: the same code runs
//! in the programs, in unit and property tests, and in userspace.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod addr;
pub mod arp;
pub mod block;
pub mod checksum;
pub mod clock;
pub mod drop;
pub mod flow;
pub mod fragment;
pub mod icmp;
pub mod joined;
pub mod left;
pub mod limit;
pub mod maps;
pub mod nat;
pub mod nd;
pub mod nowhere;
pub mod own;
pub mod packet;
pub mod port;
pub mod range;
pub mod resolver;
pub mod rules;
pub mod share;
pub mod tcp;

#[cfg(test)]
extern crate std;
