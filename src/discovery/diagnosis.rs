//! Why a device is not seen: the facts that were gathered, and what follows from them. Pure.
//!
//! Every conclusion is drawn from what was observed on both ways of finding somebody. Who is reached when asked but never heard shows
//! that multicast is lost; who is heard but not reached has a closed or filtered port; our own datagram that does not come back shows
//! that this machine itself drops it.

use crate::discovery::probe::Verdict;
use crate::discovery::report::{DatagramReport, InterfaceReport, ScanReport, SubnetReport};
use crate::model::limits::DEFAULT_PORT;
use crate::model::{DeviceKind, Fingerprint};
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};

/// What a person does against a firewall.
const OPEN_PORTS: &str = "allow UDP and TCP port 53317 on that machine: `sudo ufw allow 53317`, or `sudo firewall-cmd --permanent \
    --add-port=53317/udp --add-port=53317/tcp` and `sudo firewall-cmd --reload`";
const SAME_NETWORK: &str = "is the other device switched on, and in this network? A guest Wi-Fi, or an access point with `client \
    isolation`, keeps devices from each other";

/// Everything that was observed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnosis {
    /// Every interface of this machine.
    pub interfaces: Vec<InterfaceLook>,
    /// The addresses that were asked.
    pub scan: ScanReport,
    /// Datagrams that were not acted on.
    pub datagrams: DatagramReport,
    /// Devices whose certificate was not the one they were announced with.
    pub mismatched: u64,
    /// Who was found.
    pub devices: Vec<DeviceLook>,
    /// Where other machines use this device's own identity.
    pub copies: Vec<SocketAddr>,
    /// The device that a person asked about.
    pub target: Option<TargetLook>,
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceLook {
    /// What the system calls it.
    pub name: String,
    /// Its addresses with their netmasks, as text.
    pub addresses: Vec<String>,
    /// Why it was not used.
    pub skipped: Option<&'static str>,
    /// The groups that were spoken and listened to, IPv4 and IPv6.
    pub groups: Vec<InterfaceReport>,
    /// Networks whose packets leave elsewhere, with the address they leave from.
    pub routed_elsewhere: Vec<(String, IpAddr)>,
}

/// One device, and how it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceLook {
    /// What it calls itself.
    pub alias: String,
    /// What it runs.
    pub kind: DeviceKind,
    /// The short code of its fingerprint.
    pub code: String,
    /// Where it is.
    pub address: SocketAddr,
    /// On which of our interfaces, if it is on the same link.
    pub interface: Option<String>,
    /// It was heard by datagram.
    pub heard: bool,
    /// It called us: it has heard us.
    pub called: bool,
    /// It answered when it was called.
    pub reached: bool,
    /// After how many milliseconds it was found.
    pub after: u64,
    /// What is at its address, when it was not reached.
    pub verdict: Option<Verdict>,
    /// Where different machines answer with its identity.
    pub clones: Vec<SocketAddr>,
}

/// The device that a person asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetLook {
    /// As it was typed.
    pub name: String,
    /// Whom we know by that name, or at that address.
    pub expected: Option<Fingerprint>,
    /// Where it was looked for, and what is there.
    pub places: Vec<PlaceLook>,
}

/// One address of the device that a person asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlaceLook {
    /// Where.
    pub address: SocketAddr,
    /// On which of our interfaces, if it is on the same link.
    pub interface: Option<String>,
    /// What is there.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// All is well.
    Fine,
    /// Worth knowing.
    Note,
    /// In the way.
    Trouble,
}

/// One conclusion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// For programs.
    pub code: &'static str,
    /// How bad it is.
    pub level: Level,
    /// For people.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl TargetLook {
    /// Whether the device that was meant answers at any of its places.
    pub fn is_reached(&self) -> bool {
        self.places.iter().any(|place| matches!(place.verdict, Verdict::Fine { .. }))
    }
}

