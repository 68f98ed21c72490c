// H-LRU backward: u_t = g_t + sum_i a_{i,t+i} u_{t+i}. What is handed on are the M contributions that steps of this chunk
// make to the steps before it, nearest first; what is left before the first step is the gradient of the initial window.
// The differences x - h_t come from the stored window, as in bdlru_backward.cuh.
#pragma once
#include "hlru_forward.cuh"
#include "pace.cuh"

template <class C>
DEVICE void run_window_backward(const float (&p)[C::S][C::NB][C::M + 1], float (&u)[C::S][C::NB],
                                float (&pending)[C::NB][C::M]) {
#pragma unroll
    for (int s = C::S - 1; s >= 0; s--)
#pragma unroll
        for (int n = 0; n < C::NB; n++) {
            u[s][n] += pending[n][0];
#pragma unroll
            for (int j = 0; j < C::M; j++)
                pending[n][j] = fmaf(p[s][n][j], u[s][n], j + 1 < C::M ? pending[n][j + 1 < C::M ? j + 1 : 0] : 0.f);
        }
}

template <class C>
struct BackwardStage {
    static constexpr int M = C::M, S = C::S, ROW = Tile<C>::ROW;
    static constexpr int LOGIT_ROWS = (C::TIME_BROADCAST ? 1 : S) * (M + 1), STATE_ROWS = S + M - 1;
    // In the order of their places: logits, output gradients, values, states from M steps before the chunk on.
    static constexpr int GRADS = LOGIT_ROWS * ROW, VALUES = GRADS + S * ROW, STATES = VALUES + S * ROW;
    static constexpr int BYTES = C::GATE_GRADIENT ? STATES + STATE_ROWS * ROW : VALUES;
    typedef Ring<C::W, C::K, C::NB * M> Relay;
    static constexpr int RESULTS = Relay::BYTES + C::W * C::D * BYTES;
    static constexpr int SHARED = RESULTS + C::W * WrittenPlaces<C>::BYTES;  // of the thread block
};

