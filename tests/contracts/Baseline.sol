// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @notice What the published OmniLytics+ baseline does with a gradient, written anew: every owner's gradient and the two
/// vectors of its noise, beta and sigma, are stored as one 256-bit word a parameter, and then added up in storage.
/// @dev Only scripts/bench deploys it, to have something to compare the market's gas with. It checks nothing.
contract Baseline {
    mapping(address owner => uint256[]) public gradients;
    mapping(address owner => uint256[]) public betas;
    mapping(address owner => uint256[]) public sigmas;
    uint256[] public gradientSum;
    uint256[] public betaSum;
    uint256[] public sigmaSum;

    /// @notice Stores a part of the caller's three vectors behind what it has stored before.
    function store(uint256[] calldata gradient, uint256[] calldata beta, uint256[] calldata sigma) external {
        for (uint256 i = 0; i < gradient.length; ++i) {
            gradients[msg.sender].push(gradient[i]);
            betas[msg.sender].push(beta[i]);
            sigmas[msg.sender].push(sigma[i]);
        }
    }

    /// @notice Adds the values from `first` to `end` - 1 of an owner's vectors to the sums.
    function add(address owner, uint256 first, uint256 end) external {
        for (uint256 i = first; i < end; ++i) {
            if (i == gradientSum.length) {
                gradientSum.push(0);
                betaSum.push(0);
                sigmaSum.push(0);
            }
            gradientSum[i] += gradients[owner][i];
            betaSum[i] += betas[owner][i];
            sigmaSum[i] += sigmas[owner][i];
        }
    }
}
