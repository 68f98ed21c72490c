// BD-LRU forward: h_t = A_t h_{t-1} + b_t v_t with (A_t, b_t) the normalized rows of the gate logits.
//
// A warp's loop: wait for the copies of its chunk; normalize the chunk straight into registers; start the copies of its
// next chunk into the stage that this freed; wait for the state; run the S steps (M x M multiply-adds each, the only
// serial work); hand the state on; store the chunk's states. Registers are the second stage of the pipeline.
#pragma once
#include "relay.cuh"

// Normalizes one row of logits of the lane's NB blocks: columns in the lane's order (see partner_row), gate last.
template <class C, class Rows>
DEVICE void read_coefficients(const Rows (&columns)[C::R], const Rows& gates, int row, int share,
                              float (&p)[C::NB][(C::M + C::R - 1) / C::R * C::R + 1], float (&sums)[C::NB]) {
    constexpr int MR = (C::M + C::R - 1) / C::R, MC = MR * C::R;
#pragma unroll
    for (int index = 0; index < MR; index++)
#pragma unroll
        for (int partner = 0; partner < C::R; partner++) {
            float z[C::NB];
            columns[partner].read(row + index * C::R, z);
#pragma unroll
            for (int n = 0; n < C::NB; n++) {
                p[n][index * C::R + partner] = z[n];
                if (MC != C::M && partner_row<C>(index, partner, share) >= C::M)
                    p[n][index * C::R + partner] = absent_logit<C::F>();
            }
        }
    float z[C::NB];
    gates.read(row + C::M, z);
#pragma unroll
    for (int n = 0; n < C::NB; n++) {
        p[n][MC] = z[n];
        sums[n] = normalize<C::F, typename C::E>(p[n]);
    }
}

// The serial part. q holds b v before and h after; h holds the whole state, own rows at indices 0, R, 2R, ...
// Steps beyond the end of a sequence run on garbage, which nobody stores.
template <class C, int MR, int MC>
DEVICE void run_steps(const float (&a)[C::S][C::NB][MR][MC], float (&q)[C::S][C::NB][MR], float (&h)[C::NB][MC]) {
#pragma unroll
    for (int s = 0; s < C::S; s++) {
#pragma unroll
        for (int partner = 0; partner < C::R; partner++)
#pragma unroll
            for (int index = 0; index < MR; index++)
#pragma unroll
                for (int n = 0; n < C::NB; n++)
#pragma unroll
                    for (int i = 0; i < MR; i++)
                        q[s][n][i] = fmaf(a[s][n][i][index * C::R + partner], h[n][index * C::R + partner], q[s][n][i]);
        if (s + 1 == C::S) break;
#pragma unroll
        for (int n = 0; n < C::NB; n++)
#pragma unroll
            for (int i = 0; i < MR; i++) {
                h[n][i * C::R] = q[s][n][i];
#pragma unroll
                for (int partner = 1; partner < C::R; partner++)
                    h[n][i * C::R + partner] = __shfl_xor_sync(0xffffffffu, q[s][n][i], partner * Tile<C>::LANES);
            }
    }
}

// The lane's own rows of the state before the first step, from memory; and to memory.
template <class C, int MR>
DEVICE void load_own_state(const float* states, const Tile<C>& tile, const Lane<C>& lane, i64 N, float (&h)[C::NB][MR]) {
#pragma unroll
    for (int i = 0; i < MR; i++) {
        const int row = partner_row<C>(i, 0, lane.share);
        float x[C::NB];
        load_state_row<C>(row < C::M ? states : nullptr, tile, lane, N, row, x);
#pragma unroll
        for (int n = 0; n < C::NB; n++) h[n][i] = x[n];
    }
}
template <class C, int MR>
DEVICE void store_own_state(float* states, const Tile<C>& tile, const Lane<C>& lane, i64 N, const float (&h)[C::NB][MR]) {
#pragma unroll
    for (int i = 0; i < MR; i++) {
        const int row = partner_row<C>(i, 0, lane.share);
        float x[C::NB];
#pragma unroll
        for (int n = 0; n < C::NB; n++) x[n] = h[n][i];
        if (row < C::M) store_state_row<C>(states, tile, lane, N, row, x);
    }
}

template <class C>
struct ForwardStage {
    static constexpr int M = C::M, S = C::S, ROW = Tile<C>::ROW;
    static constexpr int LOGIT_ROWS = (C::TIME_BROADCAST ? 1 : S) * M * (M + 1), VALUE_ROWS = S * M;
    static constexpr int SLACK_ROWS = M % C::R ? M + 1 : 0;  // absent rows are read, never used
    static constexpr int BYTES = (LOGIT_ROWS + VALUE_ROWS + SLACK_ROWS) * ROW;
    typedef Ring<C::W, C::K, C::NB * ((M + C::R - 1) / C::R)> Relay;
    static constexpr int RESULTS = Relay::BYTES + C::W * C::D * BYTES;
    static constexpr int SHARED = RESULTS + C::W * WrittenPlaces<C>::BYTES;  // of the thread block
};

