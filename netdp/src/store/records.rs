//! How a state lies in the database: a record each for networks, sandboxes and
//! endpoints, as JSON, so that a field more needs no new format.

use std::{collections::BTreeMap, str::FromStr};

use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError,
    WriteTransaction,
};
use serde::{Serialize, de::DeserializeOwned};

use super::error::Unwritten;
use crate::{
    model::{Counters, State},
    plan::diff::{Change, diff},
};

/// Format of the records. A change that an older netdp would misread gets the
/// next number.
pub(super) const FORMAT: u64 = 1;

type Table = TableDefinition<'static, &'static str, &'static [u8]>;

const META: Table = Table::new("meta");
const NETWORKS: Table = Table::new("networks");
const SANDBOXES: Table = Table::new("sandboxes");
const ENDPOINTS: Table = Table::new("endpoints");
const LENT: Table = Table::new("lent");
const ACCELERATIONS: Table = Table::new("accelerations");
const BLOCKED: Table = Table::new("blocked");

const META_FORMAT: &str = "format";
const META_INSTANCE: &str = "instance";
const META_COUNTERS: &str = "counters";
const META_LIMIT: &str = "limit";

/// Why a state can't be read.
#[derive(Debug)]
pub(super) enum Unreadable {
    Damaged(String),
    Newer { found: u64, known: u64 },
}

impl<E: Into<redb::Error>> From<E> for Unreadable {
    fn from(error: E) -> Self {
        Self::Damaged(error.into().to_string())
    }
}

pub(super) fn read(database: &Database) -> Result<State, Unreadable> {
    let transaction = database.begin_read()?;
    check_format(meta(&transaction, META_FORMAT)?)?;
    let counters: Counters = meta(&transaction, META_COUNTERS)?;
    let state = State {
        instance: meta(&transaction, META_INSTANCE)?,
        networks: read_all(&transaction, NETWORKS)?,
        sandboxes: read_all(&transaction, SANDBOXES)?,
        endpoints: read_all(&transaction, ENDPOINTS)?,
        lent: read_all(&transaction, LENT)?,
        accelerations: read_all(&transaction, ACCELERATIONS)?,
        blocked: read_all(&transaction, BLOCKED)?,
        limit: newer_meta(&transaction, META_LIMIT)?.flatten(),
        counters,
    };
    state.check().map_err(Unreadable::Damaged)?;
    Ok(state)
}

pub(super) fn check_format(found: u64) -> Result<(), Unreadable> {
    match found {
        FORMAT => Ok(()),
        0 => Err(Unreadable::Damaged("it has format 0".into())),
        found => Err(Unreadable::Newer {
            found,
            known: FORMAT,
        }),
    }
}

fn meta<T: DeserializeOwned>(transaction: &ReadTransaction, key: &str) -> Result<T, Unreadable> {
    newer_meta(transaction, key)?
        .ok_or_else(|| Unreadable::Damaged(format!("it has no record '{key}'")))
}

/// The same of a record that an earlier netdp didn't write.
fn newer_meta<T: DeserializeOwned>(
    transaction: &ReadTransaction,
    key: &str,
) -> Result<Option<T>, Unreadable> {
    let table = transaction.open_table(META)?;
    let record = table.get(key)?;
    record.map(|record| decode(key, record.value())).transpose()
}

fn read_all<Id, T>(
    transaction: &ReadTransaction,
    table: Table,
) -> Result<BTreeMap<Id, T>, Unreadable>
where
    Id: FromStr<Err: std::fmt::Display> + Ord,
    T: DeserializeOwned,
{
    let table = match transaction.open_table(table) {
        // Made by a netdp that had no such records.
        Err(TableError::TableDoesNotExist(_)) => return Ok(BTreeMap::new()),
        table => table?,
    };
    let mut records = BTreeMap::new();
    for record in table.iter()? {
        let (key, value) = record?;
        let id =
            Id::from_str(key.value()).map_err(|error| Unreadable::Damaged(error.to_string()))?;
        records.insert(id, decode(key.value(), value.value())?);
    }
    Ok(records)
}

fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, Unreadable> {
    serde_json::from_slice(value)
        .map_err(|error| Unreadable::Damaged(format!("record '{key}' can't be read: {error}")))
}

/// Writes what differs from `old`, or everything, in one transaction.
pub(super) fn write(
    database: &Database,
    old: Option<&State>,
    new: &State,
) -> Result<(), Unwritten> {
    let transaction = database.begin_write().map_err(Unwritten::database)?;
    if old.is_none() {
        put(&transaction, META, META_FORMAT, &FORMAT)?;
        put(&transaction, META, META_INSTANCE, &new.instance)?;
    }
    if old.is_none_or(|old| old.counters != new.counters) {
        put(&transaction, META, META_COUNTERS, &new.counters)?;
    }
    if old.is_none_or(|old| old.limit != new.limit) {
        put(&transaction, META, META_LIMIT, &new.limit)?;
    }
    write_changed(
        &transaction,
        NETWORKS,
        old.map(|s| &s.networks),
        &new.networks,
    )?;
    write_changed(
        &transaction,
        SANDBOXES,
        old.map(|s| &s.sandboxes),
        &new.sandboxes,
    )?;
    write_changed(
        &transaction,
        ENDPOINTS,
        old.map(|s| &s.endpoints),
        &new.endpoints,
    )?;
    write_changed(&transaction, LENT, old.map(|s| &s.lent), &new.lent)?;
    write_changed(
        &transaction,
        ACCELERATIONS,
        old.map(|s| &s.accelerations),
        &new.accelerations,
    )?;
    write_changed(&transaction, BLOCKED, old.map(|s| &s.blocked), &new.blocked)?;
    transaction.commit().map_err(Unwritten::database)
}

fn put<T: Serialize>(
    transaction: &WriteTransaction,
    table: Table,
    key: &str,
    value: &T,
) -> Result<(), Unwritten> {
    let value = serde_json::to_vec(value)?;
    let mut table = transaction.open_table(table).map_err(Unwritten::database)?;
    table
        .insert(key, value.as_slice())
        .map_err(Unwritten::database)?;
    Ok(())
}

fn write_changed<Id, T>(
    transaction: &WriteTransaction,
    definition: Table,
    old: Option<&BTreeMap<Id, T>>,
    new: &BTreeMap<Id, T>,
) -> Result<(), Unwritten>
where
    Id: ToString + Ord,
    T: Serialize + PartialEq,
{
    // Opening makes the table, also when nothing is in it yet.
    let mut table = transaction
        .open_table(definition)
        .map_err(Unwritten::database)?;
    for change in diff(old.into_iter().flatten(), new) {
        match change {
            Change::Insert { key, want } | Change::Update { key, want, .. } => {
                let value = serde_json::to_vec(want)?;
                table
                    .insert(key.to_string().as_str(), value.as_slice())
                    .map_err(Unwritten::database)?;
            }
            Change::Remove { key, .. } => {
                table
                    .remove(key.to_string().as_str())
                    .map_err(Unwritten::database)?;
            }
        }
    }
    Ok(())
}
