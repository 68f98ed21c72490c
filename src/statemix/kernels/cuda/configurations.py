"""What a kernel is, completely: its sizes, the shared memory that they need, and its source.

Which one runs is decided in ``rule.py``. The letters are those of ``arguments.cuh``.
"""

from __future__ import annotations

from dataclasses import dataclass

NORMALIZATIONS = ("softmax", "sigmoid", "relu", "tanh", "linear", "none")
ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
ELEMENT_TYPES = {"float32": "Float32", "bfloat16": "Bfloat16", "float16": "Float16"}

#: What an H100's memory (SXM) is made for, in GB/s; a copy gets seven eighths.
USUAL_MEMORY = 3350

#: From how many GB/s on memory is fast: between an H100 (3350) and an H200 (4815).
FAST_MEMORY = 4000

#: The largest block size (BD-LRU) and order (H-LRU) whose coefficients fit the registers.
LARGEST = {"bdlru": 16, "hlru": 32}


@dataclass(frozen=True, slots=True)
class Device:
    """What the rule must know of a device.

    Attributes:
        shared_memory: bytes that one thread block can have.
        memory_gb_s: what its memory is made for.
    """

    capability: tuple[int, int]
    multiprocessors: int
    shared_memory: int
    memory_gb_s: int = USUAL_MEMORY

    @property
    def fast_memory(self) -> bool:
        return self.memory_gb_s > FAST_MEMORY

    @property
    def clusters(self) -> bool:
        return self.capability >= (9, 0) and self.capability[0] != 12

    def resident_clusters(self, size: int) -> int:
        """How many clusters of `size` thread blocks run at once, one thread block a multiprocessor."""
        of_132 = {1: 132, 2: 66, 3: 39, 4: 30, 5: 22, 6: 17, 7: 15, 8: 15}  # measured, H100
        return of_132[size] * self.multiprocessors // 132


