// Maps that go round a ring: one team of two warps after the other applies the maps of its chunks to the state that
// arrives and hands the result on. The first warp of a team leaves its map to the second, who applies both, passes the
// state on, and only then tells the first: a hop of the ring covers the steps of two warps.
//
// Inside a team the hand-overs are mbarriers at which every lane arrives. Map and state need one place each: the first
// warp writes its next map after the answer to this one, the second its next answer after that map.
#pragma once
#include "maps.cuh"

DEVICE void initialize_barrier(u32 barrier) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 32;" ::"r"(barrier) : "memory");
}
DEVICE void arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// With the interface of Conducting (conduct.cuh). W warps in each of K thread blocks of a tile.
template <class C>
struct RingOfTeams {
    static constexpr int M = C::M, LANES = Tile<C>::LANES, COUNT = M * (M + 1), V = VECTOR<COUNT>, MAP = COUNT * LANES;
    static constexpr int TEAMS = C::W / 2, SPANS = C::K * C::W, STRIDE = SPANS;  // spans in a turn
    static constexpr int CONDUCTOR_BYTES = 0;
    typedef Ring<TEAMS, C::K, M, LANES> Relay;
    static constexpr int OWN = 4 * (MAP + M * LANES) + 16;  // bytes of a team: a map, the state, two mbarriers
    // Stages follow: rows of 32 bytes that begin elsewhere cost a fifth of the speed.
    static constexpr int BYTES = (Relay::BYTES + TEAMS * OWN + 127) / 128 * 128;
    static_assert(C::W % 2 == 0, "teams of two warps");

    Relay ring;
    float *map, *state;  // of the first warp: its map, the state before its chunk
    u32 map_left, state_left;
    int turn;
    bool lower, upper;  // which half of the warp, if it has halves
    // Spans of a turn of its team before this warp's; its first. The second warps, who have more to do, are dealt to all
    // four schedulers, which have every fourth warp.
    int before, first;

    DEVICE RingOfTeams(char* shared, float*, const Tile<C>& tile, const Lane<C>& lane, int warp)
        : ring(shared, warp / 2, lane.place, tile.rank), map((float*)(shared + Relay::BYTES + warp / 2 * OWN)),
          state(map + MAP + lane.place * VECTOR<M>), map_left(shared_address(map + MAP + M * LANES)),
          state_left(map_left + 8), turn(0), lower(lane.half == 0), upper(lane.half == C::CH - 1),
          before((warp ^ warp / 4) % 2), first(tile.rank * C::W + warp / 2 * 2 + before) {
        map += lane.place * V;
        if (before == 0 && threadIdx.x % 32 == 0) {
            initialize_barrier(map_left);
            initialize_barrier(state_left);
        }
    }

    // Before begin(): all barriers are initialized.
    DEVICE void enter() {
        __syncthreads();
        ring.enter();
    }

    // The state before the first turn goes to the first team.
    DEVICE void begin(const float (&h)[M]) {
        if (first == SPANS - 1) ring.send(h, upper);
    }

    // Takes the map of a warp's chunk, or that of its first chunk from its lower half and that of both from the upper one;
    // returns the state before each lane's chunk.
    DEVICE void state_before(const float (&P)[M][M], float (&q)[M], float (&h)[M]) {
        float start[M], flat[COUNT];
        if (before == 0) {
            flatten<M>(P, q, flat);
            if (upper) store_vector<COUNT, LANES>(map, flat);
            arrive(map_left);
            wait_for_phase(state_left, turn & 1);
            load_vector<M, LANES>(state, start);
            apply(P, q, start);
        } else {
            Map<M> earlier;
            wait_for_phase(map_left, turn & 1);
            load_vector<COUNT, LANES>(map, &earlier.column[0][0]);
            float before_team[M];
            ring.receive(before_team);
#pragma unroll
            for (int i = 0; i < M; i++) start[i] = before_team[i];
            earlier.apply(start);
            apply(P, q, start);
            ring.send(q, upper);
            if (lower) store_vector<M, LANES>(state, before_team);
            arrive(state_left);
        }
#pragma unroll
        for (int i = 0; i < M; i++) {
            h[i] = start[i];
            if constexpr (C::CH == 2) {
                const float from_lower = __shfl_xor_sync(0xffffffffu, q[i], Lane<C>::ACROSS);
                if (upper) h[i] = from_lower;
            }
        }
        turn++;
    }

    // Takes the state that nobody waits for, and leaves.
    DEVICE void end(int spans) {
        float h[M];
        if (spans > 0 && before == 1 && first / 2 == (spans + 1) / 2 % (SPANS / 2)) ring.receive(h);
        ring.leave();
    }

    DEVICE bool conducts() const { return false; }
    DEVICE void conduct(int, float (&)[M]) const {}

  private:
    // q becomes P h + q.
    static DEVICE void apply(const float (&P)[M][M], float (&q)[M], const float (&h)[M]) {
#pragma unroll
        for (int j = 0; j < M; j++)
#pragma unroll
            for (int i = 0; i < M; i++) q[i] = fmaf(P[i][j], h[j], q[i]);
    }
};
