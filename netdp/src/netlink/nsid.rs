//! What a namespace calls others: the numbers by which links name the namespace
//! of their other end (`IFLA_LINK_NETNSID`).

use std::os::fd::{AsFd, AsRawFd};

use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    nsid::{NsidAttribute, NsidMessage},
};

use super::{Netlink, NetlinkError};
use crate::netns::Namespace;

impl Netlink {
    /// This namespace's number for another one; none where it has none, and no
    /// link leads there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn number_of(&self, namespace: &Namespace) -> Result<Option<i32>, NetlinkError> {
        let mut message = NsidMessage::default();
        let descriptor = namespace.as_fd().as_raw_fd();
        message
            .attributes
            .push(NsidAttribute::Fd(descriptor.cast_unsigned()));
        let answers = self
            .request(RouteNetlinkMessage::GetNsId(message), 0)
            .await
            .map_err(|refusal| refusal.to("look up namespace", namespace.path().display()))?;
        let ids = answers.iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewNsId(message) => Some(&message.attributes),
            _ => None,
        });
        let id = ids.flatten().find_map(|attribute| match attribute {
            NsidAttribute::Id(id) => Some(*id),
            _ => None,
        });
        Ok(id.filter(|id| *id >= 0))
    }
}
