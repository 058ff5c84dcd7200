//! Addresses and numbers in network byte order, and the two address families.

use core::{fmt, hash::Hash};

/// A 16-bit number as it lies in a packet: big-endian. No arithmetic is
/// offered on purpose; convert with [`Be16::new`] and [`Be16::get`].
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Be16(u16);

impl Be16 {
    /// From a number in host order.
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    /// In host order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// From the bytes of a packet, read as a native integer.
    #[inline(always)]
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }

    /// The bytes of a packet, as a native integer.
    #[inline(always)]
    pub const fn raw(self) -> u16 {
        self.0
    }
}

impl fmt::Debug for Be16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get())
    }
}

/// An IPv4 address, four bytes in network order.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct V4Addr(pub u32);

/// An IPv6 address, sixteen bytes in network order. Aligned to eight bytes,
/// because programs keep it on their stack, where the verifier refuses accesses
/// across them.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct V6Addr(pub [u32; 4]);

impl V4Addr {
    /// From its bytes, first byte first.
    #[inline(always)]
    pub const fn new(bytes: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(bytes))
    }

    /// Its bytes, first byte first.
    #[inline(always)]
    pub const fn bytes(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }
}

impl V6Addr {
    /// From its bytes, first byte first.
    #[inline(always)]
    pub const fn new(bytes: [u8; 16]) -> Self {
        // SAFETY: as many bytes, of which any are valid. Put together by words,
        // programs would keep each byte by itself.
        Self(unsafe { core::mem::transmute::<[u8; 16], [u32; 4]>(bytes) })
    }

    /// Its bytes, first byte first.
    #[inline(always)]
    pub const fn bytes(self) -> [u8; 16] {
        // SAFETY: as above.
        unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(self.0) }
    }

    /// Whether it stands for the IPv4 address that is its last word
    /// (::ffff:0:0/96, RFC 4291, section 2.5.5.2).
    #[inline(always)]
    pub const fn is_mapped(self) -> bool {
        let [a, b, c, _] = self.0;
        a == 0 && b == 0 && c == 0xffffu32.to_be()
    }
}

impl From<core::net::Ipv4Addr> for V4Addr {
    fn from(addr: core::net::Ipv4Addr) -> Self {
        Self::new(addr.octets())
    }
}

impl From<V4Addr> for core::net::Ipv4Addr {
    fn from(addr: V4Addr) -> Self {
        addr.bytes().into()
    }
}

impl From<core::net::Ipv6Addr> for V6Addr {
    fn from(addr: core::net::Ipv6Addr) -> Self {
        Self::new(addr.octets())
    }
}

impl From<V6Addr> for core::net::Ipv6Addr {
    fn from(addr: V6Addr) -> Self {
        addr.bytes().into()
    }
}

impl From<V4Addr> for core::net::IpAddr {
    fn from(addr: V4Addr) -> Self {
        Self::V4(addr.into())
    }
}

impl From<V6Addr> for core::net::IpAddr {
    fn from(addr: V6Addr) -> Self {
        Self::V6(addr.into())
    }
}

impl fmt::Debug for V4Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::net::Ipv4Addr::from(*self).fmt(f)
    }
}

impl fmt::Debug for V6Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::net::Ipv6Addr::from(*self).fmt(f)
    }
}

/// What an address of either family can do in the datapath.
pub trait Address: Copy + Eq + Ord + Hash + Default + fmt::Debug + 'static {
    /// What brings a map type of one address and four more bytes to a multiple
    /// of eight: always zero.
    type Fill: Copy + Eq + Ord + Hash + Default + fmt::Debug + 'static;

    /// Nothing in such a place.
    const FILL: Self::Fill;

    /// The unspecified address: 0.0.0.0 or ::.
    const ANY: Self;

    /// The same, as a value for a field.
    #[inline(always)]
    fn any() -> Self {
        Self::ANY
    }

    /// 127.0.0.0/8 or ::1.
    fn is_loopback(self) -> bool;

    /// 224.0.0.0/4, the limited broadcast address, or ff00::/8.
    fn is_multicast(self) -> bool;

    /// fe80::/10, which no router forwards (RFC 4291, section 2.5.6). Never of
    /// IPv4, where 169.254.0.0/16 may be behind a router of its own.
    fn is_link_local(self) -> bool;

    /// Of nobody that another host could speak with, whatever the routes say.
    ///
    /// 0.0.0.0/8 and 127.0.0.0/8, as Linux has it (6.12, `ip_route_input_slow`
    /// in net/ipv4/route.c), which routes 240.0.0.0/4 but for the limited
    /// broadcast address. ::ffff:0:0/96, ::1 and :: (`ip6_rcv_core` in
    /// net/ipv6/ip6_input.c; RFC 4291, section 2.5), and with them the rest of
    /// ::/96, which stands for IPv4 addresses as well (section 2.5.5.1).
    fn is_martian(self) -> bool;

    /// The bits by which [`own`](crate::own) knows subnets, and zeros: 16 of
    /// IPv4, 48 of IPv6.
    fn block(self) -> Self;

    /// What one source outside is told by: the address, or of IPv6 its /64, within
    /// which a host chooses addresses as it likes (RFC 7934), and others may be, too.
    fn source(self) -> Self;

    /// The address's words of 32 bits for checksum arithmetic, in the order of
    /// the packet.
    fn words(&self) -> &[u32];

    /// Whether two addresses share a subnet of this prefix length, bits: none
    /// do for 0, all do for more bits than an address has.
    fn shares_prefix(self, other: Self, prefix: u8) -> bool;
}

