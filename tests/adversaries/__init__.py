"""Named adversaries: what tests and scripts let loose on the market. None of it is in the product."""

import os
import signal


def kill_own_process() -> None:
    """kill -9: no goodbye, no clean-up. The simulator has a death of its own."""
    os.kill(os.getpid(), signal.SIGKILL)
