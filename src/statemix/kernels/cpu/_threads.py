"""Threads that run kernels side by side.

OpenMP inside numba does not survive a fork, and its other layer aborts when two threads call it. These
threads are plain Python ones: kernels run without the interpreter lock, tasks are independent, and the
caller works too, so that nothing waits for a busy pool.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import torch

from ._compile import launch

if TYPE_CHECKING:
    from ._plan import Plan


class _Job:
    """Tasks of one call, taken one at a time by whoever is free."""

    def __init__(self, compiled: Any, arguments: tuple, tasks: tuple, tensors: tuple) -> None:
        self._compiled, self._arguments = compiled, arguments
        # Kernels know addresses alone. A caller that is interrupted while it waits (Ctrl-C) lets go of its
        # tensors, and threads that are still at work would write into what others were given since.
        self._tensors: tuple | None = tensors
        self._waiting = deque(tasks)
        self._left = len(tasks)
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._error: BaseException | None = None

    def work(self) -> None:
        """Run tasks until none is waiting."""
        while True:
            try:
                task = self._waiting.popleft()
            except IndexError:
                return
            try:
                launch(self._compiled, *self._arguments, *task)
            except BaseException as error:  # handed to the caller, who must not wait for ever
                self._error = error
            with self._lock:
                self._left -= 1
                if self._left == 0:
                    self._tensors = None  # while the job may wait in a queue for a helper that comes too late
                    self._done.set()

    def wait(self) -> None:
        self._done.wait()
        if self._error is not None:
            raise self._error


class _Pool:
    """Helper threads, started when they are first needed."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Job] = SimpleQueue()
        self._threads = 0
        self._lock = threading.Lock()

    def help_with(self, job: _Job, helpers: int) -> None:
        with self._lock:
            while self._threads < helpers:
                self._threads += 1
                threading.Thread(
                    target=self._serve, name=f"statemix-{self._threads}", daemon=True, args=(self._queue,)
                ).start()
        for _ in range(helpers):
            self._queue.put(job)

    @staticmethod
    def _serve(queue: SimpleQueue[_Job]) -> None:
        while True:
            queue.get().work()


_pool = _Pool()


def _forget_threads() -> None:
    """A forked child has the parent's pool and none of its threads."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def run(compiled: Any, arguments: tuple, plan: Plan, tensors: tuple) -> None:
    """Run a kernel over every task of a plan, on at most ``torch.get_num_threads()`` threads.

    ``tensors`` are those that the addresses among the arguments belong to.
    """
    tasks = plan.tasks
    helpers = min(torch.get_num_threads(), len(tasks)) - 1
    if helpers < 1:
        for task in tasks:
            launch(compiled, *arguments, *task)
        return
    job = _Job(compiled, arguments, tasks, tensors)
    _pool.help_with(job, helpers)
    job.work()
    job.wait()
