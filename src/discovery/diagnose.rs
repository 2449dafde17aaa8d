//! Gathers the facts of a [`Diagnosis`]: listens, asks around, and looks closely at the device that a person asked about.

use crate::discovery::diagnosis::{DeviceLook, Diagnosis, InterfaceLook, PlaceLook, TargetLook};
use crate::discovery::finder;
use crate::discovery::probe::{Verdict, probe, source_towards};
use crate::discovery::scan::{self, Extent};
use crate::discovery::selector::Selector;
use crate::discovery::state::{Evidence, State};
use crate::model::{Device, DeviceKind, Fingerprint};
use crate::platform::interfaces::{self, Interface, InterfaceState, Subnet};
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// For asking around: a /24 takes three seconds, a wide network is asked as far as this goes.
const SCAN_LIMIT: Duration = Duration::from_secs(6);
/// Addresses of the device in question that are looked at closely, and devices that were heard and not reached.
const MAX_PROBES: usize = 8;

/// Looks at everything for `wait`, and as long as asking takes.
pub(crate) async fn diagnose(state: &State, selector: Option<&Selector>, wait: Duration) -> Diagnosis {
    state.request_burst();
    let known = selector.map(|selector| known_places(state, selector));
    // Asked first, before a scan makes the system look for all neighbours at once.
    let probing = async {
        match &known {
            Some((expected, addresses)) => look_at(state, addresses, *expected).await,
            None => Vec::new(),
        }
    };
    let scanning = async {
        let _ = tokio::time::timeout(SCAN_LIMIT, scan::scan(state, Extent::All)).await;
    };
    let ((), (), mut places) = tokio::join!(tokio::time::sleep(wait), scanning, probing);
    let clones = finder::prove(state).await;
    let devices = devices(state, &clones).await;
    if let (Some(selector), Some((expected, _))) = (selector, &known) {
        let fits = |device: &Device| {
            device.fingerprint.is_some_and(|fingerprint| Some(fingerprint) == *expected)
                || selector.fits(&device.alias, device.fingerprint.as_ref())
        };
        let heard = state.devices().into_iter().filter(fits).flat_map(|device| device.addresses);
        let new: Vec<SocketAddr> = heard.filter(|at| places.iter().all(|place| place.address != *at)).collect();
        places.extend(look_at(state, &new, *expected).await);
    }
    let target = selector.map(|selector| TargetLook {
        name: selector.to_string(),
        expected: known.and_then(|(expected, _)| expected),
        places,
    });
    let report = state.report();
    Diagnosis {
        interfaces: interface_looks(state),
        scan: report.scan.unwrap_or_default(),
        datagrams: report.datagrams,
        mismatched: report.mismatched,
        devices,
        copies: state.copies(),
        target,
    }
}

/// Who is expected, and where it was: a paired device of that name, or the one that lived at that address.
fn known_places(state: &State, selector: &Selector) -> (Option<Fingerprint>, Vec<SocketAddr>) {
    let registry = state.registry();
    if let Selector::Address(place) = selector {
        let interfaces = interfaces::list().unwrap_or_default();
        let address = place.resolve(state.options.scan_port, &interfaces).ok();
        let lived = |addresses: &[SocketAddr]| address.is_some_and(|address| addresses.contains(&address));
        let expected =
            registry.known().find(|(_, _, addresses)| lived(addresses)).map(|(fingerprint, ..)| *fingerprint);
        return (expected, address.into_iter().collect());
    }
    let fitting: Vec<_> = registry.known().filter(|(print, alias, _)| selector.fits(alias, Some(print))).collect();
    let expected = match (selector, fitting.as_slice()) {
        (Selector::Fingerprint(fingerprint), _) => Some(*fingerprint),
        (_, [(fingerprint, ..)]) => Some(**fingerprint),
        _ => None,
    };
    (expected, fitting.iter().flat_map(|(_, _, addresses)| addresses.iter().copied()).take(MAX_PROBES).collect())
}

async fn look_at(state: &State, addresses: &[SocketAddr], expected: Option<Fingerprint>) -> Vec<PlaceLook> {
    let look = async |address: &SocketAddr| PlaceLook {
        address: *address,
        interface: interface_of(state, *address),
        verdict: probe(state, *address, expected).await,
    };
    join_all(addresses.iter().take(MAX_PROBES).map(look)).await
}

