use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use tempfile::TempDir;

use super::*;
use crate::model::{
    Acceleration, EndpointId, EndpointRequest, NetworkId, Selection,
    lent::PoolRequest,
    tests::{Sockets, host, network, state, web},
};

mod full_disk;

fn open(folder: &Path) -> Store {
    let (store, damage) = Store::open(folder).unwrap();
    assert_eq!(damage, None);
    store
}

/// A folder whose store holds the first network and `web1`.
fn filled() -> (TempDir, State) {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    let old = store.load().unwrap();
    let mut new = state();
    new.instance = old.instance.clone();
    let sockets = Sockets::default();
    let request = web("web1", &["8080:80"]);
    new.create_sandbox(&request, &host(&sockets)).unwrap();
    store.commit(&old, &new).unwrap();
    drop(store);
    (folder, new)
}

#[test]
fn what_is_committed_is_loaded() {
    let (folder, state) = filled();
    assert_eq!(open(folder.path()).load().unwrap(), state);
    let mut next = state.clone();
    next.remove_sandbox("web1").unwrap();
    let mut store = open(folder.path());
    store.commit(&state, &next).unwrap();
    assert_eq!(store.load().unwrap(), next);
    drop(store);
    assert_eq!(open(folder.path()).load().unwrap(), next);
}

#[test]
fn what_engines_have_is_kept() {
    let (folder, state) = filled();
    let mut store = open(folder.path());
    let mut next = state.clone();
    let sockets = Sockets::default();
    let host = host(&sockets);
    let lent = next.lend_pool(&PoolRequest::default(), &host).unwrap();
    next.lend_address(lent, None, false).unwrap();
    let mut request = network("engines");
    request.subnets = vec![lent];
    let id = NetworkId::random();
    next.create_engine_network("docker", id, &request, &host)
        .unwrap();
    let endpoint = EndpointId::random();
    next.offer_endpoint("docker", id, endpoint, &EndpointRequest::default(), 1)
        .unwrap();
    store.commit(&state, &next).unwrap();
    drop(store);
    assert_eq!(open(folder.path()).load().unwrap(), next);
}

#[test]
fn what_is_accelerated_is_kept() {
    let (folder, state) = filled();
    let mut store = open(folder.path());
    let mut next = state.clone();
    let told = Acceleration {
        socket: "/run/docker.sock".into(),
        skip_rules: true,
        networks: Selection {
            named: ["shop".to_owned()].into(),
            ..Selection::default()
        },
    };
    // Of an engine that a later netdp knows, too.
    for engine in ["docker", "later"] {
        next.accelerations.insert(engine.to_owned(), told.clone());
    }
    store.commit(&state, &next).unwrap();
    assert_eq!(store.load().unwrap(), next);
    drop(store);
    let mut store = open(folder.path());
    assert_eq!(store.load().unwrap(), next);
    store.commit(&next, &state).unwrap();
    assert_eq!(store.load().unwrap(), state);
}

