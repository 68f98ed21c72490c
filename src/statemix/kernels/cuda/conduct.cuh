// Maps that are conducted: one thread block of a tile runs the state through the maps of all others.
//
// A tile has K + 1 thread blocks, which the launch guarantees to be on the device together: K that work on chunks, and a
// conductor. The warps of each worker stand in G groups. A turn of a group covers consecutive chunks: those of the groups
// of the same number, worker by worker, warp by warp. Every warp composes the affine map h -> P h + q of its chunks, every
// worker that of the group's warps, and writes it to device memory. The conductor applies one after the other to the
// state, and writes to each worker the state before its chunks. So what is waited for is the slowest map of a turn and
// the way there and back; while one group waits the others compute, and the chain of states never leaves the conductor.
//
// Numbers are read as soon as they are there: the lowest bit of each says which turn wrote it, and flips every turn;
// memory is zero at first, which is the bit of no first writing. (A state that overflowed to infinity may so become NaN.)
// No place is written again before it was read: a worker's next map follows from the state that answers its last one.
//
// In shared and in device memory a lane's numbers lie where its place among the lanes says (Lane::place), so that
// neighbouring lanes never meet in a bank.
#pragma once
#include "maps.cuh"
#include "others.cuh"

DEVICE void synchronize_warps(int barrier, int warps) {
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(32 * warps) : "memory");
}
DEVICE void arrive_before_warps(int barrier, int warps) {
    asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(32 * warps) : "memory");
}

// Numbers `first` to `first` + SOME of a lane's COUNT, marked with the bit of this turn.
template <int COUNT, int LANES, int SOME>
DEVICE void tell(float* to, int first, const float (&x)[SOME], u32 bit) {
    constexpr int V = VECTOR<COUNT>, TOGETHER = SOME % V == 0 ? V : 1;
    u32 words[SOME];
#pragma unroll
    for (int i = 0; i < SOME; i++) words[i] = (__float_as_uint(x[i]) & ~1u) | bit;
#pragma unroll
    for (int i = 0; i < SOME; i += TOGETHER)
        store_for_others<TOGETHER>(to + (first + i) / V * (LANES * V) + (first + i) % V, words + i);
}
// A lane's COUNT numbers of `count` (at most MOST) places that lie `apart`, once all have the bit of this turn.
template <int COUNT, int LANES, int MOST>
DEVICE void hear(const float* from, int apart, int count, u32 bit, float (&numbers)[MOST][COUNT]) {
    constexpr int V = VECTOR<COUNT>;
    u32 x[MOST][COUNT], wrong;
    do {
        wrong = 0;
#pragma unroll
        for (int k = 0; k < MOST; k++)
            if (k < count) {
#pragma unroll
                for (int i = 0; i < COUNT; i += V) load_of_others<V>(from + k * apart + i * LANES, x[k] + i);
            }
#pragma unroll
        for (int k = 0; k < MOST; k++)
            if (k < count) {
#pragma unroll
                for (int i = 0; i < COUNT; i++) wrong |= x[k][i] ^ bit;
            }
    } while (wrong & 1);
#pragma unroll
    for (int k = 0; k < MOST; k++)
#pragma unroll
        for (int i = 0; i < COUNT; i++) numbers[k][i] = __uint_as_float(x[k][i]);
}

// W warps in G groups, in each of the K workers of a tile, and as many in its conductor.
template <class C>
struct Conducting {
    static constexpr int M = C::M, W = C::W, G = C::G, K = C::K, CH = C::CH, LANES = Tile<C>::LANES;
    static constexpr int COUNT = M * (M + 1), V = VECTOR<COUNT>, MAP = COUNT * LANES, STATE = M * LANES;  // in floats
    static constexpr int MEMBERS = W / G;                                  // warps of a group
    static constexpr int SPANS = K * MEMBERS, STRIDE = SPANS * G;          // in a turn of a group; in one of each
    static constexpr int BYTES = 4 * (CH * W * MAP + G * STATE);           // of a worker: maps, states before a turn
    static constexpr int CONDUCTOR_BYTES = 4 * 2 * K * MAP;                // the maps of two turns
    static_assert(W % G == 0 && W > 1 && G < 16, "a named barrier for every group, and barrier 0");

    float *floats, *maps_of_all, *states_of_all;
    int warp, group, member, place, rank, turn;
    bool upper;
    int before, first;  // spans of a turn before this warp's; its first

    DEVICE Conducting(char* shared, float* exchange, const Tile<C>& tile, const Lane<C>& lane, int warp_)
        : floats((float*)shared), maps_of_all(exchange + (i64)tile.number * (G * K * (MAP + STATE))),
          states_of_all(maps_of_all + G * K * MAP), warp(warp_), group(warp / MEMBERS), member(warp % MEMBERS),
          place(lane.place), rank(tile.rank), turn(0), upper(lane.half == CH - 1), before(rank * MEMBERS + member),
          first(group * SPANS + before) {}

    DEVICE bool conducts() const { return rank == K; }

