//! What a run writes down, and when it is over.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use super::{ClientConfig, Kind, Measurement, Unit};
use crate::load::cpu::CpuTime;
use crate::load::latency::Histogram;

/// A refused connection fails in microseconds: retried at once, it would
/// count nothing but how fast refusals come.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(5);

pub(super) struct Recorder {
    kind: Kind,
    target: std::net::SocketAddr,
    measured_from: Instant,
    until: Instant,
    cpu: Option<usize>,
    cpu_at_start: Option<CpuTime>,
    latency: Histogram,
    operations: u64,
    bytes: u64,
    pub(super) lost: u64,
    errors: u64,
    first_error: Option<String>,
}

impl Recorder {
    pub(super) fn new(config: &ClientConfig) -> Self {
        let warm_up = match config.kind {
            Kind::Bulk | Kind::BulkBack | Kind::UdpPps => Duration::ZERO,
            _ => config.warm_up,
        };
        let measured_from = Instant::now() + warm_up;
        Self {
            kind: config.kind,
            target: config.target,
            measured_from,
            until: measured_from + config.duration,
            cpu: config.cpu,
            cpu_at_start: warm_up
                .is_zero()
                .then(|| CpuTime::now(config.cpu).ok())
                .flatten(),
            latency: Histogram::default(),
            operations: 0,
            bytes: 0,
            lost: 0,
            errors: 0,
            first_error: None,
        }
    }

    /// Begins again, with nothing recorded.
    pub(super) fn restart(&mut self, config: &ClientConfig) {
        *self = Self::new(config);
    }

    /// Whether an operation that would begin at `now` is no longer measured. Of
    /// round trips one is always measured, or fails: where it took longer than
    /// all the time there was, that is what is to be told.
    pub(super) fn over(&self, now: Instant) -> bool {
        let is_known = match self.kind {
            Kind::Bulk | Kind::BulkBack | Kind::UdpPps => true,
            _ => self.operations + self.errors + self.lost > 0,
        };
        is_known && now >= self.until
    }

    /// An operation that succeeded and carried `bytes`. Its end is the
    /// beginning of the next: one reading of the clock an operation.
    pub(super) fn done(&mut self, began: Instant, ended: Instant, bytes: u64) {
        if began < self.measured_from {
            return;
        }
        if self.cpu_at_start.is_none() {
            self.cpu_at_start = CpuTime::now(self.cpu).ok();
        }
        self.operations += 1;
        self.bytes += bytes;
        self.latency.record((ended - began).as_nanos() as u64);
    }

    /// One-way traffic: what arrived, known at the end.
    pub(super) fn arrived(&mut self, operations: u64, bytes: u64) {
        self.operations += operations;
        self.bytes += bytes;
    }

    pub(super) fn error(&mut self, doing: &str, error: impl Display) {
        self.errors += 1;
        self.first_error
            .get_or_insert_with(|| format!("{doing}: {error}"));
        thread::sleep(PAUSE_AFTER_ERROR);
    }

    pub(super) fn finish(self, ended: Instant) -> Measurement {
        let seconds = ended
            .saturating_duration_since(self.measured_from)
            .as_secs_f64()
            .max(f64::EPSILON);
        let used = self
            .cpu_at_start
            .zip(CpuTime::now(self.cpu).ok())
            .map(|(start, end)| end.since(&start))
            .unwrap_or_default();
        let (rate, unit) = match self.kind {
            Kind::Bulk | Kind::BulkBack => (self.bytes as f64 * 8.0 / seconds, Unit::BitsPerSecond),
            _ => (self.operations as f64 / seconds, Unit::PerSecond),
        };
        Measurement {
            kind: self.kind,
            target: self.target,
            operations: self.operations,
            seconds,
            rate,
            unit,
            latency: self.latency.latency(),
            bytes: self.bytes,
            lost: self.lost,
            errors: self.errors,
            first_error: self.first_error,
            cpu_seconds: used.process,
            machine_cpu_seconds: used.machine,
            pinned_cpu_seconds: used.pinned,
        }
    }
}
