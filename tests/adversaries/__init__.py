"""Named adversaries: what tests and scripts let loose on the market. None of it is in the product."""
