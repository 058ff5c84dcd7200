//! Interfaces that are listed once, and then followed by what the kernel announces
//! of them.
//!
//! For each interface that leads into another namespace the kernel searches the ids
//! of all namespaces that this one knows (`peernet2id`, net/core/net_namespace.c,
//! 6.18), so that a list of all takes time by the square of their number. Addresses,
//! routes and neighbours are listed in a thirtieth of it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::time::{Duration, Instant};

use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkBuffer, NlasIterator};
use rtnetlink::packet_route::link::LinkHeader;
use rtnetlink::sys::Socket;

use super::{Link, Netlink, NetlinkError, bare_socket_in};

const GROUPS: [MulticastGroup; 3] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Netconf,
    MulticastGroup::Ipv6Netconf,
];

/// What an announcement is about is at its beginning, and no more is read of it.
const BEGINNING: usize = 256;

/// `struct netconfmsg`, a byte, with what aligns the attributes after it; and the
/// attribute that has the interface, negative for settings of all or of new ones.
const NETCONF_HEADER: usize = 4;
const NETCONFA_IFINDEX: u16 = 1;

/// So many are asked for one by one; of more, all are listed.
const MOST_SINGLY: usize = 64;

/// The interfaces of a namespace. What is read of them is what is there in that
/// moment: the kernel announces a change while it makes it, and answers no question
/// about an interface meanwhile (`rtnl_mutex`).
///
/// Not announced are the largest packets that an interface may have, the alias of
/// one that is down (`do_setlink`, net/core/rtnetlink.c, 6.18), and to which of the
/// other namespaces a far end has gone. They are seen where
/// [`ask_again`](Self::ask_again) names the interface, or all are listed.
pub struct FollowedLinks {
    netlink: Netlink,
    announcements: Socket,
    known: BTreeMap<u32, Link>,
    doubted: BTreeSet<u32>,
    /// Since when they have been followed; none if they have to be listed.
    listed: Option<Instant>,
}

impl FollowedLinks {
    /// # Errors
    /// When no socket can be made.
    pub fn new(netlink: &Netlink) -> Result<Self, NetlinkError> {
        Ok(Self {
            announcements: bare_socket_in(netlink.namespace(), &GROUPS)?,
            netlink: netlink.clone(),
            known: BTreeMap::new(),
            doubted: BTreeSet::new(),
            listed: None,
        })
    }

    /// All interfaces, by index.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub async fn now(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let mut announced = self.announced();
        let doubted = std::mem::take(&mut self.doubted);
        announced = announced.map(|announced| &announced | &doubted);
        // What was announced is forgotten where something fails.
        let listed = match (self.listed.take(), announced) {
            (Some(listed), Some(changed)) if changed.len() <= MOST_SINGLY => {
                self.ask_for(changed).await?;
                listed
            }
            _ => self.list().await?,
        };
        self.listed = Some(match self.is_of_one_moment() {
            true => listed,
            false => self.list().await?,
        });
        Ok(self.known.values().cloned().collect())
    }

    /// Asks for this one the next time, whatever is announced.
    pub fn ask_again(&mut self, index: u32) {
        self.doubted.insert(index);
    }

    /// Has all listed again the next time, if it was that long ago.
    pub fn list_after(&mut self, age: Duration) {
        self.listed = self.listed.filter(|listed| listed.elapsed() < age);
    }

    async fn list(&mut self) -> Result<Instant, NetlinkError> {
        let now = Instant::now();
        let links = self.netlink.links().await?;
        self.known = links.into_iter().map(|link| (link.index, link)).collect();
        Ok(now)
    }

    /// Those that were asked one after the other may have changed names meanwhile.
    fn is_of_one_moment(&self) -> bool {
        let mut names = HashSet::with_capacity(self.known.len());
        self.known.values().all(|link| names.insert(&link.name))
    }

    async fn ask_for(&mut self, mut changed: BTreeSet<u32>) -> Result<(), NetlinkError> {
        let mut asked = BTreeSet::new();
        while let Some(index) = changed.pop_first() {
            if !asked.insert(index) {
                continue;
            }
            let before = self.known.remove(&index);
            let link = self.netlink.link_by_index(index).await?;
            // Of an end that comes or goes the other isn't announced.
            changed.extend(before.as_ref().and_then(peer_here));
            changed.extend(link.as_ref().and_then(peer_here));
            // Nor is one that has gone elsewhere known here any more, by which the
            // other could be found.
            if link.is_none() {
                let ends = self.known.values();
                changed.extend(
                    ends.filter(|it| peer_here(it) == Some(index))
                        .map(|it| it.index),
                );
            }
            self.known.extend(link.map(|link| (index, link)));
        }
        Ok(())
    }

    /// The interfaces of which something was announced since it was asked last;
    /// none where it may have been of any.
    fn announced(&self) -> Option<BTreeSet<u32>> {
        const MOST_ERRORS: usize = 16;
        let mut changed = Some(BTreeSet::new());
        let mut errors = 0;
        let mut beginning = Vec::with_capacity(BEGINNING);
        loop {
            beginning.clear();
            match self.announcements.recv(&mut beginning, libc::MSG_DONTWAIT) {
                Ok(_) => match (subject(&beginning), &mut changed) {
                    (Some(index), Some(changed)) => drop(changed.insert(index)),
                    _ => changed = None,
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return changed,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The kernel had no room for some, and has told so (ENOBUFS, which
                // another error may hide). It drops all until what it has is read.
                Err(_) => {
                    changed = None;
                    errors += 1;
                    if errors == MOST_ERRORS {
                        return None;
                    }
                }
            }
        }
    }
}

/// The other end of a pair that has both here.
fn peer_here(link: &Link) -> Option<u32> {
    link.peer_index.filter(|_| link.peer_netnsid.is_none())
}

/// The index of the interface that an announcement is about, if it is about one.
fn subject(announcement: &[u8]) -> Option<u32> {
    const HEADER: usize = size_of::<libc::nlmsghdr>();
    let payload = announcement.get(HEADER..)?;
    match NetlinkBuffer::new(announcement).message_type() {
        libc::RTM_NEWLINK | libc::RTM_DELLINK => Some(LinkHeader::parse(payload).ok()?.index),
        // Of settings.
        _ => {
            let mut attributes = NlasIterator::new(payload.get(NETCONF_HEADER..)?);
            let index = attributes.find_map(|attribute| {
                let attribute = attribute.ok()?;
                (attribute.kind() == NETCONFA_IFINDEX).then(|| attribute.value().to_vec())
            })?;
            let index = i32::from_ne_bytes(index.try_into().ok()?);
            u32::try_from(index).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcement(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = (16 + payload.len()) as u32;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(payload);
        bytes
    }

    fn settings_of(index: i32) -> Vec<u8> {
        let mut payload = vec![libc::AF_INET as u8, 0, 0, 0, 8, 0, 1, 0];
        payload.extend(index.to_ne_bytes());
        announcement(libc::RTM_NEWNETCONF, &payload)
    }

    #[test]
    fn announcements_tell_what_they_are_about() {
        let mut link = [0; 16];
        link[4] = 7;
        assert_eq!(subject(&announcement(libc::RTM_NEWLINK, &link)), Some(7));
        assert_eq!(subject(&announcement(libc::RTM_DELLINK, &link)), Some(7));
        assert_eq!(subject(&settings_of(9)), Some(9));
        // NETCONFA_IFINDEX_ALL.
        assert_eq!(subject(&settings_of(-1)), None);
        assert_eq!(subject(&[]), None);
    }
}
