// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

/// Providers' machines: who they are, what they offer, whether they are alive.
/// System contract at 0x000000000000000000000000000000000000A702.
interface INodes {
    /// What a node offers, or what leases use of it.
    struct Capacity {
        uint64 cpuMilli; // thousandths of a core
        uint64 memoryBytes;
        uint64 diskBytes;
    }

    struct Node {
        bytes32 id; // Ed25519 identity key; the node's mesh address follows from it
        address provider; // is paid for the node's leases
        address account; // the node's own account: signs heartbeats and reports
        bytes32 sealingKey; // X25519 key to which secrets for this node are sealed
        Capacity total;
        Capacity used;
        string[] labels; // "key=value"; for the key "link" see `register`
        uint64 registeredMs; // ledger time, milliseconds since 1970
        uint64 heartbeatMs; // ledger time of the last heartbeat
        bool online;
    }

    event NodeRegistered(bytes32 indexed id, address indexed provider, address account);
    event NodeUpdated(bytes32 indexed id);
    event NodeOnline(bytes32 indexed id);
    event NodeOffline(bytes32 indexed id, string why);

    error UnknownNode(bytes32 id);
    error NotYourNode(bytes32 id, address provider);
    error BadClaim(string why);
    error TooMany(string what, uint256 max);

    /// A label "link=udp://203.0.113.7:4870" or "link=tls://gw.example.org:443" says that others of the region may call
    /// the node's mesh there; several places are several labels, the preferred one first. The ledger takes any text. Nodes
    /// ignore what cannot be called, and all beyond the fourth; whoever answers there must prove to be this node.
    ///
    /// Binds a node to the calling provider, or replaces what it offers and all its labels. `idSignature` is the node's Ed25519
    /// signature over the claim (see `atoll_base::claim`), so nobody registers a machine that is not theirs.
    function register(bytes32 id, address account, bytes32 sealingKey, Capacity calldata total, string[] calldata labels, bytes calldata idSignature) external;

    /// Says that the calling node's account is alive. Free of gas for a registered node.
    function heartbeat() external;

    function count() external view returns (uint256);
    function get(bytes32 id) external view returns (Node memory);
    /// Nodes in order of registration.
    function list(uint256 offset, uint256 limit) external view returns (Node[] memory);
}
