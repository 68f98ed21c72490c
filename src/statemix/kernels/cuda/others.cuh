// Words of device memory that thread blocks of one launch leave for each other.
#pragma once
#include "elements.cuh"

// Vectors that other thread blocks read or write. What they move is in registers before or after, and nothing else is
// ordered by them, so the compiler may move other accesses across.
template <int V>
DEVICE void store_for_others(void* to, const u32* x) {
    if constexpr (V == 4)
        asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(x[0]), "r"(x[1]), "r"(x[2]),
                     "r"(x[3]));
    else if constexpr (V == 2)
        asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(x[0]), "r"(x[1]));
    else
        asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(x[0]));
}
template <int V>
DEVICE void load_of_others(const void* from, u32* x) {
    if constexpr (V == 4)
        asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                     : "l"(from));
    else if constexpr (V == 2)
        asm volatile("ld.relaxed.gpu.global.v2.u32 {%0, %1}, [%2];" : "=r"(x[0]), "=r"(x[1]) : "l"(from));
    else
        asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(x[0]) : "l"(from));
}
