"""Being asked to stop: note it, let the step finish, then say so."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class StopRequests:
    """While entered, SIGTERM and Ctrl-C set :attr:`signal` instead of ending the process.

    A second one acts as usual. Where one is entered inside another, both are asked. Outside of the main
    thread, where Python has no signals, nothing changes.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        before = self._before.get(number)
        self._restore()
        outer = getattr(before, "__self__", None)
        if isinstance(outer, StopRequests):
            outer._note(number, frame)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
