//! Reading which ports are direct.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{Ports, PortsAt};
use crate::netns::Namespace;

/// Read anew each time: ports come and go while programs run, and an engine may
/// make the sandbox only after its program has been started.
#[derive(Debug)]
pub(super) struct PortsFile {
    at: PortsAt,
    /// The file of the folder that it was last.
    found: Option<PathBuf>,
}

impl PortsFile {
    pub fn new(at: PortsAt) -> Self {
        Self { at, found: None }
    }

    /// Those of programs whose network namespace has this inode.
    ///
    /// # Errors
    /// When a file can't be read.
    pub fn read(&mut self, netns: u64) -> Result<Ports> {
        let folder = match &self.at {
            PortsAt::File(path) => return Ok(read(path)?.unwrap_or_default()),
            PortsAt::Folder(folder) => folder,
        };
        if let Some(path) = &self.found
            && let Some(ports) = read(path)?
            && is_of(&ports, netns)
        {
            return Ok(ports);
        }
        self.found = None;
        for path in files(folder)? {
            if let Some(ports) = read(&path)?
                && is_of(&ports, netns)
            {
                self.found = Some(path);
                return Ok(ports);
            }
        }
        Ok(Ports::default())
    }
}

/// None where there is no such file.
fn read(path: &Path) -> Result<Option<Ports>> {
    let failed = || format!("can't read {}", path.display());
    match fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text).with_context(failed)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(failed),
    }
}

fn is_of(ports: &Ports, netns: u64) -> bool {
    Namespace::open(&ports.netns).is_ok_and(|found| found.inode() == netns)
}

/// Without those that are being written.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("can't read {}", folder.display()))?,
    };
    let names = entries.filter_map(Result::ok).map(|entry| entry.path());
    let is_whole = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.as_encoded_bytes());
        name.is_some_and(|name| !name.starts_with(b"."))
    };
    Ok(names.filter(is_whole).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        direct::{End, Published},
        model::{Proto, Publication},
    };

    const OWN: &str = "/proc/self/ns/net";

    fn ports(netns: &str) -> Ports {
        let end = End {
            own: "172.17.0.2".parse().unwrap(),
            gateway: "172.17.0.1".parse().unwrap(),
        };
        let publication = Publication {
            host_ip: "0.0.0.0".parse().unwrap(),
            host_port: 8080,
            container_port: 80,
            proto: Proto::Tcp,
            count: 2.try_into().unwrap(),
            allow: vec!["192.0.2.0/24".parse().unwrap()],
            direct: true,
        };
        Ports {
            netns: netns.into(),
            published: vec![Published { publication, end }],
        }
    }

    fn write(path: &Path, netns: &str) {
        fs::write(path, serde_json::to_vec(&ports(netns)).unwrap()).unwrap();
    }

    #[test]
    fn the_file_that_names_the_namespace_is_found_whenever_it_comes() {
        let folder = tempfile::tempdir().unwrap();
        let own = Namespace::current().unwrap().inode();
        let mut file = PortsFile::new(PortsAt::Folder(folder.path().to_owned()));
        assert_eq!(file.read(own).unwrap(), Ports::default());
        write(&folder.path().join("other"), "/proc/nobody/ns/net");
        fs::write(folder.path().join(".half"), "{").unwrap();
        assert_eq!(file.read(own).unwrap(), Ports::default());
        let first = folder.path().join("first");
        write(&first, OWN);
        assert_eq!(file.read(own).unwrap(), ports(OWN));
        assert_eq!(file.read(own + 1).unwrap(), Ports::default());
        // Of another sandbox by the same namespace.
        fs::rename(&first, folder.path().join("second")).unwrap();
        assert_eq!(file.read(own).unwrap(), ports(OWN));
        fs::write(folder.path().join("second"), "{").unwrap();
        assert!(file.read(own).is_err());
    }

    #[test]
    fn a_file_of_its_own_is_read_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ports");
        let mut file = PortsFile::new(PortsAt::File(path.clone()));
        assert_eq!(file.read(1).unwrap(), Ports::default());
        write(&path, OWN);
        assert_eq!(file.read(1).unwrap(), ports(OWN));
    }
}