/// The interface on whose link an address is.
fn interface_of(state: &State, address: SocketAddr) -> Option<String> {
    let links = state.links();
    let is_near = |interface: &&Interface| match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => interface.index == v6.scope_id(),
        _ => interface.subnet.contains(address.ip()),
    };
    links.all().iter().find(is_near).map(|interface| interface.name.clone())
}

async fn devices(state: &State, clones: &[Device]) -> Vec<DeviceLook> {
    let mut looks = Vec::new();
    for device in state.devices() {
        let Some(address) = device.addresses.first().copied() else { continue };
        let evidence = device.fingerprint.and_then(|fingerprint| state.evidence(&fingerprint)).unwrap_or_default();
        let Evidence { heard, called, reached, after } = evidence;
        let same = |clone: &&Device| clone.fingerprint.is_some() && clone.fingerprint == device.fingerprint;
        looks.push(DeviceLook {
            alias: device.alias.to_string(),
            kind: device.kind,
            code: device.fingerprint.map(|fingerprint| fingerprint.short_code().to_string()).unwrap_or_default(),
            address,
            interface: interface_of(state, address),
            heard,
            called,
            reached,
            after: after.as_millis() as u64,
            verdict: None,
            clones: clones.iter().find(same).map(|clone| clone.addresses.clone()).unwrap_or_default(),
        });
    }
    // Without TLS nobody proves anything, and nobody of ours calls it.
    let unreached = looks.iter_mut().filter(|look| !look.reached && look.kind == DeviceKind::LanBackup);
    join_all(unreached.take(MAX_PROBES).map(async |look| {
        let verdict = probe(state, look.address, None).await;
        look.reached = matches!(verdict, Verdict::Fine { .. });
        look.verdict = Some(verdict);
    }))
    .await;
    looks
}

fn interface_looks(state: &State) -> Vec<InterfaceLook> {
    let mut groups: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for report in state.links().report() {
        groups.entry(report.name.clone()).or_default().push(report);
    }
    let look = |interface: InterfaceState| {
        let groups = groups.remove(&interface.name).unwrap_or_default();
        InterfaceLook {
            skipped: if groups.is_empty() { Some(why_skipped(&interface)) } else { None },
            routed_elsewhere: if groups.is_empty() { Vec::new() } else { routed_elsewhere(&interface.subnets) },
            addresses: interface.subnets.iter().map(|net| format!("{}/{}", net.address, net.prefix)).collect(),
            name: interface.name,
            groups,
        }
    };
    interfaces::survey().unwrap_or_default().into_iter().map(look).collect()
}

fn why_skipped(interface: &InterfaceState) -> &'static str {
    if interface.subnets.iter().any(|subnet| subnet.address.is_loopback()) {
        "it leads to this machine only"
    } else if !interface.enabled {
        "it is switched off"
    } else if !interface.connected {
        "it has no carrier: no cable, no Wi-Fi, or nothing behind it"
    } else if interface.subnets.is_empty() {
        "it has no address"
    } else {
        "--bind names another one"
    }
}

/// Networks of an interface whose hosts would be sent to from an address that is not in them.
fn routed_elsewhere(subnets: &[Subnet]) -> Vec<(String, IpAddr)> {
    let elsewhere = |subnet: &Subnet| {
        let neighbour = subnet.neighbours(1).first().copied()?;
        let source = source_towards(neighbour.into()).ok()?;
        (!subnet.contains(source)).then(|| (subnet.to_string(), source))
    };
    subnets.iter().filter_map(elsewhere).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_an_interface_is_not_used_is_told_from_its_state() {
        let state = |enabled, connected, address: Option<&str>| InterfaceState {
            name: "x".into(),
            subnets: address.map(|ip| Subnet { address: ip.parse().unwrap(), prefix: 8 }).into_iter().collect(),
            enabled,
            connected,
            multicast: true,
        };
        for (interface, word) in [
            (state(true, true, Some("127.0.0.1")), "this machine only"),
            (state(false, false, Some("10.0.0.1")), "switched off"),
            (state(true, false, Some("10.0.0.1")), "no carrier"),
            (state(true, true, None), "no address"),
            (state(true, true, Some("10.0.0.1")), "--bind"),
        ] {
            assert!(why_skipped(&interface).contains(word), "{interface:?}: {}", why_skipped(&interface));
        }
    }

    #[test]
    fn packets_to_this_machine_leave_from_itself() {
        let own: IpAddr = [127, 0, 0, 1].into();
        assert_eq!(source_towards(own).unwrap(), own);
        assert_eq!(routed_elsewhere(&[Subnet { address: own, prefix: 8 }]), []);
    }
}
