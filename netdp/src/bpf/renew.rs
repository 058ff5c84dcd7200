//! Maps that another version has made in another shape, or hasn't made, and whose
//! place a new one can take beside those that hold flows.

use std::{fs, io, path::PathBuf};

use netdp_common::maps::name;

use super::{BpfError, datapath::unpin, layout::Layout};

/// They are filled from other maps before a program sees them, or by packets, or hold
/// what the daemon asks for again.
pub const MAPS: [&str; 8] = [
    name::OWN,
    name::LIMIT,
    name::PATHS4,
    name::PATHS6,
    name::BUCKETS4,
    name::BUCKETS6,
    name::HEARD4,
    name::HEARD6,
];

/// Pins that are out of the way of new ones.
pub struct Aside {
    /// Where each was and where it is, if there is one.
    moved: Vec<(PathBuf, PathBuf)>,
}

impl Aside {
    /// # Errors
    /// What the kernel refused; then every pin is where it was.
    pub fn put(layout: &Layout, maps: &[&str]) -> Result<Self, BpfError> {
        let mut aside = Self { moved: Vec::new() };
        for map in maps {
            let (from, to) = (layout.map(map), layout.map(&format!("{map}_old")));
            let moved = match fs::rename(&from, &to) {
                // A daemon that was killed here has left it, or no daemon made it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                moved => moved.map_err(BpfError::io("move", &from)),
            };
            if let Err(error) = moved {
                aside.put_back();
                return Err(error);
            }
            aside.moved.push((from, to));
        }
        Ok(aside)
    }

    /// In the place of those that were made meanwhile.
    pub fn put_back(self) {
        for (from, to) in self.moved {
            let back = unpin(&from).and_then(|()| match fs::rename(&to, &from) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                back => back.map_err(BpfError::io("move", &to)),
            });
            if let Err(error) = back {
                tracing::warn!("{error}");
            }
        }
    }

    /// # Errors
    /// What the kernel refused.
    pub fn forget(self) -> Result<(), BpfError> {
        self.moved.iter().try_for_each(|(_, to)| unpin(to))
    }
}
