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
