// What every kernel is given, and where in it one thread block works.
//
// The letters of a configuration (struct C, written by configurations.py):
//     M   block size or order          NB  blocks (channels) a lane holds     R  lanes that share a block
//     S   steps of a chunk             W   warps of a thread block            D  stages of shared memory
//     K   thread blocks of a tile      E   element type                       F  normalization
//     COMPOSES  warps compose maps of states before they have a state
//     PACED     a tile waits for its neighbours (pace.cuh)
//     STREAMS   gradients in rows of 64 bytes may leave L2 before all others
//     CH  chunks that a warp computes at once (2 in some kernels with maps, whose lanes then are two halves): a span
//     G   groups of warps where maps are conducted (conduct.cuh), and each tile has one thread block more; 0: states go
//         round a ring
//     PREFETCH         bytes that L2 is asked to fetch with each copy (0: no request)
//     ROWS             how rows lie in memory (enum Rows)
//     TIME_BROADCAST   the logits have one step, used at all times
//     GATE_GRADIENT    backward writes dL/dlogits (else dL/dh in float32, see gate_gradient.cuh)
#pragma once
#include "elements.cuh"
#include "normalization.cuh"

enum class Rows {
    packed,    // consecutive rows of N elements, 16-byte aligned
    stepped,   // the same within a step, the steps any distance apart: a part of the rows of a wider tensor
    strided,   // any strides between rows, 16-byte aligned
    unaligned  // consecutive rows of N elements that start anywhere
};

// Strides in bytes. Mirrored field by field in launch.py.
struct Arguments {
    const char* gate_logits;
    const char* values;
    const char* hidden;            // backward: what forward returned, contiguous
    const char* grad_hidden;       // backward
    char* output;                  // forward: hidden; backward: dL/dvalues; contiguous but for the next strides
    char* grad_gates;              // backward: dL/dlogits in the element type, or dL/dh in float32; likewise
    const float* initial_state;    // null: zero
    const float* carry_in;         // forward: the initial state; backward: dL/dfinal_state; null: zero
    float* carry_out;              // forward: the final state; backward: dL/dinitial_state; may be null
    const int* cu_seqlens;         // null: every batch row is one sequence of T steps
    float* exchange;               // zeros, for what thread blocks tell each other (conduct.cuh, pace.cuh)
    i64 logits_batch, logits_time, logits_row, logits_line;
    i64 values_batch, values_time, values_line;
    i64 grad_batch, grad_time, grad_line;
    i64 T, N;
    i64 output_time, gates_time;   // backward: how far the steps of its two results are apart, unless rows are consecutive
};

// Strides of one tensor between steps, rows (block rows of the logits) and lines (runs along N): below 2^31 bytes, so
// that one instruction multiplies and adds to an address. What is multiplied by whole chunks is widened first.
struct Strides {
    int time, row, line;
    DEVICE Strides(i64 time_, i64 row_, i64 line_) : time((int)time_), row((int)row_), line((int)line_) {}
};

// The lines that backward writes: ROWS rows of LINES lines a step, consecutive, or with steps that are `time` bytes apart
// where those that it reads may be.
template <class C, int ROWS, int LINES = 1>
struct WrittenLines {
    static constexpr bool APART = (C::ROWS == Rows::stepped || C::ROWS == Rows::strided) && C::GATE_GRADIENT;
    int pitch;
    i64 time;
    DEVICE i64 first(i64 step, int row) const {
        return APART ? step * time + (i64)row * LINES * pitch : (step * ROWS + row) * LINES * pitch;
    }
    DEVICE i64 at(int s, int row, int line = 0) const {
        return APART ? (i64)s * (int)time + (i64)(row * LINES + line) * pitch
                     : (i64)((s * ROWS + row) * LINES + line) * pitch;
    }
};

template <class C>
struct Tile {
    static constexpr int LANES = 32 / (C::R * C::CH);  // lanes that hold different blocks
    static constexpr int BLOCKS = LANES * C::NB;     // blocks (channels) of a tile
    static constexpr bool APART = C::ROWS == Rows::unaligned;
    static constexpr int ROW = BLOCKS * C::E::BYTES + (APART ? 16 : 0);  // bytes of a staged row
    // Where a lane holds one block, rows are read from shared memory as matrices, by one instruction 512 bytes (stage.cuh).
    static constexpr bool MATRICES = C::E::BYTES == 2 && C::NB == 1 && C::R == 1 && !APART;
    // Narrow rows are for problems with few lanes, which are limited by the chain of states as much as by memory.
    static constexpr bool NARROW = BLOCKS * C::E::BYTES < 128;
    // Of rows of 64 bytes L2 keeps the other half of a line until the neighbour asks for it. The gradients, half of all that
    // backward moves, must not drive it out: where they did, the same kernel had 69 % of a copy in place of 85 (H100).
    static constexpr bool STREAMS = C::STREAMS && ROW == 64;

