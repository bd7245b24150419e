// AVX-512: 32 registers of 16 floats, so a tile holds up to 24 vectors of sums: 12 rows of 2 panels. Fewer rows
// take more panels, because 8 chains must be in flight to hide the latency of a fused multiply-add.
#if defined(__x86_64__)
#include "variant.h"

#define TILE_ROWS 12
#define TILE_PANELS(format, rows) ((rows) == 1 ? 8 : (rows) <= 3 ? 4 : 2)
#define TILES(T)                                                                                                  \
    T(1, 8) T(1, 1) T(2, 4) T(2, 1) T(3, 4) T(3, 1) T(4, 2) T(4, 1) T(5, 2) T(5, 1) T(6, 2) T(6, 1)               \
    T(7, 2) T(7, 1) T(8, 2) T(8, 1) T(9, 2) T(9, 1) T(10, 2) T(10, 1) T(11, 2) T(11, 1) T(12, 2) T(12, 1)

#pragma clang attribute push(                                                                                     \
    __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c"))), apply_to = function)
#include "vector.h"

typedef int16_t pairs_of_16 __attribute__((vector_size(64)));

INLINE i16 dot_pairs(pairs_of_16 w, pairs_of_16 x) { return (i16)__builtin_ia32_pmaddwd512(w, x); }
#define DOT_PAIRS dot_pairs

#include "matmul.h"
#include "rows.h"
#include "attention.h"
#include "backward.h"
#pragma clang attribute pop

const Variant anira_avx512 = {"avx512", ANIRA_KERNELS_OF_THIS_FILE, anira_crc32c_sse42};
#endif
