//! A number for the set of ports that an endpoint publishes.

use std::hash::{Hash, Hasher};

use crate::model::Endpoint;

/// A number that stands for what an endpoint publishes, never 0.
///
/// It is made of the set alone: the same set has the same number after a
/// restart, and a change that was undone has the number that was before. A flow
/// found to be published under a number is published whenever the endpoint has
/// that number again.
pub(super) fn generation(endpoint: &Endpoint) -> u32 {
    let mut hash = Fnv::default();
    endpoint.id.hash(&mut hash);
    endpoint.published.hash(&mut hash);
    let folded = (hash.0 >> 32) as u32 ^ hash.0 as u32;
    folded.max(1)
}

/// FNV-1a of 64 bits (draft-eastlake-fnv, section 2): the hashers of the
/// standard library promise nothing from one release to the next.
pub(super) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
