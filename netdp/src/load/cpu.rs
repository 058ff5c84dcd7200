//! CPU affinity, and the CPU time that a measurement cost.

use std::io;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::LoadError;

/// Binds the calling thread, and the threads it starts afterwards, to `cpu`.
pub fn pin(cpu: usize) -> Result<(), LoadError> {
    let refused = |errno: nix::Error| LoadError::Cpu {
        cpu,
        source: errno.into(),
    };
    let mut set = CpuSet::new();
    set.set(cpu).map_err(refused)?;
    sched_setaffinity(Pid::from_raw(0), &set).map_err(refused)
}

/// From now on the calling thread doesn't take the CPU from the thread that wakes
/// it (`SCHED_BATCH`, sched(7)): it runs when the other one waits, or its time is
/// over. So do the threads and programs that it starts. One with a policy of its own
/// keeps it; false then.
pub fn wait_for_turns() -> bool {
    policy() == libc::SCHED_OTHER && schedule(libc::SCHED_BATCH)
}

/// The same for as long as this lives.
pub(super) struct InTurn {
    begun: bool,
}

impl InTurn {
    pub(super) fn begin() -> Self {
        Self {
            begun: wait_for_turns(),
        }
    }
}

impl Drop for InTurn {
    fn drop(&mut self) {
        if self.begun {
            schedule(libc::SCHED_OTHER);
        }
    }
}

fn policy() -> libc::c_int {
    // SAFETY: numbers alone; 0 is the calling thread.
    unsafe { libc::sched_getscheduler(0) }
}

/// It needs no right; false where a sandbox refuses the call.
fn schedule(policy: libc::c_int) -> bool {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: of the calling thread; the kernel reads the parameters.
    unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) == 0 }
}

/// The highest-numbered CPU the calling thread may run on: the one that
/// interrupts and other programs least often share.
pub fn last_allowed_cpu() -> io::Result<usize> {
    let last = allowed_cpus()?.pop();
    last.ok_or_else(|| io::Error::other("the kernel reports no CPU that this thread may run on"))
}

/// The CPUs that the calling thread may run on, in ascending order.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    let all = 0..CpuSet::count();
    Ok(all
        .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
        .collect())
}

/// CPU time used so far.
#[derive(Clone, Copy)]
pub(super) struct CpuTime {
    process: Duration,
    machine: Option<Duration>,
    pinned: Option<Duration>,
}

/// CPU time between two moments, in seconds. What /proc/stat tells is counted in
/// ticks, of 10 ms mostly.
#[derive(Clone, Copy, Default)]
pub(super) struct CpuUse {
    /// Of this process.
    pub(super) process: f64,
    /// Of the whole machine, where it could be read.
    pub(super) machine: Option<f64>,
    /// Of one CPU, by whatever ran there.
    pub(super) pinned: Option<f64>,
}

impl CpuTime {
    pub(super) fn now(pinned: Option<usize>) -> io::Result<Self> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let process = [usage.user_time(), usage.system_time()]
            .iter()
            .map(|time| Duration::from_micros((time.tv_sec() * 1_000_000 + time.tv_usec()) as u64))
            .sum();
        // Some sandboxes hide /proc/stat.
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let busy = |line: &str| busy_ticks(&stat, line).and_then(ticks_to_duration);
        Ok(Self {
            process,
            machine: busy("cpu"),
            pinned: pinned.and_then(|cpu| busy(&format!("cpu{cpu}"))),
        })
    }

    pub(super) fn since(&self, earlier: &Self) -> CpuUse {
        let between = |now: Option<Duration>, then: Option<Duration>| {
            Some(now?.saturating_sub(then?).as_secs_f64())
        };
        CpuUse {
            process: self.process.saturating_sub(earlier.process).as_secs_f64(),
            machine: between(self.machine, earlier.machine),
            pinned: between(self.pinned, earlier.pinned),
        }
    }
}

