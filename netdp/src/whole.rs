//! Files that are written whole or not at all: who reads meanwhile has what was
//! there before.

use std::{
    fs::{self, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, fchown},
    path::Path,
};

use tempfile::NamedTempFile;

/// Writes a file, with the rights and the owner that the one before it had, or
/// else with `mode`.
///
/// # Errors
/// What the kernel refused; the file is as it was.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    made(path, bytes, mode)?.persist(path)?;
    Ok(())
}

/// The same of a file that is to be there after a fall of the machine.
///
/// # Errors
/// As [`write`].
pub fn write_for_good(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let file = made(path, bytes, mode)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

fn made(path: &Path, bytes: &[u8], mode: u32) -> io::Result<NamedTempFile> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let before = fs::metadata(path).ok();
    let rights = match &before {
        Some(before) => before.permissions(),
        None => Permissions::from_mode(mode),
    };
    let mut file = NamedTempFile::new_in(folder)?;
    // That of the file would name it, whose name says nothing to anybody.
    file.as_file_mut().write_all(bytes)?;
    if let Some(before) = before {
        fchown(&file, Some(before.uid()), Some(before.gid()))?;
    }
    file.as_file().set_permissions(rights)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_those_of_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        write(&path, b"one", 0o644).unwrap();
        assert_eq!(mode(), 0o644);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        write_for_good(&path, b"two", 0o600).unwrap();
        assert_eq!(mode(), 0o640);
        assert_eq!(fs::read(&path).unwrap(), b"two");
        write(&folder.path().join("none/file"), b"", 0o600).unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
