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
            Kind::Bulk | Kind::BulkBack | Kind::UdpPps | Kind::UdpDropped => Duration::ZERO,
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
            Kind::Bulk | Kind::BulkBack | Kind::UdpPps | Kind::UdpDropped => true,
            _ => self.operations + self.errors + self.lost > 0,
        };
        is_known && now >= self.until
    }

    /// An operation that succeeded and carried `bytes`. Its end is the
    /// beginning of the next: one reading of the clock an operation. One that
    /// began while warming up counts when it ends later, with all the time that it
    /// took: a stall would otherwise be seen only where it begins late enough.
    pub(super) fn done(&mut self, began: Instant, ended: Instant, bytes: u64) {
        if ended < self.measured_from {
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

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Warms up for 100 ms and measures for 300; with the moment it began.
    fn recorder() -> (Recorder, Instant) {
        let mut config = ClientConfig::new(Kind::Rr, ([127, 0, 0, 1], 9).into(), 300 * MS);
        config.warm_up = 100 * MS;
        let recorder = Recorder::new(&config);
        let began = recorder.measured_from - 100 * MS;
        (recorder, began)
    }

    #[test]
    fn what_ends_while_warming_up_is_not_measured() {
        let (mut recorder, began) = recorder();
        recorder.done(began, began + 99 * MS, 2);
        assert!(!recorder.over(began + 500 * MS));
        recorder.done(began + 100 * MS, began + 101 * MS, 2);
        let measured = recorder.finish(began + 400 * MS);
        assert_eq!(measured.operations, 1);
        let longest = measured.latency.unwrap().max;
        assert!(longest < 2_000_000, "{longest}");
    }

    #[test]
    fn a_stall_that_begins_while_warming_up_is_told() {
        let (mut recorder, began) = recorder();
        recorder.done(began, began + 50 * MS, 2);
        recorder.done(began + 50 * MS, began + 350 * MS, 2);
        recorder.done(began + 350 * MS, began + 351 * MS, 2);
        let measured = recorder.finish(began + 400 * MS);
        assert_eq!(measured.operations, 2);
        let longest = measured.latency.unwrap().max;
        assert!((299_000_000..302_000_000).contains(&longest), "{longest}");
    }

    #[test]
    fn a_stall_longer_than_all_the_time_there_was_is_the_measurement() {
        let (mut recorder, began) = recorder();
        let ended = began + 900 * MS;
        recorder.done(began + 50 * MS, ended, 2);
        assert!(recorder.over(ended));
        let measured = recorder.finish(ended);
        assert_eq!((measured.operations, measured.errors), (1, 0));
        let longest = measured.latency.unwrap().max;
        assert!(longest > 840_000_000, "{longest}");
        assert!(measured.rate < 1.3, "{}", measured.rate);
    }
}
