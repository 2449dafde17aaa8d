//! What discovery tried and what came of it, for the moment when nobody is there: "no device found" alone leaves a person
//! with nothing to try.

use crate::model::Device;
use serde::Serialize;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Failed calls kept for the report; the newest ones, a person reads no more.
pub(crate) const MAX_FAILURES: usize = 16;

/// Everything that was tried since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// One line for each interface that was tried.
    pub interfaces: Vec<InterfaceReport>,
    /// What the datagrams were.
    pub datagrams: DatagramReport,
    /// Devices whose certificate was not the one they were announced with.
    pub mismatched: u64,
    /// Devices that were heard and did not answer.
    pub unreachable: Vec<Unreachable>,
    /// Devices of the wanted name that were left alone because another, paired device has it.
    pub namesakes: Vec<Unreachable>,
    /// Calls that failed: where, and why.
    pub failures: Vec<Failure>,
    /// The last scan.
    pub scan: Option<ScanReport>,
}

/// An interface that was listened on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceReport {
    /// What the system calls it.
    pub name: String,
    /// Our address there.
    pub address: IpAddr,
    /// Announcements sent.
    pub sent: u64,
    /// Datagrams heard, our own left out.
    pub heard: u64,
    /// Our own that came back.
    pub echoed: u64,
    /// What went wrong.
    pub error: Option<String>,
}

/// Counts of datagrams that were not acted on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DatagramReport {
    /// Announcements that were answered over HTTP.
    pub called_back: u64,
    /// Not an announcement, or longer than one may be.
    pub malformed: u64,
    /// More than is looked at in a second.
    pub too_many: u64,
    /// From a source that is not on the link.
    pub far: u64,
}

/// A device that was heard and not reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unreachable {
    /// What it calls itself.
    pub alias: String,
    /// Where it said to be.
    pub addresses: Vec<SocketAddr>,
    /// The short code of who it said to be.
    pub code: Option<String>,
}

impl From<Device> for Unreachable {
    fn from(device: Device) -> Self {
        let code = device.fingerprint.map(|fingerprint| fingerprint.short_code().to_string());
        Self { alias: device.alias.to_string(), addresses: device.addresses, code }
    }
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Where.
    pub address: SocketAddr,
    /// Why, cleaned for showing.
    pub reason: String,
}

/// What a scan asked and heard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScanReport {
    /// Last known addresses that were asked first.
    pub known: Counts,
    /// One line for each subnet.
    pub subnets: Vec<SubnetReport>,
    /// Everybody was asked; otherwise there was no time left.
    pub complete: bool,
}

/// One subnet of a scan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SubnetReport {
    /// The interface.
    pub interface: String,
    /// The network with its real netmask (`192.168.1.0/24`).
    pub network: String,
    /// Why it was not scanned.
    pub skipped: Option<&'static str>,
    /// How many hosts it has room for besides us.
    pub room: u64,
    /// How many of them were to be asked, the nearest.
    pub planned: usize,
    /// What came of it.
    #[serde(flatten)]
    pub counts: Counts,
}

/// What came of asking addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Addresses asked.
    pub asked: usize,
    /// A device answered.
    pub answered: usize,
    /// A computer is there, and nothing listens.
    pub refused: usize,
    /// No answer at all.
    pub silent: usize,
    /// Something listens that is none of us.
    pub strange: usize,
}

impl ScanReport {
    /// Over all subnets and known addresses.
    pub fn total(&self) -> Counts {
        let mut total = self.known;
        for Counts { asked, answered, refused, silent, strange } in self.subnets.iter().map(|subnet| subnet.counts) {
            total.asked += asked;
            total.answered += answered;
            total.refused += refused;
            total.silent += silent;
            total.strange += strange;
        }
        total
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, answered, refused, silent, strange } = self;
        write!(f, "{asked} asked, {answered} answered, {refused} refused, {silent} silent")?;
        if *strange > 0 { write!(f, ", {strange} something else") } else { Ok(()) }
    }
}

