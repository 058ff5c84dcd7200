//! Who called a plugin.

use std::fs;

use nix::unistd::getppid;

/// Numbers of the processes that called this one: its parent first, then the
/// parent's parent, and so on, `levels` of them at most. Process 1 calls nobody.
pub fn numbers(levels: usize) -> Vec<u32> {
    let first = u32::try_from(getppid().as_raw()).ok();
    let parents = std::iter::successors(first, |pid| parent(*pid));
    parents.take_while(|pid| *pid > 1).take(levels).collect()
}

/// Whether the process that called this one has this name.
pub fn is_called_by(name: &str) -> bool {
    let parent = getppid();
    fs::read_to_string(format!("/proc/{parent}/comm")).is_ok_and(|comm| comm.trim_end() == name)
}

fn parent(pid: u32) -> Option<u32> {
    parent_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 4 of `/proc/PID/stat` (proc(5)), behind the name, which may hold
/// anything.
fn parent_in(stat: &str) -> Option<u32> {
    let (_, behind) = stat.rsplit_once(')')?;
    behind.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_follow_each_other() {
        let callers = numbers(usize::MAX);
        let own = u32::try_from(getppid().as_raw()).ok();
        assert_eq!(callers.first().copied(), own.filter(|pid| *pid > 1));
        assert_eq!(numbers(1), callers[..callers.len().min(1)]);
        if let [child, its_parent, ..] = callers[..] {
            assert_eq!(parent(child), Some(its_parent));
        }
        assert_eq!(parent_in("7 (a) b) S 3 7 7"), Some(3));
        assert_eq!(parent_in("nonsense"), None);
    }
}
