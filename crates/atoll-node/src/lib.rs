//! The node daemon: follows its leases, fetches images, runs workloads, gateway and DNS.
