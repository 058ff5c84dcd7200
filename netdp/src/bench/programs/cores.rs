//! What packets take while several CPUs handle them at once: what they share,
//! tables, counters and locks, shows as time.

use std::sync::Barrier;
use std::thread;

use anyhow::anyhow;
use serde::Serialize;

use super::median;
use super::packets::{NEXT_CLIENT_PORT, SCRIPTS, Script, Stand};
use crate::bench::growth::doubled;
use crate::bpf::cost::Known;
use crate::load::pin;

/// Times that each number of CPUs is measured.
const ROUNDS: u16 = 5;
/// Conversations of a CPU in a round, where there are ports enough.
const MOST: u16 = 400;

/// A conversation with so many CPUs.
#[derive(Clone, Debug, Serialize)]
pub(in crate::bench) struct Shared {
    pub(super) title: &'static str,
    pub(super) by_cpus: Vec<AtOnce>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(in crate::bench) struct AtOnce {
    pub(super) cpus: usize,
    /// Of a packet, the median of the rounds.
    pub(super) nanoseconds: f64,
}

/// Measures every conversation on one CPU, on two, on twice as many, and on all
/// of `cpus`, in turn.
///
/// # Errors
/// A CPU can't be had, or a program let a packet go.
pub(super) fn measure(stand: &Stand<'_>, cpus: &[usize]) -> anyhow::Result<Vec<Shared>> {
    let numbers = doubled(cpus.len());
    let each = conversations(&numbers);
    let measured = SCRIPTS.iter().map(|script| {
        let mut times = vec![Vec::new(); numbers.len()];
        let mut client = NEXT_CLIENT_PORT;
        for round in 0..ROUNDS {
            let turn: Vec<usize> = match round % 2 {
                0 => (0..numbers.len()).collect(),
                _ => (0..numbers.len()).rev().collect(),
            };
            for number in turn {
                let cpus = &cpus[..numbers[number]];
                times[number].push(at_once(stand, script, cpus, client, each)?);
                client += each * cpus.len() as u16;
            }
        }
        let by_cpus = numbers.iter().zip(times).map(|(&cpus, times)| AtOnce {
            cpus,
            nanoseconds: median(times),
        });
        Ok(Shared {
            title: script.title,
            by_cpus: by_cpus.collect(),
        })
    });
    measured.collect()
}

/// How many conversations each CPU can have in a round: no port of a client is
/// used twice, for the second time its flow would be there already.
fn conversations(numbers: &[usize]) -> u16 {
    let ports = usize::from(u16::MAX - NEXT_CLIENT_PORT);
    let all = usize::from(ROUNDS) * numbers.iter().sum::<usize>();
    (ports / all).min(usize::from(MOST)) as u16
}

/// Nanoseconds of a packet, in all programs that it meets.
fn at_once(
    stand: &Stand<'_>,
    script: &Script,
    cpus: &[usize],
    client: u16,
    each: u16,
) -> anyhow::Result<f64> {
    let known = || -> std::io::Result<[Known; 2]> {
        Ok([stand.from_netdev.known()?, stand.from_container.known()?])
    };
    let before = known()?;
    let together = Barrier::new(cpus.len());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..)
            .zip(cpus)
            .map(|(worker, &cpu)| {
                let together = &together;
                scope.spawn(move || {
                    let pinned = pin(cpu);
                    together.wait();
                    pinned?;
                    let first = client + each * worker;
                    stand.talk(script, first..first + each, |_, program, packet| {
                        Ok(program.run(packet)?)
                    })
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| {
            let ended = worker.join();
            ended.map_err(|_| anyhow!("a thread that hands out packets panicked"))?
        })
    })?;
    let (mut runs, mut nanoseconds) = (0, 0.0);
    for (before, after) in before.iter().zip(known()?) {
        runs += after.runs - before.runs;
        nanoseconds += (after.time - before.time).as_nanos() as f64;
    }
    Ok(nanoseconds / runs.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_suffice_for_any_number_of_cpus() {
        for cpus in [1, 2, 16, 64, 512] {
            let numbers = doubled(cpus);
            let each = usize::from(conversations(&numbers));
            assert!(each > 0, "{cpus}");
            let all = usize::from(ROUNDS) * numbers.iter().sum::<usize>() * each;
            assert!(usize::from(NEXT_CLIENT_PORT) + all <= usize::from(u16::MAX));
        }
    }
}
