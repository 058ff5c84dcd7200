//! What objects are called: ids, names, MAC addresses.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a text is no id, name or MAC address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadName {
    #[error("'{0}' is not an id: 64 hexadecimal digits are expected")]
    Id(String),
    #[error(
        "'{0}' is not a name: two or more of a-z, A-Z, 0-9, '_', '.' and '-' are expected, \
         the first a letter or a digit"
    )]
    Name(String),
    #[error("the name has {0} characters: {MAX_NAME} are allowed")]
    LongName(usize),
    #[error("'{0}' is not a MAC address: six pairs of hexadecimal digits like 02:00:00:00:00:01")]
    Mac(String),
    #[error(
        "'{0}' can't be an interface's address: it is a group address or zero; \
         give one whose first byte is even, like 02:00:00:00:00:01"
    )]
    GroupMac(String),
}

/// Longest [`Name`]: it becomes part of file names.
pub const MAX_NAME: usize = 128;

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    let digit = |half: u8| DIGITS[usize::from(half)];
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let mut text = String::with_capacity(2 * bytes.len());
    text.extend(digits.map(digit));
    text
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

macro_rules! id {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; 32]);

        impl $name {
            /// A new one: 256 random bits.
            pub fn random() -> Self {
                Self(rand::random())
            }

            /// The first 12 digits, as tables show it.
            pub fn short(&self) -> String {
                to_hex(&self.0[..6])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&to_hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.short())
            }
        }

        impl FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                from_hex(text).map(Self).ok_or_else(|| BadName::Id(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(text: String) -> Result<Self, BadName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    )*};
}

id! {
    /// Id of a network: 64 hexadecimal digits.
    NetworkId;
    /// Id of a sandbox: 64 hexadecimal digits.
    SandboxId;
    /// Id of an endpoint: 64 hexadecimal digits.
    EndpointId;
}

/// Name of a network or a sandbox, by Docker's rule
/// `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// One of netdp's own, known to be good.
    pub(super) fn predefined(name: &str) -> Self {
        debug_assert!(name.parse::<Self>().is_ok());
        Self(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if text.len() > MAX_NAME {
            return Err(BadName::LongName(text.chars().count()));
        }
        if text.len() < 2
            || !text.starts_with(|c: char| c.is_ascii_alphanumeric())
            || !text.chars().all(allowed)
        {
            return Err(BadName::Name(text.into()));
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for Name {
    type Error = BadName;
    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The MAC address of one interface: not zero, no group address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// A new one: locally administered (IEEE 802, bit 1 of the first byte),
    /// the rest random.
    pub fn random() -> Self {
        let mut bytes: [u8; 6] = rand::random();
        bytes[0] = bytes[0] & !1 | 2;
        Self(bytes)
    }

    /// First byte first.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl TryFrom<[u8; 6]> for MacAddr {
    type Error = BadName;
    fn try_from(bytes: [u8; 6]) -> Result<Self, BadName> {
        if bytes == [0; 6] || bytes[0] & 1 == 1 {
            return Err(BadName::GroupMac(Self(bytes).to_string()));
        }
        Ok(Self(bytes))
    }
}

impl FromStr for MacAddr {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = || BadName::Mac(text.into());
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(bad)?;
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() {
            return Err(bad());
        }
        Self::try_from(bytes)
    }
}

impl TryFrom<String> for MacAddr {
    type Error = BadName;
    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        f.pad(&format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"))
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_there_and_back() {
        let id = NetworkId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().len(), 64);
        assert!(id.to_string().starts_with(&id.short()));
        assert!("12".parse::<NetworkId>().is_err());
        assert!("é".repeat(32).parse::<NetworkId>().is_err());
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<NetworkId>(&json).unwrap(), id);
    }

    #[test]
    fn names_by_dockers_rule() {
        for good in ["web1", "a0", "A.b_c-d", "0x"] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "a", "-a", ".a", "_a", "a b", "a/b", "a:b", "é1", "a\n"] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
        assert!("a".repeat(MAX_NAME + 1).parse::<Name>().is_err());
    }

    #[test]
    fn mac_addresses() {
        let mac: MacAddr = "02:42:AC:11:00:02".parse().unwrap();
        assert_eq!(mac.to_string(), "02:42:ac:11:00:02");
        for bad in [
            "",
            "02:42:ac:11:00",
            "02:42:ac:11:00:02:03",
            "2:42:ac:11:0:2",
            "02:42:ac:11:00:+2",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
        ] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
        for _ in 0..100 {
            let mac = MacAddr::random().bytes();
            assert_eq!(mac[0] & 3, 2);
        }
    }
}
