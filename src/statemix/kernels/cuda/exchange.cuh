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
