//! Names of one's own for other sandboxes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{BadName, Name};

/// Another sandbox that is known by a name of one's own: `NAME[:ALIAS]`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Link {
    /// Name of the other sandbox; in a request its id does as well.
    pub sandbox: String,
    pub alias: Name,
}

impl FromStr for Link {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let (sandbox, alias) = text.split_once(':').unwrap_or((text, text));
        Ok(Self {
            sandbox: Name::from_str(sandbox)?.into(),
            alias: alias.parse()?,
        })
    }
}

impl TryFrom<String> for Link {
    type Error = BadName;
    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl From<Link> for String {
    fn from(link: Link) -> Self {
        link.to_string()
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sandbox, self.alias)
    }
}
