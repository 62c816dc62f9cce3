//! One binary: the daemons, the supervisor, the client and the dashboard.

fn main() {}
