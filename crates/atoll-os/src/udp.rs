//! What UDP sockets need beyond the ordinary.

use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};

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
