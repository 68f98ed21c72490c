"""Times the CUDA kernels against a device copy of the same run, as GB/s of the bytes that must move.

    PYTHONPATH=src python benchmarks/cuda_operators.py [--only GROUPS] [--csv FILE]

Floor bytes: every input read once and every output written once. Each case is captured in a CUDA graph (the
host's launches stay out of the number) and timed for several relative offsets of the buffers; medians.
"""

import argparse
import csv
import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch

from statemix.kernels.cuda import compiler, launch, scan

DEVICE = "cuda"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}
OFFSETS_MB = (0, 3, 17)
COLUMNS = (
    *("family", "direction", "dtype", "normalization", "B", "T", "m", "N"),
    *("ms", "floor_gb_s", "copy_gb_s", "share_of_copy"),
)


@dataclasses.dataclass(frozen=True)
class Case:
    family: str
    m: int
    B: int
    T: int
    N: int
    dtype: str = "bfloat16"
    normalization: str = "softmax"
    sequences: int = 0  # packed, of random lengths, instead of a batch
    states: bool = False
    override: tuple = ()  # ((field, value), ...) of the configuration, for tuning
    directions: tuple = ("forward", "backward")

    def floor_bytes(self, direction):
        rows = self.m if self.family == "bdlru" else 1
        logits, values = rows * (self.m + 1), rows
        elements = logits + 2 * values if direction == "forward" else 2 * logits + 4 * values
        return self.B * self.T * self.N * elements * DTYPES[self.dtype].itemsize


