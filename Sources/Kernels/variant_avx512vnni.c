// AVX-512 with VNNI, where one instruction multiplies two pairs of integers and adds them to a sum. As assembly, because the
// compiler splits it to shorten chains, of which there are enough.
#if defined(__x86_64__)
#include "variant.h"

#pragma clang attribute push(                                                                                          \
    __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c"))), apply_to = function)
#include "vector.h"

INLINE i16 add_pairs(i16 sum, pairs16 w, pairs16 x) {
    __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
    return sum;
}

#include "avx512.h"
#pragma clang attribute pop

const Variant anira_avx512vnni = {"avx512vnni", ANIRA_KERNELS_OF_THIS_FILE, anira_crc32c_sse42};
#endif
