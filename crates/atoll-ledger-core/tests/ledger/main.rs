//! The ledger's rules from outside: real signed transactions on a state in memory, block after block.

mod blocks;
mod contracts;
mod deployments;
mod failover;
mod nodes;
mod properties;
mod transfers;
mod world;
