//! Labs of the mesh: namespaces joined by veth pairs, with mesh daemons that need no ledger.
//!
//! A [`Lab`] is the machines and wires, [`Mesh`] a lab with the real daemon on every machine. What is done to them is in
//! [`cut`] and [`flood`], what is seen of them in [`probe`] and [`usage`]. The benchmark and the tests share it all.

pub mod cut;
pub mod flood;
mod lab;
mod node;
pub mod probe;
pub mod topology;
pub mod usage;

pub use lab::{Host, Lab, Process, Wire};
pub use node::{Mesh, Node, PORT};
