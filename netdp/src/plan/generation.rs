//! A number for the set of ports that an endpoint publishes.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{Endpoint, Publication};

/// A number that stands for what an endpoint publishes, never 0.
///
/// It is made of the set alone: the same set has the same number after a
/// restart, also in a build by another compiler, and a change that was undone
/// has the number that was before. A flow found to be published under a number
/// is published whenever the endpoint has that number again.
pub(super) fn generation(endpoint: &Endpoint) -> u32 {
    number(&endpoint.id.to_string(), &endpoint.published)
}

fn number<'a>(id: &str, published: impl IntoIterator<Item = &'a Publication>) -> u32 {
    let mut hash = Fnv::default();
    hash.write(id.as_bytes());
    for publication in published {
        hash.write_address(publication.host_ip);
        hash.write_number(publication.host_port);
        hash.write_number(publication.container_port);
        hash.write_number(publication.count.get());
        hash.write(&[publication.proto.number()]);
        hash.write_nets(&publication.allow);
    }
    let folded = (hash.0 >> 32) as u32 ^ hash.0 as u32;
    folded.max(1)
}

/// FNV-1a of 64 bits (draft-eastlake-fnv, section 2), of bytes that are named
/// one by one: neither the hashers of the standard library nor what `Hash`
/// hands to one promise anything from one release to the next.
pub(super) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    pub fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn write_number(&mut self, number: u16) {
        self.write(&number.to_be_bytes());
    }

    /// With the version of IP first, so that no two have the same bytes.
    fn write_address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => {
                self.write(&[4]);
                self.write(&address.octets());
            }
            IpAddr::V6(address) => {
                self.write(&[6]);
                self.write(&address.octets());
            }
        }
    }

    /// With their number first.
    pub fn write_nets(&mut self, nets: &[IpNet]) {
        self.write(&(nets.len() as u64).to_be_bytes());
        for net in nets {
            self.write_address(net.addr());
            self.write(&[net.prefix_len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Proto;

    fn publication(host_ip: &str, host_port: u16, allow: &[&str]) -> Publication {
        Publication {
            host_ip: host_ip.parse().unwrap(),
            host_port,
            container_port: 80,
            proto: Proto::Tcp,
            count: 1.try_into().unwrap(),
            allow: allow.iter().map(|net| net.parse().unwrap()).collect(),
            direct: false,
        }
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        let mut hash = Fnv::default();
        hash.write(b"foobar");
        assert_eq!(hash.finish(), 0x8594_4171_f739_67e8);
    }

    /// As tables in the kernel may have it from another build.
    #[test]
    fn a_set_has_the_same_number_in_every_build() {
        let one = publication("0.0.0.0", 8080, &[]);
        let other = publication("2001:db8::1", 443, &["192.0.2.0/24", "2001:db8::/32"]);
        assert_eq!(number("ab", []), 0xbdd9_dc6d);
        assert_eq!(number("ab", [&one]), 0xbd9f_f5bc);
        assert_eq!(number("ab", [&one, &other]), 0xbc86_c7fa);
    }
}
