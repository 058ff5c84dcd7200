//! The file that `--report` names.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Can be written when this is made, so that nothing is measured in vain.
#[derive(Debug)]
pub(super) struct PageFile {
    path: PathBuf,
    /// Whether it was not there before, and holds nothing yet.
    is_new: bool,
}

impl PageFile {
    /// What the file holds stays until [`PageFile::write`].
    ///
    /// # Errors
    /// When it can't be written.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true);
        let made = options.clone().create_new(true).open(path);
        let opened = match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                options.open(path).map(|_| false)
            }
            made => made.map(|_| true),
        };
        Ok(Self {
            is_new: opened.with_context(|| cannot_write(path))?,
            path: path.into(),
        })
    }

    /// # Errors
    /// When it can no longer be written, or not all of it.
    pub(super) fn write(mut self, page: &str) -> anyhow::Result<()> {
        std::fs::write(&self.path, page).with_context(|| cannot_write(&self.path))?;
        self.is_new = false;
        Ok(())
    }
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

/// Without a page it leaves no file that was not there.
impl Drop for PageFile {
    fn drop(&mut self) {
        if self.is_new {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_replaced_only_by_a_page() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        drop(PageFile::open(&path).unwrap());
        assert!(!path.exists());
        PageFile::open(&path)
            .unwrap()
            .write("one, and long")
            .unwrap();
        drop(PageFile::open(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "one, and long");
        PageFile::open(&path).unwrap().write("two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
    }

    #[test]
    fn what_can_not_be_written_is_named_at_once() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().join("none/report.html"), folder.path().into()] {
            let refusal = PageFile::open(&path).unwrap_err().to_string();
            assert!(refusal.contains(path.to_str().unwrap()), "{refusal}");
        }
    }
}
