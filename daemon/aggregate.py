"""What the model owner makes of a round's posted vectors: the decrypted sums, the selection, the average."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from omnilytics.daemon.posting import PostedVectors
from omnilytics.peers.krum import select, squared_distances
from omnilytics.peers.market import Outcome
from omnilytics.peers.masking import remove_pads
from omnilytics.peers.quantise import clamp_sum, dequantise, lift

# From the means of the complete groups' statistics, float64[d] each, the groups to average.
Choice = Callable[[Mapping[int, NDArray[np.float64]]], tuple[int, ...]]
# From the same and the selected groups, those that the model owner learns from.
Trust = Callable[[Mapping[int, NDArray[np.float64]], tuple[int, ...]], tuple[int, ...]]


@dataclass(frozen=True)
class Aggregate:
    """A decrypted round.

    sums: the lifted sum of each complete group, int64 of shape (d,); selected: by the contract or the model owner;
    averaged: the groups whose average is taken, the selected ones unless the model owner selects; average: of their
    owners, float64 of shape (d,), None when no group is; disagreement: the contract selected others than these
    vectors give.
    """

    sums: dict[int, NDArray[np.int64]] = field(repr=False)
    selected: tuple[int, ...]
    averaged: tuple[int, ...]
    distances: list[list[int]] = field(repr=False)
    average: NDArray[np.float64] | None = field(repr=False)
    disagreement: bool


NOTHING = Aggregate({}, (), (), [], None, False)


def decrypt_round(
    vectors: PostedVectors,
    pad_seeds: tuple[bytes, ...],
    outcome: Outcome | None,
    chosen: tuple[int, ...],
    clip: float,
    choose: Choice,
    trust: Trust,
) -> Aggregate:
    """Takes the pads off, selects, and averages.

    pad_seeds are all of the round's. chosen are the groups that the chain says are selected. Where it says nothing,
    because settlement or the model owner was late, or has not answered yet (outcome None), they are selected here: by
    the contract's Multi-Krum, or with `choose` in a task whose model owner selects. Late settlement changes the
    payment only. Fewer complete groups than 2f + 3 give no average. Pure, and slow for large models: runs off the
    event loop.
    """
    params, complete = vectors.params, vectors.groups
    padded = {group: vectors.group_sum(group) for group in complete}
    bare = {}
    for group in complete:
        pads = params.group_pads(group)
        bare[group] = remove_pads(padded[group], vectors.ctx, pad_seeds[pads.start : pads.stop], pads.start)
    sums = {group: lift(bare[group], params.layout)[: params.value_count] for group in complete}
    # A poisoned group's lanes can be anything; honest ones never exceed n * q_max.
    means = {
        group: dequantise(clamp_sum(sums[group], params.group_size, params.max_magnitude), clip, params.max_magnitude)
        / params.group_size
        for group in complete
    }
    distances: list[list[int]] = []
    own_choice: tuple[int, ...] = ()
    if len(complete) >= params.minimum_groups:
        # Under pads of its own a group's sum is as far from another as chance has it.
        seen = bare if params.model_selection else padded
        distances = squared_distances([seen[group] for group in complete], params.layout)
        if params.model_selection:
            own_choice = chosen or choose(means)
        else:
            kept = select(distances, params.faulty_groups, params.strict_selection)
            own_choice = tuple(complete[index] for index in kept)
    selected = chosen if outcome is Outcome.SELECTED else own_choice
    averaged = trust(means, selected) if selected and params.model_selection else selected
    average = np.mean([means[group] for group in averaged], axis=0) if averaged else None
    disagreement = outcome is Outcome.SELECTED and chosen != own_choice
    return Aggregate(sums, selected, averaged, distances, average, disagreement)
