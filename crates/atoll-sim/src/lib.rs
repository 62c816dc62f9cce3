//! A seeded world of many nodes: the real cores under a virtual clock and network.