    int number;       // among the tiles of all sequences
    int rank;         // of this thread block among those of its tile
    int sequence;     // batch row, or index into cu_seqlens
    int n0;           // first block of the tile
    int length;       // steps
    i64 first_step;   // first step of the sequence among all steps of a contiguous tensor
    i64 batch;        // 0 when packed: a stride to multiply
    i64 start;        // first step inside the batch row
    int valid;        // blocks of the tile that exist

    DEVICE explicit Tile(const Arguments& arguments) {
        // Neighbouring tiles read the same lines of memory, the faster the nearer they are to each other on the chip: with
        // rows of 32 bytes that makes 85 % of a copy out of 38. Thread blocks without clusters fill one part (GPC) of the
        // chip after the other, so tiles go with their numbers; clusters go round the parts, so neighbours in a part are
        // PARTS numbers apart. Two tiles to a line in clusters of two are faster otherwise (88 % in place of 73).
        constexpr int PARTS = 8, FEW = 16;
        constexpr bool QUARTERS = BLOCKS * C::E::BYTES <= 32;
        const int tiles = (int)((arguments.N + BLOCKS - 1) / BLOCKS), of_a_tile = C::K + (C::G > 0);
        const int all = gridDim.x / of_a_tile;
        number = C::G ? blockIdx.x % all : blockIdx.x / C::K;
        if (C::G == 0 && (QUARTERS ? C::K > 1 : C::COMPOSES && C::K > 2) && all > FEW) {
            const int part = number % PARTS;
            number = part * (all / PARTS) + min(part, all % PARTS) + number / PARTS;
        }
        rank = C::G ? blockIdx.x / all : blockIdx.x % C::K;
        sequence = number / tiles;
        n0 = (number % tiles) * BLOCKS;
        valid = min(BLOCKS, (int)arguments.N - n0);
        if (arguments.cu_seqlens) {
            start = arguments.cu_seqlens[sequence];
            length = arguments.cu_seqlens[sequence + 1] - (int)start;
            first_step = start;
            batch = 0;
        } else {
            start = 0;
            length = (int)arguments.T;
            first_step = (i64)sequence * length;
            batch = sequence;
        }
    }

    DEVICE i64 offset(i64 batch_stride, i64 time_stride) const {
        return batch * batch_stride + start * time_stride + (i64)n0 * C::E::BYTES;
    }
};

// The part of a tile that one lane computes.
template <class C>
struct Lane {
    // How far the lanes with two chunks of a block are from each other.
    static constexpr int ACROSS = Tile<C>::MATRICES ? 2 : 16;

    int share;  // which of the R lanes of the block
    int half;   // which of the CH chunks
    int block;  // the lane's first block in the tile
    int place;  // of its block among the tile's in memory that warps share: so dealt that neighbouring lanes are neighbours
    int count;  // how many of the lane's blocks exist
    // Of staged rows: the place in a row that the lane reads, and the chunk; of matrices those whose address it gives.
    int source, source_half;

    DEVICE Lane(int lane, int valid) {
        if constexpr (Tile<C>::MATRICES) {
            // Of an 8 x 8 matrix a lane receives column lane / 4 of rows 2 (lane mod 4) and the next. So two rows of each
            // segment of eight blocks, of each chunk, stand in a matrix; a lane gives the address of one of its rows.
            const int received = lane % 4, given = lane % 8 / 2, row = lane / 8 * 2 + lane % 2;
            share = 0;
            constexpr int SEGMENTS = 4 / C::CH;
            half = received / SEGMENTS;
            block = received % SEGMENTS * 8 + lane / 4;
            place = lane / 4 * SEGMENTS + received % SEGMENTS;
            count = block < valid;
            source = given % SEGMENTS * 16 + row * Tile<C>::ROW;
            source_half = given / SEGMENTS;
            return;
        }
        share = C::R > 1 ? lane / Tile<C>::LANES : 0;
        half = C::CH > 1 ? lane / Tile<C>::LANES : 0;
        source_half = half;
        if constexpr (Tile<C>::APART) {
            block = lane % Tile<C>::LANES;
            count = 0;
#pragma unroll
            for (int n = 0; n < C::NB; n++) count += block + 32 * n < valid;
        } else {
            block = lane % Tile<C>::LANES * C::NB;
            count = min(max(valid - block, 0), C::NB);
        }
        source = block * C::E::BYTES;
        place = lane % Tile<C>::LANES;
    }
    DEVICE int nth(int n) const { return block + n * (Tile<C>::APART ? 32 : 1); }
};

// The row of a block (or column of its matrix) behind a lane's index: rows are dealt to the R lanes in turn, and
// columns are kept in the order that makes every register index a constant: own rows first, then the partners'.
template <class C>
DEVICE int partner_row(int index, int partner, int share) {
    return index * C::R + (share ^ partner);
}
