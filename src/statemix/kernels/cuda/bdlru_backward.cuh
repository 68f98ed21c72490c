// BD-LRU backward. With u_t = dL/dh_t (from the output at t and from the future):
//     u_{t-1} += A_t^T u_t,    dL/dv_t = b_t u_t,    dL/dz_t by the local form of normalization.cuh,
// whose differences x - h_t come from the stored h_{t-1} and v_t (RowMean): taken from a rounded h_t they would be off
// by the size of the gradient where gates are sharp.
//
// The relay of bdlru_forward.cuh in reversed order of chunks: what is handed on is A^T u. Only forward's output is
// needed; coefficients are normalized once and stay in registers from before the hand-over until the gradients.
#pragma once
#include "bdlru_forward.cuh"
#include "pace.cuh"

// The serial part. u holds dL/d(output) before and the whole of dL/dh after; carry (own rows) comes from the later chunk.
template <class C, int MR, int MC>
DEVICE void run_steps_backward(const float (&p)[C::S][C::NB][MR][MC + 1], float (&u)[C::S][C::NB][MR],
                               float (&carry)[C::NB][MR]) {
#pragma unroll
    for (int s = C::S - 1; s >= 0; s--) {
#pragma unroll
        for (int n = 0; n < C::NB; n++) {
            // Where the whole state is the lane's, the earlier step's u starts the sums: an addition less in the chain.
            const bool fold = C::R == 1 && s > 0;
            float sum[MC];
            if (C::R > 1 || s == C::S - 1) {
#pragma unroll
                for (int i = 0; i < MR; i++) u[s][n][i] += carry[n][i];
            }
#pragma unroll
            for (int j = 0; j < MC; j++) sum[j] = fold ? u[s > 0 ? s - 1 : 0][n][j < MR ? j : 0] : 0.f;
#pragma unroll
            for (int i = 0; i < MR; i++)
#pragma unroll
                for (int j = 0; j < MC; j++) sum[j] = fmaf(p[s][n][i][j], u[s][n][i], sum[j]);
#pragma unroll
            for (int i = 0; i < MR; i++) {
                carry[n][i] = sum[i * C::R];
#pragma unroll
                for (int partner = 1; partner < C::R; partner++)
                    carry[n][i] += __shfl_xor_sync(0xffffffffu, sum[i * C::R + partner], partner * Tile<C>::LANES);
                if (fold) u[s > 0 ? s - 1 : 0][n][i] = carry[n][i];
            }
        }
    }
}

template <class C>
struct BackwardStage {
    static constexpr int M = C::M, S = C::S, ROW = Tile<C>::ROW;
    static constexpr int LOGIT_ROWS = (C::TIME_BROADCAST ? 1 : S) * M * (M + 1), ROWS = S * M;
    // In the order of their places: logits, output gradients, values, states before each step.
    static constexpr int GRADS = LOGIT_ROWS * ROW, VALUES = GRADS + ROWS * ROW, STATES = VALUES + ROWS * ROW;
    static constexpr int SLACK_ROWS = M % C::R ? M + 1 : 0;  // absent rows are read, never used
    static constexpr int BYTES = (C::GATE_GRADIENT ? STATES + ROWS * ROW : VALUES) + SLACK_ROWS * ROW;
    typedef Ring<C::W, C::K, C::NB * ((M + C::R - 1) / C::R)> Relay;
    static constexpr int RESULTS = Relay::BYTES + C::W * C::D * BYTES;
    static constexpr int SHARED = RESULTS + C::W * WrittenPlaces<C>::BYTES;  // of the thread block
};