impl Diagnosis {
    /// What follows, the worst about the device that was asked for first.
    pub fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        if let Some(target) = &self.target {
            judge_target(target, &mut found);
        }
        self.judge_interfaces(&mut found);
        self.judge_devices(&mut found);
        self.judge_scan(&mut found);
        self.judge_datagrams(&mut found);
        if !found.iter().any(|finding| finding.level == Level::Trouble) && !self.devices.is_empty() {
            let count = self.devices.len();
            let message = match count {
                1 => "one device is here, and nothing is in the way".to_owned(),
                _ => format!("{count} devices are here, and nothing is in the way"),
            };
            found.push(Finding { code: "fine", level: Level::Fine, message, hint: None });
        }
        found
    }

    fn judge_interfaces(&self, found: &mut Vec<Finding>) {
        if self.interfaces.iter().all(|interface| interface.groups.is_empty()) {
            let hint = "plug in the cable or join the Wi-Fi, and see above why interfaces were not used";
            found.push(trouble(
                "no-network",
                "this machine is on no network: no interface is up and has an address",
                hint,
            ));
        }
        let works = self.interfaces.iter().any(|other| other.groups.iter().any(|group| group.error.is_none()));
        for interface in &self.interfaces {
            let name = &interface.name;
            for group in &interface.groups {
                if let Some(error) = &group.error {
                    let message = format!("multicast does not work on {name} ({}): {error}", group.address);
                    let hint = "devices there are found by asking around only; give their address";
                    let level = if works { Level::Note } else { Level::Trouble };
                    found.push(Finding { code: "cannot-send", level, message, hint: Some(hint.to_owned()) });
                } else if group.sent > 0 && group.echoed == 0 {
                    let message = format!(
                        "what this machine says to everybody on {name} ({}) does not even reach itself: this machine's own firewall \
                        drops UDP port {DEFAULT_PORT}",
                        group.address
                    );
                    found.push(trouble("own-firewall", message, OPEN_PORTS));
                }
            }
            for (network, source) in &interface.routed_elsewhere {
                let message = format!(
                    "packets to {network} ({name}) leave this machine from {source}: a VPN has taken that route"
                );
                found.push(trouble(
                    "routed-elsewhere",
                    message,
                    "allow the local network in the VPN program, or disconnect it",
                ));
            }
        }
    }

    fn judge_devices(&self, found: &mut Vec<Finding>) {
        let passes = |name: &str| {
            self.devices.iter().any(|other| other.interface.as_deref() == Some(name) && (other.heard || other.called))
        };
        let echoes = |name: &str| {
            self.interfaces.iter().any(|look| look.name == name && look.groups.iter().any(|group| group.echoed > 0))
        };
        let mut silent: Vec<(&str, Vec<&str>)> = Vec::new();
        for device in &self.devices {
            if let Some(verdict) = device.verdict.as_ref().filter(|_| !device.reached) {
                let (code, words, hint) = explain(verdict, device.address, device.interface.as_deref());
                let message = format!("{} ({}) was heard and cannot be reached: {words}", device.alias, device.code);
                found.push(Finding { code, level: Level::Trouble, message, hint });
            }
            if !device.clones.is_empty() {
                let message = format!("{} ({}) is several machines with one identity", device.alias, device.code);
                found.push(trouble("cloned", message, "`lan-backup devices` says where, and what to do"));
            }
            let Some(interface) =
                device.interface.as_deref().filter(|_| device.reached && !device.heard && !device.called)
            else {
                continue;
            };
            if passes(interface) {
                let message = format!(
                    "{} ({}) answers when it is asked and is not heard, while others on {interface} are: a firewall on it drops UDP \
                    port {DEFAULT_PORT}",
                    device.alias, device.code
                );
                found.push(trouble("device-firewall", message, OPEN_PORTS));
            } else if echoes(interface) {
                match silent.iter_mut().find(|(name, _)| *name == interface) {
                    Some((_, aliases)) => aliases.push(&device.alias),
                    None => silent.push((interface, vec![&device.alias])),
                }
            }
        }
        for (interface, aliases) in silent {
            let message = format!(
                "{} on {interface} answered when asked and could not be heard: multicast is dropped in between, or by firewalls on \
                all of them",
                aliases.join(", ")
            );
            let hint = format!(
                "they are found all the same, only later. In the access point or switch, switch off `client isolation`, multicast \
                filtering, and IGMP snooping without a querier; on the devices, {OPEN_PORTS}"
            );
            found.push(trouble("multicast-dropped", message, hint));
        }
        if !self.copies.is_empty() {
            let message = "another machine uses the identity of this device";
            found.push(trouble("cloned", message, "`lan-backup devices` says where, and what to do"));
        }
    }

    fn judge_scan(&self, found: &mut Vec<Finding>) {
        if !self.devices.is_empty() && self.target.as_ref().is_none_or(TargetLook::is_reached) {
            return;
        }
        // Somebody is here, if not the one that was meant.
        let level = if self.devices.is_empty() { Level::Trouble } else { Level::Note };
        for SubnetReport { interface, network, skipped, room, counts, .. } in &self.scan.subnets {
            if skipped.is_some() || counts.asked == 0 {
                continue;
            }
            let asked = counts.asked;
            if counts.silent == asked {
                let message = format!("no machine at all answered in {network} ({interface}), of {asked} addresses");
                found.push(Finding { code: "nobody-there", level, message, hint: Some(SAME_NETWORK.to_owned()) });
            } else if counts.answered == 0 {
                let message = format!(
                    "{} machines answered in {network} ({interface}), and nothing of ours listens on any of them",
                    counts.refused + counts.strange
                );
                let hint = "start `lan-backup serve` on the other device; if it says that it listens on another port, give address and port";
                found.push(Finding { code: "nobody-listens", level, message, hint: Some(hint.to_owned()) });
            }
            if (asked as u64) < *room {
                let message = format!(
                    "{network} ({interface}) is wide: {asked} of its {room} addresses were asked, those next to ours"
                );
                let hint = "a device further away is reached by its address".to_owned();
                found.push(Finding { code: "scanned-in-part", level: Level::Note, message, hint: Some(hint) });
            }
        }
    }

    fn judge_datagrams(&self, found: &mut Vec<Finding>) {
        let DatagramReport { too_many, far, .. } = self.datagrams;
        if self.mismatched > 0 {
            let message =
                format!("{} devices were announced with a certificate that they do not have", self.mismatched);
            found.push(trouble(
                "impostor",
                message,
                "somebody in this network pretends to be another device, or one was set up anew",
            ));
        }
        if far > 0 {
            let message =
                format!("{far} datagrams came from addresses outside of this machine's networks and were not answered");
            let hint = "is a netmask wrong, here or there? Devices of another network are reached by address";
            found.push(Finding { code: "other-subnet", level: Level::Note, message, hint: Some(hint.to_owned()) });
        }
        if too_many > 0 {
            let message = format!("{too_many} datagrams came too fast and were not read: somebody floods this network");
            found.push(trouble("flood", message, "find out which machine sends them"));
        }
    }
}

