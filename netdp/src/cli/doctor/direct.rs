//! Direct ports: what `sock_diag` has to tell and to do for them.

use std::io;

use nix::libc;

use super::Check;
use crate::{
    bpf::refuses_marks,
    netlink::{Sockets, is_not_diagnosed},
};

const NAME: &str = "direct ports";

pub(super) fn ports() -> Check {
    match missing() {
        Ok(None) => Check::ok(NAME, "sockets of the host can be listed and ended"),
        Ok(Some(Missing::List)) => Check::warning(
            NAME,
            "there are none: this kernel doesn't list sockets, and the datapath has such ports",
            "install the package with this kernel's modules tcp_diag and udp_diag, or use a \
             kernel with CONFIG_INET_DIAG and CONFIG_INET_UDP_DIAG",
        ),
        Ok(Some(Missing::End)) => Check::warning(
            NAME,
            "sockets of a port that is unpublished go on: this kernel ends none",
            "use a kernel with CONFIG_INET_DIAG_DESTROY, or end such programs yourself",
        ),
        Ok(Some(Missing::Marks)) => Check::warning(
            NAME,
            "programs with CAP_NET_RAW can send datagrams by them under any mark (SO_MARK): this \
             kernel doesn't tell of its structures, or is locked down for confidentiality",
            "use a kernel with CONFIG_DEBUG_INFO_BTF, or take the right from such containers",
        ),
        Err(error) => Check::warning(
            NAME,
            format!("not tried: {error}"),
            "run this check as root",
        ),
    }
}

enum Missing {
    List,
    End,
    Marks,
}

fn missing() -> io::Result<Option<Missing>> {
    for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_UDP] {
        let sockets = match Sockets::open().and_then(|it| it.list(protocol, None).map(|_| it)) {
            Ok(sockets) => sockets,
            Err(error) if is_not_diagnosed(&error) => return Ok(Some(Missing::List)),
            Err(error) => return Err(error),
        };
        if !sockets.can_end(protocol)? {
            return Ok(Some(Missing::End));
        }
    }
    Ok((!refuses_marks()).then_some(Missing::Marks))
}