template <class C, int MR, int MC>
DEVICE void store_gradients(const Arguments& arguments, const Tile<C>& tile, const Lane<C>& lane, int chunk, int steps,
                            const StagedRows<C>& staged_logits, const StagedRows<C>& staged_values,
                            const StagedRows<C>& staged_states, const float (&p)[C::S][C::NB][MR][MC + 1],
                            const float (&u)[C::S][C::NB][MR], const float (&sums)[C::S][C::NB][MR],
                            const WrittenPlaces<C>& written) {
    using E = typename C::E;
    constexpr int M = C::M, NB = C::NB, R = C::R, S = C::S;
    constexpr bool MATRICES = Tile<C>::MATRICES;
    // Read while all lanes are here: matrices are read by whole warps.
    ReadRows<C, BackwardStage<C>::LOGIT_ROWS> own_logits;
    if constexpr (GradientNeeds<C::F>::logit) own_logits = staged_logits.from_row(lane.share * (M + 1));
    const ReadRows<C, BackwardStage<C>::ROWS> own_values = staged_values.from_row(lane.share);
    const ReadRows<C, BackwardStage<C>::ROWS> state_rows = staged_states;
    const bool begins = chunk == 0;
    if (!MATRICES && lane.count == 0) return;
    if (MATRICES) {  // what the lane stores may be of the warp's other chunk
        chunk += lane.half - written.half;
        steps = chunk < 0 ? 0 : min(S, tile.length - chunk * S);
    }
    const i64 N = arguments.N, step = tile.first_step + (i64)chunk * S;
    const int pitch = (int)N * E::BYTES;
    const i64 place = (i64)(tile.n0 + (MATRICES ? 0 : lane.block)) * E::BYTES;
    const WrittenLines<C, M> value_lines = {pitch, arguments.output_time};
    const WrittenLines<C, M, M + 1> logit_lines = {pitch, arguments.gates_time};
    char* const grad_values = fixed(arguments.output + value_lines.first(step, lane.share) + place);
    char* const grad_logits = fixed(arguments.grad_gates + logit_lines.first(step, lane.share) + place);
    constexpr int GATES = M * (M + 1);  // rows of logits of a step
    constexpr bool STREAMS = Tile<C>::STREAMS;
    RowWriter<C, S * M, value_lines.APART ? M : 0, STREAMS> value_writer(written, grad_values, pitch, steps * M, tile.valid,
                                                                          arguments.output_time);
    RowWriter<C, S * GATES, logit_lines.APART ? GATES : 0, STREAMS> logit_writer(written, grad_logits, pitch, steps * GATES,
                                                                                 tile.valid, arguments.gates_time);
    char* grad_columns[R];
#pragma unroll
    for (int partner = 0; partner < R; partner++)
        grad_columns[partner] = R == 1 ? grad_logits : fixed(grad_logits + (lane.share ^ partner) * pitch);
    float x[NB][MC + 1];  // what a row's coefficients multiply: the state before the step, the row's value

#pragma unroll
    for (int s = 0; s < S; s++) {
        if (!MATRICES && s >= steps) break;
#pragma unroll
        for (int index = 0; index < MR; index++)
#pragma unroll
            for (int partner = 0; partner < R; partner++) {
                const int row = partner_row<C>(index, partner, lane.share);
                float h[NB];
                if (s == 0 && begins)
                    load_state_row<C>(row < M ? arguments.initial_state : nullptr, tile, lane, N, row, h);
                else
                    state_rows.from_row(lane.share ^ partner).read(s * M + index * R, h);
#pragma unroll
                for (int n = 0; n < NB; n++) x[n][index * R + partner] = MC == M || row < M ? h[n] : 0.f;
            }
#pragma unroll
        for (int i = 0; i < MR; i++) {
            if (MC != M && partner_row<C>(i, 0, lane.share) >= M) continue;
            float v[NB], gradient[NB];
            RowMean<C::F> mean[NB];
            own_values.read(s * M + i * R, v);
#pragma unroll
            for (int n = 0; n < NB; n++) {
                x[n][MC] = v[n];
                mean[n] = RowMean<C::F>(p[s][n][i], x[n], sums[s][n][i]);
            }
#pragma unroll
            for (int j = 0; j <= MC; j++) {
                const int partner = j % R, column = j < MC ? partner_row<C>(j / R, partner, lane.share) : M;
                float logit[NB];
                if constexpr (GradientNeeds<C::F>::logit) {
                    const int row = ((C::TIME_BROADCAST ? 0 : s) * M + i * R) * (M + 1);
                    if (j < MC)
                        own_logits.from_row(lane.share ^ partner).read(row + j / R * R, logit);
                    else
                        own_logits.read(row + M, logit);
                }
#pragma unroll
                for (int n = 0; n < NB; n++)
                    gradient[n] = logit_gradient<C::F>(u[s][n][i], p[s][n][i][j],
                                                       mean[n].difference(p[s][n][i][j], x[n][j]),
                                                       sums[s][n][i],
                                                       GradientNeeds<C::F>::logit ? logit[n] : 0.f);
                char* const to = (j < MC ? grad_columns[partner] : grad_logits) +
                                 logit_lines.at(s, i * R, j < MC ? j / R * R : M);
                if (MC == M || j == MC || column < M) logit_writer.put((s * M + i) * (M + 1) + j, gradient, to);
            }
#pragma unroll
            for (int n = 0; n < NB; n++) gradient[n] = u[s][n][i] * p[s][n][i][MC];
            value_writer.put(s * M + i, gradient, grad_values + value_lines.at(s, i * R));
        }
    }
}

