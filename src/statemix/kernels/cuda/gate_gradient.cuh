// The gradient of gate logits that are broadcast over batch or time: sums over what shares them, in a fixed order and
// in float32, of the local form of normalization.cuh. Backward has left u = dL/dh, so no step waits for another here and
// the gradient of single steps, as large as the unbroadcast logits, is never written.
//
// A thread owns one row of logits of one block (or the logits of one channel) and a part of the sum; parts are added
// afterwards. WINDOW: the coefficients multiply the last M states of a channel (H-LRU) instead of the block's M states.
#pragma once
#include "normalization.cuh"

// Strides in bytes. Mirrored field by field in launch.py.
struct GateGradientArguments {
    const char* gate_logits;
    const char* values;
    const char* hidden;          // contiguous, as are the next two
    const float* state_gradient; // dL/dh
    float* partial;              // (parts, logits' batch, logits' time, rows, M + 1, N)
    const float* initial_state;  // null: zero
    const int* cu_seqlens;       // null: every batch row is one sequence
    i64 logits_batch, logits_time, logits_row, logits_line;
    i64 values_batch, values_time, values_line;
    i64 B, T, N, logits_B, logits_T, parts;
};

template <class E, int M, Normalization F, bool WINDOW>
DEVICE void gate_gradient(const GateGradientArguments& arguments) {
    constexpr int RESULTS = WINDOW ? 1 : M;  // rows of logits of a block
    const i64 N = arguments.N, T = arguments.T, tiles = (N + blockDim.x - 1) / blockDim.x;
    i64 index = blockIdx.x;
    const i64 n = index % tiles * blockDim.x + threadIdx.x;
    index /= tiles;
    const int row = (int)(index % RESULTS);
    index /= RESULTS;
    const i64 time = index % arguments.logits_T;
    index /= arguments.logits_T;
    const i64 batch = index % arguments.logits_B, part = index / arguments.logits_B;
    if (n >= N) return;

    // The terms (b, t) of the sum, numbered through; this thread's part is [first, last).
    const bool over_batch = arguments.logits_B == 1, over_time = arguments.logits_T == 1;
    const i64 terms = (over_batch ? arguments.B : 1) * (over_time ? T : 1);
    const i64 first = terms * part / arguments.parts, last = terms * (part + 1) / arguments.parts;

    const char* const logits =
        arguments.gate_logits + batch * arguments.logits_batch + time * arguments.logits_time + row * arguments.logits_row;
    float p[M + 1], z[M + 1], sum[M + 1];
#pragma unroll
    for (int j = 0; j <= M; j++) {
        z[j] = E::widen(*(const typename E::Bits*)(logits + j * arguments.logits_line + n * E::BYTES));
        p[j] = z[j];
        sum[j] = 0.f;
    }
    const float row_sum = normalize<F, E>(p);

    i64 packed_sequence = 0;
    for (i64 term = first; term < last; term++) {
        const i64 t = over_time ? term % T : time, b = over_batch ? (over_time ? term / T : term) : batch;
        i64 sequence = b, start = 0;
        if (arguments.cu_seqlens) {
            while (arguments.cu_seqlens[packed_sequence + 1] <= t) packed_sequence++;
            sequence = packed_sequence;
            start = arguments.cu_seqlens[sequence];
        }
        float x[M + 1];
        x[M] = E::widen(*(const typename E::Bits*)(arguments.values + b * arguments.values_batch +
                                                   t * arguments.values_time + row * arguments.values_line +
                                                   n * E::BYTES));
#pragma unroll
        for (int j = 0; j < M; j++) {
            const i64 before = WINDOW ? t - 1 - j : t - 1;  // the step whose state x[j] is
            const i64 line = WINDOW ? b * T + before : (b * T + before) * M + j;
            if (before >= start)
                x[j] = E::widen(*(const typename E::Bits*)(arguments.hidden + (line * N + n) * E::BYTES));
            else
                x[j] = arguments.initial_state
                           ? arguments.initial_state[(sequence * M + (WINDOW ? start - 1 - before : j)) * N + n]
                           : 0.f;
        }
        const RowMean<F> mean(p, x, row_sum);
        const float u = arguments.state_gradient[((b * T + t) * RESULTS + row) * N + n];
#pragma unroll
        for (int j = 0; j <= M; j++)
            sum[j] += logit_gradient<F>(u, p[j], mean.difference(p[j], x[j]), row_sum, z[j]);
    }
    float* const to =
        arguments.partial +
        (((part * arguments.logits_B + batch) * arguments.logits_T + time) * RESULTS + row) * (M + 1) * N + n;
#pragma unroll
    for (int j = 0; j <= M; j++) to[j * N] = sum[j];
}
