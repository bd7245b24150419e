// AVX2: 16 registers of 8 floats, so a tile holds 6 vectors of 16 sums. One or two rows take several
// panels, because 8 chains must be in flight to hide the latency of a fused multiply-add, and because several streams come
// faster from memory than one; three rows of two panels would leave no register for the weights, nor would two of three
// whose weights have to be decoded. A model of the CPU to schedule for, any of them, keeps the compiler from moving loads to
// where no register is left for them.
#if defined(__x86_64__)
#include "variant.h"

#define TILE_ROWS 6
#define TILE_PANELS(format, rows) ((rows) == 1 ? 4 : (rows) > 2 ? 1 : (format) == ANIRA_F32 ? 3 : 2)
// One or two streams are asked for long enough ahead for memory to answer. More of them the CPU's own prefetcher follows better
// alone, but for bf16, whose decoding leaves fewer loads in flight.
#define AHEAD(format, rows, panels)                                                                                    \
    ((format) == ANIRA_INT8 ? 0 : (panels) <= 2 ? 8192 : (format) == ANIRA_BF16 ? 1024 : 0)
#define BF16_PAIRS 0
#define SCORE_QUERIES 3
#define VALUE_QUERIES 2
#define VALUE_VECTORS 2
#define TILES(T) T(1, 4) T(1, 1) T(2, 3) T(2, 2) T(2, 1) T(3, 1) T(4, 1) T(5, 1) T(6, 1)

#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,tune=haswell"))), apply_to = function)
#include "vector.h"

typedef int16_t pairs_of_8 __attribute__((vector_size(32)));

INLINE i16 add_pairs(i16 sum, pairs16 w, pairs16 x) {
    pairs_of_8 low[2], high[2];
    memcpy(low, &w, sizeof w), memcpy(high, &x, sizeof x);
    __typeof__(__builtin_ia32_pmaddwd256(low[0], high[0])) sums[2] = {__builtin_ia32_pmaddwd256(low[0], high[0]),
                                                                      __builtin_ia32_pmaddwd256(low[1], high[1])};
    i16 total;
    memcpy(&total, sums, sizeof total);
    return sum + total;
}

#include "matmul.h"
#include "rows.h"
#include "attention.h"
#include "backward.h"
#pragma clang attribute pop

const Variant anira_avx2 = {"avx2", ANIRA_KERNELS_OF_THIS_FILE, anira_crc32c_sse42};
#endif