// For broadcast logits: dL/dh in float32, of which gate_gradient.cuh makes the summed gradient, and dL/dvalues.
template <class C, int MR, int MC>
DEVICE void store_state_gradients(const Arguments& arguments, const Tile<C>& tile, const Lane<C>& lane, int chunk,
                                  int steps, const float (&p)[C::S][C::NB][MR][MC + 1],
                                  const float (&u)[C::S][C::NB][MR]) {
    using E = typename C::E;
    const i64 pitch = arguments.N * E::BYTES;
#pragma unroll
    for (int s = 0; s < C::S; s++)
#pragma unroll
        for (int i = 0; i < MR; i++) {
            const int row = partner_row<C>(i, 0, lane.share);
            const i64 line = (tile.first_step + (i64)chunk * C::S + s) * C::M + row;
            float gradient[C::NB];
#pragma unroll
            for (int n = 0; n < C::NB; n++) {
                gradient[n] = u[s][n][i] * p[s][n][i][MC];
                if (s < steps && row < C::M && n < lane.count)
                    ((float*)arguments.grad_gates)[line * arguments.N + tile.n0 + lane.nth(n)] = u[s][n][i];
            }
            if (s < steps && row < C::M && lane.count > 0)
                store_elements<E, C::NB, Tile<C>::APART, Tile<C>::STREAMS>(
                    arguments.output + line * pitch + (i64)(tile.n0 + lane.block) * E::BYTES, gradient, lane.count);
        }
}

