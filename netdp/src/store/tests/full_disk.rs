//! A disk without room, and with room again.

use std::{
    io::{self, Write},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

use super::*;

const SIZE: &str = "size=8m,mode=0700";

/// Mounted where nobody else sees it.
struct Disk(TempDir);

impl Disk {
    /// For the calling thread and those that it starts.
    fn mount() -> Result<Self, Errno> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        let folder = tempfile::tempdir().unwrap();
        let (kind, path) = (Some("tmpfs"), folder.path());
        mount(kind, path, kind, MsFlags::empty(), Some(SIZE))?;
        Ok(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    fn fill(&self) {
        let mut file = File::create(self.filler()).unwrap();
        let error = loop {
            if let Err(error) = file.write_all(&[1; 4096]) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn files(&self) -> Vec<String> {
        let files = fs::read_dir(self.path()).unwrap();
        let mut names: Vec<String> = files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        umount2(self.path(), MntFlags::MNT_DETACH).unwrap();
    }
}

/// Runs a test with a small disk, in a thread whose mounts are its own.
fn on_a_small_disk(test: impl FnOnce(&Disk) + Send + 'static) {
    let run = move || match Disk::mount() {
        Ok(disk) => test(&disk),
        Err(why) => println!("skipped: can't mount: {why}"),
    };
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// The same with more than what a full disk takes.
fn with_much(state: &State) -> State {
    let mut next = state.clone();
    for number in 0..20_000_u32 {
        let source = std::net::Ipv4Addr::from(0xc612_0000 + number);
        let net = ipnet::IpNet::from(std::net::IpAddr::from(source));
        next.blocked.insert(net, crate::model::Blocked { since: 7 });
    }
    next
}

fn wait_until_well(store: &Store) {
    let began = Instant::now();
    while let Some(trouble) = store.trouble() {
        assert!(began.elapsed() < Duration::from_secs(30), "{trouble}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn refused(store: &mut Store, old: &State, new: &State) -> String {
    let error = store.commit(old, new).unwrap_err();
    assert!(matches!(error, StoreError::Unwritten { .. }), "{error}");
    error.to_string()
}

#[test]
fn room_again_is_all_that_a_store_needs() {
    on_a_small_disk(|disk| {
        let mut store = open(disk.path());
        let old = store.load().unwrap();
        let new = with_much(&old);
        disk.fill();
        for _ in 0..3 {
            let why = refused(&mut store, &old, &new);
            assert!(why.contains("No space left on device"), "{why}");
            assert!(why.contains(&disk.path().display().to_string()), "{why}");
            assert!(store.is_behind());
            assert!(store.trouble().unwrap().contains("No space left"));
            assert_eq!(store.load().unwrap(), old);
        }
        // Also of a daemon that is killed now.
        let left = killed(disk.path());
        assert_eq!(open(left.path()).load().unwrap(), old);

        disk.make_room();
        store.commit(&old, &new).unwrap();
        assert!(!store.is_behind());
        wait_until_well(&store);
        assert_eq!(store.load().unwrap(), new);
        store.commit(&new, &old).unwrap();
        drop(store);
        assert_eq!(open(disk.path()).load().unwrap(), old);
        assert_eq!(disk.files(), [COPY, LOCK, DATABASE]);
    });
}

#[test]
fn what_could_not_be_stored_is_stored_later() {
    on_a_small_disk(|disk| {
        let mut store = open(disk.path());
        let old = store.load().unwrap();
        let new = with_much(&old);
        disk.fill();
        refused(&mut store, &old, &new);
        store.catch_up(&new);
        assert!(store.is_behind());
        disk.make_room();
        store.catch_up(&new);
        assert!(!store.is_behind());
        wait_until_well(&store);
        drop(store);
        assert_eq!(open(disk.path()).load().unwrap(), new);
    });
}

#[test]
fn a_store_that_waits_for_room_is_still_of_one_daemon() {
    on_a_small_disk(|disk| {
        let mut store = open(disk.path());
        let old = store.load().unwrap();
        disk.fill();
        refused(&mut store, &old, &with_much(&old));
        let Err(error) = Store::open(disk.path()) else {
            panic!("two daemons opened one folder");
        };
        assert!(matches!(error, StoreError::Locked(_)), "{error}");
    });
}

#[test]
fn a_file_that_cannot_be_opened_anew_is_tried_again() {
    on_a_small_disk(|disk| {
        let mut store = open(disk.path());
        let old = store.load().unwrap();
        let new = with_much(&old);
        disk.fill();
        refused(&mut store, &old, &new);
        let (file, away) = (disk.path().join(DATABASE), disk.path().join("away"));
        fs::rename(&file, &away).unwrap();
        disk.make_room();
        let why = refused(&mut store, &old, &new);
        assert!(why.contains("state.redb is missing"), "{why}");
        assert!(store.load().is_err());
        fs::rename(&away, &file).unwrap();
        store.commit(&old, &new).unwrap();
        assert_eq!(store.load().unwrap(), new);
    });
}

#[test]
fn a_full_disk_is_no_damage() {
    on_a_small_disk(|disk| {
        let mut store = open(disk.path());
        let old = store.load().unwrap();
        let new = with_much(&old);
        store.commit(&old, &new).unwrap();
        drop(store);
        disk.fill();
        let store = open(disk.path());
        assert_eq!(store.load().unwrap(), new);
        let began = Instant::now();
        while store.trouble().is_none() {
            assert!(began.elapsed().as_secs() < 30, "the copy was written");
            thread::sleep(Duration::from_millis(50));
        }
        let trouble = store.trouble().unwrap();
        assert!(trouble.contains("can't write the copy"), "{trouble}");
        // Nothing half-made stays.
        let files = disk.files();
        assert_eq!(files, ["filler", COPY, LOCK, DATABASE]);
        disk.make_room();
        wait_until_well(&store);
        assert_eq!(copy::read(&disk.path().join(COPY)), Ok(new));
    });
}
