// H-LRU forward: h_t = sum_i a_{i,t} h_{t-i} + a_{0,t} v_t over the last M states of a channel.
//
// The relay of bdlru_forward.cuh; the state that is handed on is the window, newest first. A step costs M multiply-adds
// of which one waits for the step before. The companion matrix is never built.
#pragma once
#include "relay.cuh"

// Steps beyond the end of a sequence run on garbage, which nobody stores.
template <class C>
DEVICE void run_window(const float (&a)[C::S][C::NB][C::M], float (&q)[C::S][C::NB], float (&window)[C::NB][C::M]) {
#pragma unroll
    for (int s = 0; s < C::S; s++)
#pragma unroll
        for (int n = 0; n < C::NB; n++) {
#pragma unroll
            for (int j = C::M - 1; j >= 0; j--) q[s][n] = fmaf(a[s][n][j], window[n][j], q[s][n]);  // newest last
#pragma unroll
            for (int j = C::M - 1; j > 0; j--) window[n][j] = window[n][j - 1];
            window[n][0] = q[s][n];
        }
}

// All rows of a state from or to memory.
template <class C>
DEVICE void load_window(const float* states, const Tile<C>& tile, const Lane<C>& lane, i64 N, float (&window)[C::NB][C::M]) {
#pragma unroll
    for (int j = 0; j < C::M; j++) {
        float x[C::NB];
        load_state_row<C>(states, tile, lane, N, j, x);
#pragma unroll
        for (int n = 0; n < C::NB; n++) window[n][j] = x[n];
    }
}
template <class C>
DEVICE void store_window(float* states, const Tile<C>& tile, const Lane<C>& lane, i64 N,
                         const float (&window)[C::NB][C::M]) {
#pragma unroll
    for (int j = 0; j < C::M; j++) {
        float x[C::NB];
#pragma unroll
        for (int n = 0; n < C::NB; n++) x[n] = window[n][j];
        store_state_row<C>(states, tile, lane, N, j, x);
    }
}

template <class C>
struct ForwardStage {
    static constexpr int LOGIT_ROWS = (C::TIME_BROADCAST ? 1 : C::S) * (C::M + 1);
    static constexpr int BYTES = (LOGIT_ROWS + C::S) * Tile<C>::ROW;
    typedef Ring<C::W, C::K, C::NB * C::M> Relay;
    static constexpr int RESULTS = Relay::BYTES + C::W * C::D * BYTES;
    static constexpr int SHARED = RESULTS + C::W * WrittenPlaces<C>::BYTES;  // of the thread block
};

