"""Where the groups of a sweep run: in this process, in one for each device, on Ray, or as SLURM jobs."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from statemix.extras import import_extra
from statemix.ops.checks import check_choices, check_number
from statemix.training.devices import choose_device
from statemix.training.signals import StopRequests

from .runner import run_group
from .store import SweepFolder

Tell = Callable[[str], None]

# What a job of a cluster has to start, and to finish its step and save it, beside the time that it trains.
_MINUTES_TO_STOP = 10
_LOCALLY = "use --launcher local"


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Where and how long a sweep runs."""

    launcher: Literal["inline", "local", "ray", "slurm"] = "local"
    """inline: in this process; local: a process for each device; ray, slurm: a cluster (extra "cluster")."""

    devices: tuple[str, ...] = ()
    """Devices of "inline" (its first) and "local". Default: what the configs say, all GPUs, or the CPU."""

    minutes_at_most: float | None = None
    """Stop cleanly after so long; the same command goes on. Default: no limit. For slurm, of each job."""

    slurm_partition: str | None = None
    """Partition of SLURM jobs."""

    slurm_cluster: str | None = None
    """Executor of submitit in place of SLURM: "local" or "debug"."""

    def __post_init__(self) -> None:
        check_choices("sweep", self)
        if self.minutes_at_most is not None:
            check_number("sweep", "minutes_at_most", self.minutes_at_most, "above 0", lambda m: m > 0)


@dataclass(frozen=True)
class Outcome:
    """How far a sweep came: groups that are left, and the signal that stopped it, if one did."""

    pending: int
    signal: int | None = None