impl fmt::Display for ScanReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.known.asked > 0 {
            writeln!(f, "asked last known addresses: {}", self.known)?;
        }
        for subnet in &self.subnets {
            let SubnetReport { interface, network, skipped, room, counts, .. } = subnet;
            match skipped {
                Some(reason) => writeln!(f, "scanned {network} ({interface}): not scanned, {reason}")?,
                None if counts.asked as u64 >= *room => writeln!(f, "scanned {network} ({interface}): {counts}")?,
                None => writeln!(f, "scanned {network} ({interface}), a part of its {room} addresses: {counts}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        write!(f, "{} at {}", self.alias, at.join(", "))?;
        self.code.iter().try_for_each(|code| write!(f, " (code {code})"))
    }
}

impl fmt::Display for Report {
    /// Lines for people, each saying one thing that was tried.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.interfaces.is_empty() {
            writeln!(f, "no network interface is up")?;
        }
        for InterfaceReport { name, address, sent, heard, error, .. } in &self.interfaces {
            write!(f, "listened on {name} ({address}): {sent} announcements sent, {heard} datagrams heard")?;
            match error {
                Some(error) => writeln!(f, "; {error}")?,
                None => writeln!(f)?,
            }
        }
        let DatagramReport { malformed, too_many, far, .. } = self.datagrams;
        for (count, what) in [
            (malformed, "were not announcements"),
            (too_many, "came too fast and were not read"),
            (far, "came from outside this network and were not answered"),
            (self.mismatched, "named a certificate that its device does not have"),
        ] {
            if count > 0 {
                writeln!(f, "{count} {what}")?;
            }
        }
        if let Some(scan) = &self.scan {
            scan.fmt(f)?;
        }
        for device in &self.unreachable {
            writeln!(f, "heard {device}, but it does not answer there: is a firewall in between?")?;
        }
        for device in &self.namesakes {
            writeln!(f, "{device} has the same name as a paired device but is another one: name it by its code")?;
        }
        for Failure { address, reason } in &self.failures {
            writeln!(f, "calling {address} failed: {reason}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_one_thing_a_line() {
        let counts = Counts { asked: 253, answered: 0, refused: 2, silent: 250, strange: 1 };
        let report = Report {
            interfaces: vec![
                InterfaceReport {
                    name: "eth0".into(),
                    address: "192.168.1.7".parse().unwrap(),
                    sent: 3,
                    heard: 1,
                    echoed: 3,
                    error: None,
                },
                InterfaceReport {
                    name: "wlan0".into(),
                    address: "10.0.0.2".parse().unwrap(),
                    sent: 0,
                    heard: 0,
                    echoed: 0,
                    error: Some("cannot send: network is unreachable".into()),
                },
            ],
            datagrams: DatagramReport { malformed: 4, ..DatagramReport::default() },
            mismatched: 1,
            unreachable: vec![Unreachable {
                alias: "nas".into(),
                addresses: vec!["192.168.1.9:53317".parse().unwrap()],
                code: Some("K7QM-2XRT".into()),
            }],
            failures: vec![Failure { address: "192.168.1.9:53317".parse().unwrap(), reason: "timed out".into() }],
            scan: Some(ScanReport {
                known: Counts::default(),
                subnets: vec![SubnetReport {
                    interface: "eth0".into(),
                    network: "192.168.1.0/24".into(),
                    skipped: None,
                    room: 253,
                    planned: 253,
                    counts,
                }],
                complete: true,
            }),
            ..Report::default()
        };
        assert_eq!(
            report.to_string(),
            "listened on eth0 (192.168.1.7): 3 announcements sent, 1 datagrams heard\n\
             listened on wlan0 (10.0.0.2): 0 announcements sent, 0 datagrams heard; cannot send: network is unreachable\n\
             4 were not announcements\n\
             1 named a certificate that its device does not have\n\
             scanned 192.168.1.0/24 (eth0): 253 asked, 0 answered, 2 refused, 250 silent, 1 something else\n\
             heard nas at 192.168.1.9:53317 (code K7QM-2XRT), but it does not answer there: is a firewall in between?\n\
             calling 192.168.1.9:53317 failed: timed out\n"
        );
        assert!(Report::default().to_string().contains("no network interface is up"));
    }
}
