"""Flower's own SecAgg+ client stage, timed: run by the Python of the bench's environment, never imported by ours.

Reads a JSON object a line, {"values": d, "neighbours": k}, and answers one: {"seconds": s, "bytes": b}. What is timed
is flwr's `_collect_masked_vectors` as it stands: it opens the neighbours' boxes, quantises, derives the pair seeds
and adds k pairwise masks and one private mask. The keys and boxes that it needs are made before, with flwr's own
functions.
"""

import importlib
import json
import os
import sys
import time
from typing import Any

import numpy as np
from flwr.app import ConfigRecord
from flwr.common import ndarrays_to_parameters
from flwr.common.secure_aggregation.secaggplus_constants import Key

# By name: the package has a function of the module's name, which hides it.
mod = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")

ME = 1
SHARE = bytes(33)


def prepared(neighbours: int) -> tuple[Any, ConfigRecord]:
    """A client that has its neighbours' keys, and their boxes as the server hands them on."""
    state = mod.SecAggPlusState()
    mine, box = mod.generate_key_pairs(), mod.generate_key_pairs()
    state.nid, state.threshold = ME, 2
    state.sample_num, state.share_num = neighbours + 1, neighbours + 1
    # flwr's defaults: SecAggPlusWorkflow(clipping_range=8, quantization_range=2**22, modulus_range=2**32).
    state.clipping_range, state.target_range, state.mod_range, state.max_weight = 8.0, 1 << 22, 1 << 32, 1000.0
    state.sk1, state.pk1 = mod.private_key_to_bytes(mine[0]), mod.public_key_to_bytes(mine[1])
    state.sk2, state.pk2 = mod.private_key_to_bytes(box[0]), mod.public_key_to_bytes(box[1])
    state.rd_seed = os.urandom(32)
    state.public_keys_dict, state.ss2_dict = {}, {}
    state.rd_seed_share_dict, state.sk1_share_dict = {}, {}
    boxes, sources = [], []
    for node in range(2, neighbours + 2):
        theirs, their_box = mod.generate_key_pairs(), mod.generate_key_pairs()
        state.public_keys_dict[node] = mod.public_key_to_bytes(theirs[1]), mod.public_key_to_bytes(their_box[1])
        state.ss2_dict[node] = mod.generate_shared_key(box[0], their_box[1])
        plain = mod.share_keys_plaintext_concat(node, ME, SHARE, SHARE)
        boxes.append(mod.encrypt(state.ss2_dict[node], plain))
        sources.append(node)
    return state, ConfigRecord({Key.CIPHERTEXT_LIST: boxes, Key.SOURCE_LIST: sources})


def stage(values: int, neighbours: int) -> dict[str, float]:
    """One run of the stage."""
    state, configs = prepared(neighbours)
    update = np.random.default_rng(1).normal(size=values).astype(np.float32)
    parameters = ndarrays_to_parameters([update])
    started = time.perf_counter()
    answer = mod._collect_masked_vectors(state, configs, 100, parameters)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "bytes": sum(len(part) for part in answer[Key.MASKED_PARAMETERS])}


if __name__ == "__main__":
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        wanted = json.loads(line)
        print(json.dumps(stage(wanted["values"], wanted["neighbours"])), flush=True)
