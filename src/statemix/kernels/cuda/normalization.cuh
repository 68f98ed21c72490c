// Gate logits to coefficients and back: the six normalizations, one row of logits at a time.
// Every row is phi(z) / S with S = sum |phi(z)| + a constant, so one local form serves all gradients:
//     dL/dz_i = u phi'(z_i) (x_i - sgn(phi(z_i)) h) / S
#pragma once
#include "elements.cuh"

enum class Normalization { softmax, sigmoid, relu, tanh, linear, none };

static constexpr float LOG2_E = 1.4426950408889634f;

DEVICE float exp2_approximate(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// The same where a result below 2^-126 is not yet zero; two instructions more.
DEVICE float exp2_gradual(float x) {
    float y;
    asm("ex2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE float reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// fmaxf drops a NaN; a NaN gate must reach what depends on it.
DEVICE float max_or_nan(float a, float b) {
    float y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}

// tanh with a small relative error, since rows of small logits are divided by their own size. Near zero 1 - 2 / (e^2z + 1)
// cancels: there two terms of the series are exact to 1e-6 (float32). To 16 bits one is, closer to zero: both forms have
// an error of 3e-5 at most, a sixteenth of what half precision rounds off.
template <class E>
DEVICE float tanh_of(float z) {
    constexpr bool SHORT = E::BYTES == 2;
    float near = SHORT ? z : fmaf(z * z * -0.33333333f, z, z);
    float far = fmaf(-2.f, reciprocal(exp2_approximate(z * (2.f * LOG2_E)) + 1.f), 1.f);
    return fabsf(z) < (SHORT ? 0.005f : 0.05f) ? near : far;
}

// What a slot holds that belongs to no logit (block sizes that lanes cannot share evenly): coefficient 0.
template <Normalization F>
DEVICE float absent_logit() {
    const float minus_infinity = __int_as_float(0xff800000);
    return F == Normalization::softmax || F == Normalization::sigmoid ? minus_infinity : 0.f;
}

// What S holds besides the magnitudes of phi (none has no S).
template <Normalization F>
constexpr float SUM_CONSTANT =
    F == Normalization::relu ? 1e-3f : F == Normalization::tanh || F == Normalization::linear ? 1e-6f : 0.f;

// In place: C logits to C coefficients. Returns S where the gradient needs it.
template <Normalization F, class E, int C>
DEVICE float normalize(float (&z)[C]) {
    if constexpr (F == Normalization::none) {
        return 1.f;
    } else if constexpr (F == Normalization::softmax && C == 2) {
        float gap = z[0] - z[1];
        float smaller = exp2_approximate(-fabsf(gap) * LOG2_E);
        float larger = reciprocal(1.f + smaller);
        smaller *= larger;
        z[0] = gap >= 0.f ? larger : smaller;
        z[1] = gap >= 0.f ? smaller : larger;
        return 1.f;
    } else {
        float sum, unit = 1.f;  // S in parts of the unit
        if constexpr (F == Normalization::softmax || F == Normalization::sigmoid) {
            float largest = z[0];
#pragma unroll
            for (int j = 1; j < C; j++) largest = fmaxf(largest, z[j]);
            if constexpr (F == Normalization::softmax) {
                float shift = -largest * LOG2_E;
#pragma unroll
                for (int j = 0; j < C; j++) z[j] = exp2_approximate(fmaf(z[j], LOG2_E, shift));
            } else {
                // s(z) e^-r = 1 / (e^r + e^(r - z)) with r = min(0, max z): never 0/0, whatever the logits.
                float r = fminf(largest, 0.f) * LOG2_E;
                unit = exp2_gradual(r);
#pragma unroll
                for (int j = 0; j < C; j++) z[j] = reciprocal(unit + exp2_approximate(fmaf(z[j], -LOG2_E, r)));
            }
            sum = z[0];
#pragma unroll
            for (int j = 1; j < C; j++) sum += z[j];
        } else {
            sum = SUM_CONSTANT<F>;
#pragma unroll
            for (int j = 0; j < C; j++) {
                if constexpr (F == Normalization::relu) z[j] = max_or_nan(z[j], 0.f);
                if constexpr (F == Normalization::tanh) z[j] = tanh_of<E>(z[j]);
                sum += fabsf(z[j]);
            }
        }
        float inverse = reciprocal(sum);
#pragma unroll
        for (int j = 0; j < C; j++) z[j] *= inverse;
        return sum * unit;
    }
}

// The mean h of a row's sources, for the differences x - sgn(p) h. An h in float32 would leave nothing of them where a
// gate is saturated: it all but equals one x, and the coefficients sum to 1 only up to rounding. So everything is seen
// from the heaviest source y: with y_k = sgn(p_k) x_k,
//     h - y = sum |p_k| (y_k - y) - y constant / S,    sgn(p_j) (x_j - sgn(p_j) h) = (y_j - y) - (h - y)
// hold their relative precision, the heaviest source's own difference -(h - y) included.
template <Normalization F>
struct RowMean {
    static constexpr bool SIGNED = F == Normalization::tanh || F == Normalization::linear;
    float heaviest, offset;  // y and h - y

    DEVICE RowMean() {}
    static DEVICE float signed_by(float p, float x) {
        return SIGNED ? __uint_as_float(__float_as_uint(x) ^ (__float_as_uint(p) & 0x80000000u)) : x;
    }
    template <int C>
    DEVICE RowMean(const float (&p)[C], const float (&x)[C], float sum) {
        if constexpr (F == Normalization::none) return;
        float weight = fabsf(p[C - 1]);
        heaviest = signed_by(p[C - 1], x[C - 1]);
#pragma unroll
        for (int j = 0; j < C - 1; j++) {
            heaviest = fabsf(p[j]) > weight ? signed_by(p[j], x[j]) : heaviest;
            weight = fmaxf(weight, fabsf(p[j]));
        }
        offset = SUM_CONSTANT<F> > 0.f ? heaviest * (-SUM_CONSTANT<F> * reciprocal(sum)) : 0.f;
#pragma unroll
        for (int j = 0; j < C; j++) offset = fmaf(fabsf(p[j]), signed_by(p[j], x[j]) - heaviest, offset);
    }
    // x - sgn(p) h; without a mean, x.
    DEVICE float difference(float p, float x) const {
        if constexpr (F == Normalization::none) return x;
        const float distance = (signed_by(p, x) - heaviest) - offset;
        return SIGNED && p == 0.f ? x : signed_by(p, distance);
    }
};

// Whether the gradient needs the logit itself besides the coefficient, and whether it needs S.
template <Normalization F>
struct GradientNeeds {
    static constexpr bool logit = F == Normalization::sigmoid || F == Normalization::tanh;
    static constexpr bool sum = logit || F == Normalization::relu || F == Normalization::linear;
};

// dL/dz of one logit: u = dL/dh, p = its coefficient, difference = RowMean's. Of sigmoid and tanh phi = p S is at hand, and
// one exponential of the logit is enough for phi' to hold its relative precision where phi is saturated.
template <Normalization F>
DEVICE float logit_gradient(float u, float p, float difference, float sum, float logit) {
    if constexpr (F == Normalization::softmax) return u * p * difference;
    if constexpr (F == Normalization::none) return u * difference;
    if constexpr (F == Normalization::relu) return p <= 0.f ? 0.f : u * reciprocal(sum) * difference;
    if constexpr (F == Normalization::linear) return u * reciprocal(sum) * difference;
    if constexpr (F == Normalization::sigmoid) {
        // 1 - s(z) = s(z) e^-z; where s is nothing and e^-z infinite fminf makes 1 of the NaN.
        float rest = fminf(p * sum * exp2_approximate(logit * -LOG2_E), 1.f);
        return u * p * difference * rest;
    }
    if constexpr (F == Normalization::tanh) {
        // 1 - tanh^2 = (1 + |tanh|)^2 e^(-2 |z|)
        float other = fmaf(fabsf(p), sum, 1.f);
        float decay = exp2_approximate(fabsf(logit) * (-2.f * LOG2_E));
        return u * reciprocal(sum) * difference * decay * other * other;
    }
}
