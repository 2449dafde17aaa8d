//! How many connections there are, and whose: one table, bounded, that can end any of them.
//!
//! Strangers never lock out a paired device: when all places are taken, somebody who is not paired (or has not finished its
//! handshake) makes room: the oldest connection of the address that holds the most of them, so whoever opens many only ever
//! pushes out its own. A paired device holds half of the places at most. When paired devices hold all of them, one on which nothing
//! is asked makes room, of the device that holds the most; only when all are in use is a new connection turned away.

use crate::model::Fingerprint;
use crate::server::limits::{MAX_CONNECTIONS, MAX_CONNECTIONS_PER_DEVICE, MAX_UNPAIRED_PER_ADDRESS};
use crate::server::stream::Activity;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
struct Row {
    address: IpAddr,
    fingerprint: Option<Fingerprint>,
    shaken: bool,
    paired: bool,
    kill: CancellationToken,
    activity: Arc<Activity>,
}

#[derive(Debug, Default)]
struct Table {
    last_id: u64,
    // By id, and so by age.
    rows: BTreeMap<u64, Row>,
}

impl Table {
    /// Who makes room: a stranger, or else a paired device's connection that it does not use now, and can make again.
    fn makes_room(&self) -> Option<u64> {
        self.stranger().or_else(|| self.idle())
    }

    /// The oldest idle connection of the paired device that has the most connections, of those that have an idle one.
    fn idle(&self) -> Option<u64> {
        let mut devices: HashMap<Option<Fingerprint>, (usize, Option<u64>)> = HashMap::new();
        for (id, row) in self.rows.iter().filter(|(_, row)| row.paired) {
            let (count, oldest) = devices.entry(row.fingerprint).or_default();
            *count += 1;
            if row.activity.is_idle() {
                oldest.get_or_insert(*id);
            }
        }
        let with_idle = devices.into_values().filter_map(|(count, oldest)| Some((count, oldest?)));
        with_idle.max_by_key(|(count, oldest)| (*count, std::cmp::Reverse(*oldest))).map(|(_, oldest)| oldest)
    }

    /// The oldest connection of the address with the most strangers.
    fn stranger(&self) -> Option<u64> {
        let mut strangers: HashMap<IpAddr, (usize, u64)> = HashMap::new();
        for (id, row) in self.rows.iter().filter(|(_, row)| !row.paired) {
            strangers.entry(row.address).or_insert((0, *id)).0 += 1;
        }
        let greediest = strangers.into_values().max_by_key(|(count, oldest)| (*count, std::cmp::Reverse(*oldest)));
        greediest.map(|(_, oldest)| oldest)
    }
}

/// All connections. Cheap to clone; clones belong together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections {
    table: Arc<Mutex<Table>>,
}

impl Connections {
    /// A place for a connection from `address`. When there is none, what `kill` gives has fired already.
    pub(crate) fn enter(&self, address: IpAddr) -> Place {
        let kill = CancellationToken::new();
        let activity = Arc::new(Activity::default());
        let mut table = self.table();
        table.last_id += 1;
        let id = table.last_id;
        if table.rows.len() >= MAX_CONNECTIONS {
            match table.makes_room().and_then(|id| table.rows.remove(&id)) {
                Some(row) => row.kill.cancel(),
                None => kill.cancel(),
            }
        }
        if !kill.is_cancelled() {
            let (kill, activity) = (kill.clone(), activity.clone());
            let row = Row { address, fingerprint: None, shaken: false, paired: false, kill, activity };
            table.rows.insert(id, row);
        }
        drop(table);
        Place { inner: Arc::new(Inner { connections: self.clone(), id, kill, activity }) }
    }

    /// Ends all connections of a device; the number of them.
    pub(crate) fn kill(&self, fingerprint: Fingerprint) -> usize {
        let table = self.table();
        let of_device = table.rows.values().filter(|row| row.fingerprint == Some(fingerprint));
        of_device.map(|row| row.kill.cancel()).count()
    }

    /// The devices whose connections were let in because they were paired.
    pub(crate) fn paired_devices(&self) -> BTreeSet<Fingerprint> {
        self.table().rows.values().filter(|row| row.paired).filter_map(|row| row.fingerprint).collect()
    }

    /// Ends all connections.
    pub(crate) fn kill_all(&self) {
        self.table().rows.values().for_each(|row| row.kill.cancel());
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.table().rows.len()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's place in the table; free again when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Place {
    inner: Arc<Inner>,
}

struct Inner {
    connections: Connections,
    id: u64,
    kill: CancellationToken,
    activity: Arc<Activity>,
}

impl Place {
    /// Names the connection.
    pub(crate) fn id(&self) -> u64 {
        self.inner.id
    }

    /// Fires when the connection must end.
    pub(crate) fn kill(&self) -> CancellationToken {
        self.inner.kill.clone()
    }

    /// What goes on on it.
    pub(crate) fn activity(&self) -> Arc<Activity> {
        self.inner.activity.clone()
    }

