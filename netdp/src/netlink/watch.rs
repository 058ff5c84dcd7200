//! Changes that others make, as the kernel announces them.

use std::collections::HashMap;

use futures_util::{Stream, StreamExt};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::{AsyncSocketExt, TokioSocket};
use tokio::sync::mpsc;

use super::route::routes_from;
use super::{Address, Link, Netlink, NetlinkError, Route, socket_in};

const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// Changes kept for a receiver that is busy.
const BACKLOG: usize = 256;

/// One announced change. Announcements say that something happened; what is
/// there now is for the receiver to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Link {
        index: u32,
        name: String,
        event: LinkEvent,
    },
    Address {
        address: Address,
        added: bool,
    },
    Route {
        route: Route,
        added: bool,
    },
    /// Settings of IPv4 or IPv6, such as whether an interface forwards.
    Settings,
    /// Announcements were lost: read everything again.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    Added,
    /// Up or down, renamed, or another attribute is different.
    Changed,
    Removed,
}

impl Netlink {
    /// Announcements from now on, until the receiver is dropped.
    ///
    /// # Errors
    /// When no socket can be made or interfaces can't be listed.
    pub async fn watch(&self) -> Result<mpsc::Receiver<Change>, NetlinkError> {
        // A connection of its own: announcements carry the sequence numbers of
        // the requests that caused them, whoever sent those.
        let socket = socket_in(self.namespace(), &GROUPS)?;
        let (connection, handle, announcements) = rtnetlink::from_socket(socket);
        // One more for what rtnetlink can't parse.
        let groups = [MulticastGroup::Ipv4Netconf, MulticastGroup::Ipv6Netconf];
        let settings = socket_in(self.namespace(), &groups)?;
        // After subscribing, so that nothing falls between.
        let known = self.links().await?;
        let mut known = known
            .into_iter()
            .map(|link| (link.index, link.name))
            .collect::<HashMap<_, _>>();
        let (sender, receiver) = mpsc::channel(BACKLOG);
        tokio::spawn(async move {
            // The connection ends by itself once every handle is gone.
            let _handle = handle;
            let messages = announcements.map(|(message, _)| message);
            tokio::select! {
                () = connection => {}
                () = forward(messages, &mut known, &sender) => {}
                () = forward_settings(settings, &sender) => {}
                () = sender.closed() => {}
            }
        });
        Ok(receiver)
    }
}

async fn forward(
    mut messages: impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Unpin,
    known: &mut HashMap<u32, String>,
    sender: &mpsc::Sender<Change>,
) {
    while let Some(message) = messages.next().await {
        for change in changes(message.payload, known) {
            if sender.send(change).await.is_err() {
                return;
            }
        }
    }
}

/// That something was announced is enough: the receiver reads what.
async fn forward_settings(socket: TokioSocket, sender: &mpsc::Sender<Change>) {
    loop {
        let change = match socket.recv_from_full().await {
            Ok(_) => Change::Settings,
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Change::Lost,
            Err(_) => return,
        };
        if sender.send(change).await.is_err() {
            return;
        }
    }
}

fn changes(
    payload: NetlinkPayload<RouteNetlinkMessage>,
    known: &mut HashMap<u32, String>,
) -> Vec<Change> {
    let message = match payload {
        NetlinkPayload::InnerMessage(message) => message,
        NetlinkPayload::Overrun(_) => return vec![Change::Lost],
        _ => return Vec::new(),
    };
    let address = |message, added| {
        let address = Address::from_message(message)?;
        Some(Change::Address { address, added })
    };
    let routes = |message, added| {
        let routes = routes_from(message).into_iter();
        routes
            .map(|route| Change::Route { route, added })
            .collect::<Vec<_>>()
    };
    match &message {
        RouteNetlinkMessage::NewLink(message) => {
            link_change(message, known, true).into_iter().collect()
        }
        RouteNetlinkMessage::DelLink(message) => {
            link_change(message, known, false).into_iter().collect()
        }
        RouteNetlinkMessage::NewAddress(message) => address(message, true).into_iter().collect(),
        RouteNetlinkMessage::DelAddress(message) => address(message, false).into_iter().collect(),
        RouteNetlinkMessage::NewRoute(message) => routes(message, true),
        RouteNetlinkMessage::DelRoute(message) => routes(message, false),
        _ => Vec::new(),
    }
}

fn link_change(
    message: &LinkMessage,
    known: &mut HashMap<u32, String>,
    there: bool,
) -> Option<Change> {
    // Bridges announce their ports in the same group with a family of their
    // own: a port that leaves its bridge isn't an interface that is gone.
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let Link { index, name, .. } = Link::from(message);
    let event = if there {
        match known.insert(index, name.clone()) {
            None => LinkEvent::Added,
            Some(_) => LinkEvent::Changed,
        }
    } else {
        known.remove(&index);
        LinkEvent::Removed
    };
    Some(Change::Link { index, name, event })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::LinkUnspec;

    fn announced(message: LinkMessage, there: bool, known: &mut HashMap<u32, String>) -> String {
        format!("{:?}", link_change(&message, known, there))
    }

    #[test]
    fn links_are_added_once_and_then_change() {
        let mut known = HashMap::new();
        let message = LinkUnspec::new_with_name("eth7").index(7).build();
        assert!(announced(message.clone(), true, &mut known).contains("Added"));
        assert!(announced(message.clone(), true, &mut known).contains("Changed"));
        assert!(announced(message.clone(), false, &mut known).contains("Removed"));
        assert!(announced(message, true, &mut known).contains("Added"));
    }

    #[test]
    fn a_port_that_leaves_its_bridge_is_not_gone() {
        let mut known = HashMap::from([(7, "eth7".to_owned())]);
        let message = LinkUnspec::new_with_name("eth7")
            .index(7)
            .interface_family(AddressFamily::Bridge)
            .build();
        assert_eq!(link_change(&message, &mut known, false), None);
        assert!(known.contains_key(&7));
    }
}
