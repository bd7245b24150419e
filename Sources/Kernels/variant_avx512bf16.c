// AVX-512 with VNNI and BF16, where one instruction does two steps of a chain of multiply-adds of bf16.
#if defined(__x86_64__)
#include "variant.h"

#define VNNI 1
#define BF16_PAIRS 1
#pragma clang attribute push(                                                                                          \
    __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c"))),                  \
    apply_to = function)
#include "avx512.h"
#pragma clang attribute pop

const Variant anira_avx512bf16 = {"avx512bf16", ANIRA_KERNELS_OF_THIS_FILE, anira_crc32c_sse42};
#endif