template <class C>
DEVICE void bdlru_forward(const Arguments& arguments) {
    using E = typename C::E;
    using Stage = ForwardStage<C>;
    constexpr int M = C::M, NB = C::NB, R = C::R, S = C::S;
    constexpr int MR = (M + R - 1) / R, MC = MR * R;  // rows of a lane; columns, absent ones included
    constexpr int ROW = Tile<C>::ROW, LOGIT_ROWS = Stage::LOGIT_ROWS, VALUE_ROWS = Stage::VALUE_ROWS;
    constexpr int STAGE = Stage::BYTES, WARPS = C::K * C::W;

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
    char* const hidden = arguments.output + tile.first_step * M * pitch + (i64)tile.n0 * E::BYTES;
    const Strides logit_strides = {arguments.logits_time, arguments.logits_row, arguments.logits_line};
    const Strides value_strides = {arguments.values_time, arguments.values_line, arguments.values_line};

    auto copy_chunk = [&](int chunk, int stage) {
        const u32 to = shared_address(stages) + stage * STAGE;
        const int steps = min(S, tile.length - chunk * S);
        stage_rows<C, LOGIT_ROWS, M*(M + 1), M + 1>(to, logits + (i64)chunk * S * logit_strides.time, logit_strides,
                                                    (C::TIME_BROADCAST ? 1 : steps) * M * (M + 1), thread, tile.valid);
        stage_rows<C, VALUE_ROWS, M, M>(to + LOGIT_ROWS * ROW, values + (i64)chunk * S * value_strides.time,
                                        value_strides, steps * M, thread, tile.valid);
    };

    const int first = tile.rank * C::W + warp;
#pragma unroll
    for (int d = 0; d < C::D; d++) {
        if (first + d * WARPS < chunks) copy_chunk(first + d * WARPS, d);
        commit_copies();
    }
    ring.enter();
    if (first == WARPS - 1) {
        float h[NB][MR];
        load_own_state<C, MR>(arguments.carry_in, tile, lane, N, h);
        ring.send(&h[0][0]);
    }
    int stage = 0;
    for (int chunk = first; chunk < chunks; chunk += WARPS) {
        const int steps = min(S, tile.length - chunk * S);
        wait_for_copies<C::D - 1>();
        __syncwarp();

        const char* const staged = stages + stage * STAGE;
        const ReadRows<C, LOGIT_ROWS> own_rows =
            StagedRows<C>(staged, logits + (i64)chunk * S * logit_strides.time, logit_strides.line, lane)
                .from_row(lane.share * (M + 1));
        const ReadRows<C, VALUE_ROWS> value_rows =
            StagedRows<C>(staged + LOGIT_ROWS * ROW, values + (i64)chunk * S * value_strides.time, value_strides.line,
                          lane)
                .from_row(lane.share);
        ReadRows<C, LOGIT_ROWS> columns[R];
#pragma unroll
        for (int partner = 0; partner < R; partner++) columns[partner] = own_rows.from_row(lane.share ^ partner);

        float a[S][NB][MR][MC], q[S][NB][MR];
#pragma unroll
        for (int s = 0; s < S; s++)
#pragma unroll
            for (int i = 0; i < MR; i++) {
                float p[NB][MC + 1], v[NB], sums[NB];
                read_coefficients<C>(columns, own_rows, ((C::TIME_BROADCAST ? 0 : s) * M + i * R) * (M + 1),
                                     lane.share, p, sums);
                value_rows.read(s * M + i * R, v);
                const bool absent = MC != M && partner_row<C>(i, 0, lane.share) >= M;
#pragma unroll
                for (int n = 0; n < NB; n++) {
#pragma unroll
                    for (int j = 0; j < MC; j++) a[s][n][i][j] = absent ? 0.f : p[n][j];
                    q[s][n][i] = absent ? 0.f : p[n][MC] * v[n];
                }
            }
        __syncwarp();
        if (chunk + C::D * WARPS < chunks) copy_chunk(chunk + C::D * WARPS, stage);
        commit_copies();
        stage = stage + 1 == C::D ? 0 : stage + 1;

        pin(a);
        pin(q);
        float h[NB][MC], own[NB][MR];
        ring.wait(zero_after<Tile<C>::NARROW>(a, N) ^ zero_after<Tile<C>::NARROW>(q, N));
#pragma unroll
        for (int partner = 0; partner < R; partner++) {
            ring.read(thread ^ (partner * Tile<C>::LANES), &own[0][0]);
#pragma unroll
            for (int n = 0; n < NB; n++)
#pragma unroll
                for (int i = 0; i < MR; i++) h[n][i * R + partner] = own[n][i];
        }
        run_steps<C, MR, MC>(a, q, h);
        ring.send(&q[S - 1][0][0]);

        store_outputs<C, M>(q, hidden, written, chunk, tile, lane, pitch);
        if (steps < S) {  // the end of the sequence, inside the chunk
#pragma unroll
            for (int s = 0; s < S; s++)
#pragma unroll
                for (int n = 0; n < NB; n++)
#pragma unroll
                    for (int i = 0; i < MR; i++) own[n][i] = s < steps ? q[s][n][i] : own[n][i];
            store_own_state<C, MR>(arguments.carry_out, tile, lane, N, own);
        }
    }
    if (first == chunks % WARPS) {
        float h[NB][MR];
        ring.receive(&h[0][0]);
        if (tile.length % S == 0) store_own_state<C, MR>(arguments.carry_out, tile, lane, N, h);
    }
    ring.leave();
}
