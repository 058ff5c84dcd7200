//! What a sandbox's first process and the command that started it say to each
//! other: JSON behind its length, a u32 in the machine's byte order, over a
//! socket pair.
//!
//! The command sends a [`Spec`](super::Spec) and, when the network is there,
//! [`Release`](super::Release). The first process answers the former with
//! [`Report::Ready`] and the latter by becoming the program, which closes the
//! socket; either may be answered with a failure instead.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Enough for a hosts file with ten thousand names.
const MAX_LEN: u32 = 4 << 20;

/// What the first process says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Report {
    /// The namespaces are made; `pid` is to become the program.
    Ready { pid: i32 },
    /// A filter is in force; its descriptor is for a supervisor.
    Filtered { listener: i32 },
    /// A step of the set-up failed.
    Setup { reason: String },
    /// The program can't be executed.
    Exec {
        program: String,
        reason: String,
        status: u8,
    },
}

pub(super) fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    to.write_all(&encode(message)?)
}

/// Nothing when the other side has closed the socket.
pub(super) fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if is_closed(&error) => return Ok(None),
        result => result?,
    }
    let mut body = vec![0; checked(length)?];
    from.read_exact(&mut body)?;
    Ok(Some(serde_json::from_slice(&body)?))
}

pub(super) async fn send_async(
    to: &mut (impl AsyncWriteExt + Unpin),
    message: &impl Serialize,
) -> io::Result<()> {
    to.write_all(&encode(message)?).await
}

pub(super) async fn receive_async<T: DeserializeOwned>(
    from: &mut (impl AsyncReadExt + Unpin),
) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length).await {
        Err(error) if is_closed(&error) => return Ok(None),
        result => result?,
    };
    let mut body = vec![0; checked(length)?];
    from.read_exact(&mut body).await?;
    Ok(Some(serde_json::from_slice(&body)?))
}

/// A peer that was killed with our message unread resets the connection.
pub(super) fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = u32::try_from(frame.len() - 4)
        .ok()
        .filter(|length| *length <= MAX_LEN)
        .ok_or_else(|| io::Error::other("the message is longer than 4 MiB"))?;
    frame[..4].copy_from_slice(&length.to_ne_bytes());
    Ok(frame)
}

fn checked(length: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_ne_bytes(length);
    if length > MAX_LEN {
        return Err(io::Error::other("the message is longer than 4 MiB"));
    }
    Ok(length as usize)
}

#[cfg(test)]
mod tests {
    use super::super::{Network, Spec};
    use super::*;
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn arguments_that_are_not_utf_8_arrive_unchanged() {
        let spec = Spec {
            argv: vec!["cat".into(), OsString::from_vec(vec![b'/', 0xff])],
            network: Network::Join("/proc/1/ns/net".into()),
            hostname: Some("web".into()),
        };
        let mut sent = Vec::new();
        send(&mut sent, &spec).unwrap();
        let received: Option<Spec> = receive(&mut sent.as_slice()).unwrap();
        assert_eq!(received, Some(spec));
    }

    #[test]
    fn a_closed_socket_is_no_message_and_half_a_message_is_an_error() {
        assert_eq!(receive::<Report>(&mut [].as_slice()).unwrap(), None);
        let mut sent = Vec::new();
        send(&mut sent, &Report::Ready { pid: 7 }).unwrap();
        assert!(receive::<Report>(&mut &sent[..sent.len() - 1]).is_err());
        let huge = u32::MAX.to_ne_bytes();
        assert!(receive::<Report>(&mut huge.as_slice()).is_err());
    }
}