impl Address for V4Addr {
    type Fill = [u32; 0];
    const FILL: [u32; 0] = [];

    const ANY: Self = Self(0);

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self.bytes()[0] == 127
    }

    #[inline(always)]
    fn is_multicast(self) -> bool {
        self.bytes()[0] >= 224 && (self.bytes()[0] < 240 || self.0 == u32::MAX)
    }

    #[inline(always)]
    fn is_link_local(self) -> bool {
        false
    }

    #[inline(always)]
    fn is_martian(self) -> bool {
        matches!(self.bytes()[0], 0 | 127)
    }

    #[inline(always)]
    fn block(self) -> Self {
        Self(self.0 & 0xffff_0000u32.to_be())
    }

    #[inline(always)]
    fn source(self) -> Self {
        self
    }

    #[inline(always)]
    fn words(&self) -> &[u32] {
        core::slice::from_ref(&self.0)
    }

    #[inline(always)]
    fn shares_prefix(self, other: Self, prefix: u8) -> bool {
        match prefix {
            0 => false,
            1..=32 => u32::from_be(self.0 ^ other.0) >> (32 - prefix) == 0,
            _ => true,
        }
    }
}

impl Address for V6Addr {
    type Fill = [u32; 1];
    const FILL: [u32; 1] = [0];

    const ANY: Self = Self([0; 4]);

    /// Word by word: of 16 zeros in a row the compiler makes a call of memset
    /// in programs, which goes byte by byte and has a stack frame.
    #[cfg(target_arch = "bpf")]
    #[inline(always)]
    fn any() -> Self {
        let zero: u64;
        // SAFETY: arithmetic.
        unsafe {
            core::arch::asm!("{0} = 0", out(reg) zero, options(pure, nomem, nostack));
        }
        Self([zero as u32; 4])
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self == Self([0, 0, 0, 1u32.to_be()])
    }

    #[inline(always)]
    fn is_multicast(self) -> bool {
        const PREFIX: u32 = 0xff00_0000u32.to_be();
        self.0[0] & PREFIX == PREFIX
    }

    #[inline(always)]
    fn is_link_local(self) -> bool {
        const PREFIX: u32 = 0xfe80_0000u32.to_be();
        const MASK: u32 = 0xffc0_0000u32.to_be();
        self.0[0] & MASK == PREFIX
    }

    #[inline(always)]
    fn is_martian(self) -> bool {
        let [a, b, c, _] = self.0;
        a == 0 && b == 0 && (c == 0 || c == 0xffffu32.to_be())
    }

    #[inline(always)]
    fn block(self) -> Self {
        let [a, b, ..] = self.0;
        Self([a, b & 0xffff_0000u32.to_be(), 0, 0])
    }

    #[inline(always)]
    fn source(self) -> Self {
        let [a, b, ..] = self.0;
        Self([a, b, 0, 0])
    }

    #[inline(always)]
    fn words(&self) -> &[u32] {
        &self.0
    }

    #[inline(always)]
    fn shares_prefix(self, other: Self, prefix: u8) -> bool {
        let half = |from: usize| {
            let differ = |word: usize| u64::from(u32::from_be(self.0[word] ^ other.0[word]));
            differ(from) << 32 | differ(from + 1)
        };
        match prefix {
            0 => false,
            1..=64 => half(0) >> (64 - prefix) == 0,
            65..=128 => half(0) == 0 && half(2) >> (128 - prefix) == 0,
            _ => true,
        }
    }
}

/// A MAC address, first byte first.
pub type Mac = [u8; 6];

/// Protocol numbers of the Internet header (IANA, RFC 5237).
pub mod proto {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn numbers_lie_in_network_order() {
        assert_eq!(Be16::new(0x1234).raw().to_ne_bytes(), [0x12, 0x34]);
        assert_eq!(Be16::new(80).get(), 80);
    }

    #[test]
    fn addresses_there_and_back() {
        let v4 = Ipv4Addr::new(172, 17, 0, 2);
        assert_eq!(Ipv4Addr::from(V4Addr::from(v4)), v4);
        let v6: Ipv6Addr = "fd00::1:2".parse().unwrap();
        assert_eq!(Ipv6Addr::from(V6Addr::from(v6)), v6);
    }