template <class C>
DEVICE void hlru_forward(const Arguments& arguments) {
    using E = typename C::E;
    using Stage = ForwardStage<C>;
    constexpr int M = C::M, NB = C::NB, S = C::S, WARPS = C::K * C::W;
    constexpr int ROW = Tile<C>::ROW, LOGIT_ROWS = Stage::LOGIT_ROWS, STAGE = Stage::BYTES;

    extern __shared__ __align__(128) char shared[];
    const int warp = uniform_warp(), thread = threadIdx.x % 32;
    const Tile<C> tile(arguments);
    const Lane<C> lane(thread, tile.valid);
    const i64 N = arguments.N;
    const int pitch = (int)N * E::BYTES;
    typename Stage::Relay ring(shared, warp, thread, tile.rank);
    char* const stages = shared + Stage::Relay::BYTES + warp * (C::D * STAGE);
    const WrittenPlaces<C> written(shared + Stage::RESULTS + warp * WrittenPlaces<C>::BYTES, lane);

    const int chunks = (tile.length + S - 1) / S;
    const char* const logits = arguments.gate_logits + tile.offset(arguments.logits_batch, arguments.logits_time);
    const char* const values = arguments.values + tile.offset(arguments.values_batch, arguments.values_time);
    char* const hidden = arguments.output + tile.first_step * pitch + (i64)tile.n0 * E::BYTES;
    const Strides logit_strides = {arguments.logits_time, arguments.logits_row, arguments.logits_line};
    const Strides value_strides = {arguments.values_time, arguments.values_line, arguments.values_line};

    auto copy_chunk = [&](int chunk, int stage) {
        const u32 to = shared_address(stages) + stage * STAGE;
        const int steps = min(S, tile.length - chunk * S);
        stage_rows<C, LOGIT_ROWS, M + 1, M + 1>(to, logits + (i64)chunk * S * logit_strides.time, logit_strides,
                                                (C::TIME_BROADCAST ? 1 : steps) * (M + 1), thread, tile.valid);
        stage_rows<C, S, 1, 1>(to + LOGIT_ROWS * ROW, values + (i64)chunk * S * value_strides.time, value_strides,
                               steps, thread, tile.valid);
    };

    const int first = tile.rank * C::W + warp;
#pragma unroll
    for (int d = 0; d < C::D; d++) {
        if (first + d * WARPS < chunks) copy_chunk(first + d * WARPS, d);
        commit_copies();
    }
    ring.enter();
    if (first == WARPS - 1) {
        float window[NB][M];
        load_window<C>(arguments.carry_in, tile, lane, N, window);
        ring.send(&window[0][0]);
    }
    int stage = 0;
    for (int chunk = first; chunk < chunks; chunk += WARPS) {
        const int steps = min(S, tile.length - chunk * S);
        wait_for_copies<C::D - 1>();
        __syncwarp();

        const char* const staged = stages + stage * STAGE;
        const ReadRows<C, LOGIT_ROWS> logit_rows =
            StagedRows<C>(staged, logits + (i64)chunk * S * logit_strides.time, logit_strides.line, lane);
        const ReadRows<C, S> value_rows = StagedRows<C>(
            staged + LOGIT_ROWS * ROW, values + (i64)chunk * S * value_strides.time, value_strides.time, lane);
        float a[S][NB][M], q[S][NB];
#pragma unroll
        for (int s = 0; s < S; s++) {
            float p[NB][M + 1], v[NB];
#pragma unroll
            for (int j = 0; j <= M; j++) {
                float z[NB];
                logit_rows.read((C::TIME_BROADCAST ? 0 : s) * (M + 1) + j, z);
#pragma unroll
                for (int n = 0; n < NB; n++) p[n][j] = z[n];
            }
            value_rows.read(s, v);
#pragma unroll
            for (int n = 0; n < NB; n++) {
                normalize<C::F, typename C::E>(p[n]);
#pragma unroll
                for (int j = 0; j < M; j++) a[s][n][j] = p[n][j];
                q[s][n] = p[n][M] * v[n];
            }
        }
        __syncwarp();
        if (chunk + C::D * WARPS < chunks) copy_chunk(chunk + C::D * WARPS, stage);
        commit_copies();
        stage = stage + 1 == C::D ? 0 : stage + 1;

        pin(a);
        pin(q);
        float window[NB][M];
        ring.receive(&window[0][0], zero_after<Tile<C>::NARROW>(a, N) ^ zero_after<Tile<C>::NARROW>(q, N));
        run_window<C>(a, q, window);
        ring.send(&window[0][0]);

        store_outputs<C, 1>(q, hidden, written, chunk, tile, lane, pitch);
        if (steps < S) {  // the end of the sequence, inside the chunk; the slot still holds the chunk's first window
            ring.read(thread, &window[0][0]);
#pragma unroll
            for (int s = 0; s < S; s++)
                if (s < steps) {
#pragma unroll
                    for (int n = 0; n < NB; n++) {
#pragma unroll
                        for (int j = M - 1; j > 0; j--) window[n][j] = window[n][j - 1];
                        window[n][0] = q[s][n];
                    }
                }
            store_window<C>(arguments.carry_out, tile, lane, N, window);
        }
    }
    if (first == chunks % WARPS) {
        float window[NB][M];
        ring.receive(&window[0][0]);
        if (tile.length % S == 0) store_window<C>(arguments.carry_out, tile, lane, N, window);
    }
    ring.leave();
}
