// Affine maps of states, h -> P h + q, and how a warp with two chunks makes them.
#pragma once
#include "relay.cuh"

// The affine map of M states: the columns of P, then q.
template <int M>
struct Map {
    float column[M + 1][M];

    // To a state; without `affine`, to the difference of two.
    DEVICE void apply(float (&h)[M], bool affine = true) const {
        float next[M];
#pragma unroll
        for (int i = 0; i < M; i++) next[i] = affine ? column[M][i] : 0.f;
#pragma unroll
        for (int j = 0; j < M; j++)
#pragma unroll
            for (int i = 0; i < M; i++) next[i] = fmaf(column[j][i], h[j], next[i]);
#pragma unroll
        for (int i = 0; i < M; i++) h[i] = next[i];
    }
};

// As columns of P, then q.
template <int M>
DEVICE void flatten(const float (&P)[M][M], const float (&q)[M], float (&flat)[M * (M + 1)]) {
#pragma unroll
    for (int i = 0; i < M; i++) {
        flat[M * M + i] = q[i];
#pragma unroll
        for (int j = 0; j < M; j++) flat[j * M + i] = P[i][j];
    }
}

template <int M>
DEVICE void copy_map(const float (&P)[M][M], const float (&q)[M], float (&to_P)[M][M], float (&to_q)[M]) {
#pragma unroll
    for (int i = 0; i < M; i++) {
        to_q[i] = q[i];
#pragma unroll
        for (int j = 0; j < M; j++) to_P[i][j] = P[i][j];
    }
}

// (P, q) after (A, b), with A and b from the other half of the warp: (P A, P b + q).
template <int M>
DEVICE void compose(const float (&P)[M][M], const float (&q)[M], const float (&A)[M][M], const float (&b)[M],
                    float (&PA)[M][M], float (&Pb)[M]) {
#pragma unroll
    for (int i = 0; i < M; i++) {
        Pb[i] = q[i];
#pragma unroll
        for (int l = 0; l < M; l++) Pb[i] = fmaf(P[i][l], b[l], Pb[i]);
#pragma unroll
        for (int j = 0; j < M; j++) {
            PA[i][j] = P[i][0] * A[0][j];
#pragma unroll
            for (int l = 1; l < M; l++) PA[i][j] = fmaf(P[i][l], A[l][j], PA[i][j]);
        }
    }
}

// The upper half's map becomes that of both chunks.
template <int M, int ACROSS>
DEVICE void compose_halves(float (&P)[M][M], float (&q)[M], bool upper) {
    float A[M][M], b[M], PA[M][M], Pb[M];
#pragma unroll
    for (int i = 0; i < M; i++) {
        b[i] = __shfl_xor_sync(0xffffffffu, q[i], ACROSS);
#pragma unroll
        for (int j = 0; j < M; j++) A[i][j] = __shfl_xor_sync(0xffffffffu, P[i][j], ACROSS);
    }
    compose<M>(P, q, A, b, PA, Pb);
#pragma unroll
    for (int i = 0; i < M; i++) {
        q[i] = upper ? Pb[i] : q[i];
#pragma unroll
        for (int j = 0; j < M; j++) P[i][j] = upper ? PA[i][j] : P[i][j];
    }
}

// A chunk's region of a stage, made so long that the two halves of a warp, where it has halves, read from different banks.
template <class C, int BYTES>
constexpr int REGION = C::CH == 1           ? BYTES
                       : Tile<C>::MATRICES ? (BYTES + 63) / 128 * 128 + 64
                       : BYTES % 64 == 0   ? BYTES + Tile<C>::ROW
                                           : BYTES;
