// H-LRU backward, and BD-LRU's with blocks of one, where lanes are few and time is long: hlru_backward.cuh with
// composed maps, in reversed time. Where a warp has two chunks its lower half has the later one.
#pragma once
#include "exchange.cuh"
#include "hlru_backward.cuh"

// The map of S steps from the contributions that arrive to those that are handed on.
template <int S, int M, class A, class U>
DEVICE void pending_map(const A& p, const U& u, float (&P)[M][M], float (&q)[M]) {
#pragma unroll
    for (int s = S - 1; s >= 0; s--) {
        const int done = S - 1 - s;  // steps: what arrived `done` or more steps away has only been moved on
        float whole[M];
        const float constant = done == 0 ? u[s][0] : u[s][0] + q[0];
#pragma unroll
        for (int l = 0; l < M; l++) whole[l] = P[0][l];
#pragma unroll
        for (int j = 0; j < M; j++) {
            const int next = j + 1 < M ? j + 1 : 0;
            q[j] = fmaf(p[s][0][j], constant, j + 1 == M || done == 0 ? 0.f : q[next]);
#pragma unroll
            for (int l = 0; l < M; l++) {
                if (l < done)
                    P[j][l] = fmaf(p[s][0][j], whole[l], j + 1 == M ? 0.f : P[next][l]);
                else
                    P[j][l] = l == done ? p[s][0][j] : l == j + 1 + done ? 1.f : 0.f;
            }
        }
    }
}

template <class C>
using BackwardMapStage = MapStage<C, BackwardStage<C>>;