    /// The handshake is done. `false` when the address has too many connections of strangers, or the device too many.
    pub(crate) fn known(&self, fingerprint: Option<Fingerprint>, paired: bool) -> bool {
        let mut table = self.inner.connections.table();
        let Some(address) = table.rows.get(&self.inner.id).map(|row| row.address) else { return false };
        let strangers = table.rows.values().filter(|row| row.address == address && row.shaken && !row.paired).count();
        let of_device = table.rows.values().filter(|row| row.paired && row.fingerprint == fingerprint).count();
        let too_many =
            if paired { of_device >= MAX_CONNECTIONS_PER_DEVICE } else { strangers >= MAX_UNPAIRED_PER_ADDRESS };
        if too_many {
            return false;
        }
        if let Some(row) = table.rows.get_mut(&self.inner.id) {
            row.fingerprint = fingerprint;
            row.shaken = true;
            row.paired = paired;
        }
        true
    }

    /// The device on it was paired just now.
    pub(crate) fn paired(&self) {
        if let Some(row) = self.inner.connections.table().rows.get_mut(&self.inner.id) {
            row.paired = true;
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.connections.table().rows.remove(&self.id);
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({})", self.inner.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn address(n: usize) -> IpAddr {
        IpAddr::from([10, 1, (n >> 8) as u8, n as u8])
    }

    #[test]
    fn an_address_holds_eight_strangers_and_any_number_of_paired_ones() {
        let connections = Connections::default();
        let strangers: Vec<_> = (0..8).map(|_| connections.enter(HOME)).collect();
        assert!(strangers.iter().all(|place| place.known(None, false)));
        assert!(!connections.enter(HOME).known(None, false));
        assert!(connections.enter(address(1)).known(None, false), "another address is another matter");
        let paired: Vec<_> = (0..20).map(|_| connections.enter(HOME)).collect();
        assert!(paired.iter().all(|place| place.known(Some(Fingerprint::from_bytes([1; 32])), true)));
        strangers[0].paired();
        assert!(connections.enter(HOME).known(None, false), "who was paired no longer counts as a stranger");
    }

    #[test]
    fn a_flood_of_strangers_makes_room_for_itself_and_not_from_paired_devices() {
        let connections = Connections::default();
        let paired = connections.enter(HOME);
        assert!(paired.known(Some(Fingerprint::from_bytes([1; 32])), true));
        let flood: Vec<_> = (0..MAX_CONNECTIONS * 2).map(|n| connections.enter(address(n))).collect();
        assert_eq!(connections.count(), MAX_CONNECTIONS);
        assert!(!paired.kill().is_cancelled());
        assert!(flood[0].kill().is_cancelled() && !flood[flood.len() - 1].kill().is_cancelled());
        assert!(!flood[0].known(None, false), "who was put out does not come back in");
        drop((flood, paired));
        assert_eq!(connections.count(), 0);
    }

    #[test]
    fn who_opens_many_connections_pushes_out_its_own_and_nobody_elses() {
        let connections = Connections::default();
        // One that has not finished its handshake is a stranger still, whoever it will turn out to be.
        let honest = connections.enter(address(1));
        let flood: Vec<_> = (0..MAX_CONNECTIONS * 8).map(|_| connections.enter(HOME)).collect();
        assert_eq!(connections.count(), MAX_CONNECTIONS);
        assert!(!honest.kill().is_cancelled() && honest.known(None, false));
        let late = connections.enter(address(2));
        assert!(!late.kill().is_cancelled() && !honest.kill().is_cancelled());
        assert_eq!(flood.iter().filter(|place| !place.kill().is_cancelled()).count(), MAX_CONNECTIONS - 2);
    }

    #[test]
    fn a_paired_device_holds_half_of_the_places_and_all_of_them_are_no_ones_to_take() {
        let connections = Connections::default();
        let device = |n: u8| Fingerprint::from_bytes([n; 32]);
        let enter = |n: u8, count: usize| (0..count).map(|_| (connections.enter(HOME), n)).collect::<Vec<_>>();
        let known =
            |places: &[(Place, u8)]| places.iter().filter(|(place, n)| place.known(Some(device(*n)), true)).count();
        let first = enter(1, MAX_CONNECTIONS_PER_DEVICE + 10);
        assert_eq!(known(&first), MAX_CONNECTIONS_PER_DEVICE);
        let second = enter(2, MAX_CONNECTIONS - MAX_CONNECTIONS_PER_DEVICE);
        assert_eq!(known(&second), second.len());
        assert_eq!(connections.paired_devices().len(), 2);
        let all = first[..MAX_CONNECTIONS_PER_DEVICE].iter().chain(&second);
        let all: Vec<_> = all.map(|(place, _)| place).collect();
        let busy: Vec<_> = all.iter().map(|place| place.activity().busy()).collect();
        assert!(connections.enter(HOME).kill().is_cancelled(), "a new one is turned away while all are in use");
        assert!(all.iter().all(|place| !place.kill().is_cancelled()));
        drop(busy);
        // What is not used makes room for who comes.
        let late = connections.enter(HOME);
        assert!(!late.kill().is_cancelled() && late.known(Some(device(3)), true));
        let closed: Vec<_> = all.iter().filter(|place| place.kill().is_cancelled()).map(|place| place.id()).collect();
        assert_eq!(closed, [first[0].0.id()], "the oldest of those who have the most");
        assert_eq!(connections.kill(device(1)), MAX_CONNECTIONS_PER_DEVICE - 1);
        assert!(first[..MAX_CONNECTIONS_PER_DEVICE].iter().all(|(place, _)| place.kill().is_cancelled()));
        assert!(second.iter().all(|(place, _)| !place.kill().is_cancelled()));
    }
}
