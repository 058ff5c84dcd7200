//! The measuring side: one thread that keeps one kind of traffic going for a
//! given time and records what came back.

mod keep_alive;
mod recorder;
mod tcp;
mod udp;

use std::fmt;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{Latency, LoadError, Service, cpu};
use recorder::Recorder;

/// What is measured. The server side is named in brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// One byte there and back on one TCP connection (echo).
    Rr,
    /// Connect, one byte there and back, close (crr).
    Crr,
    /// One TCP connection from client to server (sink).
    Bulk,
    /// One TCP connection from server to client (source).
    BulkBack,
    /// One 64-byte datagram there and back (udp-echo).
    UdpRr,
    /// 64-byte datagrams one way, as fast as they can be sent (udp-sink).
    UdpPps,
    /// The same where nobody gets any, counted as they are sent.
    #[value(hide = true)]
    UdpDropped,
    /// HTTP requests on keep-alive connections (http).
    Http,
}

/// How long traffic runs before it is measured, unless told otherwise.
pub const WARM_UP: Duration = Duration::from_millis(100);

impl Kind {
    /// Those that a server takes part in.
    pub const ALL: [Self; 7] = [
        Self::Rr,
        Self::UdpRr,
        Self::Crr,
        Self::UdpPps,
        Self::Bulk,
        Self::BulkBack,
        Self::Http,
    ];

    /// The server side.
    pub fn service(self) -> Service {
        match self {
            Self::Rr => Service::Echo,
            Self::Crr => Service::Crr,
            Self::Bulk => Service::Sink,
            Self::BulkBack => Service::Source,
            Self::UdpRr => Service::UdpEcho,
            Self::UdpPps | Self::UdpDropped => Service::UdpSink,
            Self::Http => Service::Http,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Rr => "rr",
            Self::Crr => "crr",
            Self::Bulk => "bulk",
            Self::BulkBack => "bulk-back",
            Self::UdpRr => "udp-rr",
            Self::UdpPps => "udp-pps",
            Self::UdpDropped => "udp-dropped",
            Self::Http => "http",
        })
    }
}

#[derive(Clone, Debug)]
pub struct ClientConfig {
    pub kind: Kind,
    pub target: SocketAddr,
    /// How long is measured.
    pub duration: Duration,
    /// How long the traffic runs before what it does is recorded. Bulk and
    /// one-way datagrams start at once.
    pub warm_up: Duration,
    /// Binds the measuring thread to this CPU.
    pub cpu: Option<usize>,
    /// Connections kept busy at a time; [`Kind::Http`] alone uses more than one.
    pub connections: usize,
    /// TCP congestion control; the namespace's own otherwise. [`Kind::Crr`]
    /// sends too little for it to matter.
    pub congestion: Option<String>,
}

impl ClientConfig {
    /// A tenth of a second to warm up, 32 connections for HTTP, any CPU.
    pub fn new(kind: Kind, target: SocketAddr, duration: Duration) -> Self {
        Self {
            kind,
            target,
            duration,
            warm_up: WARM_UP.min(duration),
            cpu: None,
            connections: 32,
            congestion: None,
        }
    }
}

/// What [`Measurement::rate`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    #[serde(rename = "1/s")]
    PerSecond,
    #[serde(rename = "bit/s")]
    BitsPerSecond,
}

/// The result of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    pub kind: Kind,
    pub target: SocketAddr,
    /// Round trips, connections, or datagrams that arrived; 1 for bulk.
    pub operations: u64,
    /// How long was measured, in seconds.
    pub seconds: f64,
    pub rate: f64,
    pub unit: Unit,
    /// Nanoseconds of each operation; absent for one-way traffic.
    pub latency: Option<Latency>,
    /// Payload that arrived: there and back for round trips.
    pub bytes: u64,
    /// Datagrams that never arrived.
    pub lost: u64,
    /// Operations that failed, also while warming up.
    pub errors: u64,
    /// What the first of them said.
    pub first_error: Option<String>,
    /// CPU time of the client's process during the measurement.
    pub cpu_seconds: f64,
    /// CPU time of the whole machine meanwhile, where /proc/stat can be read.
    pub machine_cpu_seconds: Option<f64>,
    /// The same of the CPU that the client was bound to.
    pub pinned_cpu_seconds: Option<f64>,
}

impl Measurement {
    /// Of clients that measured at once: the rate, time and quantiles of the average
    /// one, and what all of them did, got and took.
    pub fn of_average(all: &[Self]) -> Option<Self> {
        let count = all.len() as f64;
        let sum = |of: fn(&Self) -> u64| all.iter().map(of).sum();
        let seconds = |of: fn(&Self) -> f64| all.iter().map(of).sum::<f64>();
        let first = all.first()?.clone();
        Some(Self {
            operations: sum(|it| it.operations),
            seconds: seconds(|it| it.seconds) / count,
            rate: seconds(|it| it.rate) / count,
            latency: Latency::of_average(all.iter().filter_map(|it| it.latency.as_ref())),
            bytes: sum(|it| it.bytes),
            lost: sum(|it| it.lost),
            errors: sum(|it| it.errors),
            first_error: all.iter().find_map(|it| it.first_error.clone()),
            cpu_seconds: seconds(|it| it.cpu_seconds),
            pinned_cpu_seconds: all.iter().map(|it| it.pinned_cpu_seconds).sum(),
            ..first
        })
    }
}

/// Measures once, in a thread of its own: the caller's CPU affinity stays.
///
/// # Errors
/// When the target can't be reached at all or the CPU does not exist. Later
/// failures are counted in the [`Measurement`].
pub fn run(config: ClientConfig) -> Result<Measurement, LoadError> {
    let measure = move || {
        config.cpu.map_or(Ok(()), cpu::pin)?;
        let recorder = Recorder::new(&config);
        match config.kind {
            Kind::Rr => tcp::request_response(&config, recorder),
            Kind::Crr => tcp::connections(&config, recorder),
            Kind::Bulk => tcp::bulk(&config, recorder),
            Kind::BulkBack => tcp::bulk_back(&config, recorder),
            Kind::UdpRr => udp::request_response(&config, recorder),
            Kind::UdpPps => udp::one_way(&config, recorder),
            Kind::UdpDropped => udp::dropped(&config, recorder),
            Kind::Http => keep_alive::requests(&config, recorder),
        }
    };
    thread::Builder::new()
        .name("load-client".into())
        .spawn(measure)
        .map_err(LoadError::Thread)?
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests;
