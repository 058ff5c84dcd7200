//! The desired state on disk: `state.redb` in the state folder, and a copy of
//! it as `state.json` for the day on which that file can't be read.

mod copy;
mod error;
mod records;

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use redb::{Database, DatabaseError, StorageError};

pub use error::{StoreError, Unwritten};

use crate::{model::State, taken};
use copy::Copier;
use records::Unreadable;

const DATABASE: &str = "state.redb";
/// Becomes [`DATABASE`] when it is whole.
const UNFINISHED: &str = "state.redb.new";
const COPY: &str = "state.json";
const LOCK: &str = "state.lock";

/// Permissions of every file: command lines may hold passwords.
const MODE: u32 = 0o600;

/// What was found when a store could not be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Why it couldn't be read.
    pub why: String,
    /// Where the file is now; none if it was missing.
    pub kept_as: Option<PathBuf>,
    /// The copy that the state was taken from; none if it starts anew.
    pub restored_from: Option<PathBuf>,
}

/// The store of one daemon. Blocks while it writes.
pub struct Store {
    folder: PathBuf,
    /// None after an error in writing: redb then refuses every transaction
    /// until the file is opened anew.
    database: Option<Database>,
    /// Why the last state could not be written; with it, the database may be
    /// behind the state that it is given next.
    unstored: Option<String>,
    /// Writes what it still has to when it is dropped: before the lock goes.
    copier: Copier,
    #[expect(dead_code, reason = "held, not read")]
    lock: File,
}

impl Store {
    /// Opens the store in a folder, or makes one. A file that can't be read is
    /// kept under another name, `state.redb.damaged-` and the time, and the
    /// state taken from the copy.
    ///
    /// # Errors
    /// The folder can't be used, another daemon uses it, or a newer netdp wrote
    /// it.
    pub fn open(folder: &Path) -> Result<(Self, Option<Damage>), StoreError> {
        fs::create_dir_all(folder).map_err(StoreError::io("create", folder))?;
        let lock = taken::once_free(|| lock(folder), |it| matches!(it, StoreError::Locked(_)))?;
        let copy = folder.join(COPY);
        let (database, damage) = match read(&folder.join(DATABASE))? {
            Found::Whole(database) => (database, None),
            Found::Nothing if !copy.exists() => (make(folder, &State::new(now()))?, None),
            Found::Nothing => {
                let (database, restored_from) = restore(folder, &copy)?;
                let damage = Damage {
                    why: format!("{DATABASE} is missing"),
                    kept_as: None,
                    restored_from,
                };
                (database, Some(damage))
            }
            Found::Damaged(why) => {
                let kept_as = keep_aside(&folder.join(DATABASE))?;
                let (database, restored_from) = restore(folder, &copy)?;
                let damage = Damage {
                    why,
                    kept_as: Some(kept_as),
                    restored_from,
                };
                (database, Some(damage))
            }
        };
        let state = records::read(&database)?;
        let store = Self {
            folder: folder.into(),
            database: Some(database),
            unstored: None,
            copier: Copier::start(copy).map_err(StoreError::io("start a writer for", folder))?,
            lock,
        };
        store.copier.write_soon(&state);
        Ok((store, damage))
    }

    /// The state as it was committed last.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn load(&self) -> Result<State, StoreError> {
        let state = match &self.database {
            Some(database) => records::read(database),
            None => records::read(&open_anew(&self.folder)?),
        };
        Ok(state?)
    }

    /// Makes `new` the state on disk, in one step: whoever reads it after a
    /// crash finds `old` or `new`. Only what differs is written.
    ///
    /// # Errors
    /// The file can't be written. It holds `old` then, or `new` where the disk
    /// failed at the very end; the next commit writes what differs from either.
    pub fn commit(&mut self, old: &State, new: &State) -> Result<(), StoreError> {
        if old == new {
            return Ok(());
        }
        self.write(old, new)
            .map_err(StoreError::unwritten(&self.folder))
    }

    /// Whether the database may hold another state than it was given last.
    pub fn is_behind(&self) -> bool {
        self.unstored.is_some()
    }

    /// Tries again to make `state` the one on disk, where that failed before.
    pub fn catch_up(&mut self, state: &State) {
        if self.is_behind() {
            // It is told of by `trouble`.
            let _ = self.write(state, state);
        }
    }

    /// What keeps the state or its copy from being written, if anything does.
    pub fn trouble(&self) -> Option<String> {
        let folder = self.folder.display();
        match &self.unstored {
            Some(why) => Some(format!("the state can't be stored in {folder}: {why}")),
            None => self.copier.trouble(),
        }
    }

    /// Writes, and notes whether that went well.
    fn write(&mut self, old: &State, new: &State) -> Result<(), Unwritten> {
        let written = self.put(old, new);
        let folder = self.folder.display();
        match &written {
            Ok(()) => {
                if let Some(why) = self.unstored.take() {
                    tracing::info!("the state is stored in {folder} again");
                    self.copier.missed(&why);
                }
                self.copier.write_soon(new);
            }
            Err(why) => {
                let why = why.to_string();
                // Once, however often it is tried.
                if self.unstored.is_none() {
                    tracing::error!("the state can't be stored in {folder}: {why}");
                }
                self.unstored = Some(why);
            }
        }
        written
    }

    fn put(&mut self, old: &State, new: &State) -> Result<(), Unwritten> {
        if let Some(database) = self.database.take() {
            match records::write(&database, Some(old), new) {
                Ok(()) => {
                    self.database = Some(database);
                    return Ok(());
                }
                Err(error) => tracing::debug!("opening {DATABASE} anew: {error}"),
            }
        }
        let closed = |error| Unwritten::Closed(Box::new(error));
        let database = open_anew(&self.folder).map_err(closed)?;
        let found = records::read(&database).map_err(|error| closed(error.into()))?;
        records::write(&database, Some(&found), new)?;
        self.database = Some(database);
        Ok(())
    }
}

