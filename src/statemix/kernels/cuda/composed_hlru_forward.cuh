// H-LRU forward, and BD-LRU's with blocks of one, where lanes are few and time is long: hlru_forward.cuh with
// composed maps. A warp computes a span at once: one chunk, or two, one in each half of its lanes.
//
// The map of a chunk takes the window before it to the window after it. Composing a step makes one new row of it, M + 1
// coefficients of the newest output; the others move on.
#pragma once
#include "exchange.cuh"
#include "hlru_forward.cuh"

// rows[i]: output i steps before the next one as a function of the window before the chunk; the constant is last. After
// `done` steps rows from there on are still the window itself, and cost nothing.
template <int M>
DEVICE void compose_window(const float (&a)[M], float q, float (&rows)[M][M + 1], int done) {
    float newest[M + 1];
#pragma unroll
    for (int l = 0; l <= M; l++) {
        newest[l] = l == M ? q : l + done < M ? a[l + done < M ? l + done : 0] : 0.f;
#pragma unroll
        for (int j = M - 1; j >= 0; j--)
            if (j < done) newest[l] = fmaf(a[j], rows[j][l], newest[l]);
    }
#pragma unroll
    for (int j = M - 1; j > 0; j--)
#pragma unroll
        for (int l = 0; l <= M; l++) rows[j][l] = rows[j - 1][l];
#pragma unroll
    for (int l = 0; l <= M; l++) rows[0][l] = newest[l];
}

// Each step's coefficients become those of its output as a function of the window before the chunk, so that no output
// waits for another; P and the constant are the map of all S steps.
template <int S, int M, class A, class Q>
DEVICE void compose_chunk(A& a, Q& q, float (&P)[M][M], float (&constant)[M]) {
    float rows[M][M + 1];
#pragma unroll
    for (int i = 0; i < M; i++)
#pragma unroll
        for (int l = 0; l <= M; l++) rows[i][l] = i == l ? 1.f : 0.f;
#pragma unroll
    for (int s = 0; s < S; s++) {
        compose_window<M>(a[s][0], q[s][0], rows, s);
#pragma unroll
        for (int j = 0; j < M; j++) a[s][0][j] = rows[0][j];
        q[s][0] = rows[0][M];
    }
#pragma unroll
    for (int i = 0; i < M; i++) {
        constant[i] = rows[i][M];
#pragma unroll
        for (int j = 0; j < M; j++) P[i][j] = rows[i][j];
    }
}

template <class C>
using ForwardMapStage = MapStage<C, ForwardStage<C>>;

