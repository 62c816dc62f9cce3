//! The ledger daemon: consensus engine, storage, mempool, JSON-RPC around atoll-ledger-core.
