//! Network sysctls.
//!
//! `/proc/sys/net` shows the namespace of the thread that looks, so writing in
//! another namespace needs no other mount, only [`Namespace::run`].

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use super::check_interface_name;
use crate::netns::{Namespace, NetnsError};

/// A sysctl that wasn't read or written.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    #[error("can't read {sysctl}: {source}")]
    Read { sysctl: Sysctl, source: io::Error },
    #[error("can't set {sysctl} to {value}: {source}{}", read_only_hint(.sysctl, .value, .source))]
    Write {
        sysctl: Sysctl,
        value: String,
        source: io::Error,
    },
    #[error("'{0}' can't be part of a sysctl's name")]
    Name(String),
    #[error(transparent)]
    Namespace(#[from] NetnsError),
}

impl SysctlError {
    /// Whether this kernel has no such sysctl, or no such interface is there.
    pub fn is_absent(&self) -> bool {
        match self {
            Self::Read { source, .. } | Self::Write { source, .. } => {
                source.kind() == io::ErrorKind::NotFound
            }
            _ => false,
        }
    }
}

fn read_only_hint(sysctl: &Sysctl, value: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => format!(
            "; /proc/sys is read-only here: mount it writable ('mount -o remount,rw /proc/sys', in a container --privileged), or set {sysctl}={value} from outside"
        ),
        io::ErrorKind::PermissionDenied => "; run netdp as root (it needs CAP_NET_ADMIN)".into(),
        _ => String::new(),
    }
}

/// The address family of a sysctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The name of a sysctl under `net`, in parts: interface names may hold dots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl(Vec<String>);

impl Sysctl {
    /// A sysctl of one interface, such as `forwarding`, or of `all` or
    /// `default`.
    ///
    /// # Errors
    /// When either can't be a name.
    pub fn interface(family: Family, interface: &str, key: &str) -> Result<Self, SysctlError> {
        check_interface_name(interface).map_err(|_| SysctlError::Name(interface.to_owned()))?;
        let family = match family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        };
        Self::new(&[family, "conf", interface, key])
    }

    /// Any sysctl under `net`, such as `["ipv4", "ip_forward"]`.
    ///
    /// # Errors
    /// When a part can't be a name.
    pub fn new(parts: &[&str]) -> Result<Self, SysctlError> {
        for part in parts {
            if part.is_empty() || *part == "." || *part == ".." || part.contains(['/', '\0']) {
                return Err(SysctlError::Name((*part).to_owned()));
            }
        }
        Ok(Self(parts.iter().map(|part| (*part).to_owned()).collect()))
    }

    fn path(&self) -> PathBuf {
        let mut path = PathBuf::from("/proc/sys/net");
        path.extend(&self.0);
        path
    }

    /// The value in the calling thread's namespace, without the line's end.
    ///
    /// # Errors
    /// When there is no such sysctl or it can't be read.
    pub fn get(&self) -> Result<String, SysctlError> {
        match fs::read_to_string(self.path()) {
            Ok(value) => Ok(value.trim_end().to_owned()),
            Err(source) => Err(SysctlError::Read {
                sysctl: self.clone(),
                source,
            }),
        }
    }

    /// Sets the value in the calling thread's namespace. A value that is right
    /// already isn't written, so that this succeeds where `/proc/sys` is
    /// read-only and somebody else has set it.
    ///
    /// # Errors
    /// When there is no such sysctl or it can't be written.
    pub fn set(&self, value: &str) -> Result<(), SysctlError> {
        // Some sysctls can be written but not read: writing decides.
        if self.get().is_ok_and(|current| current == value) {
            return Ok(());
        }
        fs::write(self.path(), value).map_err(|source| SysctlError::Write {
            sysctl: self.clone(),
            value: value.to_owned(),
            source,
        })
    }

    /// [`get`](Self::get) in another namespace.
    ///
    /// # Errors
    /// As `get`, and when the namespace can't be entered.
    pub fn get_in(&self, namespace: &Namespace) -> Result<String, SysctlError> {
        namespace.run(|| self.get())?
    }

    /// [`set`](Self::set) in another namespace.
    ///
    /// # Errors
    /// As `set`, and when the namespace can't be entered.
    pub fn set_in(&self, namespace: &Namespace, value: &str) -> Result<(), SysctlError> {
        namespace.run(|| self.set(value))?
    }
}

/// As sysctl(8) writes it: dots between the parts, slashes for dots in them.
impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("net")?;
        for part in &self.0 {
            write!(f, ".{}", part.replace('.', "/"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_in_interface_names_survive() {
        let sysctl = Sysctl::interface(Family::V4, "eth0.100", "forwarding").unwrap();
        assert_eq!(sysctl.to_string(), "net.ipv4.conf.eth0/100.forwarding");
        assert_eq!(
            sysctl.path(),
            PathBuf::from("/proc/sys/net/ipv4/conf/eth0.100/forwarding")
        );
    }

    #[test]
    fn names_cannot_leave_the_folder() {
        assert!(Sysctl::interface(Family::V4, "..", "forwarding").is_err());
        assert!(Sysctl::interface(Family::V6, "eth0", "../all/forwarding").is_err());
        assert!(Sysctl::new(&["ipv4", ""]).is_err());
    }

    #[test]
    fn read_only_errors_say_what_to_do() {
        let error = SysctlError::Write {
            sysctl: Sysctl::new(&["ipv4", "ip_forward"]).unwrap(),
            value: "1".into(),
            source: io::Error::from_raw_os_error(libc::EROFS),
        };
        let text = error.to_string();
        assert!(text.contains("net.ipv4.ip_forward=1"), "{text}");
    }
}
