// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

/// What the region is and by which parameters it lives, as its charter (genesis) says.
/// System contract at 0x000000000000000000000000000000000000A701.
interface ICharter {
    struct Prices {
        uint256 cpuCoreHour; // in the smallest unit of the currency
        uint256 memoryGibHour;
        uint256 diskGibHour;
    }

    function regionId() external view returns (bytes32);
    function name() external view returns (string memory);
    function currency() external view returns (string memory name_, string memory symbol);
    function prices() external view returns (Prices memory);
    function heartbeat() external view returns (uint64 intervalMs, uint64 timeoutMs);
    /// Whether only registered nodes and the first validators may join the region's mesh.
    function closed() external view returns (bool);
    /// All the coins that exist, in the smallest unit.
    function supply() external view returns (uint256);
}
