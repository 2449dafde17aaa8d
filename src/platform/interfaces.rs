//! The network interfaces of this machine and the arithmetic of their subnets.
//!
//! Everything about "near" is decided with the real netmask: who is on this link, and whom a scan asks. A guess of /24
//! misses half of a /23 and asks strangers in a /25.

use nix::ifaddrs::InterfaceAddress;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use nix::sys::socket::SockaddrStorage;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

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

/// How an interface is, whether it has addresses or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceState {
    /// What the system calls it.
    pub name: String,
    /// All its addresses.
    pub subnets: Vec<Subnet>,
    /// Somebody switched it on.
    pub enabled: bool,
    /// It has a carrier: a cable, an access point, a program behind a tunnel.
    pub connected: bool,
    /// It can send to groups.
    pub multicast: bool,
}

/// Every address of every interface that is up and has a carrier.
///
/// # Errors
/// When the system does not tell.
pub fn list() -> io::Result<Vec<Interface>> {
    let up = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
    let mut list = Vec::new();
    for found in nix::ifaddrs::getifaddrs()?.filter(|found| found.flags.contains(up)) {
        let Some(subnet) = subnet_of(&found) else { continue };
        // One that went away since has no number any more.
        let Ok(index) = if_nametoindex(found.interface_name.as_str()) else { continue };
        list.push(Interface { name: found.interface_name, index, subnet });
    }
    Ok(list)
}

/// Every interface of this machine, by name, also those that are of no use now: for telling people why.
///
/// # Errors
/// When the system does not tell.
pub fn survey() -> io::Result<Vec<InterfaceState>> {
    let mut states: BTreeMap<String, InterfaceState> = BTreeMap::new();
    for found in nix::ifaddrs::getifaddrs()? {
        let has = |flag| found.flags.contains(flag);
        let state = states.entry(found.interface_name.clone()).or_insert_with(|| InterfaceState {
            name: found.interface_name.clone(),
            subnets: Vec::new(),
            enabled: has(InterfaceFlags::IFF_UP),
            connected: has(InterfaceFlags::IFF_RUNNING),
            multicast: has(InterfaceFlags::IFF_MULTICAST),
        });
        state.subnets.extend(subnet_of(&found));
    }
    Ok(states.into_values().collect())
}

/// `None` for addresses of other kinds, a hardware address say.
fn subnet_of(found: &InterfaceAddress) -> Option<Subnet> {
    let address = ip_of(found.address.as_ref()?)?;
    let prefix = match found.netmask.as_ref().and_then(ip_of) {
        Some(IpAddr::V4(mask)) => mask.to_bits().leading_ones(),
        Some(IpAddr::V6(mask)) => mask.to_bits().leading_ones(),
        None if address.is_ipv4() => 32,
        None => 128,
    };
    Some(Subnet { address, prefix: prefix as u8 })
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

/// An address as a person can type it on this machine: the zone of a link-local one by its interface's name.
pub fn in_words(address: SocketAddr, interfaces: &[Interface]) -> String {
    let SocketAddr::V6(v6) = address else { return address.to_string() };
    match interfaces.iter().find(|interface| v6.scope_id() != 0 && interface.index == v6.scope_id()) {
        Some(interface) => format!("[{}%{}]:{}", v6.ip(), interface.name, v6.port()),
        None => address.to_string(),
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

impl Subnet {
    /// How many other hosts an IPv4 subnet has room for; 0 for IPv6, which nobody counts.
    pub fn room(&self) -> u64 {
        match (self.address, self.prefix) {
            (IpAddr::V6(_), _) | (_, 32..) => 0,
            (_, 31) => 1,
            (_, prefix) => (1 << (32 - u64::from(prefix))) - 3,
        }
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
        assert!(loopback.index != 0 && (loopback.subnet.prefix == 8 || loopback.subnet.prefix == 128));
        let state = survey().unwrap().into_iter().find(|state| state.name == loopback.name).unwrap();
        assert!(state.enabled && state.connected && state.subnets.contains(&loopback.subnet), "{state:?}");
    }

    #[test]
    fn a_zone_is_shown_by_the_name_of_its_interface() {
        let eth0 = Interface { name: "eth0".into(), index: 7, subnet: subnet("fe80::1/64") };
        let words = |text: &str| in_words(text.parse().unwrap(), std::slice::from_ref(&eth0));
        assert_eq!(words("[fe80::9%7]:53317"), "[fe80::9%eth0]:53317");
        assert_eq!(words("[fe80::9%8]:53317"), "[fe80::9%8]:53317");
        assert_eq!(words("[fd00::9]:1"), "[fd00::9]:1");
        assert_eq!(words("10.0.0.1:1"), "10.0.0.1:1");
    }

    #[test]
    fn the_room_of_a_network_is_what_a_scan_could_ask() {
        for net in ["10.0.0.1/30", "10.0.0.4/24", "10.0.0.1/31", "10.0.0.1/32", "fd00::1/120", "10.0.0.1/22"] {
            assert_eq!(subnet(net).room(), subnet(net).neighbours(usize::MAX).len() as u64, "{net}");
        }
    }
}