def targets():
    cases = []
    for m in (1, 2, 4):
        for B, T, state in ((8, 4096, 1024), (8, 4096, 4096), (64, 2048, 1024), (64, 2048, 4096)):
            cases.append(Case("bdlru", m, B, T, state // m))
    cases += [Case("bdlru", m, 8, 2048, 1024) for m in (3, 5, 6, 7, 8)]
    cases += [Case("bdlru", 8, 8, 4096, 128), Case("bdlru", 16, 8, 4096, 64), Case("bdlru", 16, 8, 2048, 512)]
    cases += [
        Case("bdlru", 4, 1, 65536, 256),
        Case("bdlru", 4, 2, 4096, 256),
        Case("bdlru", 2, 1, 65536, 512),
    ]
    cases += [Case("hlru", m, 8, 4096, 1024) for m in (1, 2, 4, 8, 16)]
    cases += [Case("hlru", m, 8, 4096, 256) for m in (2, 4, 8)]
    return cases


def contract():
    cases = []
    for normalization in ("sigmoid", "relu", "tanh", "linear", "none"):
        cases += [Case(family, 4, 8, 4096, 1024, normalization=normalization) for family in ("bdlru", "hlru")]
    cases += [Case("bdlru", m, 8, 4096, 1024, dtype) for m in (1, 2, 4) for dtype in ("float32", "float16")]
    cases += [Case("hlru", 4, 8, 4096, 1024, dtype) for dtype in ("float32", "float16")]
    cases += [Case(family, 4, 8, 4096, 1024, states=True) for family in ("bdlru", "hlru")]
    cases += [
        Case(family, 4, 1, 32768, N, sequences=100)
        for family, N in (("bdlru", 1024), ("bdlru", 256), ("hlru", 1024))
    ]
    cases += [Case(family, 4, 8, 4095, N) for family in ("bdlru", "hlru") for N in (1024, 1000, 1023, 410)]
    return cases


def tuning():
    """Other configurations beside the rule's choice."""
    cases = []

    def variant(case, directions, **changes):
        cases.append(dataclasses.replace(case, directions=directions, override=tuple(changes.items())))

    narrow = Case("bdlru", 8, 8, 4096, 128)
    variant(narrow, ("forward", "backward"), steps=2)
    variant(narrow, ("forward", "backward"), steps=3)
    long = Case("bdlru", 4, 1, 65536, 256)
    variant(long, ("forward", "backward"), warps=7)
    variant(Case("bdlru", 3, 1, 65536, 256), ("forward", "backward"))
    variant(Case("bdlru", 1, 1, 65536, 256), ("forward", "backward"))
    return cases


def copy_bandwidth(elements=1 << 29):
    source = torch.empty(elements, device=DEVICE, dtype=torch.int32).random_()
    target = torch.empty_like(source)
    times = []
    for _ in range(15):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        target.copy_(source)
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return 2 * elements * 4 / sorted(times)[len(times) // 2] / 1e6


def graph_milliseconds(run, repetitions=7, launches=4):
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(launches):
                run()
        graph.replay()
        events = []
        for _ in range(repetitions):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            events.append((start, end))
        torch.cuda.synchronize()
    times = sorted(start.elapsed_time(end) / launches for start, end in events)
    return times[len(times) // 2]


def tensors(case, offset_mb):
    dtype = DTYPES[case.dtype]
    rows = (case.m, case.m + 1) if case.family == "bdlru" else (case.m + 1,)
    blocks = (case.m,) if case.family == "bdlru" else ()
    scale = 0.5 / (case.m + 1) if case.normalization == "none" else 2.0
    pads, out = [], []
    for index, shape in enumerate([rows, blocks, blocks]):
        if offset_mb:
            pads.append(torch.empty(offset_mb * (index + 1) << 20, device=DEVICE, dtype=torch.uint8))
        out.append(torch.randn(case.B, case.T, *shape, case.N, device=DEVICE, dtype=dtype))
    out[0].mul_(scale)
    cu = None
    count = case.B
    if case.sequences:
        count = case.sequences
        generator = torch.Generator().manual_seed(0)
        cuts = torch.randperm(case.T - 1, generator=generator)[: count - 1].sort().values + 1
        cu = torch.cat([torch.zeros(1), cuts, torch.full((1,), case.T)]).to(torch.int32).to(DEVICE)
    initial = torch.randn(count, case.m, case.N, device=DEVICE) if case.states else None
    return (*out, initial, cu, pads)


def with_override(case):
    original = scan.choose

    def choose(*arguments, **keywords):
        configuration = original(*arguments, **keywords)
        changes = {name: value for name, value in case.override if not isinstance(value, dict)}
        return dataclasses.replace(configuration, **changes)

    return choose


def configurations(case):
    """What would be compiled, found without a GPU tensor."""
    properties = launch.device_properties(0)
    for direction in case.directions:
        width_bytes = case.N * DTYPES[case.dtype].itemsize
        sequences = case.sequences or case.B
        configuration = with_override(case)(
            case.family, direction, case.m, case.dtype, case.normalization, sequences,
            max(1, case.T * case.B // sequences), case.N, properties,
            rows="packed" if width_bytes % 16 == 0 else "unaligned",
        )  # fmt: skip
        yield configuration


def compile_all(cases):
    target = compiler.target(launch.device_properties(0).capability)
    sources = {configuration.source() for case in cases for configuration in configurations(case)}
    began = time.time()
    with ThreadPoolExecutor(16) as pool:
        list(
            pool.map(lambda s: compiler.compile(s, target, driver_version=launch._driver_version()), sources)
        )
    print(f"compiled {len(sources)} kernels in {time.time() - began:.1f} s", flush=True)


def time_case(case, copy):
    original = scan.choose
    scan.choose = with_override(case)
    scan._plans.clear()
    rows = []
    try:
        samples = {direction: [] for direction in case.directions}
        for offset in OFFSETS_MB:
            logits, values, grad, initial, cu, pads = tensors(case, offset)
            arguments = (case.family, logits, values, initial, cu)
            hidden = scan.forward(*arguments, case.normalization)[0]
            runs = {
                "forward": partial(scan.forward, *arguments, case.normalization),
                "backward": partial(scan.backward, *arguments, hidden, grad, None, case.normalization),
            }
            for direction, times in samples.items():
                times.append(graph_milliseconds(runs[direction]))
            del runs
            del logits, values, grad, hidden, arguments, pads
        for direction, used in zip(case.directions, configurations(case), strict=True):
            times = sorted(samples[direction])
            ms = times[len(times) // 2]
            floor = case.floor_bytes(direction) / ms / 1e6
            name = (
                case.family
                + (f"+{case.sequences} packed" if case.sequences else "")
                + ("+states" if case.states else "")
            )
            rows.append(
                [name, direction, case.dtype, case.normalization, case.B, case.T, case.m, case.N,
                 f"{ms:.4f}", f"{floor:.0f}", f"{copy:.0f}", f"{floor / copy:.3f}"]
            )  # fmt: skip
            shape = f"nb{used.blocks_per_lane} r{used.lanes_per_block} s{used.steps} w{used.warps}"
            shape += f" d{used.stages} k{used.cluster}"
            spread = f"{100 * floor * ms / times[-1] / copy:.0f}-{100 * floor * ms / times[0] / copy:.0f}"
            print(*rows[-1], shape, spread, flush=True)
    finally:
        scan.choose = original
        scan._plans.clear()
        torch.cuda.empty_cache()
    return rows


def warm_up(seconds=1.0):
    """The first kernels after idle read 20 % slow."""
    x = torch.zeros(1 << 28, device=DEVICE)
    began = time.time()
    while time.time() - began < seconds:
        x.mul_(1.0)
        torch.cuda.synchronize()


def host_microseconds(launches=2000):
    """Host time of a call into the kernels' Python, small tensors, no synchronization."""
    logits = torch.randn(2, 8, 4, 5, 64, device=DEVICE).bfloat16()
    values = torch.randn(2, 8, 4, 64, device=DEVICE).bfloat16()
    hidden, _ = scan.forward("bdlru", logits, values, None, None, "softmax")

    def measure(run):
        for _ in range(200):
            run()
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(launches):
            run()
        elapsed = time.perf_counter() - began
        torch.cuda.synchronize()
        return elapsed / launches * 1e6

    forward = measure(lambda: scan.forward("bdlru", logits, values, None, None, "softmax"))
    backward = measure(
        lambda: scan.backward("bdlru", logits, values, None, None, hidden, values, None, "softmax")
    )
    empty = measure(lambda: torch.empty_like(values))
    print(
        f"host us per call: forward {forward:.1f}, backward {backward:.1f}, one torch.empty_like {empty:.1f}"
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="targets,contract", help="of targets, contract, tuning")
    parser.add_argument("--csv")
    options = parser.parse_args()
    torch.cuda.init()
    groups = {"targets": targets(), "contract": contract(), "tuning": tuning()}
    cases = [case for name in options.only.split(",") for case in groups[name]]
    compile_all(cases)
    print(torch.cuda.get_device_name(), torch.__version__, "NVRTC", compiler.nvrtc_version())
    host_microseconds()
    warm_up()
    copy = copy_bandwidth()
    rows = [row for case in cases for row in time_case(case, copy)]
    print(f"copy {copy:.0f} GB/s, at the end {copy_bandwidth():.0f}")
    if options.csv:
        with open(options.csv, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(rows)


if __name__ == "__main__":
    main()