/// What part of the `time` from now on each of `cpus` works, for whomever; none
/// where /proc/stat can't be read.
pub fn busy_shares(cpus: &[usize], time: Duration) -> Option<Vec<f64>> {
    let busy = || -> Option<Vec<Duration>> {
        let stat = std::fs::read_to_string("/proc/stat").ok()?;
        let ticks = |cpu| busy_ticks(&stat, &format!("cpu{cpu}"));
        let all = cpus
            .iter()
            .map(|cpu| ticks(cpu).and_then(ticks_to_duration));
        all.collect()
    };
    let (began, before) = (Instant::now(), busy()?);
    std::thread::sleep(time);
    let (after, passed) = (busy()?, began.elapsed());
    let shares = before.iter().zip(after).map(|(before, after)| {
        let worked = after.saturating_sub(*before);
        (worked.as_secs_f64() / passed.as_secs_f64()).min(1.0)
    });
    Some(shares.collect())
}

/// Sum of user, nice, system, irq and softirq of the line that begins with
/// `name`: proc_stat(5). Idle, iowait and stolen time did no work here; guest
/// time is within user.
fn busy_ticks(stat: &str, name: &str) -> Option<u64> {
    let mut lines = stat.lines().map(str::split_whitespace);
    let fields = lines.find_map(|mut fields| (fields.next() == Some(name)).then_some(fields))?;
    let fields: Vec<u64> = fields
        .map(|field| field.parse().ok())
        .collect::<Option<_>>()?;
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = fields[..] else {
        return None;
    };
    Some(user + nice + system + irq + softirq)
}

fn ticks_to_duration(ticks: u64) -> Option<Duration> {
    let per_second = sysconf(SysconfVar::CLK_TCK).ok()??;
    Some(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn idle_and_stolen_time_is_not_busy() {
        let stat = "cpu  10 20 30 4000 500 6 7 800 900 1000\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(busy_ticks(stat, "cpu"), Some(10 + 20 + 30 + 6 + 7));
        assert_eq!(busy_ticks(stat, "cpu0"), Some(1 + 2 + 3 + 6 + 7));
        assert_eq!(busy_ticks(stat, "cpu1"), None);
        assert_eq!(busy_ticks("intr 1 2 3\n", "cpu"), None);
        assert_eq!(busy_ticks("cpu  1 2 x 4 5 6 7\n", "cpu"), None);
    }

    #[test]
    fn a_thread_waits_for_its_turn_for_a_while() {
        let before = policy();
        {
            let _in_turn = InTurn::begin();
            assert_eq!(policy(), libc::SCHED_BATCH);
            let _again = InTurn::begin();
        }
        assert_eq!(policy(), before);
        assert_eq!(before, libc::SCHED_OTHER);
    }

    #[test]
    fn spinning_costs_cpu_time() {
        let cpu = last_allowed_cpu().unwrap();
        pin(cpu).unwrap();
        let before = CpuTime::now(Some(cpu)).unwrap();
        let end = Instant::now() + Duration::from_millis(60);
        while Instant::now() < end {
            std::hint::spin_loop();
        }
        let used = CpuTime::now(Some(cpu)).unwrap().since(&before);
        assert!(used.process > 0.01, "{}", used.process);
        assert!(used.pinned.is_none_or(|pinned| pinned > 0.0));
    }

    #[test]
    fn a_cpu_is_busy_while_something_spins_there() {
        let cpu = last_allowed_cpu().unwrap();
        let end = AtomicBool::new(false);
        let share = std::thread::scope(|scope| {
            scope.spawn(|| {
                pin(cpu).unwrap();
                while !end.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
            let share = busy_shares(&[cpu], Duration::from_millis(300));
            end.store(true, Ordering::Relaxed);
            share
        });
        assert!(
            share.as_ref().is_none_or(|share| share[0] > 0.3),
            "{share:?}"
        );
        assert_eq!(busy_shares(&[cpu, CpuSet::count()], Duration::ZERO), None);
    }

    #[test]
    fn a_pinned_thread_may_run_nowhere_else() {
        let cpu = last_allowed_cpu().unwrap();
        std::thread::spawn(move || {
            pin(cpu).unwrap();
            assert_eq!(allowed_cpus().unwrap(), [cpu]);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_cpu_that_is_not_there_is_refused() {
        let refusal = pin(CpuSet::count() - 1).unwrap_err().to_string();
        assert!(refusal.starts_with("cannot run on CPU"), "{refusal}");
    }
}
