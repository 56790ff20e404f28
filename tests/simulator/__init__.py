"""A deterministic simulator of the whole market: the real parts and the real contract, everything else from one seed.

virtual_time  an event loop whose clock jumps; nothing ever sleeps, no thread ever runs
evm           anvil, driven block by block over one connection, with reproducible block hashes
ledger        the simulated chain: mempool, blocks, reorgs; and each participant's view of it
signing       the same signatures in a twentieth of the time
post_office   the simulated broker: delay, drop, duplicate, reorder, corrupt, partition, presence
disk          the real journal on a disk that can be full, fail, tear a write or die under it
plan          what goes wrong and when, from the seed; life: rates and counts; fault_table: how often each fault fired
actors        participants that do not follow the protocol
invariants    what must hold, checked with every block, every message and at the end
planted       bugs that the invariants must catch; none of them is in the product
scenario      one task from its creation to the last wei; campaign: many of them; results: what they came to
"""
