//! What netlink refuses and why.

use std::fmt;
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use rtnetlink::packet_core::{ErrorMessage, NlasIterator};

use super::SysctlError;
use crate::netns::NetnsError;

/// `NLMSGERR_ATTR_MSG`: the kernel's explanation, a string.
const EXTENDED_ACK_MESSAGE: u16 = 1;

/// Size of the request header that an error repeats.
const REQUEST_HEADER_LEN: usize = 16;

/// A netlink operation that wasn't done.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error(transparent)]
    Namespace(#[from] NetnsError),
    #[error("can't open a netlink socket in {}: {source}", .namespace.display())]
    Open {
        namespace: PathBuf,
        source: io::Error,
    },
    #[error("can't {operation} {object}: {source}")]
    Refused {
        operation: &'static str,
        object: String,
        source: Refusal,
    },
    #[error(
        "'{0}' can't be the name of an interface: use 1 to 15 bytes without white space, '/' or ':', and not '.' or '..'"
    )]
    InvalidName(String),
    #[error("there is no interface {0}")]
    NoSuchLink(String),
    #[error("can't add the route to {wanted}: the table has {existing} already; remove it first")]
    RouteExists { wanted: String, existing: String },
    #[error("{0} and {1} belong to different address families")]
    MixedFamilies(String, String),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
}

impl NetlinkError {
    /// The kernel's reason, if it was the kernel that refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { source, .. } => source.errno,
            _ => None,
        }
    }

    /// Whether the object was there already.
    pub fn is_exists(&self) -> bool {
        matches!(self, Self::RouteExists { .. }) || self.errno() == Some(Errno::EEXIST)
    }

    /// Whether the object, or the interface it belongs to, isn't there.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::NoSuchLink(_)) || self.errno().is_some_and(means_absent)
    }
}

/// Why the kernel refused a request: its error number and, where it gives
/// one, its explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    errno: Option<Errno>,
    explanation: Option<String>,
}

impl Refusal {
    pub(super) fn from_kernel(error: &ErrorMessage) -> Self {
        Self {
            explanation: explanation(&error.header),
            ..Self::from_errno(-error.raw_code())
        }
    }

    pub(super) fn from_errno(errno: i32) -> Self {
        Self {
            errno: Some(Errno::from_raw(errno)),
            explanation: None,
        }
    }

    /// The connection ended before the kernel answered.
    pub(super) fn closed() -> Self {
        Self {
            errno: None,
            explanation: None,
        }
    }

    pub(super) fn is(&self, errno: Errno) -> bool {
        self.errno == Some(errno)
    }

    pub(super) fn is_absent(&self) -> bool {
        self.errno.is_some_and(means_absent)
    }

    /// Whether a lookup said that no route leads there, or one that forbids.
    pub(super) fn is_unreachable(&self) -> bool {
        matches!(
            self.errno,
            Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES | Errno::EINVAL)
        )
    }

    /// Names the operation and its object, as in "can't delete interface x".
    pub(super) fn to(self, operation: &'static str, object: impl fmt::Display) -> NetlinkError {
        NetlinkError::Refused {
            operation,
            object: object.to_string(),
            source: self,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(errno) = self.errno else {
            return f.write_str("the netlink connection was closed before the kernel answered");
        };
        f.write_str(&lower_case_first(errno.desc()))?;
        if let Some(explanation) = &self.explanation {
            write!(f, " ({})", lower_case_first(explanation))?;
        }
        if errno == Errno::EPERM {
            f.write_str("; run netdp as root (it needs CAP_NET_ADMIN)")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

fn means_absent(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ENODEV | Errno::ENOENT | Errno::ESRCH | Errno::EADDRNOTAVAIL
    )
}

/// The text of an extended acknowledgement. What follows the error number is
/// the header of the request (`NETLINK_CAP_ACK` leaves out its body), then
/// attributes.
fn explanation(after_code: &[u8]) -> Option<String> {
    NlasIterator::new(after_code.get(REQUEST_HEADER_LEN..)?)
        .filter_map(Result::ok)
        .find(|attribute| attribute.kind() == EXTENDED_ACK_MESSAGE)
        .map(|attribute| {
            String::from_utf8_lossy(attribute.value())
                .trim_end_matches('\0')
                .to_owned()
        })
}

/// Acronyms keep their case.
fn lower_case_first(text: &str) -> String {
    let mut characters = text.chars();
    match (characters.next(), characters.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() => {
            first.to_lowercase().chain(characters).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_a_sentence() {
        let refusal = Refusal::from_errno(libc::EEXIST);
        assert_eq!(
            refusal.to("create bridge", "netdp0").to_string(),
            "can't create bridge netdp0: file exists"
        );
        let denied = Refusal::from_errno(libc::EPERM);
        assert!(denied.to_string().ends_with("CAP_NET_ADMIN)"));
    }

    #[test]
    fn explanation_is_found_behind_the_request_header() {
        let mut answer = vec![0u8; REQUEST_HEADER_LEN];
        answer.extend([9, 0, 1, 0]);
        answer.extend(b"busy\0\0\0\0");
        assert_eq!(explanation(&answer).as_deref(), Some("busy"));
        assert_eq!(explanation(&answer[..REQUEST_HEADER_LEN]), None);
        assert_eq!(explanation(&[]), None);
    }

    #[test]
    fn acronyms_keep_their_case() {
        assert_eq!(lower_case_first("RTNETLINK"), "RTNETLINK");
        assert_eq!(lower_case_first("No such device"), "no such device");
        assert_eq!(lower_case_first(""), "");
    }
}