template <class C>
DEVICE void bdlru_backward(const Arguments& arguments) {
    using E = typename C::E;
    using Stage = BackwardStage<C>;
    constexpr int M = C::M, NB = C::NB, R = C::R, S = C::S;
    constexpr int MR = (M + R - 1) / R, MC = MR * R, WARPS = C::K * C::W;
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
    const char* const states = arguments.hidden + (tile.first_step - 1) * M * pitch + (i64)tile.n0 * E::BYTES;
    const Strides logit_strides = {arguments.logits_time, arguments.logits_row, arguments.logits_line};
    const Strides value_strides = {arguments.values_time, arguments.values_line, arguments.values_line};
    const Strides grad_strides = {arguments.grad_time, arguments.grad_line, arguments.grad_line};
    const Strides state_strides = {M * pitch, pitch, pitch};

    auto copy_logits = [&](int chunk, int stage) {
        const int steps = C::TIME_BROADCAST ? 1 : min(S, tile.length - chunk * S);
        stage_rows<C, Stage::LOGIT_ROWS, M*(M + 1), M + 1>(shared_address(stages) + stage * Stage::BYTES,
                                                           logits + (i64)chunk * S * logit_strides.time, logit_strides,
                                                           steps * M * (M + 1), thread, tile.valid);
    };
    auto copy_before_relay = [&](int turn, int stage) {
        const int chunk = chunks - 1 - turn, steps = min(S, tile.length - chunk * S);
        if (!KEEP_LOGITS) copy_logits(chunk, stage);
        stage_rows<C, Stage::ROWS, M, M>(shared_address(stages) + stage * Stage::BYTES + Stage::GRADS,
                                         grads + (i64)chunk * S * grad_strides.time, grad_strides, steps * M, thread,
                                         tile.valid);
    };
    auto copy_after_gradients = [&](int turn, int stage) {
        const int chunk = chunks - 1 - turn, steps = min(S, tile.length - chunk * S);
        const u32 to = shared_address(stages) + stage * Stage::BYTES;
        if (KEEP_LOGITS) copy_logits(chunk, stage);
        if constexpr (C::GATE_GRADIENT) {
            stage_rows<C, Stage::ROWS, M, M>(to + Stage::VALUES, values + (i64)chunk * S * value_strides.time,
                                             value_strides, steps * M, thread, tile.valid);
            stage_rows<C, Stage::ROWS, M, M, true>(to + Stage::STATES, states + (i64)chunk * S * state_strides.time,
                                                   state_strides, steps * M, thread, tile.valid, chunk == 0 ? M : 0);
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
        const float nothing[NB][MR] = {};
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
                                          value_strides.line, lane);
        const StagedRows<C> staged_states(staged + Stage::STATES, states + (i64)chunk * S * state_strides.time,
                                          state_strides.line, lane);
        const ReadRows<C, Stage::LOGIT_ROWS> own_rows = staged_logits.from_row(lane.share * (M + 1));
        const ReadRows<C, Stage::ROWS> grad_rows =
            StagedRows<C>(staged + Stage::GRADS, grads + (i64)chunk * S * grad_strides.time, grad_strides.line, lane)
                .from_row(lane.share);
        ReadRows<C, Stage::LOGIT_ROWS> columns[R];
#pragma unroll
        for (int partner = 0; partner < R; partner++) columns[partner] = own_rows.from_row(lane.share ^ partner);

        float p[S][NB][MR][MC + 1], u[S][NB][MR], sums[S][NB][MR];
#pragma unroll
        for (int s = 0; s < S; s++)
#pragma unroll
            for (int i = 0; i < MR; i++) {
                float row[NB][MC + 1], g[NB], row_sums[NB];
                read_coefficients<C>(columns, own_rows, ((C::TIME_BROADCAST ? 0 : s) * M + i * R) * (M + 1), lane.share,
                                     row, row_sums);
                grad_rows.read(s * M + i * R, g);
                const bool absent = MC != M && partner_row<C>(i, 0, lane.share) >= M;
#pragma unroll
                for (int n = 0; n < NB; n++) {
#pragma unroll
                    for (int j = 0; j <= MC; j++) p[s][n][i][j] = absent ? 0.f : row[n][j];
                    u[s][n][i] = absent ? 0.f : g[n];
                    sums[s][n][i] = row_sums[n];
                }
            }
        if (turn == 0) {
            // The final state is the last output. Steps after it must hand on zeros.
            float last[NB][MR];
            load_own_state<C, MR>(arguments.carry_in, tile, lane, N, last);
#pragma unroll
            for (int s = 0; s < S; s++)
#pragma unroll
                for (int n = 0; n < NB; n++)
#pragma unroll
                    for (int i = 0; i < MR; i++) {
                        u[s][n][i] = s >= steps ? 0.f : u[s][n][i] + (s == steps - 1 ? last[n][i] : 0.f);
#pragma unroll
                        for (int j = 0; j <= MC; j++) p[s][n][i][j] = s >= steps ? 0.f : p[s][n][i][j];
                    }
        }
        pin(p);
        pin(u);
        if constexpr (GradientNeeds<C::F>::sum) pin(sums);
        __syncwarp();
        if (turn + C::D * WARPS < chunks) copy_before_relay(turn + C::D * WARPS, stage);
        pace.keep();

        float carry[NB][MR];
        ring.receive(&carry[0][0], zero_after<Tile<C>::NARROW>(p, N));
        run_steps_backward<C, MR, MC>(p, u, carry);
        ring.send(&carry[0][0]);
        pin(p);
        pin(u);

        if constexpr (!C::GATE_GRADIENT)
            store_state_gradients<C, MR, MC>(arguments, tile, lane, chunk, steps, p, u);
        else
            store_gradients<C, MR, MC>(arguments, tile, lane, chunk, steps, staged_logits, staged_values,
                                       staged_states, p, u, sums, written);
        __syncwarp();
        if (turn + C::D * WARPS < chunks) copy_after_gradients(turn + C::D * WARPS, stage);
        commit_copies();
        stage = stage + 1 == C::D ? 0 : stage + 1;
    }
    pace.end();
    if (first == chunks % WARPS) {
        float carry[NB][MR];
        ring.receive(&carry[0][0]);
        if (chunks == 0) load_own_state<C, MR>(arguments.carry_in, tile, lane, N, carry);  // an empty sequence
        store_own_state<C, MR>(arguments.carry_out, tile, lane, N, carry);
    }
    ring.leave();
}
