//! One multicast socket for one interface.
//!
//! Bound to the group's address where the system allows it, not to "any": with `SO_REUSEPORT` the kernel hands a unicast
//! datagram to only one of the sockets on a port, so a wildcard socket would steal what is meant for a LocalSend app on
//! the same machine, and would hear datagrams that were routed here from far away. Multicast reaches every socket.

use crate::platform::interfaces::Interface;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use tokio::net::UdpSocket;

/// LocalSend's IPv4 group.
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 167);
/// LocalSend's IPv6 group, of link-local scope.
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0xfd3a, 0xe420);
/// Datagrams do not leave the link.
const HOPS: u32 = 1;

/// Opens a socket that sends to and hears the group on `interface` only, and says where to send.
pub(crate) fn open(interface: &Interface, port: u16) -> io::Result<(UdpSocket, SocketAddr)> {
    match interface.subnet.address {
        IpAddr::V4(address) => open_v4(address, interface.index, port),
        IpAddr::V6(_) => open_v6(interface.index, port),
    }
}

fn open_v4(address: Ipv4Addr, index: u32, port: u16) -> io::Result<(UdpSocket, SocketAddr)> {
    let group = SocketAddr::from((GROUP_V4, port));
    let socket = shared(Domain::IPV4)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    // Without this a socket hears what any socket of this machine joined, on every interface.
    socket.set_multicast_all_v4(false)?;
    socket.bind(&(if cfg!(unix) { group } else { (Ipv4Addr::UNSPECIFIED, port).into() }).into())?;
    socket.join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(index))?;
    socket.set_multicast_if_v4(&address)?;
    socket.set_multicast_ttl_v4(HOPS)?;
    // Other processes on this machine are devices too; our own datagrams are known by their fingerprint.
    socket.set_multicast_loop_v4(true)?;
    Ok((UdpSocket::from_std(socket.into())?, group))
}

fn open_v6(index: u32, port: u16) -> io::Result<(UdpSocket, SocketAddr)> {
    let group = SocketAddr::from(SocketAddrV6::new(GROUP_V6, port, 0, index));
    let socket = shared(Domain::IPV6)?;
    socket.set_only_v6(true)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_multicast_all_v6(false)?;
    socket.bind(&(if cfg!(unix) { group } else { (Ipv6Addr::UNSPECIFIED, port).into() }).into())?;
    socket.join_multicast_v6(&GROUP_V6, index)?;
    socket.set_multicast_if_v6(index)?;
    socket.set_multicast_hops_v6(HOPS)?;
    socket.set_multicast_loop_v6(true)?;
    Ok((UdpSocket::from_std(socket.into())?, group))
}

/// A datagram socket whose port others may use too.
fn shared(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
