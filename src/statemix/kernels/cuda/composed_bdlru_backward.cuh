// BD-LRU backward where lanes are few and time is long: bdlru_backward.cuh with composed maps.
// In reversed time the map of a step is g -> A^T (g + dL/d(output)); where a warp has two chunks its lower half has the
// later one.
#pragma once
#include "bdlru_backward.cuh"
#include "composed_bdlru_forward.cuh"

template <class C>
using BackwardMapStage = MapStage<C, BackwardStage<C>>;

template <class C>
DEVICE void composed_bdlru_backward(const Arguments& arguments) {
    using E = typename C::E;
    using Stage = BackwardMapStage<C>;
    using Chunk = BackwardStage<C>;
    constexpr int M = C::M, S = C::S, STRIDE = Stage::Maps::STRIDE;
    constexpr bool KEEP_LOGITS = C::GATE_GRADIENT && GradientNeeds<C::F>::logit;

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

    const int spans = (tile.length + C::CH * S - 1) / (C::CH * S), last_chunk = C::CH * spans - 1;
    const char* const logits = arguments.gate_logits + tile.offset(arguments.logits_batch, arguments.logits_time);
    const char* const values = arguments.values + tile.offset(arguments.values_batch, arguments.values_time);
    const char* const grads = arguments.grad_hidden + tile.offset(arguments.grad_batch, arguments.grad_time);
    const char* const states = arguments.hidden + (tile.first_step - 1) * M * pitch + (i64)tile.n0 * E::BYTES;
    const Strides logit_strides = {arguments.logits_time, arguments.logits_row, arguments.logits_line};
    const Strides value_strides = {arguments.values_time, arguments.values_line, arguments.values_line};
    const Strides grad_strides = {arguments.grad_time, arguments.grad_line, arguments.grad_line};
    const Strides state_strides = {M * pitch, pitch, pitch};

    auto copy_logits = [&](int chunk, u32 to) {
        const int steps = C::TIME_BROADCAST ? 1 : min(S, tile.length - chunk * S);
        stage_rows<C, Chunk::LOGIT_ROWS, M*(M + 1), M + 1>(to, logits + (i64)chunk * S * logit_strides.time,
                                                           logit_strides, steps * M * (M + 1), thread, tile.valid);
    };
    auto copy_before_exchange = [&](int span, int stage) {
#pragma unroll
        for (int half = 0; half < C::CH; half++) {
            const int chunk = last_chunk - (C::CH * span + half), steps = min(S, tile.length - chunk * S);
            const u32 to = shared_address(stages) + stage * Stage::BYTES + half * Stage::CHUNK;
            if (!KEEP_LOGITS) copy_logits(chunk, to);
            stage_rows<C, Chunk::ROWS, M, M>(to + Chunk::GRADS, grads + (i64)chunk * S * grad_strides.time,
                                             grad_strides, steps * M, thread, tile.valid);
        }
    };
    auto copy_after_gradients = [&](int span, int stage) {
#pragma unroll
        for (int half = 0; half < C::CH; half++) {
            const int chunk = last_chunk - (C::CH * span + half), steps = min(S, tile.length - chunk * S);
            const u32 to = shared_address(stages) + stage * Stage::BYTES + half * Stage::CHUNK;
            if (KEEP_LOGITS) copy_logits(chunk, to);
            if constexpr (C::GATE_GRADIENT) {
                stage_rows<C, Chunk::ROWS, M, M>(to + Chunk::VALUES, values + (i64)chunk * S * value_strides.time,
                                                 value_strides, steps * M, thread, tile.valid);
                stage_rows<C, Chunk::ROWS, M, M, true>(to + Chunk::STATES,
                                                       states + (i64)chunk * S * state_strides.time, state_strides,
                                                       steps * M, thread, tile.valid, chunk == 0 ? M : 0);
            }
        }
    };

    float carry[1][M] = {};
    if (maps.conducts()) {
        maps.conduct(spans, carry[0]);
        return;
    }
    const int first = maps.first;
#pragma unroll
    for (int d = 0; d < C::D; d++) {
        if (first + d * STRIDE < spans) {
            copy_before_exchange(first + d * STRIDE, d);
            copy_after_gradients(first + d * STRIDE, d);
        }
        commit_copies();
    }
    maps.enter();
    if (spans > 0) {
        maps.begin(carry[0]);
    } else if (first == 0 && upper) {  // an empty sequence
        load_own_state<C, M>(arguments.carry_in, tile, lane, N, carry);
        store_own_state<C, M>(arguments.carry_out, tile, lane, N, carry);
    }
    int stage = 0;
    for (int span = first; span - maps.before < spans; span += STRIDE) {
        const int chunk = last_chunk - (C::CH * span + lane.half);
        const int steps = span < spans ? min(S, tile.length - chunk * S) : 0;
        wait_for_copies<C::D - 1>();
        __syncwarp();

        const char* const staged = stages + stage * Stage::BYTES + lane.source_half * Stage::CHUNK;
        const StagedRows<C> staged_logits(staged, logits + (i64)chunk * S * logit_strides.time, logit_strides.line,
                                          lane);
        const StagedRows<C> staged_values(staged + Chunk::VALUES, values + (i64)chunk * S * value_strides.time,
                                          value_strides.line, lane);
        const StagedRows<C> staged_states(staged + Chunk::STATES, states + (i64)chunk * S * state_strides.time,
                                          state_strides.line, lane);
        const ReadRows<C, Chunk::LOGIT_ROWS> columns[1] = {staged_logits};
        const ReadRows<C, Chunk::ROWS> grad_rows = StagedRows<C>(
            staged + Chunk::GRADS, grads + (i64)chunk * S * grad_strides.time, grad_strides.line, lane);
        float p[S][1][M][M + 1], u[S][1][M], sums[S][1][M];
#pragma unroll
        for (int s = 0; s < S; s++)
#pragma unroll
            for (int i = 0; i < M; i++) {
                float row[1][M + 1], g[1], row_sums[1];
                read_coefficients<C>(columns, columns[0], ((C::TIME_BROADCAST ? 0 : s) * M + i) * (M + 1), 0, row,
                                     row_sums);
                grad_rows.read(s * M + i, g);
#pragma unroll
                for (int j = 0; j <= M; j++) p[s][0][i][j] = row[0][j];
                u[s][0][i] = g[0];
                sums[s][0][i] = row_sums[0];
            }
        if (span == 0) {
            // The final state is the last output. Steps after it must hand on zeros.
            float last[1][M];
            load_own_state<C, M>(arguments.carry_in, tile, lane, N, last);
#pragma unroll
            for (int s = 0; s < S; s++)
#pragma unroll
                for (int i = 0; i < M; i++) {
                    const bool is_last = chunk * S + s == tile.length - 1;
                    u[s][0][i] = s >= steps ? 0.f : u[s][0][i] + (is_last ? last[0][i] : 0.f);
#pragma unroll
                    for (int j = 0; j <= M; j++) p[s][0][i][j] = s >= steps ? 0.f : p[s][0][i][j];
                }
        }
        __syncwarp();
        if (span + C::D * STRIDE < spans) copy_before_exchange(span + C::D * STRIDE, stage);

        float P[M][M], Q[M];
#pragma unroll
        for (int s = S - 1; s >= 0; s--) {
            float PA[M][M], Pb[M];
#pragma unroll
            for (int j = 0; j < M; j++) {
                Pb[j] = 0.f;
#pragma unroll
                for (int i = 0; i < M; i++)
                    Pb[j] = fmaf(p[s][0][i][j], s == S - 1 ? u[s][0][i] : u[s][0][i] + Q[i], Pb[j]);
#pragma unroll
                for (int l = 0; l < M; l++) {
                    PA[j][l] = s == S - 1 ? p[s][0][l][j] : p[s][0][0][j] * P[0][l];
                    if (s < S - 1) {
#pragma unroll
                        for (int i = 1; i < M; i++) PA[j][l] = fmaf(p[s][0][i][j], P[i][l], PA[j][l]);
                    }
                }
            }
#pragma unroll
            for (int i = 0; i < M; i++) {
                Q[i] = Pb[i];
#pragma unroll
                for (int j = 0; j < M; j++) P[i][j] = PA[i][j];
            }
        }
        if constexpr (C::CH == 2) compose_halves<M, Lane<C>::ACROSS>(P, Q, upper);
        pin(p);
        pin(u);
        if constexpr (GradientNeeds<C::F>::sum) pin(sums);
        pin(P);
        pin(Q);
        maps.state_before(P, Q, carry[0]);
        pin(carry);
        run_steps_backward<C, M, M>(p, u, carry);
        if (span == spans - 1 && upper) store_own_state<C, M>(arguments.carry_out, tile, lane, N, carry);

        if constexpr (!C::GATE_GRADIENT)
            store_state_gradients<C, M, M>(arguments, tile, lane, chunk, steps, p, u);
        else
            store_gradients<C, M, M>(arguments, tile, lane, chunk, steps, staged_logits, staged_values, staged_states, p,
                                     u, sums, written);
        __syncwarp();
        if (span + C::D * STRIDE < spans) copy_after_gradients(span + C::D * STRIDE, stage);
        commit_copies();
        stage = stage + 1 == C::D ? 0 : stage + 1;
    }
    maps.end(spans);
}
