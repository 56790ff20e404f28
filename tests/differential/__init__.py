"""The contract's libraries against their Python twins, on random chunks."""
