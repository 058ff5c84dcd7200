//! Disks that get full.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

/// A small file system of its own, below the folder of a world, which takes it away
/// with that.
#[derive(Debug)]
pub struct Disk(PathBuf);

impl Disk {
    /// `size` as tmpfs takes it; the folder is made where there is none.
    #[track_caller]
    pub fn mount(path: PathBuf, size: &str) -> Self {
        fs::create_dir_all(&path).unwrap();
        let kind = Some("tmpfs");
        let options = format!("size={size},mode=0700");
        let options = Some(options.as_str());
        mount(kind, &path, kind, MsFlags::empty(), options).expect("mount a tmpfs");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    fn filler(&self) -> PathBuf {
        self.0.join(".filler")
    }

    /// Leaves no room for as much as a byte in a further file.
    #[track_caller]
    pub fn fill(&self) {
        let mut file = File::create(self.filler()).unwrap();
        let error = loop {
            if let Err(error) = file.write_all(&[1; 4096]) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }

    #[track_caller]
    pub fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}
