"""Waiting for what another process does."""

import subprocess
import time
from collections.abc import Callable


def wait_until(happened: Callable[[], object], process: subprocess.Popen, seconds: float = 60.0) -> None:
    """Until it has happened; the process must not end before, nor take so long."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
