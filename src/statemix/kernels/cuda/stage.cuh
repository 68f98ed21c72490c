// Rows of a tile on their way from device memory through shared memory, by asynchronous copies of 16 bytes.
#pragma once
#include "arguments.cuh"

DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// Rows narrower than a 128-byte line waste bandwidth unless L2 is asked to fetch more of it: PREFETCH bytes.
template <int PREFETCH>
DEVICE void copy_16_bytes(u32 to, const char* from) {
    if constexpr (PREFETCH == 128)
        asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
    else if constexpr (PREFETCH == 64)
        asm volatile("cp.async.cg.shared.global.L2::64B [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
    else
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING>
DEVICE void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Copies up to COUNT rows, of which the first `rows` exist and the first `skip` are not wanted. PER_STEP rows make a
// step and INNER of them lie a line apart. Rows and places that are not copied hold garbage: whoever reads selects.
template <class C, int COUNT, int PER_STEP, int INNER, bool SKIP = false>
DEVICE void stage_rows(u32 to, const char* from, const Strides& strides, int rows, int lane, int valid, int skip = 0) {
    constexpr int ROW = Tile<C>::ROW, PIECES = ROW / 16;
    // Where rows lie apart, or unevenly, their places follow from the lane by divisions. The compiler would keep all of
    // them; where maps are composed registers are scarce, and they are made again each time (`afresh`).
    constexpr bool AFRESH = C::COMPOSES && C::ROWS != Rows::packed;
    if constexpr (C::ROWS == Rows::unaligned) {
        // The aligned superset of each row; the row then begins (address mod 16) bytes into its place.
        if constexpr (AFRESH) lane = afresh(lane);
#pragma unroll
        for (int first = 0; first < COUNT * PIECES; first += 32) {
            const int index = first + lane, row = index / PIECES, piece = index % PIECES;
            const u64 address = (u64)(from + (i64)row * strides.line);
            const int end = (int)(address & 15) + valid * C::E::BYTES;
            if (row < rows && (!SKIP || row >= skip) && piece * 16 < end)
                copy_16_bytes<C::PREFETCH>(to + index * 16, (const char*)(address & ~15ull) + piece * 16);
        }
    } else {
        constexpr int STRIDE = 32 / PIECES;  // rows that the warp copies at once
        const int piece = lane % PIECES;
        int row0 = lane / PIECES;
        if constexpr (AFRESH) row0 = afresh(row0);
        const int limit = piece * 16 < valid * C::E::BYTES ? rows - row0 : 0;
        from += piece * 16;
        const int line = C::ROWS == Rows::stepped && PER_STEP == 1 ? strides.time : strides.line;
        const int gap = strides.time - PER_STEP * line;  // behind each step
        if constexpr (C::ROWS != Rows::strided) from = fixed(from + (i64)row0 * line);
        to += lane * 16;
#pragma unroll
        for (int first = 0; first < COUNT; first += STRIDE) {
            bool wanted = first < limit;
            if constexpr (SKIP) wanted = wanted && first + row0 >= skip;
            if (wanted) {
                const int row = first + row0, in_step = row % PER_STEP;
                const char* place = from + (i64)first * line;
                if constexpr (C::ROWS == Rows::stepped && AFRESH && PER_STEP >= STRIDE)
                    place += (i64)(first / PER_STEP + (first % PER_STEP + row0 >= PER_STEP)) * gap;
                else if constexpr (C::ROWS == Rows::stepped && PER_STEP > 1)
                    place += (i64)(row / PER_STEP) * gap;
                if constexpr (C::ROWS == Rows::strided)
                    place = from + (i64)(row / PER_STEP) * strides.time + (i64)(in_step / INNER) * strides.row +
                            (i64)(in_step % INNER) * strides.line;
                copy_16_bytes<C::PREFETCH>(to + first * ROW, place);
            }
        }
    }
}

// A lane's view of staged rows.
template <class C>
struct StagedRows {
    const char* base;
    int phase, pitch;  // unaligned rows: where the first begins in its 16 bytes, and how that moves from row to row

    DEVICE StagedRows() {}
    DEVICE StagedRows(const char* staged, const char* from, int line, const Lane<C>& lane)
        : base(staged + lane.source), phase((int)((u64)from & 15)), pitch(line & 15) {}

    DEVICE StagedRows from_row(int row) const {
        StagedRows view = *this;
        view.base += row * Tile<C>::ROW;
        view.phase += row * pitch;
        return view;
    }
    DEVICE void read(int row, float (&x)[C::NB]) const {
        int offset = row * Tile<C>::ROW;
        if constexpr (Tile<C>::APART) offset += (phase + row * pitch) & 15;
        load_elements<typename C::E, C::NB, Tile<C>::APART>(base + offset, x);
    }
};

// MATRICES 8 x 8 matrices of 16 bits, transposed: each register has two rows' elements of the lane's column.
template <int MATRICES>
DEVICE void load_matrices(u32 from, u32* pairs) {
    if constexpr (MATRICES == 4)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(pairs[0]), "=r"(pairs[1]), "=r"(pairs[2]), "=r"(pairs[3])
                     : "r"(from)
                     : "memory");
    else if constexpr (MATRICES == 2)
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                     : "=r"(pairs[0]), "=r"(pairs[1])
                     : "r"(from)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(pairs[0]) : "r"(from) : "memory");
}

// COUNT staged rows that a lane will read: where they lie, or already in registers, two rows in each.
template <class C, int COUNT, bool MATRICES = Tile<C>::MATRICES>
struct ReadRows : StagedRows<C> {
    DEVICE ReadRows() {}
    DEVICE ReadRows(const StagedRows<C>& rows) : StagedRows<C>(rows) {}
};
template <class C, int COUNT>
struct ReadRows<C, COUNT, true> {
    u32 pairs[(COUNT + 1) / 2];

    DEVICE ReadRows() {}
    DEVICE ReadRows(const StagedRows<C>& rows) {
        constexpr int ROW = Tile<C>::ROW, REST = COUNT / 8 * 8;
        const u32 from = shared_address(rows.base);
#pragma unroll
        for (int row = 0; row < REST; row += 8) load_matrices<4>(from + row * ROW, pairs + row / 2);
        if constexpr (COUNT - REST >= 4) load_matrices<2>(from + REST * ROW, pairs + REST / 2);
        constexpr int LAST = REST + (COUNT - REST) / 4 * 4;
        if constexpr (COUNT - LAST >= 2) load_matrices<1>(from + LAST * ROW, pairs + LAST / 2);
        // Of the last of an odd number of rows there is no next one.
        if constexpr (COUNT % 2 == 1)
            load_matrices<1>(from + (COUNT - 1 - (int)(threadIdx.x & 1)) * ROW, pairs + COUNT / 2);
    }
    DEVICE ReadRows from_row(int) const { return *this; }  // all rows are the lane's own
    DEVICE void read(int row, float (&x)[1]) const {
        float low, high;
        C::E::widen_pair(pairs[row / 2], low, high);
        x[0] = row % 2 ? high : low;
    }
};
