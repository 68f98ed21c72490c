// Maps that are gathered: the state crosses thread blocks without being handed from one to the next.
//
// A tile has K thread blocks, which the launch guarantees to be on the device together, and the warps of each stand in G
// groups. A turn of a group covers consecutive chunks: the K groups of the same number, rank by rank, warp by warp.
// Every warp composes the affine map h -> P h + q of its chunks, every thread block that of its warps, and writes it to
// device memory; each group reads the maps of all K and applies them to the state before the turn by itself. What is
// waited for is the slowest map of a turn, never a chain of thread blocks; while one group waits the others compute.
//
// Maps are read as soon as they are there: the lowest bit of each number says which turn wrote it. Two slots are used in
// turn, so that bit flips every second turn; memory is zero at first, which is the bit of no first writing.
#pragma once
#include "maps.cuh"

DEVICE void synchronize_warps(int barrier, int warps) {
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(32 * warps) : "memory");
}
DEVICE void arrive_before_warps(int barrier, int warps) {
    asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(32 * warps) : "memory");
}
DEVICE void store_shared_by_all(float* to, float x) {
    asm volatile("st.relaxed.gpu.global.f32 [%0], %1;" ::"l"(to), "f"(x) : "memory");
}
DEVICE void load_shared_by_all(const float* from, u32 (&x)[4]) {
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "l"(from)
                 : "memory");
}

// W warps in G groups, in each of K thread blocks of a tile of 16 blocks.
template <class C>
struct Gathering {
    static constexpr int M = C::M, W = C::W, G = C::G, K = C::K;
    static constexpr int LANES = 16, COUNT = M * (M + 1), V = VECTOR<COUNT>, MAP = COUNT * LANES;  // floats of a map
    static constexpr int MEMBERS = W / G, THREADS = 32 * MEMBERS;
    static constexpr int OWN = 3 * W * MAP, GATHERED = G * K * MAP, STATES = G * 2 * M * LANES;
    static constexpr int BYTES = 4 * (OWN + GATHERED + STATES);
    static_assert(W % G == 0 && 2 * G < 16, "two named barriers for every group, and barrier 0");

    static constexpr int PAIRS = K * MEMBERS;  // pairs of chunks in a turn

    float *own, *gathered, *states, *exchange;
    int group, member, lane, block, rank, turn;
    bool upper;
    int before, first;  // pairs of a turn before this warp's; its first pair

    DEVICE Gathering(char* shared, float* exchange_, const Tile<C>& tile, const Lane<C>& own_lane, int warp, int lane_)
        : group(warp / MEMBERS), member(warp % MEMBERS), lane(lane_), block(own_lane.block), rank(tile.rank), turn(0),
          upper(own_lane.half == 1), before(rank * MEMBERS + member), first(group * PAIRS + before) {
        float* const floats = (float*)shared;
        own = floats + group * 3 * MEMBERS * MAP;
        gathered = floats + OWN + group * K * MAP;
        states = floats + OWN + GATHERED;
        exchange = exchange_ + (tile.number * G + group) * 2 * K * MAP;
    }

    // The state before the first turn goes to the first group.
    DEVICE void begin(const float (&h)[M]) {
        if (group == G - 1 && member == 0) leave_state(0, 0, h);
    }