fn judge_target(target: &TargetLook, found: &mut Vec<Finding>) {
    if target.places.is_empty() {
        let message =
            format!("`{}` was neither heard nor found by asking around, and no address of it is known", target.name);
        let hint = "start `lan-backup serve` there and give the address that it prints: `lan-backup devices --diagnose 192.168.1.7`";
        found.push(trouble("not-found", message, hint));
    }
    let reached = target.is_reached();
    for PlaceLook { address, interface, verdict } in &target.places {
        let (code, words, hint) = explain(verdict, *address, interface.as_deref());
        let level = match verdict {
            Verdict::Fine { .. } => Level::Fine,
            // It is elsewhere, and well.
            _ if reached => Level::Note,
            _ => Level::Trouble,
        };
        let hint = hint.filter(|_| level == Level::Trouble);
        found.push(Finding { code, level, message: words, hint });
    }
}

fn trouble(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Finding {
    Finding { code, level: Level::Trouble, message: message.into(), hint: Some(hint.into()) }
}

/// Code, sentence and next step for what is at an address.
fn explain(verdict: &Verdict, address: SocketAddr, interface: Option<&str>) -> (&'static str, String, Option<String>) {
    let (ip, port) = (address.ip(), address.port());
    let serve = "start `lan-backup serve` there; the address to use is the one that it prints";
    let (code, words, hint) = match verdict {
        Verdict::Fine { alias, fingerprint, kind } => {
            let words = format!("{alias} ({kind}, {}) answers at {address}", fingerprint.short_code());
            return ("reached", words, None);
        }
        Verdict::Own => {
            ("own-address", format!("{address} is this device itself"), "give the address of the other device")
        }
        Verdict::WrongCertificate { expected, found } => (
            "wrong-certificate",
            format!(
                "at {address} another device answers: its certificate has the code {}, and the paired one has {}",
                found.short_code(),
                expected.short_code()
            ),
            "if that device was set up anew, `lan-backup unpair` the old one and pair again; otherwise somebody else has its address",
        ),
        Verdict::Lying => (
            "impostor",
            format!("what answers at {address} names a certificate that it does not have"),
            "do not pair with it; find out which machine that is",
        ),
        Verdict::Closed => {
            ("port-closed", format!("a machine is at {ip}, but nothing listens on its port {port}"), serve)
        }
        Verdict::Filtered if interface.is_some() => (
            "port-filtered",
            format!("a machine is at {ip}, but a firewall swallows what comes to its TCP port {port}"),
            OPEN_PORTS,
        ),
        Verdict::Filtered => (
            "port-filtered",
            format!(
                "nothing comes back from {ip}: it is off, or a firewall there or on the way swallows TCP port {port}"
            ),
            OPEN_PORTS,
        ),
        Verdict::Rejected => {
            ("port-filtered", format!("a firewall at {ip} or on the way refuses TCP port {port}"), OPEN_PORTS)
        }
        Verdict::Absent => (
            "nobody-there",
            format!("no machine answers at {ip}{}", interface.map(|name| format!(" on {name}")).unwrap_or_default()),
            SAME_NETWORK,
        ),
        Verdict::NoRoute => {
            ("no-route", format!("this machine knows no way to {ip}"), "is it connected, and is the address right?")
        }
        Verdict::NoTls => {
            ("not-ours", format!("what listens at {address} is another program: it speaks no TLS"), serve)
        }
        Verdict::Mute => {
            ("not-ours", format!("what listens at {address} takes the connection and says nothing"), serve)
        }
        Verdict::NotOurs => ("not-ours", format!("what listens at {address} is another HTTPS server"), serve),
        Verdict::Failed { reason } => {
            ("failed", format!("{address} could not be asked: {reason}"), "is the address right?")
        }
    };
    (code, words, Some(hint.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::report::Counts;

    fn group(echoed: u64, error: Option<&str>) -> InterfaceReport {
        let error = error.map(str::to_owned);
        InterfaceReport { name: "eth0".into(), address: [10, 0, 0, 1].into(), sent: 6, heard: 0, echoed, error }
    }

    fn interface(groups: Vec<InterfaceReport>) -> InterfaceLook {
        InterfaceLook {
            name: "eth0".into(),
            addresses: vec!["10.0.0.1/24".into()],
            skipped: groups.is_empty().then_some("it has no carrier"),
            groups,
            routed_elsewhere: Vec::new(),
        }
    }

    fn device(alias: &str, heard: bool, called: bool, reached: bool) -> DeviceLook {
        DeviceLook {
            alias: alias.into(),
            kind: DeviceKind::LanBackup,
            code: "K7QM-2XRT".into(),
            address: "10.0.0.2:53317".parse().unwrap(),
            interface: Some("eth0".into()),
            heard,
            called,
            reached,
            after: 100,
            verdict: (!reached).then_some(Verdict::Filtered),
            clones: Vec::new(),
        }
    }

    fn subnet(counts: Counts, room: u64) -> ScanReport {
        let subnet = SubnetReport {
            interface: "eth0".into(),
            network: "10.0.0.0/24".into(),
            skipped: None,
            room,
            planned: counts.asked,
            counts,
        };
        ScanReport { subnets: vec![subnet], complete: true, ..ScanReport::default() }
    }

    fn sound() -> Diagnosis {
        Diagnosis { interfaces: vec![interface(vec![group(6, None)])], ..Diagnosis::default() }
    }

    fn codes(diagnosis: &Diagnosis) -> Vec<&'static str> {
        diagnosis.findings().iter().map(|finding| finding.code).collect()
    }

    fn of_place(interface: Option<&str>, verdict: Verdict) -> Finding {
        let place =
            PlaceLook { address: "10.0.0.2:53317".parse().unwrap(), interface: interface.map(str::to_owned), verdict };
        let target = TargetLook { name: "nas".into(), expected: None, places: vec![place] };
        Diagnosis { target: Some(target), devices: vec![device("x", true, true, true)], ..sound() }.findings().remove(0)
    }

    #[test]
    fn who_is_heard_and_reached_is_well() {
        for (heard, called) in [(true, false), (false, true), (true, true)] {
            let fine = Diagnosis { devices: vec![device("nas", heard, called, true)], ..sound() };
            assert_eq!(codes(&fine), ["fine"]);
        }
    }

    #[test]
    fn who_is_reached_and_never_heard_shows_that_multicast_is_lost() {
        let deaf = device("nas", false, false, true);
        let dropped =
            Diagnosis { devices: vec![deaf.clone(), DeviceLook { alias: "pc".into(), ..deaf.clone() }], ..sound() };
        assert_eq!(codes(&dropped), ["multicast-dropped"]);
        assert!(dropped.findings()[0].message.starts_with("nas, pc on eth0"), "one conclusion for all");
        let one = Diagnosis { devices: vec![deaf.clone(), device("pc", true, false, true)], ..sound() };
        assert_eq!(codes(&one), ["device-firewall"], "others are heard there");
        let far = Diagnosis { devices: vec![DeviceLook { interface: None, ..deaf.clone() }], ..sound() };
        assert_eq!(codes(&far), ["fine"], "no datagram leaves a link");
        let silenced = Diagnosis { interfaces: vec![interface(vec![group(0, None)])], devices: vec![deaf], ..sound() };
        assert_eq!(codes(&silenced), ["own-firewall"], "this machine would not hear anybody");
    }

    #[test]
    fn who_is_heard_and_not_reached_has_a_closed_or_filtered_port() {
        let mut behind = device("nas", true, false, false);
        for (verdict, code) in
            [(Verdict::Filtered, "port-filtered"), (Verdict::Closed, "port-closed"), (Verdict::NoTls, "not-ours")]
        {
            behind.verdict = Some(verdict);
            let diagnosis = Diagnosis { devices: vec![behind.clone()], ..sound() };
            assert_eq!(codes(&diagnosis), [code]);
            assert!(diagnosis.findings()[0].message.contains("nas (K7QM-2XRT) was heard and cannot be reached"));
        }
    }

    #[test]
    fn a_scan_tells_an_empty_network_from_one_where_nothing_listens() {
        let counts = |answered, refused, silent| Counts { asked: 253, answered, refused, silent, strange: 0 };
        for (counts, room, wanted) in [
            (counts(0, 0, 253), 253, vec!["nobody-there"]),
            (counts(0, 2, 251), 253, vec!["nobody-listens"]),
            (counts(0, 0, 253), 65_533, vec!["nobody-there", "scanned-in-part"]),
        ] {
            let diagnosis = Diagnosis { scan: subnet(counts, room), ..sound() };
            assert_eq!(codes(&diagnosis), wanted);
            let beside = Diagnosis { devices: vec![device("nas", true, true, true)], ..diagnosis };
            assert_eq!(codes(&beside), ["fine"], "somebody was found, elsewhere");
        }
    }

    #[test]
    fn what_is_wrong_with_interfaces_is_said() {
        let off = Diagnosis { interfaces: vec![interface(Vec::new())], ..Diagnosis::default() };
        assert_eq!(codes(&off), ["no-network"]);
        let broken = interface(vec![group(0, Some("cannot send: network is unreachable"))]);
        let alone = Diagnosis { interfaces: vec![broken.clone()], ..Diagnosis::default() };
        assert_eq!(alone.findings()[0].level, Level::Trouble);
        let beside = Diagnosis { interfaces: vec![broken, interface(vec![group(6, None)])], ..Diagnosis::default() };
        assert_eq!(beside.findings()[0].level, Level::Note, "a tunnel without multicast is usual");
        let vpn = InterfaceLook {
            routed_elsewhere: vec![("10.0.0.0/24".into(), [10, 8, 0, 6].into())],
            ..interface(vec![group(6, None)])
        };
        assert_eq!(codes(&Diagnosis { interfaces: vec![vpn], ..Diagnosis::default() }), ["routed-elsewhere"]);
    }

    #[test]
    fn each_verdict_has_its_words_and_a_next_step() {
        let print = |byte| Fingerprint::from_bytes([byte; 32]);
        let verdicts = [
            (Verdict::Own, "own-address"),
            (Verdict::WrongCertificate { expected: print(1), found: print(2) }, "wrong-certificate"),
            (Verdict::Lying, "impostor"),
            (Verdict::Closed, "port-closed"),
            (Verdict::Filtered, "port-filtered"),
            (Verdict::Rejected, "port-filtered"),
            (Verdict::Absent, "nobody-there"),
            (Verdict::NoRoute, "no-route"),
            (Verdict::NoTls, "not-ours"),
            (Verdict::Mute, "not-ours"),
            (Verdict::NotOurs, "not-ours"),
            (Verdict::Failed { reason: "odd".into() }, "failed"),
        ];
        for (verdict, code) in verdicts {
            let finding = of_place(Some("eth0"), verdict);
            assert_eq!((finding.code, finding.level), (code, Level::Trouble));
            assert!(finding.message.contains("10.0.0.2") && finding.hint.is_some(), "{finding:?}");
        }
        let codes = of_place(None, Verdict::WrongCertificate { expected: print(1), found: print(2) }).message;
        assert!(
            codes.contains(&print(1).short_code().to_string()) && codes.contains(&print(2).short_code().to_string())
        );
        let far = of_place(None, Verdict::Filtered).message;
        assert!(
            far.contains("it is off, or a firewall"),
            "off the link nobody knows whether a machine is there: {far}"
        );
        let fine = Verdict::Fine { alias: "nas".into(), fingerprint: print(1), kind: DeviceKind::LanBackup };
        assert_eq!((of_place(None, fine.clone()).code, of_place(None, fine).hint), ("reached", None));
    }

    #[test]
    fn an_old_address_of_a_device_that_answers_elsewhere_is_no_trouble() {
        let place = |address: &str, verdict| PlaceLook { address: address.parse().unwrap(), interface: None, verdict };
        let fine = Verdict::Fine {
            alias: "nas".into(),
            fingerprint: Fingerprint::from_bytes([1; 32]),
            kind: DeviceKind::LanBackup,
        };
        let places = vec![place("10.0.0.9:1", Verdict::Absent), place("10.0.0.2:1", fine)];
        let target = TargetLook { name: "nas".into(), expected: None, places };
        assert!(target.is_reached());
        let moved = Diagnosis { target: Some(target), devices: vec![device("nas", true, true, true)], ..sound() };
        assert_eq!(codes(&moved), ["nobody-there", "reached", "fine"]);
        let nowhere = TargetLook { name: "nas".into(), expected: None, places: Vec::new() };
        assert!(!nowhere.is_reached());
        assert_eq!(codes(&Diagnosis { target: Some(nowhere), ..moved })[0], "not-found");
    }
}