template <class C>
DEVICE void composed_hlru_backward(const Arguments& arguments) {
    using E = typename C::E;
    using Stage = BackwardMapStage<C>;
    using Chunk = BackwardStage<C>;
    constexpr int M = C::M, S = C::S, STRIDE = Stage::Maps::STRIDE;
    // Logits that the gradient reads again are replaced in the stage only after that.
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
    const char* const states = arguments.hidden + (tile.first_step - M) * pitch + (i64)tile.n0 * E::BYTES;
    const Strides logit_strides = {arguments.logits_time, arguments.logits_row, arguments.logits_line};
    const Strides value_strides = {arguments.values_time, arguments.values_line, arguments.values_line};
    const Strides grad_strides = {arguments.grad_time, arguments.grad_line, arguments.grad_line};
    const Strides state_strides = {pitch, pitch, pitch};

    auto copy_logits = [&](int chunk, u32 to) {
        const int steps = C::TIME_BROADCAST ? 1 : min(S, tile.length - chunk * S);
        stage_rows<C, Chunk::LOGIT_ROWS, M + 1, M + 1>(to, logits + (i64)chunk * S * logit_strides.time, logit_strides,
                                                       steps * (M + 1), thread, tile.valid);
    };
    auto copy_before_exchange = [&](int span, int stage) {
#pragma unroll
        for (int half = 0; half < C::CH; half++) {
            const int chunk = last_chunk - (C::CH * span + half), steps = min(S, tile.length - chunk * S);
            const u32 to = shared_address(stages) + stage * Stage::BYTES + half * Stage::CHUNK;
            if (!KEEP_LOGITS) copy_logits(chunk, to);
            stage_rows<C, S, 1, 1>(to + Chunk::GRADS, grads + (i64)chunk * S * grad_strides.time, grad_strides, steps,
                                   thread, tile.valid);
        }
    };
    auto copy_after_gradients = [&](int span, int stage) {
#pragma unroll
        for (int half = 0; half < C::CH; half++) {
            const int chunk = last_chunk - (C::CH * span + half), steps = min(S, tile.length - chunk * S);
            const u32 to = shared_address(stages) + stage * Stage::BYTES + half * Stage::CHUNK;
            if (KEEP_LOGITS) copy_logits(chunk, to);
            if constexpr (C::GATE_GRADIENT) {
                stage_rows<C, S, 1, 1>(to + Chunk::VALUES, values + (i64)chunk * S * value_strides.time, value_strides,
                                       steps, thread, tile.valid);
                stage_rows<C, Chunk::STATE_ROWS, 1, 1, true>(
                    to + Chunk::STATES, states + (i64)chunk * S * state_strides.time, state_strides,
                    steps + M - 1, thread, tile.valid, max(0, M - chunk * S));
            }
        }
    };

    float pending[1][M] = {};
    if (maps.conducts()) {
        maps.conduct(spans, pending[0]);
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
        maps.begin(pending[0]);
    } else if (first == 0 && lane.half == 0) {
        load_window<C>(arguments.carry_in, tile, lane, N, pending);
        store_window<C>(arguments.carry_out, tile, lane, N, pending);
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
                                          value_strides.time, lane);
        const StagedRows<C> staged_states(staged + Chunk::STATES, states + (i64)chunk * S * state_strides.time,
                                          state_strides.time, lane);
        const ReadRows<C, Chunk::LOGIT_ROWS> logit_rows = staged_logits;
        const ReadRows<C, S> grad_rows = StagedRows<C>(
            staged + Chunk::GRADS, grads + (i64)chunk * S * grad_strides.time, grad_strides.time, lane);
        float p[S][1][M + 1], u[S][1], sums[S][1];
#pragma unroll
        for (int s = 0; s < S; s++) {
#pragma unroll
            for (int j = 0; j <= M; j++) {
                float z[1];
                logit_rows.read((C::TIME_BROADCAST ? 0 : s) * (M + 1) + j, z);
                p[s][0][j] = z[0];
            }
            sums[s][0] = normalize<C::F, typename C::E>(p[s][0]);
            grad_rows.read(s, u[s]);
        }
        const int after = tile.length - chunk * S;  // steps from the chunk's first to the end
        if (after < S + M) {
            // The final window holds the last outputs. Steps after the end must hand on zeros.
#pragma unroll
            for (int s = 0; s < S; s++) {
                if (s < after && s >= after - M) {
                    float last[1];
                    load_state_row<C>(arguments.carry_in, tile, lane, N, after - 1 - s, last);
                    u[s][0] += last[0];
                }
                if (s >= after) {
                    u[s][0] = 0.f;
#pragma unroll
                    for (int j = 0; j <= M; j++) p[s][0][j] = 0.f;
                }
            }
        }
        __syncwarp();
        if (span + C::D * STRIDE < spans) copy_before_exchange(span + C::D * STRIDE, stage);

        float P[M][M], Q[M];
        pending_map<S, M>(p, u, P, Q);
        if constexpr (C::CH == 2) compose_halves<M, Lane<C>::ACROSS>(P, Q, upper);
        pin(p);
        pin(u);
        if constexpr (GradientNeeds<C::F>::sum) pin(sums);
        maps.state_before(P, Q, pending[0]);
        run_window_backward<C>(p, u, pending);
        if (span == spans - 1 && upper) {
#pragma unroll
            for (int j = 0; j < M; j++) {
                float x[1];
                // A sequence shorter than the window leaves older states in the final window.
                load_state_row<C>(j + tile.length < M ? arguments.carry_in : nullptr, tile, lane, N, j + tile.length,
                                  x);
                x[0] += pending[0][j];
                store_state_row<C>(arguments.carry_out, tile, lane, N, j, x);
            }
        }

        if constexpr (!C::GATE_GRADIENT)
            store_channel_gradients<C>(arguments, tile, lane, chunk, steps, p, u);
        else
            store_window_gradients<C>(arguments, tile, lane, chunk, steps, staged_logits, staged_values, staged_states,
                                      p, u, sums, written);
        __syncwarp();
        if (span + C::D * STRIDE < spans) copy_after_gradients(span + C::D * STRIDE, stage);
        commit_copies();
        stage = stage + 1 == C::D ? 0 : stage + 1;
    }
    maps.end(spans);
}
