//! TAP links for micro-VMs, and other link requests that only exist as ioctls.

use std::{
    fs::OpenOptions,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::libc;

use crate::limits::LINK_NAME_BYTES_MAX;

/// Makes a TAP link that stays when this process ends, in the calling thread's network namespace. It exists already
/// without a user: nothing changes.
pub(crate) fn create_persistent(name: &str) -> io::Result<()> {
    let tap = open(name)?;
    let persist: libc::c_int = 1;
    // SAFETY: the descriptor is open for the duration of the call and TUNSETPERSIST takes an integer by value.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETPERSIST as _, persist) })
}

/// The frames of a TAP link in the calling thread's network namespace, which nobody else uses; made if it is not there.
pub(crate) fn open(name: &str) -> io::Result<OwnedFd> {
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut request = named_request(name);
    // The flags fit the kernel's short: IFF_TAP 2, IFF_NO_PI 0x1000, IFF_VNET_HDR 0x4000.
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the descriptor is open for the duration of the call and TUNSETIFF reads and writes one `ifreq`.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &mut request) })?;
    Ok(tun.into())
}

/// Brings the loopback link of the calling thread's network namespace up.
pub(crate) fn bring_loopback_up() -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::DGRAM, None)?;
    set_up(socket.as_fd(), "lo")
}

/// `SIOCSIFFLAGS` with `IFF_UP` on a link of the calling thread's network namespace.
fn set_up(socket: BorrowedFd<'_>, link: &str) -> io::Result<()> {
    let mut request = named_request(link);
    // The flags fit the kernel's short: IFF_UP is 1, IFF_RUNNING 64.
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the descriptor is open for the duration of the call and SIOCSIFFLAGS only reads the valid `ifreq`.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) })
}

/// A request about the link of this name.
pub(crate) fn named_request(link: &str) -> libc::ifreq {
    // SAFETY: an `ifreq` is plain old data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { core::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(link.bytes().take(LINK_NAME_BYTES_MAX)) {
        *slot = byte as libc::c_char;
    }
    request
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