    // All that the conductor does, from the state before the first turn on: its first warp applies the maps that the
    // others load, who are a turn ahead.
    DEVICE void conduct(int spans, float (&h)[M]) const {
        constexpr int LOADERS = W - 1, EACH = (K + LOADERS - 1) / LOADERS, MOST = COUNT < 100 ? 100 / COUNT : 1;
        constexpr int AT_ONCE = EACH < MOST ? EACH : MOST;  // maps that a warp waits for together
        constexpr int FULL = 1, EMPTY = 3;                  // named barriers, of two turns each
        const int turns = (spans + SPANS - 1) / SPANS;
        for (int t = 0; t < turns; t++) {
            const int group_of_turn = t % G, odd = t & 1;
            const u32 bit = t / G & 1 ? 0 : 1;
            float* const maps = floats + odd * K * MAP + place * V;
            if (warp > 0) {
                if (t > 1) synchronize_warps(EMPTY + odd, W);
                for (int k = warp - 1; k < K; k += AT_ONCE * LOADERS) {
                    const int count = (K - k + LOADERS - 1) / LOADERS;
                    float heard[AT_ONCE][COUNT];
                    hear<COUNT, LANES>(maps_of_all + (group_of_turn * K + k) * MAP + place * V, LOADERS * MAP, count, bit,
                                       heard);
#pragma unroll
                    for (int i = 0; i < AT_ONCE; i++)
                        if (i < count) store_vector<COUNT, LANES>(maps + (k + i * LOADERS) * MAP, heard[i]);
                }
                arrive_before_warps(FULL + odd, W);
                continue;
            }
            synchronize_warps(FULL + odd, W);
            float* const states = states_of_all + group_of_turn * K * STATE + place * VECTOR<M>;
            Map<M> next;  // on its way while another is applied
            load_vector<COUNT, LANES>(maps, &next.column[0][0]);
#pragma unroll 16
            for (int k = 0; k < K; k++) {
                const Map<M> map = next;
                if (k + 1 < K) load_vector<COUNT, LANES>(maps + (k + 1) * MAP, &next.column[0][0]);
                if (upper) tell<M, LANES>(states + k * STATE, 0, h, bit);
                map.apply(h);
            }
            if (t + 2 < turns) arrive_before_warps(EMPTY + odd, W);
        }
    }

    // Takes the map of a warp's chunk, or that of its first chunk from its lower half and that of both from the upper one;
    // returns the state before each lane's chunk.
    DEVICE void state_before(const float (&P)[M][M], const float (&q)[M], float (&h)[M]) {
        const u32 bit = turn & 1 ? 0 : 1;
        float* const maps = floats + group * MEMBERS * MAP;
        float* const first_half = floats + (W + warp) * MAP;  // where there are halves
        float* const state = floats + CH * W * MAP + group * STATE + place * VECTOR<M>;
        const int mine = afresh(group * K + rank);  // no addresses that follow from it are kept over a turn
        float flat[COUNT];
        flatten<M>(P, q, flat);
        synchronize_warps(1 + group, MEMBERS);  // all have read the maps of the turn before
        store_vector<COUNT, LANES>((upper ? maps + member * MAP : first_half) + place * V, flat);
        synchronize_warps(1 + group, MEMBERS);
        publish(maps, maps_of_all + mine * MAP + place * V, bit);
        if (member == 0) {
            float heard[1][M];
            hear<M, LANES>(states_of_all + mine * STATE + place * VECTOR<M>, 0, 1, bit, heard);
            if (upper) store_vector<M, LANES>(state, heard[0]);
        }
        synchronize_warps(1 + group, MEMBERS);
        load_vector<M, LANES>(state, h);
        for (int w = 0; w < member; w++) read_map(maps + w * MAP).apply(h);
        if (CH == 2 && upper) read_map(first_half).apply(h);
        turn++;
    }

    DEVICE void enter() const {}
    DEVICE void begin(const float (&)[M]) const {}
    DEVICE void end(int) const {}

  private:
    DEVICE Map<M> read_map(const float* maps) const {
        Map<M> map;
        load_vector<COUNT, LANES>(maps + place * V, &map.column[0][0]);
        return map;
    }
    // The map of all warps of the group; each warp, or half of one, makes some of its columns.
    DEVICE void publish(const float* maps, float* to, u32 bit) const {
        constexpr int MAKERS = CH * MEMBERS, EACH = (M + MAKERS) / MAKERS;
        const int maker = CH * member + (CH == 2 && upper);
        float x[EACH][M];
#pragma unroll
        for (int r = 0; r < EACH; r++)
#pragma unroll
            for (int i = 0; i < M; i++) {
                const int f = min(maker + r * MAKERS, M) * M + i;
                x[r][i] = maps[f / V * (LANES * V) + place * V + f % V];
            }
#pragma unroll
        for (int w = 1; w < MEMBERS; w++) {
            const Map<M> map = read_map(maps + w * MAP);
#pragma unroll
            for (int r = 0; r < EACH; r++) map.apply(x[r], maker + r * MAKERS >= M);
        }
#pragma unroll
        for (int r = 0; r < EACH; r++)
            if (maker + r * MAKERS <= M) tell<COUNT, LANES>(to, (maker + r * MAKERS) * M, x[r], bit);
    }
};
