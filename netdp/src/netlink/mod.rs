//! Interfaces, addresses, routes and neighbours, by rtnetlink.
//!
//! A [`Netlink`] speaks for one network namespace. Operations are idempotent
//! where that is safe: adding what is there and removing what isn't succeed,
//! while making an interface under a name that is taken is an error, since the
//! interface may belong to somebody else.

mod address;
mod connections;
mod driver;
mod error;
mod filter;
mod followed;
mod inet_diag;
mod link;
mod neighbour;
mod nsid;
mod packet_limit;
mod pair;
mod route;
mod sandbox;
mod sockets;
mod sysctl;
mod watch;

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use rtnetlink::packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{Socket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};
use tokio::{sync::Mutex, time::timeout};

use crate::netns::Namespace;

pub use address::{Address, AddressState};
pub use connections::Connection;
pub use driver::driver;
pub use error::{NetlinkError, Refusal};
pub use followed::FollowedLinks;
pub use link::{Link, check_interface_name};
pub use neighbour::Neighbour;
pub use packet_limit::PacketLimit;
pub use pair::{LinkPair, PairKind};
pub use route::{Forwarded, Route, RouteScope, RouteType, TABLE_MAIN};
pub use sandbox::{SandboxInterface, configure_sandbox};
pub use sockets::{Found, Sockets, end_tcp, is_at, is_not_diagnosed};
pub use sysctl::{Family, Sysctl, SysctlError};
pub use watch::{Change, LinkEvent};

/// `NLM_F_DUMP_INTR`: the table changed while it was read.
const DUMP_INTERRUPTED: u16 = 0x10;

/// How often an interrupted dump is started again. On a host whose tables
/// change faster than they are read the last answer has to do.
const DUMP_ATTEMPTS: usize = 5;

/// How long the kernel may take for an answer: interfaces can't be changed while
/// it ends many others.
const LONGEST: Duration = Duration::from_secs(120);

/// A connection to the rtnetlink of one namespace. Clones share it. It must be
/// made and used within a tokio runtime.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
    /// One request at a time: the kernel refuses a second dump on a socket
    /// (`EBUSY`) while one goes on, and drops answers for which the socket has no
    /// room, as with those to hundreds of requests that nobody has read yet
    /// (`netlink_attachskb`, net/netlink/af_netlink.c, 6.18). Who waits for one of
    /// them would wait for ever.
    turn: Arc<Mutex<()>>,
    namespace: Arc<Namespace>,
}

impl Netlink {
    /// A connection to the calling thread's namespace.
    ///
    /// # Errors
    /// When no netlink socket can be made.
    pub fn open() -> Result<Self, NetlinkError> {
        Self::open_in(&Namespace::current()?)
    }

    /// A connection to `namespace`, which stays open as long as the value.
    ///
    /// # Errors
    /// When the namespace can't be entered or no netlink socket can be made.
    pub fn open_in(namespace: &Namespace) -> Result<Self, NetlinkError> {
        let socket = socket_in(namespace, &[])?;
        let (mut connection, handle, _) = rtnetlink::from_socket(socket);
        // Without its acknowledgement a request that was lost with the
        // connection would look like one that succeeded.
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        tokio::spawn(connection);
        Ok(Self {
            handle,
            turn: Arc::default(),
            namespace: Arc::new(namespace.reference()),
        })
    }

    /// The namespace this connection belongs to.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Sends one request that changes or looks up one object and returns what
    /// the kernel answers before its acknowledgement.
    async fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, Refusal> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        Ok(self.exchange(request).await?.messages)
    }

    /// Reads a whole table.
    async fn dump(
        &self,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Refusal> {
        let mut attempt = 1;
        loop {
            let mut request = NetlinkMessage::from(message.clone());
            request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
            let answer = self.exchange(request).await?;
            if !answer.interrupted || attempt == DUMP_ATTEMPTS {
                return Ok(answer.messages);
            }
            attempt += 1;
        }
    }

    async fn exchange(
        &self,
        request: NetlinkMessage<RouteNetlinkMessage>,
    ) -> Result<Answer, Refusal> {
        let _turn = self.turn.lock().await;
        let answered = timeout(LONGEST, self.ask(request)).await;
        answered.unwrap_or_else(|_| Err(Refusal::from_errno(libc::ETIMEDOUT)))
    }

    async fn ask(&self, request: NetlinkMessage<RouteNetlinkMessage>) -> Result<Answer, Refusal> {
        let mut answers = self
            .handle
            .clone()
            .request(request)
            .map_err(|_| Refusal::closed())?;
        let mut answer = Answer::default();
        while let Some(message) = answers.next().await {
            answer.interrupted |= message.header.flags & DUMP_INTERRUPTED != 0;
            match message.payload {
                NetlinkPayload::InnerMessage(inner) => answer.messages.push(inner),
                NetlinkPayload::Error(ErrorMessage { code: None, .. }) => return Ok(answer),
                NetlinkPayload::Error(error) => return Err(Refusal::from_kernel(&error)),
                NetlinkPayload::Done(done) if done.code == 0 => return Ok(answer),
                NetlinkPayload::Done(done) => return Err(Refusal::from_errno(-done.code)),
                NetlinkPayload::Overrun(_) => return Err(Refusal::from_errno(libc::ENOBUFS)),
                _ => {}
            }
        }
        Err(Refusal::closed())
    }
}

#[derive(Default)]
struct Answer {
    messages: Vec<RouteNetlinkMessage>,
    interrupted: bool,
}

/// Makes a netlink socket inside `namespace`, a member of `groups`.
fn socket_in(
    namespace: &Namespace,
    groups: &[rtnetlink::MulticastGroup],
) -> Result<TokioSocket, NetlinkError> {
    let socket = bare_socket_in(namespace, groups)?;
    // SAFETY: into_raw_fd gives up the only owner of this netlink socket.
    Ok(unsafe { TokioSocket::from_raw_fd(socket.into_raw_fd()) })
}

/// The same, for who reads it without waiting.
fn bare_socket_in(
    namespace: &Namespace,
    groups: &[rtnetlink::MulticastGroup],
) -> Result<Socket, NetlinkError> {
    let made = namespace.run(|| -> io::Result<Socket> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        // Both are refinements of error messages: kernels before 4.12 lack
        // them and do without.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        if !groups.is_empty() {
            let mask = groups
                .iter()
                .fold(0, |mask, group| mask | 1 << (*group as u32 - 1));
            socket.bind(&SocketAddr::new(0, mask))?;
        }
        Ok(socket)
    })?;
    made.map_err(|source| NetlinkError::Open {
        namespace: namespace.path().into(),
        source,
    })
}
