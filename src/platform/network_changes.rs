//! Wakes whoever waits for the network to change: an address came or went, a cable was pulled, a tunnel opened.
//!
//! Linux tells so at once over a netlink socket. What it says is not read, only that it says something: the list of interfaces is
//! asked for anew, so a message that is lost or misunderstood costs nothing. Where there is no such socket nobody is woken, and
//! whoever waits looks now and then anyway.

use std::io;

/// The messages of the system about its interfaces and addresses.
#[derive(Debug)]
pub struct NetworkChanges {
    // To tokio, and to `recv`, one datagram socket is like another.
    #[cfg(target_os = "linux")]
    socket: tokio::net::UdpSocket,
}

#[cfg(target_os = "linux")]
impl NetworkChanges {
    /// Listens. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// When the system gives no such socket (in a sandbox, say).
    pub fn open() -> io::Result<Self> {
        use rustix::net::netlink::SocketAddrNetlink;
        use rustix::net::{AddressFamily, SocketFlags, SocketType};
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Without a protocol it is the one of routes, NETLINK_ROUTE.
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self { socket: tokio::net::UdpSocket::from_std(socket.into())? })
    }

    /// Returns after something changed since the last call; cancel-safe. All messages that wait are one change.
    ///
    /// # Errors
    /// When the socket failed: it will not wake anybody any more.
    pub async fn changed(&self) -> io::Result<()> {
        // Only that something was said counts; what does not fit is cut off.
        let mut message = [0; 16];
        lost_is_heard(self.socket.recv(&mut message).await)?;
        while lost_is_heard(self.socket.try_recv(&mut message))? {}
        Ok(())
    }
}

/// Whether something was said. When more was said than the queue holds, surely.
#[cfg(target_os = "linux")]
fn lost_is_heard(received: io::Result<usize>) -> io::Result<bool> {
    match received {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock) => Ok(false),
        Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Interfaces, IPv4 addresses, IPv6 addresses (`RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV6_IFADDR`).
#[cfg(target_os = "linux")]
const GROUPS: u32 = 1 | 0x10 | 0x100;

#[cfg(not(target_os = "linux"))]
impl NetworkChanges {
    /// There is none here.
    ///
    /// # Errors
    /// Always.
    pub fn open() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Never returns.
    ///
    /// # Errors
    /// Never.
    pub async fn changed(&self) -> io::Result<()> {
        std::future::pending().await
    }
}
