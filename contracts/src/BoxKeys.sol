// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title What a registered X25519 public key must not be.
library BoxKeys {
    /// @dev The two points of order 8, little endian as on the wire.
    bytes32 private constant ORDER_EIGHT_A = 0xe0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800;
    bytes32 private constant ORDER_EIGHT_B = 0x5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157;

    /// @notice False for points of low order (0, 1, p - 1 and the two of order 8) and for every encoding that is not canonical:
    /// the high bit set, or a number of p = 2^255 - 19 or more. Each would be a second name of another key, or of a weak one.
    function acceptable(bytes32 key) internal pure returns (bool) {
        uint256 first = uint256(key) >> 248;
        uint256 rest = uint256(key) & ((1 << 248) - 1);
        if (uint256(key) & 0x80 != 0) return false;
        if (rest == 0 && first <= 1) return false;
        if (rest == (1 << 248) - 1 - 0x80 && first >= 0xec) return false;
        return key != ORDER_EIGHT_A && key != ORDER_EIGHT_B;
    }
}
