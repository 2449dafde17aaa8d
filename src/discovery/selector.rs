//! What a person typed to name a device: `nas`, `3F9A`, `K7QM-2XRT`, `192.168.1.7`, `[fe80::1%eth0]:53317`.
//!
//! An address names a place and is asked directly. Everything else is a name and may fit several devices: an alias
//! (decoration, two devices may share one), the beginning of a fingerprint, or the short code. Ways of fitting are not
//! ranked against each other, because both aliases and short prefixes are cheap to forge: what fits twice is asked back.

use crate::model::text::clean;
use crate::model::{Alias, Device, Fingerprint, ParseError, ShortCode};
use crate::platform::interfaces::Interface;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

/// Longest text that can name a device; a bracketed IPv6 address with zone and port, and every alias, are shorter.
const MAX_SELECTOR_BYTES: usize = 256;

/// Names one device, or a few.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// A place in the network.
    Address(Place),
    /// A whole fingerprint: nothing else can be meant.
    Fingerprint(Fingerprint),
    /// An alias, the beginning of a fingerprint, or a short code.
    Name(String),
}

/// An IP address with what else a person may add to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The address.
    pub ip: IpAddr,
    /// The interface that a link-local IPv6 address belongs to, by name or number.
    pub zone: Option<String>,
    /// The port, if one was given.
    pub port: Option<u16>,
}

impl Selector {
    /// Whether a device with this alias and fingerprint can be meant. An address never is: it says where, not who.
    pub fn fits(&self, alias: &Alias, fingerprint: Option<&Fingerprint>) -> bool {
        match self {
            Self::Address(_) => false,
            Self::Fingerprint(wanted) => fingerprint == Some(wanted),
            Self::Name(name) => {
                alias.as_str().to_lowercase() == name.to_lowercase()
                    || fingerprint.is_some_and(|fingerprint| {
                        fingerprint.begins_with(name)
                            || name.parse::<ShortCode>().is_ok_and(|code| code == fingerprint.short_code())
                    })
            }
        }
    }

    /// Those of `devices` that can be meant.
    pub fn among(&self, devices: &[Device]) -> Vec<Device> {
        devices.iter().filter(|device| self.fits(&device.alias, device.fingerprint.as_ref())).cloned().collect()
    }
}

impl Place {
    /// The address to connect to; `default_port` where none was typed.
    ///
    /// # Errors
    /// When the zone names no interface of this machine, or a link-local IPv6 address has none and there are several.
    pub fn resolve(&self, default_port: u16, interfaces: &[Interface]) -> Result<SocketAddr, ParseError> {
        let port = self.port.unwrap_or(default_port);
        let IpAddr::V6(v6) = self.ip else { return Ok(SocketAddr::new(self.ip, port)) };
        let scope = match &self.zone {
            Some(zone) => scope_of(zone, interfaces)
                .ok_or_else(|| ParseError::new("zone", zone, "names no network interface of this machine"))?,
            None if v6.is_unicast_link_local() => only_scope(interfaces).ok_or_else(|| {
                ParseError::new("address", &v6.to_string(), "needs its interface (`[fe80::1%eth0]:53317`)")
            })?,
            None => 0,
        };
        Ok(SocketAddrV6::new(v6, port, 0, scope).into())
    }
}

fn scope_of(zone: &str, interfaces: &[Interface]) -> Option<u32> {
    let number: Option<u32> = zone.parse().ok();
    interfaces.iter().find(|i| i.name == zone || Some(i.index) == number).map(|i| i.index)
}

/// The one interface that has link-local addresses, if it is only one.
fn only_scope(interfaces: &[Interface]) -> Option<u32> {
    let mut scopes: Vec<u32> = interfaces
        .iter()
        .filter(|i| matches!(i.subnet.address, IpAddr::V6(v6) if v6.is_unicast_link_local()))
        .map(|i| i.index)
        .collect();
    scopes.dedup();
    <[u32; 1]>::try_from(scopes).ok().map(|[scope]| scope)
}