template <class C>
DEVICE void store_window_gradients(const Arguments& arguments, const Tile<C>& tile, const Lane<C>& lane, int chunk,
                                   int steps, const StagedRows<C>& staged_logits, const StagedRows<C>& staged_values,
                                   const StagedRows<C>& staged_states, const float (&p)[C::S][C::NB][C::M + 1],
                                   const float (&u)[C::S][C::NB], const float (&sums)[C::S][C::NB],
                                   const WrittenPlaces<C>& written) {
    using E = typename C::E;
    constexpr int M = C::M, NB = C::NB, S = C::S;
    constexpr bool MATRICES = Tile<C>::MATRICES;
    // Read while all lanes are here: matrices are read by whole warps.
    ReadRows<C, BackwardStage<C>::LOGIT_ROWS> logit_rows;
    if constexpr (GradientNeeds<C::F>::logit) logit_rows = staged_logits;
    const ReadRows<C, S> value_rows = staged_values;
    const ReadRows<C, BackwardStage<C>::STATE_ROWS> state_rows = staged_states;
    const int before = chunk * S;  // steps of the sequence before this chunk
    if (!MATRICES && lane.count == 0) return;
    if (MATRICES) {  // what the lane stores may be of the warp's other chunk
        chunk += lane.half - written.half;
        steps = chunk < 0 ? 0 : min(S, tile.length - chunk * S);
    }
    const i64 N = arguments.N, step = tile.first_step + (i64)chunk * S;
    const int pitch = (int)N * E::BYTES;
    const i64 place = (i64)(tile.n0 + (MATRICES ? 0 : lane.block)) * E::BYTES;
    const WrittenLines<C, 1> value_lines = {pitch, arguments.output_time};
    const WrittenLines<C, 1, M + 1> logit_lines = {pitch, arguments.gates_time};
    char* const grad_values = fixed(arguments.output + value_lines.first(step, 0) + place);
    char* const grad_logits = fixed(arguments.grad_gates + logit_lines.first(step, 0) + place);
    constexpr int GATES = M + 1;  // rows of logits of a step
    constexpr bool STREAMS = Tile<C>::STREAMS;
    RowWriter<C, S, value_lines.APART ? 1 : 0, STREAMS> value_writer(written, grad_values, pitch, steps, tile.valid,
                                                                    arguments.output_time);
    RowWriter<C, S * GATES, logit_lines.APART ? GATES : 0, STREAMS> logit_writer(written, grad_logits, pitch, steps * GATES,
                                                                                 tile.valid, arguments.gates_time);

    float window[M][NB];  // newest first
#pragma unroll
    for (int j = 0; j < M; j++) {
        if (before <= j)
            load_state_row<C>(arguments.initial_state, tile, lane, N, j - before, window[j]);
        else
            state_rows.read(M - 1 - j, window[j]);
    }
#pragma unroll
    for (int s = 0; s < S; s++) {
        if (!MATRICES && s >= steps) break;
        float v[NB], x[NB][M + 1], gradient[NB];
        RowMean<C::F> mean[NB];
        value_rows.read(s, v);
#pragma unroll
        for (int n = 0; n < NB; n++) {
#pragma unroll
            for (int j = 0; j < M; j++) x[n][j] = window[j][n];
            x[n][M] = v[n];
            mean[n] = RowMean<C::F>(p[s][n], x[n], sums[s][n]);
        }
#pragma unroll
        for (int j = 0; j <= M; j++) {
            float logit[NB];
            if constexpr (GradientNeeds<C::F>::logit)
                logit_rows.read((C::TIME_BROADCAST ? 0 : s) * (M + 1) + j, logit);
#pragma unroll
            for (int n = 0; n < NB; n++)
                gradient[n] = logit_gradient<C::F>(u[s][n], p[s][n][j], mean[n].difference(p[s][n][j], x[n][j]),
                                                   sums[s][n], GradientNeeds<C::F>::logit ? logit[n] : 0.f);
            logit_writer.put(s * (M + 1) + j, gradient, grad_logits + logit_lines.at(s, 0, j));
        }
#pragma unroll
        for (int n = 0; n < NB; n++) gradient[n] = u[s][n] * p[s][n][M];
        value_writer.put(s, gradient, grad_values + value_lines.at(s, 0));
        if (s + 1 < S) {
#pragma unroll
            for (int j = M - 1; j > 0; j--)
#pragma unroll
                for (int n = 0; n < NB; n++) window[j][n] = window[j - 1][n];
            state_rows.read(M + s, window[0]);
        }
    }
}

// For broadcast logits: dL/dh in float32, of which gate_gradient.cuh makes the summed gradient, and dL/dvalues.
template <class C>
DEVICE void store_channel_gradients(const Arguments& arguments, const Tile<C>& tile, const Lane<C>& lane, int chunk,
                                    int steps, const float (&p)[C::S][C::NB][C::M + 1], const float (&u)[C::S][C::NB]) {
    using E = typename C::E;
    const i64 pitch = arguments.N * E::BYTES;
#pragma unroll
    for (int s = 0; s < C::S; s++) {
        const i64 line = tile.first_step + (i64)chunk * C::S + s;
        float gradient[C::NB];
#pragma unroll
        for (int n = 0; n < C::NB; n++) {
            gradient[n] = u[s][n] * p[s][n][C::M];
            if (s < steps && n < lane.count)
                ((float*)arguments.grad_gates)[line * arguments.N + tile.n0 + lane.nth(n)] = u[s][n];
        }
        if (s < steps && lane.count > 0)
            store_elements<E, C::NB, Tile<C>::APART, Tile<C>::STREAMS>(
                arguments.output + line * pitch + (i64)(tile.n0 + lane.block) * E::BYTES, gradient, lane.count);
    }
}

