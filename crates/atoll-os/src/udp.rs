//! What UDP sockets need beyond the ordinary.

use std::{
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd},
};

use nix::{
    cmsg_space, libc,
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
        sockopt::{self, Ipv4RecvErr, Ipv4Ttl, Ipv6RecvErr, Ipv6Ttl},
    },
};
use tokio::io::{Interest, unix::AsyncFd};

/// Watches a socket on the runtime of the caller for one thing only, being readable or having room: whoever watches for
/// room is woken after each datagram that the network took.
pub fn watch(socket: UdpSocket, interest: Interest) -> io::Result<AsyncFd<UdpSocket>> {
    // SAFETY: `socket` owns its descriptor, and the `AsyncFd` owns `socket`: it stays open and the same until dropped.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

/// Asks the kernel for socket buffers of so many bytes, each way: beyond its limits where this process may raise them,
/// else up to them. Never fails; a smaller buffer drops sooner.
pub fn enlarge_buffers(socket: &impl AsFd, bytes: usize) {
    if setsockopt(socket, sockopt::RcvBufForce, &bytes).is_err() {
        let _ = setsockopt(socket, sockopt::RcvBuf, &bytes);
    }
    if setsockopt(socket, sockopt::SndBufForce, &bytes).is_err() {
        let _ = setsockopt(socket, sockopt::SndBuf, &bytes);
    }
}

/// Sets the kernel's send buffer so that it takes about so many bytes of datagrams before it is full. The kernel counts
/// its own overhead in, and doubles the number for that. Never fails; without it, the buffer stays as it is.
pub fn set_send_buffer(socket: &impl AsFd, bytes: usize) {
    if setsockopt(socket, sockopt::SndBufForce, &bytes).is_err() {
        let _ = setsockopt(socket, sockopt::SndBuf, &bytes);
    }
}

/// Asks the kernel to keep what ICMP says of sent datagrams, for [`next_refused`]. Never fails; without it, silence has to
/// tell.
pub fn keep_errors(socket: &impl AsFd) {
    // One of the two does not fit the socket's family.
    let _ = setsockopt(socket, Ipv4RecvErr, &true);
    let _ = setsockopt(socket, Ipv6RecvErr, &true);
}

/// Asks the kernel not to tell with each datagram to which of this machine's addresses it came. Never fails; without it,
/// receiving costs a little more.
pub fn forget_destinations(socket: &impl AsFd) {
    // One of the two does not fit the socket's family.
    let _ = setsockopt(socket, sockopt::Ipv4PacketInfo, &false);
    let _ = setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &false);
}

/// Lets what is sent from now on take so many hops at most (IPv4 time to live, IPv6 hop limit); nothing: as many as usual.
/// Never fails; without it, datagrams get farther than they need to.
pub fn set_hops(socket: &impl AsFd, hops: Option<u8>) {
    let hops = hops.map_or(-1, i32::from);
    // One of the two does not fit an IPv4 socket.
    let _ = setsockopt(socket, Ipv4Ttl, &hops);
    let _ = setsockopt(socket, Ipv6Ttl, &hops);
}

/// Marks what a socket sends, for rules of routing (`SO_MARK`).
pub fn set_mark(socket: &impl AsFd, mark: u32) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::Mark, &mark)?)
}

/// Whether a datagram was not sent because the interface there carries none that large (EMSGSIZE).
pub fn is_too_large(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMSGSIZE)
}

/// The next endpoint of which ICMP says that nobody listens there (port unreachable), if there is one. Anybody can forge
/// that. Other errors are skipped.
pub fn next_refused(socket: &impl AsRawFd) -> Option<SocketAddr> {
    loop {
        let mut data = [0; 64];
        let mut slices = [IoSliceMut::new(&mut data)];
        let mut space = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6, [u8; 64]);
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags).ok()?;
        let is_refusal = message.cmsgs().ok()?.any(|cmsg| match cmsg {
            ControlMessageOwned::Ipv4RecvErr(error, _) => error.ee_errno == libc::ECONNREFUSED as u32,
            ControlMessageOwned::Ipv6RecvErr(error, _) => error.ee_errno == libc::ECONNREFUSED as u32,
            _ => false,
        });
        let to = message.address.and_then(|storage| {
            let v4 = storage.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
            let v6 = storage.as_sockaddr_in6();
            v4.or(v6.map(|v6| std::net::SocketAddrV6::new(v6.ip(), v6.port(), v6.flowinfo(), v6.scope_id()).into()))
        });
        if let Some(to) = to.filter(|_| is_refusal) {
            return Some(to);
        }
    }
}
