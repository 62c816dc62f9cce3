// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

/// Deployments (apps), their services, and the leases by which nodes run them. The ledger itself places and moves them.
/// System contract at 0x000000000000000000000000000000000000A703.
interface IDeployments {
    enum Isolation { Container, MicroVm }

    /// Granted: the node has not yet reported. Starting..Running: as the node reports. Failed: the node retries with back-off.
    /// Suspended: the escrow is empty, the node stops the workload and keeps its data. Ended: removed.
    /// Waiting: no node fits now; the scheduler tries again.
    enum LeaseState { Waiting, Granted, Starting, Running, Failed, Suspended, Ended }

    /// The public part of a service. Image and environment are in `sealedSpec`.
    struct Service {
        string name; // DNS label
        uint32 replicas;
        Isolation isolation;
        uint64 cpuMilli;
        uint64 memoryBytes;
        uint64 diskBytes;
        uint16 httpPort; // the port that gateways forward to; 0: none
        uint16[] openPorts; // ports that anyone in the mesh may reach; services of one deployment reach each other on all ports
        string[] constraints; // "key=value": labels that the node must have
        bytes32 specHash; // SHA-256 of the plaintext of sealedSpec
        bytes sealedSpec; // AEAD ciphertext of the private part (see `atoll_base::spec`)
    }

    /// Where one replica goes. `standby` is zero when no second node fits.
    struct Placement {
        uint32 service;
        uint32 replica;
        bytes32 node;
        bytes32 standby;
    }

    /// The spec's content key, sealed to one node (HPKE, see `atoll_base::seal`).
    struct SealedKey {
        uint32 service;
        bytes32 node;
        bytes key;
    }

    struct Lease {
        uint64 id;
        uint64 deployment;
        uint32 service;
        uint32 replica;
        bytes32 node; // zero while Waiting
        bytes32 standby; // zero when there is none
        uint64 epoch; // grows with every move: the fencing token
        uint16 workload; // last 16 bits of the workload's mesh address on `node`
        LeaseState state;
        uint64 sinceMs; // ledger time of the last change of state or node
        uint256 pricePerHour; // in the smallest unit of the region's currency
        string why; // the reason of the last change, in plain words
    }

    struct Deployment {
        uint64 id;
        address owner;
        string name;
        uint64 createdMs;
        uint64 endedMs; // 0: not ended
        uint256 escrow; // what is left to pay for it, settled up to settledMs
        uint256 charged; // paid to providers so far
        uint256 pricePerHour; // when everything runs
        uint64 settledMs;
        bool suspended;
    }

    event Deployed(uint64 indexed deployment, address indexed owner, string name);
    event LeaseGranted(uint64 indexed lease, uint64 indexed deployment, bytes32 indexed node, uint64 epoch, string why);
    event LeaseMoved(uint64 indexed lease, uint64 indexed deployment, bytes32 from, bytes32 to, uint64 epoch, string why);
    event LeaseChanged(uint64 indexed lease, uint64 indexed deployment, LeaseState state, string why);
    event Charged(uint64 indexed deployment, bytes32 indexed node, address provider, uint256 amount, uint64 fromMs, uint64 toMs);
    event Suspended(uint64 indexed deployment, string why);
    event Resumed(uint64 indexed deployment, string why);
    event Removed(uint64 indexed deployment, uint256 refund, string why);

    error NoCapacity(uint32 service, string why);
    error PlacementChanged();
    error NameTaken(string name, address owner);
    error NotOwner(address owner);
    error UnknownDeployment(uint64 id);
    error StaleEpoch(uint64 lease, uint64 epoch);
    error NotEnoughEscrow(uint256 needed, uint256 given);
    error Invalid(string why);

    /// Where the scheduler would put these services now, and what they cost an hour. Reverts with NoCapacity.
    /// `sealedSpec` may be empty here.
    function quote(Service[] calldata services) external view returns (Placement[] memory placements, uint256 pricePerHour);

    /// Creates the deployment and its leases; the value sent is its escrow. `expected` is what `quote` returned: if the scheduler
    /// now decides otherwise, the call reverts with PlacementChanged, so that keys always go to the nodes that run it.
    function deploy(string calldata name, Service[] calldata services, Placement[] calldata expected, SealedKey[] calldata keys) external payable returns (uint64 id);

    /// Adds the value sent to the escrow, from anyone; resumes a suspended deployment.
    function fund(uint64 id) external payable;

    /// Ends all leases and refunds what is left of the escrow. Owner only.
    function remove(uint64 id) external;

    /// The node's report on its lease. Only from the account of the lease's node, with the lease's epoch. Free of gas.
    /// `state` is Starting, Running or Failed.
    function report(uint64 lease, uint64 epoch, LeaseState state, string calldata why) external;

    /// The running node hands the content key to a standby that the scheduler chose later. Free of gas.
    function shareKey(uint64 lease, uint64 epoch, bytes32 node, bytes calldata key) external;

    function count() external view returns (uint64);
    function get(uint64 id) external view returns (Deployment memory deployment, Service[] memory services, Lease[] memory leases);
    function byName(string calldata name) external view returns (uint64 id);
    /// Newest first.
    function list(uint64 offset, uint64 limit) external view returns (Deployment[] memory);
    function lease(uint64 id) external view returns (Lease memory);
}