    #[test]
    fn special_addresses() {
        assert!(V4Addr::new([127, 8, 8, 8]).is_loopback());
        assert!(V4Addr::new([224, 0, 0, 251]).is_multicast());
        assert!(V4Addr::new([255; 4]).is_multicast());
        assert!(!V4Addr::new([241, 0, 0, 1]).is_multicast());
        assert!(V6Addr::from(Ipv6Addr::LOCALHOST).is_loopback());
        let v6 = |text: &str| V6Addr::from(text.parse::<Ipv6Addr>().unwrap());
        assert!(v6("ff02::1").is_multicast());
        assert!(v6("::ffff:127.0.0.1").is_mapped());
        assert_eq!(
            V4Addr(v6("::ffff:127.0.0.1").0[3]),
            V4Addr::new([127, 0, 0, 1])
        );
        assert!(!v6("::127.0.0.1").is_mapped() && !v6("64:ff9b::1").is_mapped());
        assert!(v6("fe80::1").is_link_local());
        assert!(v6("febf:ffff::").is_link_local());
        assert!(!v6("fec0::1").is_link_local());
        assert!(!V4Addr::new([169, 254, 0, 1]).is_link_local());
    }

    #[test]
    fn nobody_speaks_with_martians() {
        let v4 = |text: &str| V4Addr::from(text.parse::<Ipv4Addr>().unwrap());
        let v6 = |text: &str| V6Addr::from(text.parse::<Ipv6Addr>().unwrap());
        for nobody in ["0.0.0.0", "0.255.0.1", "127.0.0.1", "127.255.255.255"] {
            assert!(v4(nobody).is_martian(), "{nobody}");
        }
        for somebody in ["1.0.0.0", "126.0.0.1", "128.0.0.1", "240.0.0.1"] {
            assert!(!v4(somebody).is_martian(), "{somebody}");
        }
        for nobody in ["::", "::1", "::192.0.2.1", "::ffff:192.0.2.1", "::ffff:0:0"] {
            assert!(v6(nobody).is_martian(), "{nobody}");
        }
        for somebody in [
            "::1:0:0",
            "::ffff:0:192.0.2.1",
            "64:ff9b::1",
            "0:1::",
            "2000::",
        ] {
            assert!(!v6(somebody).is_martian(), "{somebody}");
        }
    }

    #[test]
    fn blocks_are_the_first_bits() {
        let v4 = |text: &str| V4Addr::from(text.parse::<Ipv4Addr>().unwrap());
        let v6 = |text: &str| V6Addr::from(text.parse::<Ipv6Addr>().unwrap());
        assert_eq!(v4("172.20.3.4").block(), v4("172.20.0.0"));
        assert_eq!(v6("2001:db8:12:34::5").block(), v6("2001:db8:12::"));
    }

    #[test]
    fn a_source_is_an_address_or_a_subnet_of_a_host() {
        let v4 = V4Addr::new([203, 0, 113, 7]);
        assert_eq!(v4.source(), v4);
        let v6 = |text: &str| V6Addr::from(text.parse::<Ipv6Addr>().unwrap());
        assert_eq!(v6("2001:db8:12:34::5:6").source(), v6("2001:db8:12:34::"));
    }

    #[test]
    fn subnets_are_shared_up_to_their_last_bit() {
        let v4 = |text: &str| V4Addr::from(text.parse::<Ipv4Addr>().unwrap());
        let shares = |other, prefix| v4("192.0.2.129").shares_prefix(v4(other), prefix);
        assert!(shares("192.0.2.130", 24) && shares("192.0.2.254", 25));
        assert!(!shares("192.0.2.127", 25) && !shares("192.0.3.129", 24));
        assert!(shares("192.0.2.129", 32) && !shares("192.0.2.128", 32));
        assert!(shares("128.0.0.0", 1) && !shares("127.0.0.0", 1));
        assert!(shares("1.1.1.1", u8::MAX) && !shares("192.0.2.129", 0));
        let v6 = |text: &str| V6Addr::from(text.parse::<Ipv6Addr>().unwrap());
        let shares = |other, prefix| v6("2001:db8::1:0:0:1").shares_prefix(v6(other), prefix);
        assert!(shares("2001:db8::2", 64) && !shares("2001:db8:0:1::1", 64));
        assert!(shares("2001:db8::1:0:0:1", 128) && !shares("2001:db8::1:0:0:2", 128));
        assert!(shares("2001:db8::1:1:0:0", 80) && !shares("2001:db8::2:0:0:1", 80));
        assert!(!shares("2001:db9::1:0:0:1", 96) && shares("2001:db9::", 31));
        assert!(shares("::2", u8::MAX) && !shares("2001:db8::1:0:0:1", 0));
    }
}