    // Takes the map of a warp's first chunk from its lower half and that of both from the upper one; returns the state
    // before each half's chunk. `last`: no turn of any group follows.
    DEVICE void state_before(const float (&P)[M][M], const float (&q)[M], bool last, float (&h)[M]) {
        const int slot = turn & 1;
        float* const maps = own + slot * MEMBERS * MAP;
        float* const first_half = own + (2 * MEMBERS + member) * MAP;
        float flat[COUNT];
#pragma unroll
        for (int i = 0; i < M; i++) {
            flat[M * M + i] = q[i];
#pragma unroll
            for (int j = 0; j < M; j++) flat[j * M + i] = P[i][j];
        }
        store_vector<COUNT, LANES>((upper ? maps + member * MAP : first_half) + block * V, flat);
        synchronize_warps(1 + group, MEMBERS);
        float* const published = exchange + slot * K * MAP;
        const u32 bit = turn & 2 ? 0 : 1;
        publish(maps, published + rank * MAP, bit);
        gather(published, bit);
        synchronize_warps(1 + G + group, MEMBERS + 1);
        load_vector<M, LANES>(states + (group * 2 + slot) * M * LANES + block * VECTOR<M>, h);
        float before[M];
#pragma unroll 4
        for (int k = 0; k < K; k++) {
#pragma unroll
            for (int i = 0; i < M; i++) before[i] = k == rank ? h[i] : before[i];
            read_map(gathered + k * MAP).apply(h);
        }
        if (member == 0 && !last) {
            const int next = group + 1 == G ? 0 : group + 1;
            leave_state(next, (turn + (next == 0)) & 1, h);
        }
#pragma unroll
        for (int i = 0; i < M; i++) h[i] = before[i];
        for (int w = 0; w < member; w++) read_map(maps + w * MAP).apply(h);
        if (upper) read_map(first_half).apply(h);
        turn++;
    }

    DEVICE void end(int) {}

  private:
    DEVICE Map<M> read_map(const float* maps) const {
        Map<M> map;
        load_vector<COUNT, LANES>(maps + block * V, &map.column[0][0]);
        return map;
    }
    DEVICE void leave_state(int to, int slot, const float (&h)[M]) {
        if (!upper) store_vector<M, LANES>(states + (to * 2 + slot) * M * LANES + block * VECTOR<M>, h);
        arrive_before_warps(1 + G + to, MEMBERS + 1);
    }
    // The map of all warps of the group, column by column.
    DEVICE void publish(const float* maps, float* to, u32 bit) const {
        for (int task = member * 32 + (upper ? LANES : 0) + block; task < LANES * (M + 1); task += THREADS) {
            const int column = task / LANES;  // block: task % LANES
            float x[M];
#pragma unroll
            for (int i = 0; i < M; i++) x[i] = i == column ? 1.f : 0.f;
#pragma unroll
            for (int w = 0; w < MEMBERS; w++) {
                Map<M> map = read_map(maps + w * MAP);
#pragma unroll
                for (int i = 0; i < M; i++) map.column[M][i] = column == M ? map.column[M][i] : 0.f;
                map.apply(x);
            }
#pragma unroll
            for (int i = 0; i < M; i++) {
                const int f = column * M + i;
                const u32 bits = (__float_as_uint(x[i]) & ~1u) | bit;
                store_shared_by_all(to + f / V * (LANES * V) + block * V + f % V, __uint_as_float(bits));
            }
        }
    }
    // The maps of all thread blocks, from device memory into shared memory.
    DEVICE void gather(const float* from, u32 bit) {
        constexpr int VECTORS = K * MAP / 4, EACH = (VECTORS + THREADS - 1) / THREADS, AT_ONCE = EACH < 5 ? EACH : 5;
        for (int first = member * 32 + lane; first < VECTORS; first += AT_ONCE * THREADS) {
            u32 x[AT_ONCE][4];
            bool there;
            do {
                there = true;
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++)
                    if (first + i * THREADS < VECTORS) load_shared_by_all(from + 4 * (first + i * THREADS), x[i]);
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++)
                    if (first + i * THREADS < VECTORS)
                        there = there && ((x[i][0] & 1) == bit) && ((x[i][1] & 1) == bit) && ((x[i][2] & 1) == bit) &&
                                ((x[i][3] & 1) == bit);
            } while (!there);
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++)
                if (first + i * THREADS < VECTORS)
                    *(uint4*)(gathered + 4 * (first + i * THREADS)) = make_uint4(x[i][0], x[i][1], x[i][2], x[i][3]);
        }
        __syncwarp();
    }
};
