//! The network interfaces of this machine and the arithmetic of their subnets.
//!
//! Everything about "near" is decided with the real netmask: who is on this link, and whom a scan asks. A guess of /24
//! misses half of a /23 and asks strangers in a /25.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One address of one interface that is up. An interface with three addresses appears three times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// What the system calls it (`eth0`).
    pub name: String,
    /// The system's number for it; the scope of link-local IPv6 addresses.
    pub index: u32,
    /// Its address and netmask.
    pub subnet: Subnet,
}

/// An own address together with its netmask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subnet {
    /// Our address in it.
    pub address: IpAddr,
    /// Leading bits that all its members share.
    pub prefix: u8,
}

/// Every address of every interface that is up.
///
/// # Errors
/// When the system does not tell.
pub fn list() -> io::Result<Vec<Interface>> {
    let found = if_addrs::get_if_addrs()?;
    Ok(found.into_iter().filter(is_up).map(Interface::from).collect())
}

/// Up with a carrier. Unix systems have a flag for that, and `Unknown` means that it is not set; on Windows it means what
/// it says, and tunnels say it.
fn is_up(interface: &if_addrs::Interface) -> bool {
    interface.is_oper_up() || (cfg!(windows) && interface.oper_status == if_addrs::IfOperStatus::Unknown)
}

impl From<if_addrs::Interface> for Interface {
    fn from(found: if_addrs::Interface) -> Self {
        let prefix = match &found.addr {
            if_addrs::IfAddr::V4(v4) => v4.prefixlen,
            if_addrs::IfAddr::V6(v6) => v6.prefixlen,
        };
        Self { index: found.index.unwrap_or(0), subnet: Subnet { address: found.addr.ip(), prefix }, name: found.name }
    }
}

impl Subnet {
    /// Whether `other` has the same network bits.
    pub fn contains(&self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (own.to_bits() ^ other.to_bits()) & mask_v4(self.prefix) == 0,
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits() ^ other.to_bits()) & mask_v6(self.prefix) == 0,
            _ => false,
        }
    }

    /// The host addresses of an IPv4 subnet, nearest to our own first (routers hand addresses out in rows), at most
    /// `limit`; our own, the network's and the broadcast address are left out. Nothing for IPv6: 2^64 is no scan.
    pub fn neighbours(&self, limit: usize) -> Vec<Ipv4Addr> {
        let IpAddr::V4(own) = self.address else { return Vec::new() };
        if self.prefix >= 32 {
            return Vec::new();
        }
        let own = i64::from(own.to_bits());
        let mask = mask_v4(self.prefix);
        let first = own & i64::from(mask);
        let last = first | i64::from(!mask);
        // In a /31 both addresses are hosts (RFC 3021).
        let hosts = if self.prefix == 31 { first..=last } else { first + 1..=last - 1 };
        let size = last - first;
        (1..=size)
            .flat_map(|distance| [own + distance, own - distance])
            .filter(|address| hosts.contains(address))
            .take(limit)
            .filter_map(|address| u32::try_from(address).ok().map(Ipv4Addr::from_bits))
            .collect()
    }
}

impl fmt::Display for Subnet {
    /// The network, as people write it: `192.168.1.0/24`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network: IpAddr = match self.address {
            IpAddr::V4(own) => Ipv4Addr::from_bits(own.to_bits() & mask_v4(self.prefix)).into(),
            IpAddr::V6(own) => Ipv6Addr::from_bits(own.to_bits() & mask_v6(self.prefix)).into(),
        };
        write!(f, "{network}/{}", self.prefix)
    }
}

/// Whether nobody outside owns this address: RFC 1918, RFC 6598, RFC 4193, link-local and loopback.
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || shared
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unique_local(),
    }
}

/// Whether an address means something on one link only.
pub fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn mask_v4(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

fn mask_v6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn subnet(text: &str) -> Subnet {
        let (address, prefix) = text.split_once('/').unwrap();
        Subnet { address: address.parse().unwrap(), prefix: prefix.parse().unwrap() }
    }

    #[test]
    fn the_real_netmask_decides_who_is_inside() {
        for (net, inside, outside) in [
            ("192.168.1.7/24", "192.168.1.255", "192.168.2.7"),
            ("10.1.2.3/23", "10.1.3.200", "10.1.4.1"),
            ("192.168.1.7/25", "192.168.1.127", "192.168.1.128"),
            ("192.168.1.7/32", "192.168.1.7", "192.168.1.6"),
            ("127.0.0.1/8", "127.9.9.9", "128.0.0.1"),
            ("fe80::1/64", "fe80::2", "fe81::1"),
            ("fd00::1/128", "fd00::1", "fd00::2"),
            ("fd00::1/64", "fd00::ffff:0:0:1", "10.0.0.1"),
        ] {
            assert!(subnet(net).contains(inside.parse().unwrap()), "{inside} is in {net}");
            assert!(!subnet(net).contains(outside.parse().unwrap()), "{outside} is not in {net}");
        }
        assert!(subnet("1.2.3.4/0").contains("9.9.9.9".parse().unwrap()));
        assert_eq!(subnet("10.1.3.9/23").to_string(), "10.1.2.0/23");
        assert_eq!(subnet("fd00::9/64").to_string(), "fd00::/64");
    }

    #[test]
    fn neighbours_are_the_other_hosts_nearest_first() {
        let text = |net: &str, limit| subnet(net).neighbours(limit).iter().map(Ipv4Addr::to_string).collect::<Vec<_>>();
        assert_eq!(text("192.168.1.1/30", 99), ["192.168.1.2"]);
        assert_eq!(text("192.168.1.4/29", 99), ["5", "3", "6", "2", "1"].map(|n| format!("192.168.1.{n}")));
        assert_eq!(text("192.168.1.1/31", 99), ["192.168.1.0"]);
        assert_eq!(text("192.168.1.1/32", 99), [""; 0]);
        assert_eq!(text("fd00::1/120", 99), [""; 0]);
        assert_eq!(text("255.255.255.254/24", 9999).len(), 253);
        assert_eq!(text("0.0.0.1/0", 3), ["0.0.0.2", "0.0.0.3", "0.0.0.4"]);
    }

    #[test]
    fn a_wide_network_is_capped_around_our_own_address() {
        let net = subnet("10.20.30.40/8");
        let asked = net.neighbours(1024);
        assert_eq!(asked.len(), 1024);
        assert_eq!(asked.iter().collect::<HashSet<_>>().len(), 1024);
        assert!(asked.contains(&"10.20.30.1".parse().unwrap()) && asked.contains(&"10.20.31.200".parse().unwrap()));
        assert!(!asked.contains(&"10.20.30.40".parse().unwrap()));
    }

    #[test]
    fn private_means_that_nobody_outside_owns_it() {
        for private in ["10.0.0.1", "172.31.0.1", "192.168.0.1", "169.254.1.1", "100.64.0.1", "127.0.0.1", "fd00::1"] {
            assert!(is_private(private.parse().unwrap()), "{private}");
        }
        for public in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "192.0.2.1", "2001:db8::1", "224.0.0.167"] {
            assert!(!is_private(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn this_machine_has_a_loopback_interface() {
        let loopback = list().unwrap().into_iter().find(|i| i.subnet.address.is_loopback()).unwrap();
        assert!(loopback.subnet.contains(loopback.subnet.address));
    }
}
