"""What the model owner makes of a round's posted vectors: the decrypted sums, the selection, the averaged gradient."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.posting import PostedVectors
from omnilytics.peers.krum import select, squared_distances
from omnilytics.peers.market import Outcome
from omnilytics.peers.masking import remove_pads
from omnilytics.peers.quantise import clamp_sum, dequantise, lift


@dataclass(frozen=True)
class Aggregate:
    """A decrypted round.

    sums: the lifted sum of each complete group, int64 of shape (d,); selected: the groups whose average is taken;
    gradient: that average, float64 of shape (d,), None when no group is selected; disagreement: the contract
    selected others than these vectors give.
    """

    sums: dict[int, NDArray[np.int64]] = field(repr=False)
    selected: tuple[int, ...]
    distances: list[list[int]] = field(repr=False)
    gradient: NDArray[np.float64] | None = field(repr=False)
    disagreement: bool


NOTHING = Aggregate({}, (), [], None, False)


def decrypt_round(
    vectors: PostedVectors, pad_seeds: tuple[bytes, ...], outcome: Outcome, chosen: tuple[int, ...], clip: float
) -> Aggregate:
    """Takes the pads off, selects, and averages.

    chosen are the groups that the contract selected. Where it did not come to that because settlement was late, the
    same Multi-Krum is applied here: late settlement changes the payment only. Fewer complete groups than
    Multi-Krum needs give no gradient. Pure, and slow for large models: runs off the event loop.
    """
    params, complete = vectors.params, vectors.groups
    lanes = {group: vectors.group_sum(group) for group in complete}
    sums = {
        group: lift(remove_pads(lanes[group], vectors.ctx, pad_seeds), params.layout)[: params.value_count]
        for group in complete
    }
    distances: list[list[int]] = []
    own_choice: tuple[int, ...] = ()
    if len(complete) >= params.minimum_groups:
        distances = squared_distances([lanes[group] for group in complete], params.layout)
        kept = select(distances, params.faulty_groups, params.strict_selection)
        own_choice = tuple(complete[index] for index in kept)
    selected = chosen if outcome is Outcome.SELECTED else own_choice
    gradient: NDArray[np.float64] | None = None
    if selected:
        # A poisoned group's lanes can be anything; honest ones never exceed n * q_max.
        clamped = [clamp_sum(sums[group], params.group_size, params.max_magnitude) for group in selected]
        total: NDArray[np.int64] = np.sum(clamped, axis=0)
        gradient = dequantise(total, clip, params.max_magnitude) / (len(selected) * params.group_size)
    disagreement = outcome is Outcome.SELECTED and chosen != own_choice
    return Aggregate(sums, selected, distances, gradient, disagreement)
