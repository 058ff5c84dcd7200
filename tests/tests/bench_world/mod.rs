//! A `netdp bench`, and whether anything of it is left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use netdp_tests::netdp_binary;
use tempfile::TempDir;

/// A `netdp bench` whose folders are its own, so that what it leaves is known.
pub struct Bench {
    pub folder: TempDir,
    links: Vec<String>,
}

impl Bench {
    /// None, with the reason printed, without root.
    pub fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: network namespaces need root");
            return None;
        }
        Some(Self {
            folder: TempDir::new().unwrap(),
            links: links(),
        })
    }

    pub fn command(&self, words: &str) -> Command {
        let mut command = Command::new(netdp_binary());
        command
            .arg("bench")
            .args(words.split_whitespace())
            .env("TMPDIR", self.folder.path());
        command
    }

    #[track_caller]
    pub fn run(&self, words: &str) -> Output {
        self.command(words).output().expect("start netdp")
    }

    #[track_caller]
    pub fn nothing_is_left(&self) {
        let left: Vec<_> = fs::read_dir(self.folder.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let folder = self.folder.path().to_str().unwrap();
        assert!(!mounts.contains(folder), "{mounts}");
        assert_eq!(self.groups_left(), <Vec<PathBuf>>::new());
        assert_eq!(links(), self.links);
    }

    /// Control groups of measurements that are over. Each is called as the folder
    /// of its measurement, which is there for longer; others may be under way, of
    /// this file and of users.
    fn groups_left(&self) -> Vec<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mounts = mounts
            .lines()
            .filter(|line| line.split(' ').nth(2) == Some("cgroup2"));
        let points = mounts.filter_map(|line| line.split(' ').nth(1));
        let mut groups: Vec<PathBuf> = points
            .filter_map(|point| fs::read_dir(point).ok())
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.to_string_lossy().contains("/netdp-bench-"))
            .collect();
        let place = self.folder.path().parent().unwrap().to_owned();
        groups.retain(|group| {
            let name = group.file_name().unwrap();
            let is_under_way = |folder: &Path| folder.join(name).exists();
            let folders = fs::read_dir(&place).unwrap().flatten();
            let mut folders = folders.map(|entry| entry.path());
            !is_under_way(&place) && !folders.any(|folder| is_under_way(&folder))
        });
        // One may have ended since it was listed.
        groups.retain(|group| group.exists());
        groups
    }
}

/// Interfaces of the machine's own namespace.
fn links() -> Vec<String> {
    let entries = fs::read_dir("/sys/class/net").unwrap().flatten();
    let mut links: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    links.sort();
    links
}
