// Rows of a tile on their way back to device memory: through shared memory, as the matrices that they were read as.
//
// A lane's results are one column of the tile. Stored as such they cost an instruction and an address each; as matrices
// eight rows leave by one instruction, 16 bytes from each lane.
#pragma once
#include "stage.cuh"

// Four 8 x 8 matrices of 16 bits, transposed: the inverse of load_matrices. `row` and `column` are where the row begins
// whose address the lane gives, and where its own column does.
template <class C>
DEVICE void store_matrices(char* row, char* column, const u32* pairs) {
#if __CUDA_ARCH__ >= 900
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
                 "r"(pairs[0]), "r"(pairs[1]), "r"(pairs[2]), "r"(pairs[3])
                 : "memory");
#else
#pragma unroll
    for (int i = 0; i < 8; i++) *(u16*)(column + i * Tile<C>::ROW) = (u16)(pairs[i / 2] >> (i % 2 * 16));
#endif
}

// Eight rows of each chunk of a warp in shared memory, and which 16 bytes of them a lane stores.
template <class C>
struct WrittenPlaces {
    static constexpr int ROW = Tile<C>::ROW, PIECES = ROW / 16, ROWS = 8;
    static constexpr int HALF = ROWS * ROW + (C::CH == 2 ? 64 : 0);  // so that two chunks lie in different banks
    static constexpr int BYTES = Tile<C>::MATRICES ? C::CH * HALF : 0;

    char *given, *column;  // as store_matrices wants them
    const uint4* mine;     // what the lane stores: of the chunk `half`, of each eight rows `row`, 16 bytes
    int half, row, piece;
    int count;  // of the lane's own blocks, which it stores where rows are no matrices

    DEVICE WrittenPlaces(char* shared, const Lane<C>& lane)
        : given(shared + lane.source_half * HALF + lane.source), column(shared + lane.half * HALF + lane.block * 2),
          count(lane.count) {
        const int thread = threadIdx.x % 32, of_half = thread % (32 / C::CH);
        half = thread / (32 / C::CH);
        row = of_half / PIECES;
        piece = of_half % PIECES;
        mine = (const uint4*)(shared + half * HALF) + of_half;
    }
};

// COUNT rows, of which the first `rows` exist, given one after the other by all lanes of a warp. They are consecutive, or
// (PER_STEP > 0) those of a step are.
template <class C, int COUNT, int PER_STEP = 0, bool STREAMS = false, bool MATRICES = Tile<C>::MATRICES>
class RowWriter {
    static constexpr int ROWS = WrittenPlaces<C>::ROWS;
    const WrittenPlaces<C>& places;
    char* to;
    int pitch, gap, limit;  // gap: behind each step
    float kept[ROWS];  // NVRTC 12.8 to 13.2 drop conversions of some rows that are kept as pairs

  public:
    // `first`: the first row of the chunk that the lane stores, at the tile's first block. Steps lie `time` bytes apart.
    DEVICE RowWriter(const WrittenPlaces<C>& places_, char* first, int pitch_, int rows, int valid, i64 time = 0)
        : places(places_), to(first + (i64)places_.row * pitch_ + places_.piece * 16), pitch(pitch_),
          gap((int)time - PER_STEP * pitch_), limit(places_.piece * 8 < valid ? rows - places_.row : 0) {
        to = fixed(to);
    }

    // A row's number, what the lane has of it, and where that would lie in memory.
    DEVICE void put(int row, const float (&x)[1], char*) {
        kept[row % ROWS] = x[0];
        if (row % ROWS == ROWS - 1 || row == COUNT - 1) flush(row / ROWS * ROWS, row % ROWS + 1);
    }

  private:
    // Rows of which the last `given` were put since the flush before.
    DEVICE void flush(int first, int given) {
        u32 pairs[ROWS / 2];
#pragma unroll
        for (int i = 0; i < ROWS; i += 2)
            pairs[i / 2] = i < given ? C::E::narrow_pair(kept[i], kept[i + 1 < given ? i + 1 : i]) : 0;
        __syncwarp();  // what was there has been read
        store_matrices<C>(places.given, places.column, pairs);
        __syncwarp();
        if (first < limit) {
            char* place = to + (i64)first * pitch;
            if constexpr (PER_STEP > 0) place += (i64)((first + places.row) / PER_STEP) * gap;
            if constexpr (STREAMS)
                __stcs((uint4*)place, *places.mine);
            else
                *(uint4*)place = *places.mine;
        }
    }
};

// Rows that are no matrices: each lane stores its own. Whoever gives one knows that it exists.
template <class C, int COUNT, int PER_STEP, bool STREAMS>
class RowWriter<C, COUNT, PER_STEP, STREAMS, false> {
    int count;

  public:
    DEVICE RowWriter(const WrittenPlaces<C>& places, char*, int, int, int, i64 = 0) : count(places.count) {}
    DEVICE void put(int, const float (&x)[C::NB], char* place) {
        store_elements<typename C::E, C::NB, Tile<C>::APART, STREAMS>(place, x, count);
    }
};

// The outputs of a warp's chunks, LINES rows a step; `hidden` is at the tile's first block and step, and what a lane has of a
// step are its own rows, every R-th. The steps that do not exist are not stored.
template <class C, int LINES, class Q>
DEVICE void store_outputs(const Q& q, char* hidden, const WrittenPlaces<C>& written, int span, const Tile<C>& tile,
                          const Lane<C>& lane, int pitch) {
    constexpr bool MATRICES = Tile<C>::MATRICES;
    constexpr int S = C::S, NB = C::NB, OWN = sizeof(Q) / sizeof(float) / (S * NB);
    const float* const results = (const float*)&q;
    const int chunk = C::CH * span + (MATRICES ? written.half : lane.half);
    const int rows = min(S, tile.length - chunk * S) * LINES;
    if (!MATRICES && lane.count == 0) return;
    char* const out = hidden + (i64)chunk * S * LINES * pitch;
    char* const own = MATRICES ? out : fixed(out + (i64)lane.share * pitch + lane.block * C::E::BYTES);
    RowWriter<C, S * LINES> writer(written, out, pitch, rows, tile.valid);
#pragma unroll
    for (int s = 0; s < S; s++) {
        if (!MATRICES && s * LINES >= rows) break;
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            float x[NB];
#pragma unroll
            for (int n = 0; n < NB; n++) x[n] = results[(s * NB + n) * OWN + i];
            const int line = s * LINES + i * C::R;
            if (OWN * C::R == LINES || partner_row<C>(i, 0, lane.share) < LINES)
                writer.put(line, x, own + (i64)line * pitch);
        }
    }
}
