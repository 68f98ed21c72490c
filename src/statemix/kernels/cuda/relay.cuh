// The relay: warps stand in a ring, chunk k of the time axis belongs to warp k mod (K W), and a warp needs nothing
// from the others but the state at the start of its chunk, which its predecessor leaves in a slot of shared memory.
//
// Inside a thread block the hand-over is PTX's producer/consumer form of named barriers (bar.arrive / bar.sync);
// from the last warp of a thread block to the first of the next one in the cluster it is a remote store that completes
// a transaction of the receiver's mbarrier. A slot needs no second buffer: the sender writes it again only after the
// state has gone round the ring, through the receiver itself.
#pragma once
#include "results.cuh"

// At the cluster's barrier, in two parts, between which there is time for other work. Nothing in memory waits for it (a
// release would wait for all that was stored): it says that thread blocks run, and that barriers are initialized.
DEVICE void arrive_at_cluster() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
DEVICE void wait_for_cluster() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
DEVICE u32 address_in_cluster(u32 address, u32 rank) {
    u32 remote;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
    return remote;
}
DEVICE void expect_bytes(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
DEVICE void wait_for_phase(u32 barrier, u32 phase) {
#if __CUDA_ARCH__ >= 900
#define WAIT_ONCE "mbarrier.try_wait.parity.shared::cta.b64"  // sleeps for a while
#else
#define WAIT_ONCE "mbarrier.test_wait.parity.shared::cta.b64"
#endif
    asm volatile(
        "{\n.reg .pred done;\nAGAIN:\n" WAIT_ONCE
        " done, [%0], %1;\n"
        "@done bra DONE;\nbra AGAIN;\nDONE:\n}" ::"r"(barrier), "r"(phase)
        : "memory");
}

// The widest vector that divides COUNT floats.
template <int COUNT>
constexpr int VECTOR = COUNT % 4 == 0 ? 4 : COUNT % 2 == 0 ? 2 : 1;

// A lane's COUNT floats lie STRIDE vectors apart, so that the 32 lanes of a warp never meet in a bank.
template <int COUNT, int LANES>
DEVICE void store_vector(float* p, const float* v) {
    constexpr int V = VECTOR<COUNT>;
#pragma unroll
    for (int i = 0; i < COUNT; i += V) {
        if constexpr (V == 4) *(float4*)(p + i * LANES) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
        if constexpr (V == 2) *(float2*)(p + i * LANES) = make_float2(v[i], v[i + 1]);
        if constexpr (V == 1) p[i * LANES] = v[i];
    }
}
template <int COUNT, int LANES>
DEVICE void load_vector(const float* p, float* v) {
    constexpr int V = VECTOR<COUNT>;
#pragma unroll
    for (int i = 0; i < COUNT; i += V) {
        if constexpr (V == 4) {
            const float4 x = *(const float4*)(p + i * LANES);
            v[i] = x.x, v[i + 1] = x.y, v[i + 2] = x.z, v[i + 3] = x.w;
        }
        if constexpr (V == 2) {
            const float2 x = *(const float2*)(p + i * LANES);
            v[i] = x.x, v[i + 1] = x.y;
        }
        if constexpr (V == 1) v[i] = p[i * LANES];
    }
}
// The same into another thread block of the cluster; the bytes count towards its mbarrier.
template <int COUNT, int LANES>
DEVICE void store_remote(u32 to, const float* v, u32 barrier) {
    constexpr int V = VECTOR<COUNT>;
#pragma unroll
    for (int i = 0; i < COUNT; i += V) {
        const u32 place = to + i * LANES * 4;
        if constexpr (V == 4)
            asm volatile(
                "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(place),
                "f"(v[i]), "f"(v[i + 1]), "f"(v[i + 2]), "f"(v[i + 3]), "r"(barrier)
                : "memory");
        if constexpr (V == 2)
            asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(place),
                         "f"(v[i]), "f"(v[i + 1]), "r"(barrier)
                         : "memory");
        if constexpr (V == 1)
            asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(place),
                         "f"(v[i]), "r"(barrier)
                         : "memory");
    }
}

// The warp's number as a value that the compiler knows to be the same in all its lanes.
DEVICE int uniform_warp() { return __shfl_sync(0xffffffffu, threadIdx.x / 32, 0); }

