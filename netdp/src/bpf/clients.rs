//! Clients of direct ports of UDP, as the programs remember them.

use std::{ops::ControlFlow, path::Path};

use aya::{
    Pod,
    maps::{Map, MapData},
};
use netdp_common::{
    addr::{Address, V4Addr, V6Addr},
    maps::{Client, ClientKey, name},
};

use super::{BpfError, batch::Table};

/// Those of one family.
pub struct Clients<A: Address>(Table<ClientKey<A>, Client<A>>);

impl Clients<V4Addr> {
    /// # Errors
    /// When no such map is pinned in this folder.
    pub fn open4(maps: &Path) -> Result<Self, BpfError> {
        Self::open(maps, name::CLIENTS4)
    }
}

impl Clients<V6Addr> {
    /// # Errors
    /// When no such map is pinned in this folder.
    pub fn open6(maps: &Path) -> Result<Self, BpfError> {
        Self::open(maps, name::CLIENTS6)
    }
}

impl<A: Address> Clients<A> {
    fn open(maps: &Path, name: &'static str) -> Result<Self, BpfError>
    where
        ClientKey<A>: Pod,
        Client<A>: Pod,
    {
        let data = MapData::from_pin(maps.join(name)).map_err(BpfError::map(name))?;
        let map = Map::from_map_data(data).map_err(BpfError::map(name))?;
        Table::of(map, name).map(Self)
    }

    /// Calls `each` for every client until it breaks. One that comes or goes
    /// meanwhile may be seen or not.
    ///
    /// # Errors
    /// The kernel's.
    pub fn each_until(
        &self,
        each: impl FnMut(&ClientKey<A>, &Client<A>) -> ControlFlow<()>,
    ) -> Result<(), BpfError> {
        self.0.read(each)
    }
}