impl FromStr for Selector {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let text = text.trim();
        if text.is_empty() || text.len() > MAX_SELECTOR_BYTES {
            return Err(ParseError::new("device", text, "is empty or too long"));
        }
        if let Some(place) = parse_place(text)? {
            return Ok(Self::Address(place));
        }
        Ok(text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Fingerprint))
    }
}

/// `None` when the text is a name; an error when it can only be meant as an address and is wrong.
fn parse_place(text: &str) -> Result<Option<Place>, ParseError> {
    let refuse = |problem| ParseError::new("address", text, problem);
    if let Some(rest) = text.strip_prefix('[') {
        let (inside, after) = rest.split_once(']').ok_or_else(|| refuse("has no closing bracket"))?;
        let (ip, zone) = parse_v6(inside).ok_or_else(|| refuse("is not an IPv6 address"))?;
        let port = match after {
            "" => None,
            _ => Some(after.strip_prefix(':').and_then(parse_port).ok_or_else(|| refuse("has a wrong port"))?),
        };
        return Ok(Some(Place { ip: ip.into(), zone, port }));
    }
    if let Some((ip, zone)) = parse_v6(text) {
        return Ok(Some(Place { ip: ip.into(), zone, port: None }));
    }
    let (ip, port) = text.split_once(':').map_or((text, None), |(ip, port)| (ip, Some(port)));
    let Ok(ip) = ip.parse::<IpAddr>() else { return Ok(None) };
    let port = port.map(|port| parse_port(port).ok_or_else(|| refuse("has a wrong port"))).transpose()?;
    Ok(Some(Place { ip, zone: None, port }))
}

fn parse_v6(text: &str) -> Option<(Ipv6Addr, Option<String>)> {
    let (ip, zone) = text.split_once('%').map_or((text, None), |(ip, zone)| (ip, Some(zone)));
    let zone = match zone {
        Some("") => return None,
        zone => zone.map(str::to_owned),
    };
    Some((ip.parse().ok()?, zone))
}

