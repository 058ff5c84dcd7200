//! Why a request is refused.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::EndpointId;

/// Sort of a [`Refusal`]; the API maps it to a status.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The object doesn't exist (404).
    NotFound,
    /// The request contradicts what is there (409).
    Conflict,
    /// The request makes no sense by itself (400).
    Invalid,
    /// netdp can't do this yet (501).
    Unavailable,
    /// The object, address or port is in use (409).
    InUse,
}

/// A request that can't be done: what was refused, why, and what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    pub kind: Kind,
    text: String,
    taken: Option<String>,
    owner: Option<(EndpointId, String)>,
}

impl Refusal {
    pub fn not_found(text: impl fmt::Display) -> Self {
        Self::of(Kind::NotFound, text)
    }

    pub fn conflict(text: impl fmt::Display) -> Self {
        Self::of(Kind::Conflict, text)
    }

    pub fn invalid(text: impl fmt::Display) -> Self {
        Self::of(Kind::Invalid, text)
    }

    pub fn unavailable(text: impl fmt::Display) -> Self {
        Self::of(Kind::Unavailable, text)
    }

    pub fn in_use(text: impl fmt::Display) -> Self {
        Self::of(Kind::InUse, text)
    }

    /// A port of the host that another has: `at` as [`host_side`] writes it.
    ///
    /// [`host_side`]: super::host_side
    pub(super) fn port_taken(at: String, text: impl fmt::Display) -> Self {
        Self {
            taken: Some(at),
            ..Self::in_use(text)
        }
    }

    /// The port of the host that another has, where that is the reason.
    pub fn taken(&self) -> Option<&str> {
        self.taken.as_deref()
    }

    /// Whose endpoint is in the way, by the name that the text has.
    pub(super) fn because_of(self, endpoint: EndpointId, name: String) -> Self {
        Self {
            owner: Some((endpoint, name)),
            ..self
        }
    }

    /// Whose endpoint is in the way.
    pub fn owner(&self) -> Option<EndpointId> {
        self.owner.as_ref().map(|(endpoint, _)| *endpoint)
    }

    /// The same with another name for who is in the way.
    #[must_use]
    pub fn with_owner_called(mut self, called: &str) -> Self {
        if let Some((_, name)) = &mut self.owner {
            self.text = self.text.replace(name.as_str(), called);
            called.clone_into(name);
        }
        self
    }

    fn of(kind: Kind, text: impl fmt::Display) -> Self {
        Self {
            kind,
            text: text.to_string(),
            taken: None,
            owner: None,
        }
    }
}