#[test]
fn an_acceleration_that_makes_no_sense_is_kept_aside() {
    for (record, why) in [
        (&b"{"[..], "record 'docker' can't be read"),
        (br#"{"all":true}"#, "missing field `socket`"),
        (br#"{"socket":"/run/docker.sock"}"#, "no network of docker"),
        (
            br#"{"socket":"docker.sock","all":true}"#,
            "no absolute path",
        ),
    ] {
        let (folder, state) = filled();
        let store = open(folder.path());
        let transaction = store.database.as_ref().unwrap().begin_write().unwrap();
        let table = redb::TableDefinition::<&str, &[u8]>::new("accelerations");
        let mut opened = transaction.open_table(table).unwrap();
        opened.insert("docker", record).unwrap();
        drop(opened);
        transaction.commit().unwrap();
        drop(store);
        let (store, damage) = Store::open(folder.path()).unwrap();
        let damage = damage.unwrap();
        assert!(damage.why.contains(why), "{}", damage.why);
        assert!(damage.kept_as.unwrap().exists());
        // All else is that of the copy.
        assert_eq!(store.load().unwrap(), state);
    }
}

#[test]
fn a_store_of_a_netdp_without_engines_is_read() {
    let (folder, state) = filled();
    let store = open(folder.path());
    let transaction = store.database.as_ref().unwrap().begin_write().unwrap();
    for table in ["lent", "accelerations"] {
        let table = redb::TableDefinition::<&str, &[u8]>::new(table);
        assert!(transaction.delete_table(table).unwrap());
    }
    transaction.commit().unwrap();
    drop(store);
    assert_eq!(open(folder.path()).load().unwrap(), state);
}

#[test]
fn a_limit_is_kept_and_ended() {
    let (folder, state) = filled();
    let mut store = open(folder.path());
    let mut next = state.clone();
    next.set_limit(200, Some(300), 7).unwrap();
    store.commit(&state, &next).unwrap();
    drop(store);
    let mut store = open(folder.path());
    assert_eq!(store.load().unwrap(), next);
    store.commit(&next, &state).unwrap();
    drop(store);
    assert_eq!(open(folder.path()).load().unwrap(), state);
}

#[test]
fn a_store_of_a_netdp_without_limits_is_read() {
    let (folder, state) = filled();
    let store = open(folder.path());
    let transaction = store.database.as_ref().unwrap().begin_write().unwrap();
    let table = redb::TableDefinition::<&str, &[u8]>::new("meta");
    let mut opened = transaction.open_table(table).unwrap();
    assert!(opened.remove("limit").unwrap().is_some());
    drop(opened);
    transaction.commit().unwrap();
    drop(store);
    assert_eq!(open(folder.path()).load().unwrap(), state);
}

#[test]
fn a_new_store_has_the_networks_that_are_always_there() {
    let folder = tempfile::tempdir().unwrap();
    let nested = folder.path().join("var/lib/netdp");
    let state = open(&nested).load().unwrap();
    assert_eq!(state.check(), Ok(()));
    assert_eq!(state.networks.len(), 2);
    assert_eq!(open(&nested).load().unwrap().instance, state.instance);
}

#[test]
fn nobody_else_reads_the_files() {
    // Dropping the store writes the copy.
    let (folder, _) = filled();
    let mut names = Vec::new();
    for file in fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE, "{}", file.path().display());
        names.push(file.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, [COPY, LOCK, DATABASE]);
}

#[test]
fn one_daemon_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let _first = open(folder.path());
    let Err(error) = Store::open(folder.path()) else {
        panic!("two daemons opened one folder");
    };
    assert!(matches!(error, StoreError::Locked(_)), "{error}");
    assert!(error.to_string().contains("in use by another daemon"));
}

/// Files as they lie on the disk while the store is open are what a killed
/// daemon leaves.
fn killed(folder: &Path) -> TempDir {
    let left = tempfile::tempdir().unwrap();
    for file in fs::read_dir(folder).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), left.path().join(file.file_name())).unwrap();
    }
    left
}

#[test]
fn a_killed_daemon_leaves_the_old_or_the_new() {
    let (folder, old) = filled();
    let mut store = open(folder.path());
    let left = killed(folder.path());
    assert_eq!(open(left.path()).load().unwrap(), old);
    let mut new = old.clone();
    new.remove_sandbox("web1").unwrap();
    store.commit(&old, &new).unwrap();
    let left = killed(folder.path());
    assert_eq!(open(left.path()).load().unwrap(), new);
}

#[test]
fn a_commit_that_was_cut_short_leaves_the_old() {
    let (folder, old) = filled();
    let store = open(folder.path());
    let transaction = store.database.as_ref().unwrap().begin_write().unwrap();
    let table = redb::TableDefinition::<&str, &[u8]>::new("sandboxes");
    let mut sandboxes = transaction.open_table(table).unwrap();
    sandboxes
        .insert("half", [0_u8; 100_000].as_slice())
        .unwrap();
    let left = killed(folder.path());
    assert_eq!(open(left.path()).load().unwrap(), old);
}

fn damaged(folder: &Path, change: impl FnOnce(&Path)) -> (State, Damage) {
    let file = folder.join(DATABASE);
    change(&file);
    let (store, damage) = Store::open(folder).unwrap();
    let damage = damage.expect("the damage wasn't noticed");
    if let Some(kept_as) = &damage.kept_as {
        assert!(kept_as.exists());
        let name = kept_as.file_name().unwrap().to_string_lossy().into_owned();
        assert!(name.starts_with("state.redb.damaged-"), "{name}");
    }
    let state = store.load().unwrap();
    drop(store);
    assert_eq!(
        open(folder).load().unwrap(),
        state,
        "what was restored didn't stay"
    );
    (state, damage)
}

