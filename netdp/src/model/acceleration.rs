//! Networks of another engine that are to be carried, as they were asked for.

use std::{collections::BTreeSet, path::PathBuf};

use serde::{Deserialize, Serialize};

/// What was asked for, kept for a daemon that starts later.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Acceleration {
    /// Where the engine listens.
    pub socket: PathBuf,
    /// Also where the host has rules of its own that packets would skip.
    #[serde(default)]
    pub skip_rules: bool,
    #[serde(flatten)]
    pub networks: Selection,
}

/// Networks by their names: those that are there, and those that will be.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Selection {
    /// All, but for some.
    pub all: bool,
    pub except: BTreeSet<String>,
    /// These alone.
    pub named: BTreeSet<String>,
}

impl Acceleration {
    /// Checks a record that somebody may have written to.
    ///
    /// # Errors
    /// It doesn't say where, or carries nothing.
    pub(super) fn check(&self, engine: &str) -> Result<(), String> {
        if !self.socket.is_absolute() {
            return Err(format!("the socket of {engine} is no absolute path"));
        }
        if self.networks.is_empty() {
            return Err(format!("no network of {engine} is to be accelerated"));
        }
        Ok(())
    }
}

impl Selection {
    pub fn is_empty(&self) -> bool {
        !self.all && self.named.is_empty()
    }

    /// Whether a network of this name is one of them.
    pub fn has(&self, name: &str) -> bool {
        self.named.contains(name) || self.all && !self.except.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(networks: Selection) -> Acceleration {
        Acceleration {
            socket: "/var/run/docker.sock".into(),
            skip_rules: true,
            networks,
        }
    }

    #[test]
    fn all_but_some_and_some_alone() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let all = Selection {
            all: true,
            except: set(&["back"]),
            named: BTreeSet::new(),
        };
        assert!(all.has("shop") && !all.has("back"));
        let some = Selection {
            named: set(&["shop"]),
            ..Selection::default()
        };
        assert!(some.has("shop") && !some.has("back"));
        assert!(Selection::default().is_empty() && !all.is_empty() && !some.is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let all = Selection {
            all: true,
            ..Selection::default()
        };
        assert_eq!(told(all.clone()).check("docker"), Ok(()));
        let nothing = told(Selection::default()).check("docker").unwrap_err();
        assert!(nothing.contains("no network of docker"), "{nothing}");
        let nowhere = Acceleration {
            socket: "docker.sock".into(),
            ..told(all)
        };
        assert!(nowhere.check("docker").unwrap_err().contains("no absolute"));
    }

    #[test]
    fn a_field_that_is_not_known_is_no_error() {
        let text = r#"{"socket":"/run/docker.sock","all":true,"later":7}"#;
        let told: Acceleration = serde_json::from_str(text).unwrap();
        assert!(told.networks.all && !told.skip_rules);
        assert!(serde_json::from_str::<Acceleration>(r#"{"all":true}"#).is_err());
    }
}