/// Opens what this daemon had open before.
fn open_anew(folder: &Path) -> Result<Database, StoreError> {
    match read(&folder.join(DATABASE))? {
        Found::Whole(database) => Ok(database),
        Found::Damaged(why) => Err(StoreError::Damaged(why)),
        Found::Nothing => Err(StoreError::Damaged(format!("{DATABASE} is missing"))),
    }
}

fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join(LOCK);
    let file = private()
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(StoreError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked(folder.into())),
        Err(TryLockError::Error(error)) => Err(StoreError::io("lock", &path)(error)),
    }
}

enum Found {
    Whole(Database),
    Nothing,
    Damaged(String),
}

fn read(path: &Path) -> Result<Found, StoreError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() == 0 => return Ok(Found::Damaged("it is empty".into())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(StoreError::io("read", path)(error)),
    }
    // redb asserts what it finds in its own file: a page that contradicts
    // another one makes it panic rather than return an error.
    let opened = catch_unwind(AssertUnwindSafe(|| open(path)));
    match opened {
        Ok(found) => found,
        Err(_) => Ok(Found::Damaged("its pages contradict each other".into())),
    }
}

fn open(path: &Path) -> Result<Found, StoreError> {
    let checked = Database::open(path).and_then(|mut database| {
        // Verifies the checksum of every page.
        database.check_integrity()?;
        Ok(database)
    });
    let database = match checked {
        Ok(database) => database,
        Err(DatabaseError::DatabaseAlreadyOpen) => {
            return Err(StoreError::Locked(path.parent().unwrap_or(path).into()));
        }
        Err(DatabaseError::Storage(StorageError::Io(error))) if is_systems(&error) => {
            return Err(StoreError::io("read", path)(error));
        }
        // What went wrong before was the machine's, too.
        Err(DatabaseError::Storage(error @ StorageError::PreviousIo)) => {
            return Err(StoreError::io("read", path)(io::Error::other(error)));
        }
        Err(error) => return Ok(Found::Damaged(error.to_string())),
    };
    match records::read(&database) {
        Ok(_) => Ok(Found::Whole(database)),
        Err(Unreadable::Damaged(why)) => Ok(Found::Damaged(why)),
        Err(error) => Err(error.into()),
    }
}

/// Whether an error is about the machine (rights, disk) and not about what the
/// file holds: redb reports a wrong magic number and a short file as
/// `InvalidData` and `UnexpectedEof`.
fn is_systems(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput
    )
}

/// Renames a damaged file; never over another one.
fn keep_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut time = now();
    let kept = loop {
        let kept = path.with_file_name(format!("{name}.damaged-{time}"));
        if !kept.exists() {
            break kept;
        }
        time += 1;
    };
    fs::rename(path, &kept).map_err(StoreError::io("rename", path))?;
    Ok(kept)
}

/// A database with the state of the copy, or a new one if that can't be read
/// either.
fn restore(folder: &Path, copy: &Path) -> Result<(Database, Option<PathBuf>), StoreError> {
    match copy::read(copy) {
        Ok(state) => Ok((make(folder, &state)?, Some(copy.into()))),
        Err(error) => {
            tracing::warn!("the copy {} can't be used: {error}", copy.display());
            if copy.exists() {
                keep_aside(copy)?;
            }
            Ok((make(folder, &State::new(now()))?, None))
        }
    }
}

/// Makes the database whole under another name first, so that a crash leaves
/// none or one that can be read.
fn make(folder: &Path, state: &State) -> Result<Database, StoreError> {
    let (unfinished, path) = (folder.join(UNFINISHED), folder.join(DATABASE));
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(StoreError::io("remove", &unfinished)(error));
        }
        _ => {}
    }
    let file = private()
        .read(true)
        .create_new(true)
        .open(&unfinished)
        .map_err(StoreError::io("create", &unfinished))?;
    let database = Database::builder()
        .create_file(file)
        .map_err(Unwritten::database)
        .map_err(StoreError::unwritten(folder))?;
    records::write(&database, None, state).map_err(StoreError::unwritten(folder))?;
    fs::rename(&unfinished, &path).map_err(StoreError::io("rename", &unfinished))?;
    sync_folder(folder)?;
    Ok(database)
}

/// For writing a file that nobody else may read.
fn private() -> OpenOptions {
    let mut options = File::options();
    options.write(true).mode(MODE);
    options
}

/// A rename is on disk only when its folder is.
fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(StoreError::io("write", folder))
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
