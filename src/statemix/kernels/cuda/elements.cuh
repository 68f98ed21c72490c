// Elements of the tensors in memory (float32, bfloat16, float16); arithmetic is always in float32.
#pragma once

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;
typedef long long i64;

#define DEVICE __device__ __forceinline__

struct Float32 {
    typedef u32 Bits;
    static constexpr int BYTES = 4;
    static DEVICE float widen(Bits bits) { return __uint_as_float(bits); }
    static DEVICE Bits narrow(float x) { return __float_as_uint(x); }
};

struct Bfloat16 {
    typedef u16 Bits;
    static constexpr int BYTES = 2;
    static DEVICE float widen(Bits bits) { return __uint_as_float((u32)bits << 16); }
    static DEVICE Bits narrow(float x) {
        Bits bits;
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
        return bits;
    }
    static DEVICE void widen_pair(u32 pair, float& low, float& high) {
        low = __uint_as_float(pair << 16);
        high = __uint_as_float(pair & 0xffff0000u);
    }
    static DEVICE u32 narrow_pair(float low, float high) {
        u32 pair;
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
        return pair;
    }
};

struct Float16 {
    typedef u16 Bits;
    static constexpr int BYTES = 2;
    static DEVICE float widen(Bits bits) {
        float x;
        asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
        return x;
    }
    static DEVICE Bits narrow(float x) {
        Bits bits;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
        return bits;
    }
    static DEVICE void widen_pair(u32 pair, float& low, float& high) {
        low = widen((Bits)(pair & 0xffffu));
        high = widen((Bits)(pair >> 16));
    }
    static DEVICE u32 narrow_pair(float low, float high) {
        u32 pair;
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
        return pair;
    }
};

// A lane's NB elements of one row (four only of 16 bits): adjacent ones as one vector, or (apart) 32 elements from each
// other, which keeps the accesses of a warp coalesced where a vector would be misaligned.
template <class E, int NB, bool APART>
DEVICE void load_elements(const char* p, float (&x)[NB]) {
    static_assert(NB <= 2 || (NB == 4 && E::BYTES == 2));
    if constexpr (NB == 1 || APART) {
#pragma unroll
        for (int n = 0; n < NB; n++) x[n] = E::widen(*(const typename E::Bits*)(p + n * 32 * E::BYTES));
    } else if constexpr (NB == 4) {
        const uint2 pairs = *(const uint2*)p;
        E::widen_pair(pairs.x, x[0], x[1]);
        E::widen_pair(pairs.y, x[2], x[3]);
    } else if constexpr (E::BYTES == 2) {
        E::widen_pair(*(const u32*)p, x[0], x[1]);
    } else {
        float2 pair = *(const float2*)p;
        x[0] = pair.x;
        x[1] = pair.y;
    }
}

// With STREAMS L2 may drop the line before all others.
template <class E, int NB, bool APART, bool STREAMS = false>
DEVICE void store_elements(char* p, const float (&x)[NB], int count) {
    static_assert(!STREAMS || NB == 1);
    if constexpr (STREAMS) {
        __stcs((typename E::Bits*)p, E::narrow(x[0]));
    } else if constexpr (NB == 1) {
        *(typename E::Bits*)p = E::narrow(x[0]);
    } else if constexpr (APART) {
#pragma unroll
        for (int n = 0; n < NB; n++)
            if (n < count) *(typename E::Bits*)(p + n * 32 * E::BYTES) = E::narrow(x[n]);
    } else if constexpr (NB == 4) {
        *(uint2*)p = make_uint2(E::narrow_pair(x[0], x[1]), E::narrow_pair(x[2], x[3]));
    } else if constexpr (E::BYTES == 2) {
        *(u32*)p = E::narrow_pair(x[0], x[1]);
    } else {
        *(float2*)p = make_float2(x[0], x[1]);
    }
}

// A pointer whose making the compiler may not repeat: else it computes every address anew from the arguments.
template <class T>
DEVICE T* fixed(T* p) {
    asm volatile("" : "+l"(p));
    return p;
}

// A number of which the compiler cannot know that it was there before: what follows from it is computed again.
DEVICE int afresh(int x) {
    asm volatile("" : "+r"(x));
    return x;
}

// Keeps the compiler from moving the work that produces the values past this point.
template <class A>
DEVICE void pin(A& values) {
    float* p = (float*)&values;
#pragma unroll
    for (int i = 0; i < (int)(sizeof(A) / 4); i++) asm volatile("" : "+f"(p[i]));
}

// pin() binds the compiler but not the assembler, which still sinks the last multiplications of a normalization into the
// only part of the program that is serial. So where that part is the limit (WANTED) the wait for the state is made to
// depend on the values: this is 0, but only whoever knows that no tensor is 2^62 wide can tell.
template <bool WANTED, class A>
DEVICE u32 zero_after(const A& values, i64 N) {
    if constexpr (!WANTED) return 0;
    const float* p = (const float*)&values;
    u32 bits = 0;
#pragma unroll
    for (int i = 0; i < (int)(sizeof(A) / 4); i++) bits ^= __float_as_uint(p[i]);
    return bits & (u32)(N >> 62);
}