// A ring of W warps in each of K thread blocks; the state is COUNT floats in each of LANES lanes. Nothing on the way
// from wait() to send() depends on where in the sequence the chunk is: the first state is handed over by the last warp
// of the ring before it begins, and the last one is received by the warp whose turn it would be.
template <int W, int K, int COUNT, int LANES = 32>
struct Ring {
    static constexpr int BYTES = 128 + W * LANES * COUNT * 4, V = VECTOR<COUNT>;

    float* slots;
    u32 barrier, phase;
    int warp, place, rank;  // place: whose of the LANES states is this lane's

    DEVICE Ring(char* shared, int warp_, int place_, int rank_)
        : slots((float*)(shared + 128)), barrier(shared_address(shared)), phase(0), warp(warp_), place(place_), rank(rank_) {
        static_assert(W >= 2 && W <= 15, "a named barrier for every warp, and barrier 0");
        if constexpr (K > 1) {
            if (threadIdx.x == 0) {
                asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier) : "memory");
                asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
                expect_bytes(barrier, LANES * COUNT * 4);
            }
            __syncwarp();
            arrive_at_cluster();
        }
    }
    // Before anything is sent or received: the other thread blocks run. First copies can be asked for before.
    DEVICE void enter() {
        if constexpr (K > 1) wait_for_cluster();
    }
    // No thread block may leave while a neighbour may still store into its shared memory: each has received all by now.
    DEVICE void leave() {
        if constexpr (K > 1) {
            __syncwarp();
            arrive_at_cluster();
            wait_for_cluster();
        }
    }
    // Waits for the predecessor's state; then it can be read until the next send. `zero` (zero_after) orders the wait.
    DEVICE void wait(u32 zero = 0) {
        if (K > 1 && warp == 0) {
            wait_for_phase(barrier + zero, phase);
            phase ^= 1;
            // The sender's next store follows from this warp's send, so nothing can arrive too early.
            if (threadIdx.x % 32 == 0) expect_bytes(barrier, LANES * COUNT * 4);
        } else {
            asm volatile("bar.sync %0, 64;" ::"r"(warp + 1 + zero) : "memory");
        }
    }
    DEVICE void read(int of_place, float* state) const {
        load_vector<COUNT, LANES>(slots + warp * LANES * COUNT + of_place * V, state);
    }
    DEVICE void receive(float* state, u32 zero = 0) {
        wait(zero);
        read(place, state);
    }
    // Where fewer lanes than 32 own a state, `mine` says whether this one does.
    DEVICE void send(const float* state, bool mine = true) {
        if (K > 1 && warp == W - 1) {
            // Addresses that were made before, in registers, cost relays of whole lines in clusters a fifth of their speed.
            const u32 next = rank + 1 == K ? 0 : rank + 1;
            if (mine)
                store_remote<COUNT, LANES>(address_in_cluster(shared_address(slots + place * V), next), state,
                                           address_in_cluster(barrier, next));
        } else {
            const int next = warp + 1 == W ? 0 : warp + 1;
            if (mine) store_vector<COUNT, LANES>(slots + next * LANES * COUNT + place * V, state);
            asm volatile("bar.arrive %0, 64;" ::"r"(next + 1) : "memory");
        }
    }
};

// States in memory are float32 (sequences, M, N). A null pointer reads as zero and is not written.
template <class C>
DEVICE void load_state_row(const float* states, const Tile<C>& tile, const Lane<C>& lane, i64 N, int row,
                           float (&x)[C::NB]) {
#pragma unroll
    for (int n = 0; n < C::NB; n++) {
        x[n] = 0.f;
        if (states && n < lane.count)
            x[n] = states[((i64)tile.sequence * C::M + row) * N + tile.n0 + lane.nth(n)];
    }
}
template <class C>
DEVICE void store_state_row(float* states, const Tile<C>& tile, const Lane<C>& lane, i64 N, int row,
                            const float (&x)[C::NB]) {
#pragma unroll
    for (int n = 0; n < C::NB; n++)
        if (states && n < lane.count) states[((i64)tile.sequence * C::M + row) * N + tile.n0 + lane.nth(n)] = x[n];
}
