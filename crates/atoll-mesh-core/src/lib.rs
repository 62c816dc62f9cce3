//! Handshake, sessions, routing of the mesh: pure state machines.