def run_sweep(folder: SweepFolder, launch: Launch, tell: Tell = print) -> Outcome:
    """Run all groups that are left; each that crashes is tried once more, then in halves.

    A trial that crashes by itself is reported as crashed.

    Raises:
        ValueError: this machine is to run it, and has no such device.
        SweepFolderError: another process runs it now.
        ModuleNotFoundError: the cluster's package is not installed; the message names the extra.

    Examples:
        >>> from statemix.experiments.sweep import grid
        >>> from statemix.training import RunConfig, TaskData
        >>> base = RunConfig(steps=2, device="cpu", data=TaskData(test_lengths=(8,), test_examples=8))
        >>> folder = SweepFolder.begin("sweep", grid(base, {"model.d_model": [8, 16]}), "what was typed")
        >>> run_sweep(folder, Launch(launcher="inline"), tell=lambda line: None)
        Outcome(pending=0, signal=None)
        >>> [result["status"] for result in folder.results()]
        ['finished', 'finished']
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            "run_sweep: a process of this sweep imports your script, which starts the sweep again: put what "
            "the script does under if __name__ == '__main__':"
        )
    with folder.alone():
        try:
            stopped_by = LAUNCHERS[launch.launcher](folder, launch, tell)
        finally:
            folder.write_table()
    return Outcome(len(folder.pending()), stopped_by)


class _Progress:
    """The groups that are left, what became of each, and the clock. Threads share it."""

    def __init__(self, folder: SweepFolder, launch: Launch, tell: Tell) -> None:
        self.folder, self.tell = folder, tell
        self.queue = folder.pending()
        self.stopped = self.cancelled = False
        self._lock = threading.Lock()
        self._end = None if launch.minutes_at_most is None else time.monotonic() + 60 * launch.minutes_at_most

    @property
    def seconds_left(self) -> float | None:
        return None if self._end is None else self._end - time.monotonic()

    def take(self) -> str | None:
        """The next group; None where there is none, or no time."""
        with self._lock:
            left = self.seconds_left
            if self.stopped or not self.queue or (left is not None and left <= 0):
                return None
            return self.queue.pop(0)

    def ended(self, group: str, status: str) -> None:
        """Say how a group ended: "finished", "interrupted", or else what went wrong."""
        with self._lock:
            members = self.folder.groups[group]
            names = ", ".join(dict.fromkeys(trial.model for trial in members))
            if status == "interrupted":
                self.stopped = True
                self.tell(f"{names}: stopped, to be continued")
            elif status == "finished":
                self.tell(_told(names, [self.folder.result(trial) or {} for trial in members]))
            else:
                left = self.folder.failed(group, status)
                self.queue += left
                if group in left:
                    what = "tried once more"
                elif left:
                    what = f"its {len(members)} trials are tried in halves"
                else:
                    what = f"seed {members[0].config.seed} is given up"
                self.tell(f"{names}: crashed, {what}: {status.splitlines()[-1]}")
            self.folder.write_table()


def _told(names: str, results: Sequence[dict[str, Any]]) -> str:
    """One line for a group: the range of each score."""
    scores: dict[str, list[float]] = {}
    for result in results:
        for name, value in result.get("scores", {}).items():
            scores.setdefault(name, []).append(value)
    parts = [
        f"{name.replace('_', ' ')} {min(v):.3f}" + (f" to {max(v):.3f}" if len(v) > 1 else "")
        for name, v in scores.items()
    ]
    diverged = sum(result.get("status") == "diverged" for result in results)
    if diverged:
        parts.append(f"{diverged} of {len(results)} diverged")
    return f"{names}: {', '.join(parts)} ({results[0].get('seconds', 0):.0f} s for {len(results)})"


def _inline(folder: SweepFolder, launch: Launch, tell: Tell) -> int | None:
    progress = _Progress(folder, launch, tell)
    device = _devices(folder, launch)[0]
    with StopRequests() as stop:
        while stop.signal is None and (group := progress.take()) is not None:
            try:
                status = run_group(folder.path, group, device=device, time_limit=progress.seconds_left)
            except Exception:
                status = traceback.format_exc().strip()
            progress.ended(group, status)
        return stop.signal


def _local(folder: SweepFolder, launch: Launch, tell: Tell) -> int | None:
    """A process for each device; one that dies takes only its group with it."""
    progress = _Progress(folder, launch, tell)
    stop = StopRequests()
    threads = [
        _DeviceThread(folder.path, device, progress, stop)
        for device in _devices(folder, launch)[: len(progress.queue)]
    ]
    with stop:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            if stop.signal is not None and not progress.stopped:
                progress.stopped = True
                for thread in threads:
                    thread.interrupt()
            time.sleep(0.05)
        return stop.signal


class _DeviceThread(threading.Thread):
    """A thread that hands groups to a process of its own, and starts another when that one dies."""

    def __init__(self, path: Path, device: str, progress: _Progress, stop: StopRequests) -> None:
        super().__init__(daemon=True)
        self._path, self._device, self._progress, self._request = path, device, progress, stop
        self._process: Any = None

    def run(self) -> None:
        context = multiprocessing.get_context("spawn")
        pipe: Any = None
        while (group := self._progress.take()) is not None:
            if self._process is None:
                pipe, theirs = context.Pipe()
                self._process = context.Process(target=_serve, args=(theirs, str(self._path), self._device))
                self._process.start()
                theirs.close()
            try:
                pipe.send((group, self._progress.seconds_left))
                status = pipe.recv()
            except (EOFError, OSError):
                self._process.join()
                # Ctrl-C reaches all processes of a terminal, one that has not set it aside yet too.
                stopped = self._progress.stopped or self._request.signal is not None
                if stopped or self._process.exitcode == -signal.SIGINT:
                    status = "interrupted"
                else:
                    status = f"the process ended with exit code {self._process.exitcode}"
                self._process = None
            self._progress.ended(group, status)
        if self._process is not None:
            pipe.send(None)
            self._process.join()

    def interrupt(self) -> None:
        process = self._process
        if process is not None and process.is_alive():
            os.kill(process.pid, signal.SIGTERM)


def _serve(pipe: Any, path: str, device: str) -> None:
    """The life of a device's process, which ends with its parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and passes it on
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while (task := pipe.recv()) is not None:
        group, time_limit = task
        try:
            pipe.send(run_group(path, group, device=device, time_limit=time_limit))
        except Exception:
            pipe.send(traceback.format_exc().strip())


