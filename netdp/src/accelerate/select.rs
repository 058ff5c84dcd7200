//! Which networks are to be carried, and which can be.

use super::view::{DockerNetwork, View};
use crate::model::{Refusal, Selection};

impl Selection {
    /// Adds networks by name or id; all where none is named.
    ///
    /// # Errors
    /// One that Docker doesn't have, or that can't be carried.
    pub fn add(&mut self, references: &[String], view: &View) -> Result<(), Refusal> {
        if references.is_empty() {
            *self = Self {
                all: true,
                ..Self::default()
            };
        }
        for network in found(references, view)? {
            if let Some(why) = unfit(network) {
                return Err(Refusal::invalid(format!(
                    "network {} can't be accelerated: {why}",
                    network.name
                )));
            }
            self.except.remove(&network.name);
            if !self.all {
                self.named.insert(network.name.clone());
            }
        }
        Ok(())
    }

    /// Takes networks out; all where none is named.
    ///
    /// # Errors
    /// One that Docker doesn't have.
    pub fn remove(&mut self, references: &[String], view: &View) -> Result<(), Refusal> {
        if references.is_empty() {
            *self = Self::default();
        }
        for reference in references {
            // It may be gone.
            if self.named.remove(reference) {
                continue;
            }
            for network in found(std::slice::from_ref(reference), view)? {
                self.named.remove(&network.name);
                if self.all {
                    self.except.insert(network.name.clone());
                }
            }
        }
        Ok(())
    }
}

fn found<'a>(references: &[String], view: &'a View) -> Result<Vec<&'a DockerNetwork>, Refusal> {
    references
        .iter()
        .map(|reference| {
            let networks = view.networks.iter();
            let called: Vec<_> = networks.filter(|it| it.is_called(reference)).collect();
            let exact = called.iter().find(|it| it.name == *reference);
            match (exact, &called[..]) {
                (Some(network), _) | (None, [network]) => Ok(*network),
                (None, []) => Err(Refusal::not_found(format!(
                    "Docker has no network '{reference}': see `docker network ls`"
                ))),
                (None, _) => Err(Refusal::invalid(format!(
                    "'{reference}' is the beginning of several ids of networks: give more of it"
                ))),
            }
        })
        .collect()
}

/// Why a network's containers are left as they are; none where they are carried.
pub fn unfit(network: &DockerNetwork) -> Option<String> {
    if network.driver == "netdp" {
        return Some("its driver is netdp, which carries it already".into());
    }
    if network.driver != "bridge" {
        return Some(format!(
            "its driver is {}, and only Docker's bridge networks can be",
            if network.driver.is_empty() {
                "unknown"
            } else {
                &network.driver
            }
        ));
    }
    if network.scope != "local" || network.bridge() == "docker_gwbridge" {
        return Some("it is Swarm's".into());
    }
    if network.internal {
        return Some("it is internal: nothing leads out of it or into it".into());
    }
    None
}
