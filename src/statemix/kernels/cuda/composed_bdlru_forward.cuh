// BD-LRU forward where lanes are few and time is long: the chain from state to state is shortened by composing maps.
//
// A warp computes a span at once: one chunk, or two consecutive ones, one in each half of its lanes. The S steps of a
// chunk are composed into one affine map h -> P h + q, and one exchange between the halves makes the map of both. How maps
// become the states before the spans is told in exchange.cuh. Each state inside follows from that by a map of its own.
#pragma once
#include "bdlru_forward.cuh"
#include "exchange.cuh"

template <class C>
using ForwardMapStage = MapStage<C, ForwardStage<C>>;

template <class C>
DEVICE void composed_bdlru_forward(const Arguments& arguments) {
    using E = typename C::E;
    using Stage = ForwardMapStage<C>;
    constexpr int M = C::M, S = C::S, ROW = Tile<C>::ROW, STRIDE = Stage::Maps::STRIDE;

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
    char* const hidden = arguments.output + tile.first_step * M * pitch + (i64)tile.n0 * E::BYTES;
    const Strides logit_strides = {arguments.logits_time, arguments.logits_row, arguments.logits_line};
    const Strides value_strides = {arguments.values_time, arguments.values_line, arguments.values_line};

    auto copy_span = [&](int span, int stage) {
#pragma unroll
        for (int half = 0; half < C::CH; half++) {
            const int chunk = C::CH * span + half, steps = min(S, tile.length - chunk * S);
            const u32 to = shared_address(stages) + stage * Stage::BYTES + half * Stage::CHUNK;
            stage_rows<C, Stage::LOGIT_ROWS, M*(M + 1), M + 1>(
                to, logits + (i64)chunk * S * logit_strides.time, logit_strides,
                (C::TIME_BROADCAST ? 1 : steps) * M * (M + 1), thread, tile.valid);
            stage_rows<C, Stage::VALUE_ROWS, M, M>(to + Stage::LOGIT_ROWS * ROW,
                                                   values + (i64)chunk * S * value_strides.time, value_strides,
                                                   steps * M, thread, tile.valid);
        }
    };

    float h[1][M];
    if (maps.conducts()) {
        load_own_state<C, M>(arguments.carry_in, tile, lane, N, h);
        maps.conduct(spans, h[0]);
        return;
    }
    const int first = maps.first;
#pragma unroll
    for (int d = 0; d < C::D; d++) {
        if (first + d * STRIDE < spans) copy_span(first + d * STRIDE, d);
        commit_copies();
    }
    maps.enter();
    load_own_state<C, M>(arguments.carry_in, tile, lane, N, h);
    if (spans > 0)
        maps.begin(h[0]);
    else if (first == 0 && lane.half == 0)
        store_own_state<C, M>(arguments.carry_out, tile, lane, N, h);
    int stage = 0;
    for (int span = first; span - maps.before < spans; span += STRIDE) {
        const int chunk = C::CH * span + lane.half, steps = min(S, tile.length - chunk * S);
        wait_for_copies<C::D - 1>();
        __syncwarp();

        const char* const staged = stages + stage * Stage::BYTES + lane.source_half * Stage::CHUNK;
        const ReadRows<C, Stage::LOGIT_ROWS> columns[1] = {
            StagedRows<C>(staged, logits + (i64)chunk * S * logit_strides.time, logit_strides.line, lane)};
        const ReadRows<C, Stage::VALUE_ROWS> value_rows =
            StagedRows<C>(staged + Stage::LOGIT_ROWS * ROW, values + (i64)chunk * S * value_strides.time,
                          value_strides.line, lane);
        float a[S][1][M][M], q[S][1][M];
#pragma unroll
        for (int s = 0; s < S; s++)
#pragma unroll
            for (int i = 0; i < M; i++) {
                float p[1][M + 1], v[1], sums[1];
                read_coefficients<C>(columns, columns[0], ((C::TIME_BROADCAST ? 0 : s) * M + i) * (M + 1), 0, p,
                                     sums);
                value_rows.read(s * M + i, v);
#pragma unroll
                for (int j = 0; j < M; j++) a[s][0][i][j] = p[0][j];
                q[s][0][i] = p[0][M] * v[0];
            }
        __syncwarp();
        if (span + C::D * STRIDE < spans) copy_span(span + C::D * STRIDE, stage);
        commit_copies();
        stage = stage + 1 == C::D ? 0 : stage + 1;

        // Each step's map becomes that from the state before the chunk, so that no output waits for another.
#pragma unroll
        for (int s = 1; s < S; s++) {
            float PA[M][M], Pb[M];
            compose<M>(a[s][0], q[s][0], a[s - 1][0], q[s - 1][0], PA, Pb);
            copy_map<M>(PA, Pb, a[s][0], q[s][0]);
        }
        float P[M][M], Q[M];
        copy_map<M>(a[S - 1][0], q[S - 1][0], P, Q);
        if constexpr (C::CH == 2) compose_halves<M, Lane<C>::ACROSS>(P, Q, upper);
        pin(a);
        pin(q);
        pin(P);
        pin(Q);
        maps.state_before(P, Q, h[0]);
#pragma unroll
        for (int s = 0; s < S; s++)
#pragma unroll
            for (int j = 0; j < M; j++)
#pragma unroll
                for (int i = 0; i < M; i++) q[s][0][i] = fmaf(a[s][0][i][j], h[0][j], q[s][0][i]);

        store_outputs<C, M>(q, hidden, written, span, tile, lane, pitch);
        // The end of the sequence: the half that holds the last step has its state.
        if (steps > 0 && tile.length - chunk * S <= S) {
#pragma unroll
            for (int s = 0; s < S; s++)
#pragma unroll
                for (int i = 0; i < M; i++) h[0][i] = s < steps ? q[s][0][i] : h[0][i];
            store_own_state<C, M>(arguments.carry_out, tile, lane, N, h);
        }
    }
    maps.end(spans);
}
