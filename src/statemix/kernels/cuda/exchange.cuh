// How the maps of a tile's warps become the states that they need.
#pragma once
#include "gather.cuh"
#include "team.cuh"

template <class C, bool GATHER = (C::G > 0)>
struct Exchange {
    typedef RingOfTeams<C> Maps;
};
template <class C>
struct Exchange<C, true> {
    typedef Gathering<C> Maps;
};

// What a warp stages for its two chunks, each as OfChunk lays it out.
template <class C, class OfChunk>
struct MapStage : OfChunk {
    static constexpr int CHUNK = REGION<C, OfChunk::BYTES>, BYTES = 2 * CHUNK;
    typedef typename Exchange<C>::Maps Maps;
    static constexpr int SHARED = Maps::BYTES + C::W * C::D * BYTES;
};