fn parse_port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(place) => place.fmt(f),
            Self::Fingerprint(fingerprint) => fingerprint.fmt(f),
            Self::Name(name) => f.write_str(&clean(name)),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zone = self.zone.as_deref().map_or_else(String::new, |zone| format!("%{}", clean(zone)));
        match (self.ip, self.port) {
            (IpAddr::V4(ip), None) => write!(f, "{ip}"),
            (IpAddr::V4(ip), Some(port)) => write!(f, "{ip}:{port}"),
            (IpAddr::V6(ip), None) => write!(f, "{ip}{zone}"),
            (IpAddr::V6(ip), Some(port)) => write!(f, "[{ip}{zone}]:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DeviceKind;
    use crate::platform::interfaces::Subnet;

    fn parse(text: &str) -> Selector {
        text.parse().unwrap()
    }

    fn place(ip: &str, zone: Option<&str>, port: Option<u16>) -> Selector {
        Selector::Address(Place { ip: ip.parse().unwrap(), zone: zone.map(str::to_owned), port })
    }

    fn device(alias: &str, byte: u8) -> Device {
        let fingerprint = Some(Fingerprint::from_bytes([byte; 32]));
        Device {
            alias: Alias::new(alias),
            fingerprint,
            kind: DeviceKind::LanBackup,
            addresses: Vec::new(),
            transient: false,
        }
    }

    #[test]
    fn addresses_are_told_from_names() {
        assert_eq!(parse("192.168.1.7"), place("192.168.1.7", None, None));
        assert_eq!(parse(" 192.168.1.7:80 "), place("192.168.1.7", None, Some(80)));
        assert_eq!(parse("fe80::1"), place("fe80::1", None, None));
        assert_eq!(parse("fe80::1%eth0"), place("fe80::1", Some("eth0"), None));
        assert_eq!(parse("[fe80::1%eth0]:53317"), place("fe80::1", Some("eth0"), Some(53317)));
        assert_eq!(parse("[::1]"), place("::1", None, None));
        assert_eq!(parse("nas"), Selector::Name("nas".into()));
        assert_eq!(parse("nas:5"), Selector::Name("nas:5".into()));
        assert_eq!(parse("3f9a"), Selector::Name("3f9a".into()));
        assert_eq!(parse("192.168.1"), Selector::Name("192.168.1".into()));
        assert_eq!(parse(&"ab".repeat(32)), Selector::Fingerprint(Fingerprint::from_bytes([0xab; 32])));
    }

    #[test]
    fn what_can_only_be_a_wrong_address_is_refused() {
        for wrong in
            ["", "  ", "1.2.3.4:0", "1.2.3.4:65536", "1.2.3.4:+5", "[::1", "[nas]:5", "[::1]5", "[::1]:", "[::1%]:5"]
        {
            assert!(wrong.parse::<Selector>().is_err(), "{wrong:?}");
        }
        assert!("x".repeat(300).parse::<Selector>().is_err());
    }

    #[test]
    fn what_is_shown_reads_back_as_the_same() {
        for text in ["192.168.1.7", "192.168.1.7:80", "fe80::1%eth0", "[fe80::1%eth0]:53317", "[::1]:9", "nas"] {
            assert_eq!(parse(text).to_string(), text);
        }
    }

    #[test]
    fn names_fit_alias_in_any_case_prefix_and_short_code() {
        let devices = [device("Nas", 0xab), device("nAS", 0xcd), device("Büro", 0xef), device("abab", 0x11)];
        let found = |text: &str| parse(text).among(&devices).iter().map(|d| d.alias.to_string()).collect::<Vec<_>>();
        assert_eq!(found("NAS"), ["Nas", "nAS"]);
        assert_eq!(found("BÜRO"), ["Büro"]);
        assert_eq!(found("cdCD"), ["nAS"]);
        assert_eq!(found("cdc"), [""; 0], "three digits are too few");
        assert_eq!(found("abab"), ["Nas", "abab"], "an alias may look like a prefix: both are meant");
        assert_eq!(found(&"cd".repeat(32)), ["nAS"]);
        let code = devices[2].fingerprint.unwrap().short_code().to_string();
        assert_eq!(found(&code.to_lowercase()), ["Büro"]);
        assert_eq!(found("127.0.0.1"), [""; 0]);
    }

    #[test]
    fn zones_are_interfaces_of_this_machine() {
        let interface = |name: &str, index, address: &str| Interface {
            name: name.into(),
            index,
            subnet: Subnet { address: address.parse().unwrap(), prefix: 64 },
        };
        let one = [interface("lo", 1, "::1"), interface("eth0", 7, "fe80::1"), interface("eth0", 7, "fe80::2")];
        let resolve = |text: &str, interfaces: &[Interface]| match parse(text) {
            Selector::Address(place) => place.resolve(5, interfaces).map(|a| a.to_string()).ok(),
            other => panic!("{other:?}"),
        };
        assert_eq!(resolve("10.0.0.1", &one).unwrap(), "10.0.0.1:5");
        assert_eq!(resolve("fe80::9%eth0", &one).unwrap(), "[fe80::9%7]:5");
        assert_eq!(resolve("[fe80::9%7]:6", &one).unwrap(), "[fe80::9%7]:6");
        assert_eq!(resolve("fe80::9", &one).unwrap(), "[fe80::9%7]:5");
        assert_eq!(resolve("fe80::9%eth1", &one), None);
        let two = [one[1].clone(), interface("wlan0", 8, "fe80::3")];
        assert_eq!(resolve("fe80::9", &two), None);
        assert_eq!(resolve("fd00::9", &two).unwrap(), "[fd00::9]:5");
    }
}