template <class C>
DEVICE void hlru_backward(const Arguments& arguments) {
    using E = typename C::E;
    using Stage = BackwardStage<C>;
    constexpr int M = C::M, NB = C::NB, S = C::S, WARPS = C::K * C::W;
    // Logits that the gradient reads again are replaced in the stage only after that.
    constexpr bool KEEP_LOGITS = C::GATE_GRADIENT && GradientNeeds<C::F>::logit;

    extern __shared__ __align__(128) char shared[];
    const int warp = uniform_warp(), thread = threadIdx.x % 32;
    const Tile<C> tile(arguments);
    const Lane<C> lane(thread, tile.valid);
    const i64 N = arguments.N;
    const int pitch = (int)N * E::BYTES;
    typename Stage::Relay ring(shared, warp, thread, tile.rank);
    char* const stages = shared + Stage::Relay::BYTES + warp * (C::D * Stage::BYTES);
    const WrittenPlaces<C> written(shared + Stage::RESULTS + warp * WrittenPlaces<C>::BYTES, lane);

    const int chunks = (tile.length + S - 1) / S;
    const char* const logits = arguments.gate_logits + tile.offset(arguments.logits_batch, arguments.logits_time);
    const char* const values = arguments.values + tile.offset(arguments.values_batch, arguments.values_time);
    const char* const grads = arguments.grad_hidden + tile.offset(arguments.grad_batch, arguments.grad_time);
    const char* const states = arguments.hidden + (tile.first_step - M) * pitch + (i64)tile.n0 * E::BYTES;
    const Strides logit_strides = {arguments.logits_time, arguments.logits_row, arguments.logits_line};
    const Strides value_strides = {arguments.values_time, arguments.values_line, arguments.values_line};
    const Strides grad_strides = {arguments.grad_time, arguments.grad_line, arguments.grad_line};
    const Strides state_strides = {pitch, pitch, pitch};

    auto copy_logits = [&](int chunk, int stage) {
        const int steps = C::TIME_BROADCAST ? 1 : min(S, tile.length - chunk * S);
        stage_rows<C, Stage::LOGIT_ROWS, M + 1, M + 1>(shared_address(stages) + stage * Stage::BYTES,
                                                       logits + (i64)chunk * S * logit_strides.time, logit_strides,
                                                       steps * (M + 1), thread, tile.valid);
    };
    auto copy_before_relay = [&](int turn, int stage) {
        const int chunk = chunks - 1 - turn, steps = min(S, tile.length - chunk * S);
        if (!KEEP_LOGITS) copy_logits(chunk, stage);
        stage_rows<C, S, 1, 1>(shared_address(stages) + stage * Stage::BYTES + Stage::GRADS,
                               grads + (i64)chunk * S * grad_strides.time, grad_strides, steps, thread, tile.valid);
    };
    auto copy_after_gradients = [&](int turn, int stage) {
        const int chunk = chunks - 1 - turn, steps = min(S, tile.length - chunk * S);
        const u32 to = shared_address(stages) + stage * Stage::BYTES;
        if (KEEP_LOGITS) copy_logits(chunk, stage);
        if constexpr (C::GATE_GRADIENT) {
            stage_rows<C, S, 1, 1>(to + Stage::VALUES, values + (i64)chunk * S * value_strides.time, value_strides,
                                   steps, thread, tile.valid);
            stage_rows<C, Stage::STATE_ROWS, 1, 1, true>(
                to + Stage::STATES, states + (i64)chunk * S * state_strides.time, state_strides, steps + M - 1, thread,
                tile.valid, max(0, M - chunk * S));
        }
    };

    const int first = tile.rank * C::W + warp;
    Pace<C> pace(arguments, tile, first);
#pragma unroll
    for (int d = 0; d < C::D; d++) {
        if (first + d * WARPS < chunks) {
            copy_before_relay(first + d * WARPS, d);
            copy_after_gradients(first + d * WARPS, d);
        }
        commit_copies();
    }
    ring.enter();
    if (first == WARPS - 1) {
        const float nothing[NB][M] = {};
        ring.send(&nothing[0][0]);
    }
    int stage = 0;
    for (int turn = first; turn < chunks; turn += WARPS) {
        const int chunk = chunks - 1 - turn, steps = min(S, tile.length - chunk * S);
        wait_for_copies<C::D - 1>();
        __syncwarp();

        const char* const staged = stages + stage * Stage::BYTES;
        const StagedRows<C> staged_logits(staged, logits + (i64)chunk * S * logit_strides.time, logit_strides.line,
                                          lane);
        const StagedRows<C> staged_values(staged + Stage::VALUES, values + (i64)chunk * S * value_strides.time,
                                          value_strides.time, lane);
        const StagedRows<C> staged_states(staged + Stage::STATES, states + (i64)chunk * S * state_strides.time,
                                          state_strides.time, lane);
        const ReadRows<C, Stage::LOGIT_ROWS> logit_rows = staged_logits;
        const ReadRows<C, S> grad_rows = StagedRows<C>(
            staged + Stage::GRADS, grads + (i64)chunk * S * grad_strides.time, grad_strides.time, lane);
        float p[S][NB][M + 1], u[S][NB], sums[S][NB];
#pragma unroll
        for (int s = 0; s < S; s++) {
#pragma unroll
            for (int j = 0; j <= M; j++) {
                float z[NB];
                logit_rows.read((C::TIME_BROADCAST ? 0 : s) * (M + 1) + j, z);
#pragma unroll
                for (int n = 0; n < NB; n++) p[s][n][j] = z[n];
            }
#pragma unroll
            for (int n = 0; n < NB; n++) sums[s][n] = normalize<C::F, typename C::E>(p[s][n]);
            grad_rows.read(s, u[s]);
        }
        const int after = tile.length - chunk * S;  // steps from the chunk's first to the end
        if (after < S + M) {
            // The final window holds the last outputs. Steps after the end must hand on zeros.
#pragma unroll
            for (int s = 0; s < S; s++) {
                if (s < after && s >= after - M) {
                    float last[NB];
                    load_state_row<C>(arguments.carry_in, tile, lane, N, after - 1 - s, last);
#pragma unroll
                    for (int n = 0; n < NB; n++) u[s][n] += last[n];
                }
                if (s >= after) {
#pragma unroll
                    for (int n = 0; n < NB; n++) {
                        u[s][n] = 0.f;
#pragma unroll
                        for (int j = 0; j <= M; j++) p[s][n][j] = 0.f;
                    }
                }
            }
        }
        pin(p);
        pin(u);
        if constexpr (GradientNeeds<C::F>::sum) pin(sums);
        __syncwarp();
        if (turn + C::D * WARPS < chunks) copy_before_relay(turn + C::D * WARPS, stage);
        pace.keep();

        float pending[NB][M];
        ring.receive(&pending[0][0], zero_after<Tile<C>::NARROW>(p, N));
        run_window_backward<C>(p, u, pending);
        ring.send(&pending[0][0]);
        pin(p);
        pin(u);

        if constexpr (!C::GATE_GRADIENT)
            store_channel_gradients<C>(arguments, tile, lane, chunk, steps, p, u);
        else
            store_window_gradients<C>(arguments, tile, lane, chunk, steps, staged_logits, staged_values, staged_states,
                                      p, u, sums, written);
        __syncwarp();
        if (turn + C::D * WARPS < chunks) copy_after_gradients(turn + C::D * WARPS, stage);
        commit_copies();
        stage = stage + 1 == C::D ? 0 : stage + 1;
    }
    pace.end();
    if (first == chunks % WARPS) {
        float pending[NB][M];
        ring.receive(&pending[0][0]);
#pragma unroll
        for (int j = 0; j < M; j++) {
            float x[NB];
            // A sequence shorter than the window leaves older states in the final window.
            load_state_row<C>(j + tile.length < M ? arguments.carry_in : nullptr, tile, lane, N, j + tile.length, x);
#pragma unroll
            for (int n = 0; n < NB; n++) x[n] += pending[n][j];
            store_state_row<C>(arguments.carry_out, tile, lane, N, j, x);
        }
    }
    ring.leave();
}
