//! Tells the service manager that the daemon is ready (sd_notify(3)). The crate
//! that reads what it passes knows no abstract sockets.

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// Says that requests are answered from now on, if somebody wants to know.
pub fn ready() {
    let Some(socket) = env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send(&socket, b"READY=1\n") {
        tracing::warn!(
            "cannot tell {} that all is ready: {error}",
            socket.display()
        );
    }
}

fn send(socket: &OsStr, message: &[u8]) -> io::Result<()> {
    let address = match socket.as_bytes() {
        // An abstract name is written with @ for its leading zero.
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message, &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_socket_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("netdp-notify-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        for (address, receiver) in [
            (
                path.clone().into_os_string(),
                UnixDatagram::bind(&path).unwrap(),
            ),
            (
                format!("@{name}").into(),
                UnixDatagram::bind_addr(&abstract_name).unwrap(),
            ),
        ] {
            send(&address, b"READY=1\n").unwrap();
            let mut message = [0; 16];
            let length = receiver.recv(&mut message).unwrap();
            assert_eq!(&message[..length], b"READY=1\n");
        }
    }
}
