//! How others know that a supervisor has died: it has a file, which it locks while
//! it lives, and removes when no program is left to hear.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process,
};

use tempfile::NamedTempFile;

/// The folder of those files, beside the one with the files of ports.
const FOLDER: &str = "supervisors";

/// The calling supervisor's own.
#[derive(Debug)]
pub(super) struct Life {
    path: PathBuf,
    _lock: File,
}

impl Life {
    /// `ports` is the folder with the files of ports, `netns` the cookie of the
    /// network whose programs are heard: the file, by the number of the process,
    /// has it as text.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn begin(ports: &Path, netns: u64) -> io::Result<Self> {
        let folder = ports.with_file_name(FOLDER);
        fs::create_dir_all(&folder)?;
        let path = folder.join(process::id().to_string());
        // By its name when it is locked and whole, and gone if it doesn't get there.
        let mut file = NamedTempFile::new_in(&folder)?;
        file.as_file().lock()?;
        writeln!(file, "{netns}")?;
        let lock = file.persist(&path)?;
        Ok(Self { path, _lock: lock })
    }

    /// Nobody is left who could miss it.
    pub fn end(self) {
        // It may have gone with its folder.
        let _ = fs::remove_file(&self.path);
    }
}

/// What a supervisor has left that died.
#[derive(Debug, PartialEq, Eq)]
pub struct Dead {
    path: PathBuf,
    /// Cookie of the network whose programs it heard.
    pub netns: u64,
}

impl Dead {
    /// Forgets it.
    pub fn forget(&self) {
        // Somebody else may have.
        let _ = fs::remove_file(&self.path);
    }
}

/// The supervisors that have died, by the folder with the files of ports.
pub fn dead(ports: &Path) -> Vec<Dead> {
    let entries = fs::read_dir(ports.with_file_name(FOLDER));
    let paths = entries.into_iter().flatten().flatten().map(|it| it.path());
    paths
        .filter(|path| is_of_one(path))
        .filter_map(|path| left_by_the_dead(&path))
        .collect()
}

/// Whether the file is one by its name: those that are being written have others.
fn is_of_one(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.parse::<u32>().is_ok())
}

/// None where it lives.
fn left_by_the_dead(path: &Path) -> Option<Dead> {
    let file = File::open(path).ok()?;
    file.try_lock().ok()?;
    let text = io::read_to_string(file).unwrap_or_default();
    Some(Dead {
        path: path.to_owned(),
        // No network has this cookie: what can't be read is of none.
        netns: text.trim().parse().unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_ends_without_a_word_is_dead() {
        let folder = tempfile::tempdir().unwrap();
        let ports = folder.path().join("direct");
        assert_eq!(dead(&ports), []);
        let life = Life::begin(&ports, 77).unwrap();
        assert_eq!(dead(&ports), []);
        drop(life);
        let [left] = &dead(&ports)[..] else {
            panic!("one has died");
        };
        assert_eq!(left.netns, 77);
        left.forget();
        assert_eq!(dead(&ports), []);
        Life::begin(&ports, 78).unwrap().end();
        assert_eq!(dead(&ports), []);
    }

    #[test]
    fn what_cannot_be_read_is_of_no_network() {
        let folder = tempfile::tempdir().unwrap();
        let ports = folder.path().join("direct");
        Life::begin(&ports, 1).unwrap().end();
        for name in ["9", ".tmp10"] {
            fs::write(folder.path().join(FOLDER).join(name), "?").unwrap();
        }
        let networks: Vec<u64> = dead(&ports).iter().map(|it| it.netns).collect();
        assert_eq!(networks, [0]);
    }
}