def _end_with_parent() -> None:
    """End this process when its parent was killed: the sweep that goes on must find nobody at its groups."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _ray(folder: SweepFolder, launch: Launch, tell: Tell) -> int | None:
    ray = import_extra("ray", "sweep: launcher 'ray'", otherwise=_LOCALLY)
    progress = _Progress(folder, launch, tell)
    ray.init(ignore_reinit_error=True, log_to_driver=False)
    gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
    # Tasks wait for a place: the time that is left is that when one begins, not when it was handed in.
    end = None if progress.seconds_left is None else time.time() + progress.seconds_left
    remote = ray.remote(num_gpus=gpus, num_cpus=1, max_retries=0)(_run_until)

    def start(group: str) -> Any:
        return remote.remote(str(folder.path.resolve()), group, "cuda" if gpus else "cpu", end)

    def done(handles: list[Any]) -> list[Any]:
        return ray.wait(handles, timeout=0.2)[0]

    return _until_done(progress, start, done, ray.get, ray.cancel)


def _run_until(path: str, group: str, device: str, end: float | None) -> str:
    """A group on another machine, to be stopped at a time of day in seconds."""
    return run_group(path, group, device=device, time_limit=None if end is None else end - time.time())


def _slurm(folder: SweepFolder, launch: Launch, tell: Tell) -> int | None:
    submitit = import_extra("submitit", "sweep: launcher 'slurm'", otherwise=_LOCALLY)
    progress = _Progress(folder, launch, tell)
    executor = submitit.AutoExecutor(folder=folder.path / "jobs", cluster=launch.slurm_cluster)
    limit = None if launch.minutes_at_most is None else 60 * launch.minutes_at_most
    # A job stops by itself before its cluster kills it, which would count as a crash.
    minutes = 60 * 24 if limit is None else math.ceil(limit / 60) + _MINUTES_TO_STOP
    executor.update_parameters(name="statemix-sweep", timeout_min=minutes)
    if launch.slurm_cluster is None:
        executor.update_parameters(gpus_per_node=1, cpus_per_task=8)
        if launch.slurm_partition is not None:
            executor.update_parameters(slurm_partition=launch.slurm_partition)

    def start(group: str) -> Any:
        job = executor.submit(run_group, str(folder.path.resolve()), group, time_limit=limit)
        model = progress.folder.groups[group][0].model
        tell(f"submitted as job {job.job_id} ({executor.cluster}): {model}")
        return job

    def done(jobs: list[Any]) -> list[Any]:
        found = [job for job in jobs if job.done()]
        if not found:
            time.sleep(1.0 if launch.slurm_cluster is None else 0.1)
        return found

    return _until_done(progress, start, done, lambda job: job.result(), lambda job: job.cancel(check=False))


def _until_done(
    progress: _Progress,
    start: Callable[[str], Any],
    done: Callable[[list[Any]], list[Any]],
    result: Callable[[Any], str],
    cancel: Callable[[Any], Any],
) -> int | None:
    """Hand groups to a cluster until all have ended; a signal stops them there, where they save.

    Args:
        done: waits a moment, and says which have ended.
    """
    running: dict[Any, str] = {}
    # Here, since what a cluster's package does with signals when it starts would come before.
    with StopRequests() as stop:
        while True:
            while stop.signal is None and (group := progress.take()) is not None:
                running[start(group)] = group
            if stop.signal is not None and not progress.cancelled:
                progress.stopped = progress.cancelled = True
                for one in running:
                    cancel(one)
            if not running:
                return stop.signal
            for one in done(list(running)):
                try:
                    status = result(one)
                except Exception as error:
                    status = "interrupted" if progress.cancelled else str(error).strip() or repr(error)
                progress.ended(running.pop(one), status)


def _devices(folder: SweepFolder, launch: Launch) -> tuple[str, ...]:
    """The devices of this machine that run it; one that is not there is refused before any trial fails."""
    configured = {trial.config.device for trial in folder.trials}
    named = launch.devices
    if not named and "auto" not in configured and len(configured) == 1:
        named = tuple(configured)
    if named:
        return tuple(str(choose_device(name)) for name in named)
    return tuple(f"cuda:{i}" for i in range(torch.cuda.device_count())) or ("cpu",)


LAUNCHERS: dict[str, Callable[[SweepFolder, Launch, Tell], int | None]] = {
    "inline": _inline,
    "local": _local,
    "ray": _ray,
    "slurm": _slurm,
}