#[test]
fn a_damaged_store_is_kept_aside_and_restored_from_the_copy() {
    type Case = (&'static str, fn(&Path));
    let changes: [Case; 4] = [
        ("empty", |file| fs::write(file, "").unwrap()),
        ("noise", |file| fs::write(file, "not a database").unwrap()),
        ("cut", |file| {
            let all = fs::read(file).unwrap();
            fs::write(file, &all[..all.len() / 3]).unwrap();
        }),
        ("zeros", |file| {
            let len = fs::read(file).unwrap().len();
            fs::write(file, vec![0; len]).unwrap();
        }),
    ];
    for (what, change) in changes {
        let (folder, state) = filled();
        let (restored, damage) = damaged(folder.path(), change);
        assert!(restored == state, "{what}: another state was restored");
        let kept = fs::read(damage.kept_as.unwrap()).unwrap();
        let again = tempfile::tempdir().unwrap();
        fs::write(again.path().join(DATABASE), &kept).unwrap();
        let (_, damage_again) = Store::open(again.path()).unwrap();
        assert_eq!(
            damage_again.unwrap().why,
            damage.why,
            "{what}: the file was changed"
        );
        assert_eq!(
            damage.restored_from,
            Some(folder.path().join(COPY)),
            "{what}"
        );
    }
}

#[test]
fn a_flipped_bit_is_noticed_or_changes_nothing() {
    let (folder, state) = filled();
    let whole = fs::read(folder.path().join(DATABASE)).unwrap();
    let mut noticed = 0;
    for position in (0..whole.len()).step_by(whole.len() / 97) {
        let left = killed(folder.path());
        let mut bytes = whole.clone();
        bytes[position] ^= 0x10;
        fs::write(left.path().join(DATABASE), bytes).unwrap();
        let (store, damage) = Store::open(left.path()).unwrap();
        assert_eq!(store.load().unwrap(), state, "bit at {position}");
        noticed += u32::from(damage.is_some());
    }
    assert!(noticed > 0, "no flipped bit hit anything that is read");
}

#[test]
fn records_that_do_not_fit_together_are_damage() {
    let (folder, state) = filled();
    let (restored, damage) = damaged(folder.path(), |file| {
        let database = Database::open(file).unwrap();
        let mut torn = state.clone();
        torn.sandboxes.clear();
        records::write(&database, Some(&state), &torn).unwrap();
    });
    assert_eq!(restored, state);
    assert!(damage.why.contains("has no sandbox"), "{}", damage.why);
}

#[test]
fn the_copy_follows_while_commits_keep_coming() {
    let (folder, state) = filled();
    let mut store = open(folder.path());
    let mut old = state;
    let copied = |counter: u16| {
        let copy = copy::read(&folder.path().join(COPY));
        copy.is_ok_and(|state| state.counters.port > counter)
    };
    let start = std::time::Instant::now();
    while !copied(0) {
        assert!(start.elapsed().as_secs() < 30, "the copy stays behind");
        let mut new = old.clone();
        new.counters.port += 1;
        store.commit(&old, &new).unwrap();
        old = new;
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn a_missing_store_is_restored_and_reported() {
    let (folder, state) = filled();
    let (restored, damage) = damaged(folder.path(), |file| fs::remove_file(file).unwrap());
    assert_eq!(restored, state);
    assert_eq!(damage.kept_as, None);
}

#[test]
fn without_a_copy_the_state_starts_anew() {
    let (folder, state) = filled();
    fs::write(folder.path().join(COPY), "{").unwrap();
    let (restored, damage) = damaged(folder.path(), |file| fs::write(file, "x").unwrap());
    assert_ne!(restored.instance, state.instance);
    assert_eq!(damage.restored_from, None);
    let kept = fs::read_dir(folder.path()).unwrap().filter(|file| {
        let name = file.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with("state.json.damaged-")
    });
    assert_eq!(kept.count(), 1);
}

#[test]
fn a_newer_format_is_left_alone() {
    let (folder, _) = filled();
    let file = folder.path().join(DATABASE);
    let database = Database::open(&file).unwrap();
    let transaction = database.begin_write().unwrap();
    let table = redb::TableDefinition::<&str, &[u8]>::new("meta");
    let mut meta = transaction.open_table(table).unwrap();
    meta.insert("format", b"2".as_slice()).unwrap();
    drop(meta);
    transaction.commit().unwrap();
    drop(database);
    let Err(error) = Store::open(folder.path()) else {
        panic!("a newer format was read");
    };
    assert!(
        matches!(error, StoreError::Newer { found: 2, known: 1 }),
        "{error}"
    );
    assert!(file.exists());
}

#[test]
fn a_file_that_may_not_be_read_is_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join(DATABASE)).unwrap();
    let Err(error) = Store::open(folder.path()) else {
        panic!("a folder was read as a file");
    };
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert!(folder.path().join(DATABASE).is_dir());
}
