//! Worlds whose makers were killed: what is left of them is removed by those who
//! come later.

use std::fs;
use std::path::{Path, PathBuf};

use super::{cgroup, folder};

/// Ends what still runs of worlds whose maker is gone, and removes them. A world
/// whose maker lives, or that doesn't tell who made it, is left alone.
pub(super) fn sweep() {
    for path in sweep_in(&std::env::temp_dir(), folder::PREFIX) {
        eprintln!("removed what was left in {}", path.display());
    }
}

/// Gives the folders that it removed.
fn sweep_in(place: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut removed = Vec::new();
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with(prefix) {
            continue;
        }
        let path = entry.path();
        // Held until all is gone, so that two don't remove the same.
        let Some(_owner) = folder::abandoned(&path) else {
            continue;
        };
        let done = cgroup::sweep(&name).map_err(|error| error.to_string());
        let done = done.and_then(|()| folder::remove(&path).map_err(|error| error.to_string()));
        match done {
            Ok(()) => removed.push(path),
            Err(why) => eprintln!("{} is left behind: {why}", path.display()),
        }
    }
    removed
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::super::World;
    use super::*;
    use crate::at_last;

    #[test]
    fn a_world_is_removed_when_its_maker_is_gone_and_not_before() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("skipped: needs root");
        }
        let world = World::new("left").unwrap();
        let (dir, group) = (world.dir().to_owned(), world.cgroup());
        let place = dir.parent().unwrap().to_owned();
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let mut command = world.on_host("sleep");
        let mut running = command.arg("3600").stdin(Stdio::null()).spawn().unwrap();
        assert_eq!(sweep_in(&place, &name), <Vec<PathBuf>>::new());
        assert!(running.try_wait().unwrap().is_none());

        // As the kernel does for a process that is killed.
        world.folder.disown();
        std::mem::forget(world);
        sweep_in(&place, &name);
        assert!(!running.wait().unwrap().success());
        // Another test's world may have begun meanwhile, and have removed it.
        at_last::succeeds(|| match dir.exists() || group.parent().unwrap().exists() {
            true => Err("it is still there"),
            false => Ok(()),
        });
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&name), "{mounts}");
    }
}
