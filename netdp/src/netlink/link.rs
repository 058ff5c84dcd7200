//! Interfaces.

use std::fmt;
use std::time::{Duration, Instant};

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType,
    LinkMessage,
};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec};
use tokio::time::sleep;

use super::{Netlink, NetlinkError, PacketLimit, Refusal};

/// `IFNAMSIZ` less its terminating zero.
const MAX_NAME_LEN: usize = libc::IFNAMSIZ - 1;

/// Usually the kernel takes less than this; at worst a second.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// An interface as the kernel reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// The driver of a virtual interface (`bridge`, `veth`, ...); none for
    /// `lo` and for hardware.
    pub kind: Option<String>,
    /// Its frames have an Ethernet header (`ARPHRD_ETHER`).
    pub ethernet: bool,
    /// The Ethernet address; zero for interfaces that have none.
    pub mac: [u8; 6],
    /// In bytes, without the Ethernet header.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Up, and something is at the other end.
    pub carrier: bool,
    /// Up, with a carrier, and packets do pass: they are dropped until the
    /// kernel has noticed the carrier, some time after it came.
    pub running: bool,
    pub loopback: bool,
    /// Whether IPv4 packets that come in here are forwarded
    /// (`net.ipv4.conf.NAME.forwarding`).
    pub forwarding: bool,
    /// The same of IPv6 (`net.ipv6.conf.NAME.forwarding`).
    pub forwarding6: bool,
    pub alias: Option<String>,
    /// Index of the bridge or bond this interface is enslaved to.
    pub master: Option<u32>,
    /// Index of the other end of a pair, in its own namespace.
    pub peer_index: Option<u32>,
    /// This namespace's id for the namespace of the other end; none when both
    /// ends are in this one.
    pub peer_netnsid: Option<i32>,
    pub packet_limit: PacketLimit,
    /// Its driver takes packets of BIG TCP.
    pub takes_big: bool,
}

/// Checks a name the way the kernel would, so that a request is refused before
/// anything is done.
///
/// # Errors
/// [`NetlinkError::InvalidName`].
pub fn check_interface_name(name: &str) -> Result<(), NetlinkError> {
    let forbidden =
        |byte: u8| matches!(byte, b'/' | b':' | b'\0' | b'\x0b') || byte.is_ascii_whitespace();
    if name.is_empty()
        || name.len() > MAX_NAME_LEN
        || name == "."
        || name == ".."
        || name.bytes().any(forbidden)
    {
        return Err(NetlinkError::InvalidName(name.to_owned()));
    }
    Ok(())
}

