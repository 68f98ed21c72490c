// How the maps of a tile's warps become the states that they need: round a ring, or by a conductor.
#pragma once
#include "conduct.cuh"
#include "team.cuh"

template <class C, bool CONDUCTED = (C::G > 0)>
struct Exchange {
    typedef RingOfTeams<C> Maps;
};
template <class C>
struct Exchange<C, true> {
    typedef Conducting<C> Maps;
};

// What a warp stages for its chunks, each as OfChunk lays it out.
template <class C, class OfChunk>
struct MapStage : OfChunk {
    static constexpr int CHUNK = REGION<C, OfChunk::BYTES>, BYTES = C::CH * CHUNK;
    typedef typename Exchange<C>::Maps Maps;
    static constexpr int RESULTS = Maps::BYTES + C::W * C::D * BYTES, WORKING = RESULTS + C::W * WrittenPlaces<C>::BYTES;
    static constexpr int SHARED = WORKING > Maps::CONDUCTOR_BYTES ? WORKING : Maps::CONDUCTOR_BYTES;
};

// The outputs of a span, PER_STEP rows a step; `hidden` is at the tile's first block and step.
template <class C, class Q>
DEVICE void store_outputs(const Q& q, char* hidden, const WrittenPlaces<C>& written, int span, const Tile<C>& tile,
                          const Lane<C>& lane, int pitch) {
    constexpr int S = C::S, PER_STEP = sizeof(Q) / sizeof(float) / S;
    const float* const results = (const float*)&q;
    const int chunk = C::CH * span + (Tile<C>::MATRICES ? written.half : lane.half);
    const int rows = min(S, tile.length - chunk * S) * PER_STEP;
    char* const out = hidden + (i64)chunk * S * PER_STEP * pitch;
    if (Tile<C>::MATRICES || lane.count > 0) {
        RowWriter<C, S * PER_STEP> writer(written, out, pitch, rows, tile.valid);
        char* const own = Tile<C>::MATRICES ? out : fixed(out + lane.block * C::E::BYTES);
#pragma unroll
        for (int row = 0; row < S * PER_STEP; row++) {
            if (!Tile<C>::MATRICES && row >= rows) break;
            const float x[1] = {results[row]};
            writer.put(row, x, own + (i64)row * pitch);
        }
    }
}
