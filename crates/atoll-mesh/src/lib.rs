//! The mesh daemon: sockets, TUN device, clocks and tasks around atoll-mesh-core.
