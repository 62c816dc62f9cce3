//! What the socket did not take: datagrams that are closed already, and so go out as they are, first and in order.

use std::{collections::VecDeque, net::SocketAddr};

use atoll_mesh_core::ecn::Ecn;

use crate::limits::STUCK_BYTES_MAX;

/// A row of datagrams, all of one size but the last, which may be shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) to: SocketAddr,
    pub(crate) ecn: Ecn,
    pub(crate) datagram_bytes: usize,
}

/// Rows that wait for the socket.
#[derive(Default)]
pub(crate) struct Stuck {
    /// The rows, one behind the other, and what and how long each is.
    bytes: Vec<u8>,
    rows: VecDeque<(Shape, usize)>,
    /// Where the first row begins.
    at: usize,
}

impl Stuck {
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Adds a row; false if there are too many.
    pub(crate) fn push(&mut self, shape: Shape, row: &[u8]) -> bool {
        if self.bytes.len() - self.at + row.len() > STUCK_BYTES_MAX {
            return false;
        }
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(row);
        self.rows.push_back((shape, row.len()));
        true
    }

    /// The first row.
    pub(crate) fn front(&self) -> Option<(Shape, &[u8])> {
        let (shape, length) = self.rows.front()?;
        Some((*shape, &self.bytes[self.at..self.at + length]))
    }

    /// So many bytes of the first row are gone, which are whole datagrams.
    pub(crate) fn advance(&mut self, bytes: usize) {
        self.at += bytes;
        if let Some((_, length)) = self.rows.front_mut() {
            *length -= bytes;
            if *length == 0 {
                self.rows.pop_front();
            }
        }
        if self.rows.is_empty() {
            self.bytes.clear();
            self.at = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_out_in_order_and_within_the_bound() {
        let shape = |port| Shape { to: ([192, 0, 2, 1], port).into(), ecn: Ecn::Capable0, datagram_bytes: 4 };
        let mut stuck = Stuck::default();
        assert!(stuck.is_empty() && stuck.front().is_none());
        assert!(stuck.push(shape(1), b"aaaabbbbcc") && stuck.push(shape(2), b"dd"));
        stuck.advance(4);
        assert_eq!(stuck.front(), Some((shape(1), &b"bbbbcc"[..])));
        assert!(stuck.push(shape(3), b"eeee"));
        stuck.advance(6);
        assert_eq!(stuck.front(), Some((shape(2), &b"dd"[..])));
        stuck.advance(2);
        assert!(!stuck.push(shape(4), &vec![0; STUCK_BYTES_MAX - 3]));
        assert!(stuck.push(shape(4), &vec![0; STUCK_BYTES_MAX - 4]));
        assert_eq!(stuck.front(), Some((shape(3), &b"eeee"[..])));
        stuck.advance(4);
        stuck.advance(STUCK_BYTES_MAX - 4);
        assert!(stuck.is_empty() && stuck.bytes.is_empty());
    }
}