@dataclass(frozen=True, slots=True)
class Configuration:
    """One kernel instantiation, completely: equal configurations are the same machine code."""

    kernel: str  # the function in the .cuh file of the same name
    block_size: int  # or order
    dtype: str
    normalization: str
    rows: str  # packed | stepped | strided | unaligned
    time_broadcast: bool
    gate_gradient: bool
    blocks_per_lane: int
    lanes_per_block: int
    steps: int
    warps: int
    stages: int
    cluster: int  # thread blocks that work on a tile: a cluster of the hardware but where maps are conducted
    groups: int = 0  # of warps, where maps are conducted; 0: the state goes round a ring
    chunks: int = 1  # that a warp computes at once
    streams: bool = True  # gradients in rows of 64 bytes may leave L2 before all others
    paced: bool = False  # a tile waits for its neighbours, with whom it shares lines of memory
    prefetch: int | None = None  # bytes; None: 128 where rows are narrower than that

    @property
    def composes(self) -> bool:
        """Whether warps compose maps of states before they have a state."""
        return self.kernel.startswith("composed")

    @property
    def matrices(self) -> bool:
        """Whether rows are read from shared memory, and go back through it, as matrices of 16 bits."""
        one_block = self.blocks_per_lane == 1 and self.lanes_per_block == 1
        return one_block and self.element_bytes == 2 and self.rows != "unaligned"

    @property
    def one_row(self) -> bool:
        """Whether the kernel has one row of logits a step: H-LRU, and BD-LRU with blocks of one as such."""
        return "hlru" in self.kernel

    @property
    def tile(self) -> int:
        """Blocks (channels) of a thread block."""
        return 32 * self.blocks_per_lane // self.lanes_per_block // self.chunks

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a thread block; the generated source asserts that the kernel agrees."""
        m, s = self.block_size, self.steps
        row = self.tile * self.element_bytes + (16 if self.rows == "unaligned" else 0)
        logit_steps = 1 if self.time_broadcast else s
        backward = "backward" in self.kernel
        if self.one_row:
            state = m
            rows = logit_steps * (m + 1) + s
            if backward:
                rows = logit_steps * (m + 1) + (3 * s + m - 1 if self.gate_gradient else s)
        else:
            state = -(-m // self.lanes_per_block)
            slack = m + 1 if m % self.lanes_per_block else 0
            rows = logit_steps * m * (m + 1) + s * m * (3 if backward and self.gate_gradient else 1) + slack
        # Eight rows of each chunk on their way out, those of two chunks in different banks.
        written = (8 * row + (64 if self.chunks == 2 else 0)) * self.chunks if self.matrices else 0
        if self.composes:
            region = rows * row
            if self.chunks == 2:  # so that the two chunks of a warp lie in different banks
                if self.matrices:
                    region = (region + 63) // 128 * 128 + 64
                elif region % 64 == 0:
                    region += row
            staged = self.warps * (self.stages * self.chunks * region + written)
            lanes = 32 // self.chunks
            of_state, of_map = 4 * lanes * m, 4 * lanes * m * (m + 1)
            if self.conducted:
                worker = self.chunks * self.warps * of_map + self.groups * of_state + staged
                return max(worker, 2 * self.cluster * of_map)
            teams = self.warps // 2 * (of_state + of_map + of_state + 16)
            return -(-(128 + teams) // 128) * 128 + staged
        return 128 + self.warps * (32 * state * self.blocks_per_lane * 4 + self.stages * rows * row + written)

    @property
    def conducted(self) -> bool:
        """Whether one thread block more runs the states of each tile; all of a launch must run together."""
        return self.groups > 0

    def thread_blocks(self, tiles: int) -> int:
        """Thread blocks of a launch."""
        return tiles * (self.cluster + self.conducted)

    @property
    def exchange_floats(self) -> int:
        """What a tile's thread blocks tell others, in a buffer of zeros: maps and states; or their turn."""
        if self.paced:
            return 8
        m, lanes = self.block_size, 32 // self.chunks
        return lanes * self.groups * self.cluster * (m * (m + 1) + m)

    @property
    def element_bytes(self) -> int:
        return ELEMENT_BYTES[self.dtype]

    @property
    def step_bytes(self) -> int:
        """What a relay reads in one step of a tile."""
        rows = 1 if self.one_row else self.block_size
        rows *= self.block_size + (4 if "backward" in self.kernel else 2)
        return rows * self.tile * self.element_bytes

    @property
    def coefficient_registers(self) -> int:
        columns = self.block_size + 1
        rows = 1 if self.one_row else -(-self.block_size // self.lanes_per_block)
        return self.steps * self.blocks_per_lane * rows * columns

    def source(self) -> str:
        """The translation unit that NVRTC is given."""
        cluster = (
            f"__cluster_dims__({self.cluster}, 1, 1) " if self.cluster > 1 and not self.conducted else ""
        )
        narrow = self.tile * self.element_bytes <= 64
        prefetch = (128 if narrow else 0) if self.prefetch is None else self.prefetch
        stage = f"{'Backward' if 'backward' in self.kernel else 'Forward'}{'Map' * self.composes}Stage"
        flag = {False: "false", True: "true"}
        return f"""#include "{self.kernel}.cuh"
struct Configuration {{
    typedef {ELEMENT_TYPES[self.dtype]} E;
    static constexpr Normalization F = Normalization::{self.normalization};
    static constexpr Rows ROWS = Rows::{self.rows};
    static constexpr bool TIME_BROADCAST = {flag[self.time_broadcast]},
                          GATE_GRADIENT = {flag[self.gate_gradient]};
    static constexpr int M = {self.block_size}, NB = {self.blocks_per_lane}, R = {self.lanes_per_block},
                         S = {self.steps}, W = {self.warps}, D = {self.stages}, K = {self.cluster},
                         CH = {self.chunks}, G = {self.groups}, PREFETCH = {prefetch};
    static constexpr bool COMPOSES = {flag[self.composes]}, STREAMS = {flag[self.streams]},
                          PACED = {flag[self.paced]};
}};
static_assert({stage}<Configuration>::SHARED == {self.shared_bytes}, "configurations.py counts otherwise");
extern "C" __global__ void {cluster}__launch_bounds__({32 * self.warps}, 1)
    statemix_kernel(const __grid_constant__ Arguments arguments) {{
    {self.kernel}<Configuration>(arguments);
}}
"""


def kernel_for(family: str, block_size: int) -> str:
    """Names the kernel that runs a block size (or order): relay, relay with two lanes a block, or none.

    With few lanes and long sequences block sizes to 4 and orders to 8 run composed maps instead; block size 8
    runs either relay.
    """
    if not 1 <= block_size <= LARGEST[family]:
        return "none"
    return "relay with two lanes a block" if family == "bdlru" and block_size > 8 else "relay"
