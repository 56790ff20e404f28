// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @dev The cheat codes that these tests use; forge-std is not to be had from npm.
interface Vm {
    function warp(uint256) external;
    function roll(uint256) external;
    // where a test moves the clock, the optimiser would take block.timestamp for a constant
    function getBlockTimestamp() external view returns (uint256);
    function getBlockNumber() external view returns (uint256);
    function fee(uint256) external;
    function deal(address, uint256) external;
    function prank(address) external;
    function startPrank(address) external;
    function stopPrank() external;
    function cool(address) external;
    function etch(address, bytes calldata) external;
    function setBlockhash(uint256, bytes32) external;
    function assume(bool) external;
    function expectRevert() external;
    function expectRevert(bytes4) external;
    function expectRevert(bytes calldata) external;
    function expectEmit(bool, bool, bool, bool) external;
    function readFile(string calldata) external view returns (string memory);
    function parseJsonUint(string calldata, string calldata) external pure returns (uint256);
    function parseJsonUintArray(string calldata, string calldata) external pure returns (uint256[] memory);
    function parseJsonBool(string calldata, string calldata) external pure returns (bool);
    function parseJsonBytes(string calldata, string calldata) external pure returns (bytes memory);
    function parseJsonBytes32(string calldata, string calldata) external pure returns (bytes32);
    function parseJsonBytes32Array(string calldata, string calldata) external pure returns (bytes32[] memory);
    function parseJsonBytesArray(string calldata, string calldata) external pure returns (bytes[] memory);
    function toString(uint256) external pure returns (string memory);
    function envOr(string calldata, string calldata) external view returns (string memory);
    function deployCode(string calldata) external returns (address);
    function snapshotState() external returns (uint256);
    function revertToState(uint256) external returns (bool);
    function snapshotValue(string calldata, string calldata, uint256) external;
}

abstract contract Test {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    error Unequal(string what, uint256 left, uint256 right);
    error Untrue(string what);

    function equal(uint256 left, uint256 right, string memory what) internal pure {
        if (left != right) revert Unequal(what, left, right);
    }

    function equal(bytes32 left, bytes32 right, string memory what) internal pure {
        if (left != right) revert Unequal(what, uint256(left), uint256(right));
    }

    function isTrue(bool condition, string memory what) internal pure {
        if (!condition) revert Untrue(what);
    }

    function bound(uint256 value, uint256 least, uint256 most) internal pure returns (uint256) {
        return least + value % (most - least + 1);
    }
}
