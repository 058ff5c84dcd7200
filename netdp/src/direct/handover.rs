//! How a container runtime hands a filter over: "The Container Process State" of
//! the OCI runtime specification 1.1 (config-linux.md), as runc and crun send it.

use std::{
    io::{self, IoSliceMut, Read},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use nix::{
    cmsg_space,
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
};
use serde::Deserialize;

/// What the descriptor of the filter is called.
const FILTER: &str = "seccompFd";

/// A runtime says all at once. Whoever doesn't keeps others waiting.
const LIMIT: Duration = Duration::from_secs(5);

/// Longer than any state: annotations may be in it.
const LONGEST: usize = 1 << 20;

/// Why nothing was handed over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    #[error("can't hear a container runtime: {0}")]
    Accept(io::Error),
    #[error("can't read what a container runtime says: {0}")]
    Read(io::Error),
    #[error("a container runtime says what is no state of a process: {0}")]
    State(serde_json::Error),
    #[error("a container runtime hands over a state without the descriptor {FILTER}")]
    NoFilter,
}

/// A filter of a process.
#[derive(Debug)]
pub struct HandedOver {
    pub filter: OwnedFd,
    /// Its number, as the runtime knows it.
    pub process: i32,
}

#[derive(Debug, Deserialize)]
struct ContainerProcessState {
    /// What the descriptors beside the text are, in their order.
    fds: Vec<String>,
    pid: i32,
}

/// Reads what a runtime says.
///
/// # Errors
/// When it says nothing, or something else.
pub fn receive(mut stream: &UnixStream) -> Result<HandedOver, HandoverError> {
    stream
        .set_read_timeout(Some(LIMIT))
        .map_err(HandoverError::Read)?;
    let mut text = vec![0; 1 << 16];
    let (length, descriptors) = first(stream, &mut text).map_err(HandoverError::Read)?;
    text.truncate(length);
    // It may keep its end open.
    let state: ContainerProcessState = loop {
        match serde_json::from_slice(&text) {
            Ok(state) => break state,
            Err(error) if !error.is_eof() || text.len() > LONGEST => {
                return Err(HandoverError::State(error));
            }
            Err(error) => {
                let mut more = [0; 1 << 12];
                match stream.read(&mut more).map_err(HandoverError::Read)? {
                    0 => return Err(HandoverError::State(error)),
                    length => text.extend_from_slice(&more[..length]),
                }
            }
        }
    };
    let mut named = state.fds.iter().zip(descriptors);
    let filter = named.find_map(|(name, descriptor)| (name == FILTER).then_some(descriptor));
    Ok(HandedOver {
        filter: filter.ok_or(HandoverError::NoFilter)?,
        process: state.pid,
    })
}

/// The descriptors come with the first bytes.
fn first(stream: &UnixStream, text: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    const MOST: usize = 16;
    let mut space = cmsg_space!([RawFd; MOST]);
    let mut buffers = [IoSliceMut::new(text)];
    let received = recvmsg::<()>(
        stream.as_raw_fd(),
        &mut buffers,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let mut descriptors = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = message {
            // SAFETY: the kernel has just made them for this process.
            let owned = numbers
                .iter()
                .map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) });
            descriptors.extend(owned);
        }
    }
    Ok((received.bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{IoSlice, Write},
    };

    use nix::sys::socket::{ControlMessage, sendmsg};

    use super::*;

    /// As runc 1.1.5 said it to a listener.
    const STATE: &str = r#"{"ociVersion":"1.0.2-dev","fds":["other","seccompFd"],"pid":241,"state":{"ociVersion":"1.0.2-dev","id":"web","status":"creating","pid":241,"bundle":"/run/containerd/io.containerd.runtime.v2.task/default/web"}}"#;

    fn say(text: &str, then: &str, count: usize) -> Result<HandedOver, HandoverError> {
        let (mut runtime, ours) = UnixStream::pair().unwrap();
        let files: Vec<File> = ["/dev/null", "/dev/zero"]
            .iter()
            .map(|path| File::open(path).unwrap())
            .collect();
        let numbers: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers[..count])];
        let bytes = [IoSlice::new(text.as_bytes())];
        let fd = runtime.as_raw_fd();
        sendmsg::<()>(fd, &bytes, &rights, MsgFlags::empty(), None).unwrap();
        runtime.write_all(then.as_bytes()).unwrap();
        if then.is_empty() && text != STATE {
            drop(runtime);
        }
        receive(&ours)
    }

    #[test]
    fn a_filter_is_known_by_its_name() {
        for (text, then) in [(STATE, ""), (&STATE[..40], &STATE[40..])] {
            let handed = say(text, then, 2).unwrap();
            assert_eq!(handed.process, 241);
            let path = format!("/proc/self/fd/{}", handed.filter.as_raw_fd());
            let file = std::fs::read_link(path).unwrap();
            assert_eq!(file.to_str(), Some("/dev/zero"));
        }
    }

    #[test]
    fn what_is_no_state_is_named() {
        let said = |text: &str, count| say(text, "", count).unwrap_err().to_string();
        assert!(said(&STATE[..40], 2).contains("no state"));
        assert!(said("GET / HTTP/1.1\r\n", 1).contains("no state"));
        let without = STATE.replace("seccompFd", "pidFd");
        assert!(said(&without, 2).contains("seccompFd"));
        assert!(said(STATE, 1).contains("seccompFd"));
    }
}
