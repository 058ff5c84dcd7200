//! Sockets that are closed.

use std::{fs, thread};

/// Waits until no socket of this protocol, `tcp` or `udp`, has a port in the calling
/// thread's namespace. A program that another test is just starting has those that
/// were closed until it runs.
pub fn nobody_has(port: u16, protocol: &str) {
    let local = format!(":{port:04X} ");
    let is_there = |family| {
        let table = format!("/proc/thread-self/net/{protocol}{family}");
        fs::read_to_string(table).unwrap().contains(&local)
    };
    while ["", "6"].into_iter().any(is_there) {
        thread::yield_now();
    }
}