impl Netlink {
    /// All interfaces, by index.
    ///
    /// # Errors
    /// When the kernel refuses to list them.
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let answers = self
            .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))
            .await
            .map_err(|refusal| refusal.to("list", "interfaces"))?;
        let mut links: Vec<Link> = answers.iter().filter_map(new_link).collect();
        links.sort_unstable_by_key(|link| link.index);
        Ok(links)
    }

    /// The interface called `name`, if there is one.
    ///
    /// # Errors
    /// When the name can't be one or the kernel refuses.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        check_interface_name(name)?;
        self.look_up(LinkUnspec::new_with_name(name).build(), name)
            .await
    }

    /// The interface with this index, if there is one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn link_by_index(&self, index: u32) -> Result<Option<Link>, NetlinkError> {
        self.look_up(LinkUnspec::new_with_index(index).build(), index)
            .await
    }

    async fn look_up(
        &self,
        message: LinkMessage,
        object: impl fmt::Display,
    ) -> Result<Option<Link>, NetlinkError> {
        match self.request(RouteNetlinkMessage::GetLink(message), 0).await {
            Ok(answers) => Ok(answers.iter().find_map(new_link)),
            Err(refusal) if refusal.is_absent() => Ok(None),
            Err(refusal) => Err(refusal.to("look up interface", object)),
        }
    }

    /// Makes a bridge, up, and returns its index.
    ///
    /// # Errors
    /// When the name is invalid or taken, or the kernel refuses.
    pub async fn create_bridge(
        &self,
        name: &str,
        mac: [u8; 6],
        mtu: u32,
        alias: &str,
    ) -> Result<u32, NetlinkError> {
        check_interface_name(name)?;
        let message = LinkBridge::new(name).address(mac.to_vec()).mtu(mtu).build();
        self.create(message, name, alias, |refusal| {
            refusal.to("create bridge", name)
        })
        .await
    }

    pub(super) async fn create(
        &self,
        message: LinkMessage,
        name: &str,
        alias: &str,
        describe: impl Fn(Refusal) -> NetlinkError,
    ) -> Result<u32, NetlinkError> {
        self.request(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
        .await
        .map_err(describe)?;
        // The kernel ignores an alias in the request that makes an interface.
        let finished = async {
            if !alias.is_empty() {
                self.set_alias(name, alias).await?;
            }
            let link = self.link(name).await?;
            link.map(|link| link.index)
                .ok_or_else(|| NetlinkError::NoSuchLink(name.to_owned()))
        };
        match finished.await {
            Ok(index) => Ok(index),
            Err(error) => {
                // An interface without its alias couldn't be told from a
                // stranger's later.
                let _ = self.delete_link(name).await;
                Err(error)
            }
        }
    }

    /// Removes an interface; with one end of a pair the other goes too.
    /// Succeeds when there is none of that name.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn delete_link(&self, name: &str) -> Result<(), NetlinkError> {
        check_interface_name(name)?;
        let message = LinkUnspec::new_with_name(name).build();
        match self.request(RouteNetlinkMessage::DelLink(message), 0).await {
            Err(refusal) if !refusal.is_absent() => Err(refusal.to("delete interface", name)),
            _ => Ok(()),
        }
    }

    /// Removes interfaces by one request, for which the kernel waits once.
    /// Those that are gone already are no error.
    ///
    /// # Errors
    /// The first of those that the kernel refuses to remove; the others are
    /// gone.
    pub async fn delete_links(&self, names: &[String]) -> Result<(), NetlinkError> {
        if names.len() > 1 && self.delete_group(names).await.is_ok() {
            return Ok(());
        }
        let mut failed = None;
        for name in names {
            if let Err(error) = self.delete_link(name).await {
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// The kernel takes no list of interfaces, but the number of a group: a
    /// random one, far above those that people give.
    async fn delete_group(&self, names: &[String]) -> Result<(), NetlinkError> {
        let group = rand::random_range(1 << 30..1 << 31);
        for name in names {
            let message = LinkUnspec::new_with_name(name).link_group(group).build();
            match self.request(RouteNetlinkMessage::SetLink(message), 0).await {
                Err(refusal) if !refusal.is_absent() => {
                    return Err(refusal.to("group interface", name));
                }
                _ => {}
            }
        }
        let message = LinkMessageBuilder::<LinkUnspec>::new()
            .link_group(group)
            .build();
        match self.request(RouteNetlinkMessage::DelLink(message), 0).await {
            Err(refusal) if !refusal.is_absent() => {
                Err(refusal.to("delete the interfaces of group", group))
            }
            _ => Ok(()),
        }
    }

    /// Brings an interface up.
    ///
    /// # Errors
    /// When there is no such interface or the kernel refuses.
    pub async fn set_up(&self, name: &str) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_name(name).up();
        self.set(name, message, "bring up interface").await
    }

    /// Takes an interface down.
    ///
    /// # Errors
    /// When there is no such interface or the kernel refuses.
    pub async fn set_down(&self, name: &str) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_name(name).down();
        self.set(name, message, "take down interface").await
    }

    /// Sets the MTU, in bytes.
    ///
    /// # Errors
    /// When there is no such interface or it can't have this MTU.
    pub async fn set_mtu(&self, name: &str, mtu: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_name(name).mtu(mtu);
        self.set(name, message, "set the mtu of interface").await
    }

    /// Sets the Ethernet address.
    ///
    /// # Errors
    /// When there is no such interface or the kernel refuses the address.
    pub async fn set_mac(&self, name: &str, mac: [u8; 6]) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_name(name).address(mac.to_vec());
        self.set(name, message, "set the address of interface")
            .await
    }

    /// Sets the alias, a note that `ip link` shows; at most 255 bytes.
    ///
    /// # Errors
    /// When there is no such interface or the alias is too long.
    pub async fn set_alias(&self, name: &str, alias: &str) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_name(name).alias(alias);
        self.set(name, message, "set the alias of interface").await
    }

    /// Waits until packets pass an interface that was just brought up and those
    /// to its addresses are taken, which the kernel sees to in its own time;
    /// says whether that is so. Returns at once when there is no carrier to wait
    /// for, as with a veth whose other end is down.
    ///
    /// # Errors
    /// When there is no such interface or the kernel refuses to tell.
    pub async fn wait_ready(&self, name: &str, limit: Duration) -> Result<bool, NetlinkError> {
        let started = Instant::now();
        loop {
            let link = self
                .link(name)
                .await?
                .ok_or_else(|| NetlinkError::NoSuchLink(name.to_owned()))?;
            if link.running && self.has_local_routes(link.index).await? {
                return Ok(true);
            }
            if !link.carrier || started.elapsed() >= limit {
                return Ok(false);
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    pub(super) async fn set(
        &self,
        name: &str,
        message: LinkMessageBuilder<LinkUnspec>,
        operation: &'static str,
    ) -> Result<(), NetlinkError> {
        check_interface_name(name)?;
        self.request(RouteNetlinkMessage::SetLink(message.build()), 0)
            .await
            .map_err(|refusal| refusal.to(operation, name))?;
        Ok(())
    }
}

fn new_link(message: &RouteNetlinkMessage) -> Option<Link> {
    match message {
        RouteNetlinkMessage::NewLink(message) => Some(Link::from(message)),
        _ => None,
    }
}

impl From<&LinkMessage> for Link {
    fn from(message: &LinkMessage) -> Self {
        let flags = message.header.flags;
        let (packet_limit, takes_big) = PacketLimit::read(message);
        let mut link = Self {
            index: message.header.index,
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            up: flags.contains(LinkFlags::Up),
            carrier: flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
            packet_limit,
            takes_big,
            running: flags.contains(LinkFlags::Up | LinkFlags::LowerUp | LinkFlags::Running),
            loopback: flags.contains(LinkFlags::Loopback),
            ..Self::default()
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(bytes) => {
                    link.mac = bytes.as_slice().try_into().unwrap_or_default();
                }
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
                LinkAttribute::Controller(index) => link.master = Some(*index),
                LinkAttribute::Link(index) => link.peer_index = Some(*index),
                LinkAttribute::LinkNetNsId(id) => link.peer_netnsid = Some(*id),
                LinkAttribute::AfSpecUnspec(families) => {
                    link.forwarding = forwards(families);
                    link.forwarding6 = forwards6(families);
                }
                LinkAttribute::LinkInfo(parts) => {
                    link.kind = parts.iter().find_map(|part| match part {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link
    }
}

fn forwards(families: &[AfSpecUnspec]) -> bool {
    families
        .iter()
        .filter_map(|family| match family {
            AfSpecUnspec::Inet(attributes) => Some(attributes),
            _ => None,
        })
        .flatten()
        .any(|attribute| matches!(attribute, AfSpecInet::DevConf(conf) if conf.forwarding != 0))
}

fn forwards6(families: &[AfSpecUnspec]) -> bool {
    families
        .iter()
        .filter_map(|family| match family {
            AfSpecUnspec::Inet6(attributes) => Some(attributes),
            _ => None,
        })
        .flatten()
        .any(|attribute| matches!(attribute, AfSpecInet6::DevConf(conf) if conf.forwarding != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_kernels_rule() {
        for name in ["eth0", "netdp0", "a", "fifteen-bytes-x", "eth0.100", "ü"] {
            assert!(check_interface_name(name).is_ok(), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            "sixteen-bytes-xy",
            "a b",
            "a/b",
            "a:b",
            "a\n",
            "a\0",
        ] {
            assert!(check_interface_name(name).is_err(), "{name:?}");
        }
    }
}
