//! A small load generator and the servers it speaks to.
//!
//! Blocking std sockets and nothing else lie in the measured path: no async
//! runtime, no allocation per operation, one thread per connection. What goes
//! wrong is counted beside what went well, and a rate is always what the
//! receiving side saw.
//!
//! `netdp demo` and `netdp bench` run both sides as processes of their own
//! (the hidden subcommands [`ServerArgs`], [`ClientArgs`], [`FetchArgs`] and
//! [`FillArgs`] belong to), so that each can be put into a namespace and on a CPU.

mod args;
mod client;
mod compare;
mod cpu;
mod datagram;
mod each_cpu;
mod fill;
mod http;
mod latency;
mod server;

pub use args::{
    ClientArgs, FetchArgs, FillArgs, Served, ServerArgs, client_main, fetch_main, fill_main,
    server_main,
};
pub use client::{ClientConfig, Kind, Measurement, Unit, WARM_UP, run};
pub use compare::{Comparison, LEAST_ROUNDS, Mode, Series, Verdict, compare, order};
pub use cpu::{allowed_cpus, busy_shares, last_allowed_cpu, pin, wait_for_turns};
pub use fill::fill;
pub use http::{Response, WhoAmI, fetch};
pub use latency::{Histogram, Latency};
pub use server::{Listen, Server, ServerConfig, Service, serve};

use std::io;
use std::net::SocketAddr;

/// Why a load server or client could not start.
///
/// What fails during a measurement is not an error of this kind: it is
/// counted in [`Measurement::errors`].
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot listen on {address} ({service}): {source}")]
    Listen {
        address: SocketAddr,
        service: Service,
        source: io::Error,
    },
    #[error("cannot reach {address}: {source}; is its server running and its port open?")]
    Reach {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("cannot run on CPU {cpu}: {source}; choose one that taskset -p shows as allowed")]
    Cpu { cpu: usize, source: io::Error },
    #[error("cannot start the server of {cpu}: {source}")]
    Process { cpu: String, source: io::Error },
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
    #[error("{address} did not answer in HTTP: {reason}")]
    NotHttp { address: SocketAddr, reason: String },
    #[error("{answered} of {wanted} flows were answered: are there ports and tables for more?")]
    Fill { answered: usize, wanted: usize },
    #[error("the sink at {0} did not report what it received")]
    NoReport(SocketAddr),
}