template <class C>
DEVICE void composed_hlru_forward(const Arguments& arguments) {
    using E = typename C::E;
    using Stage = ForwardMapStage<C>;
    constexpr int M = C::M, S = C::S, ROW = Tile<C>::ROW, STRIDE = Stage::Maps::STRIDE;
    constexpr int LOGIT_ROWS = ForwardStage<C>::LOGIT_ROWS;
    // The maps queue behind copies that were asked for before; copies that wait for them are late where turns are short.
    constexpr bool COPY_FIRST = M == 1;

    extern __shared__ __align__(128) char shared[];
    const int warp = uniform_warp(), thread = threadIdx.x % 32;
    const Tile<C> tile(arguments);
    const Lane<C> lane(thread, tile.valid);
    const bool upper = lane.half == C::CH - 1;
    const i64 N = arguments.N;
    const int pitch = (int)N * E::BYTES;
    typename Stage::Maps maps(shared, arguments.exchange, tile, lane, warp);
    char* const stages = shared + Stage::Maps::BYTES + warp * (C::D * Stage::BYTES);
    const WrittenPlaces<C> written(shared + Stage::RESULTS + warp * WrittenPlaces<C>::BYTES, lane);

    const int spans = (tile.length + C::CH * S - 1) / (C::CH * S);
    const char* const logits = arguments.gate_logits + tile.offset(arguments.logits_batch, arguments.logits_time);
    const char* const values = arguments.values + tile.offset(arguments.values_batch, arguments.values_time);
    char* const hidden = arguments.output + tile.first_step * pitch + (i64)tile.n0 * E::BYTES;
    const Strides logit_strides = {arguments.logits_time, arguments.logits_row, arguments.logits_line};
    const Strides value_strides = {arguments.values_time, arguments.values_line, arguments.values_line};

    auto copy_span = [&](int span, int stage) {
#pragma unroll
        for (int half = 0; half < C::CH; half++) {
            const int chunk = C::CH * span + half, steps = min(S, tile.length - chunk * S);
            const u32 to = shared_address(stages) + stage * Stage::BYTES + half * Stage::CHUNK;
            stage_rows<C, LOGIT_ROWS, M + 1, M + 1>(to, logits + (i64)chunk * S * logit_strides.time, logit_strides,
                                                    (C::TIME_BROADCAST ? 1 : steps) * (M + 1), thread, tile.valid);
            stage_rows<C, S, 1, 1>(to + LOGIT_ROWS * ROW, values + (i64)chunk * S * value_strides.time, value_strides,
                                   steps, thread, tile.valid);
        }
    };

    float window[1][M];
    if (maps.conducts()) {
        load_window<C>(arguments.carry_in, tile, lane, N, window);
        maps.conduct(spans, window[0]);
        return;
    }
    const int first = maps.first;
#pragma unroll
    for (int d = 0; d < C::D; d++) {
        if (first + d * STRIDE < spans) copy_span(first + d * STRIDE, d);
        commit_copies();
    }
    maps.enter();
    load_window<C>(arguments.carry_in, tile, lane, N, window);
    if (spans > 0)
        maps.begin(window[0]);
    else if (first == 0 && lane.half == 0)
        store_window<C>(arguments.carry_out, tile, lane, N, window);
    int stage = 0;
    for (int span = first; span - maps.before < spans; span += STRIDE) {
        const int chunk = C::CH * span + lane.half, steps = min(S, tile.length - chunk * S);
        wait_for_copies<C::D - 1>();
        __syncwarp();

        const char* const staged = stages + stage * Stage::BYTES + lane.source_half * Stage::CHUNK;
        const ReadRows<C, LOGIT_ROWS> logit_rows =
            StagedRows<C>(staged, logits + (i64)chunk * S * logit_strides.time, logit_strides.line, lane);
        const ReadRows<C, S> value_rows = StagedRows<C>(
            staged + LOGIT_ROWS * ROW, values + (i64)chunk * S * value_strides.time, value_strides.time, lane);
        float a[S][1][M], q[S][1];
#pragma unroll
        for (int s = 0; s < S; s++) {
            float p[M + 1], v[1];
#pragma unroll
            for (int j = 0; j <= M; j++) {
                float z[1];
                logit_rows.read((C::TIME_BROADCAST ? 0 : s) * (M + 1) + j, z);
                p[j] = z[0];
            }
            value_rows.read(s, v);
            normalize<C::F, typename C::E>(p);
#pragma unroll
            for (int j = 0; j < M; j++) a[s][0][j] = p[j];
            q[s][0] = p[M] * v[0];
        }
        __syncwarp();
        auto copy_next = [&]() {
            if (span + C::D * STRIDE < spans) copy_span(span + C::D * STRIDE, stage);
            commit_copies();
        };
        if (COPY_FIRST) copy_next();

        float P[M][M], Q[M];
        compose_chunk<S, M>(a, q, P, Q);
        if constexpr (C::CH == 2) compose_halves<M, Lane<C>::ACROSS>(P, Q, upper);
        pin(a);
        pin(q);
        maps.state_before(P, Q, window[0]);
        if (!COPY_FIRST) copy_next();
        stage = stage + 1 == C::D ? 0 : stage + 1;
#pragma unroll
        for (int s = 0; s < S; s++)
#pragma unroll
            for (int j = 0; j < M; j++) q[s][0] = fmaf(a[s][0][j], window[0][j], q[s][0]);

        store_outputs<C, 1>(q, hidden, written, span, tile, lane, pitch);
        // The end of the sequence: the half that holds the last step has its window.
        if (steps > 0 && tile.length - chunk * S <= S) {
#pragma unroll
            for (int s = 0; s < S; s++)
                if (s < steps) {
#pragma unroll
                    for (int j = M - 1; j > 0; j--) window[0][j] = window[0][j - 1];
                    window[0][0] = q[s][0];
                }
            store_window<C>(arguments.carry_out, tile, lane, N, window);
        }
    }
    maps.end(spans);
}
