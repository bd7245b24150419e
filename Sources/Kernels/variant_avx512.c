// AVX-512 as every server CPU with it has it.
#if defined(__x86_64__)
#include "variant.h"

#define VNNI 0
#define BF16_PAIRS 0
#pragma clang attribute push(                                                                                          \
    __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c"))), apply_to = function)
#include "avx512.h"
#pragma clang attribute pop

const Variant anira_avx512 = {"avx512", ANIRA_KERNELS_OF_THIS_FILE, anira_crc32c_sse42};
#endif
