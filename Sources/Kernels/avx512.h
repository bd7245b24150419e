// AVX-512: 32 registers of 16 floats, so a tile holds up to 24 vectors of sums. Few rows take four panels, because 8 chains
// must be in flight to hide the latency of a fused multiply-add; from three rows of f32 on, whose weights are more bytes, two
// panels that are asked for come faster from memory. More than eight rows would leave too few registers to point at them.
// Included by each of the variants, which say whether the CPU has VNNI and BF16_PAIRS. Their instructions are assembly,
// because the compiler splits every second one to shorten chains, of which there are enough.
#include "vector.h"

#define TILE_ROWS 8
#define TILE_PANELS(format, rows) ((rows) <= 2 ? 4 : (format) == ANIRA_F32 ? 2 : (rows) <= 6 ? 4 : 3)
// One row of f32, or of bf16 that need no decoding, comes fastest by the CPU's own prefetcher.
#define AHEAD(format, rows, panels)                                                                                    \
    ((format) == ANIRA_INT8      ? 320                                                                                 \
     : (panels) <= 2             ? 8192                                                                                \
     : (format) == ANIRA_F32     ? 0                                                                                   \
     : BF16_PAIRS && (rows) == 1 ? 0                                                                                   \
                                 : 3072)
#define SCORE_QUERIES 6
#define VALUE_QUERIES 4
#define VALUE_VECTORS 4
#define TILES(T)                                                                                                       \
    T(1, 4) T(1, 1) T(2, 4) T(2, 1) T(3, 4) T(3, 2) T(3, 1) T(4, 4) T(4, 2) T(4, 1) T(5, 4) T(5, 2) T(5, 1)            \
    T(6, 4) T(6, 3) T(6, 2) T(6, 1) T(7, 3) T(7, 2) T(7, 1) T(8, 3) T(8, 2) T(8, 1)

INLINE i16 add_pairs(i16 sum, pairs16 w, pairs16 x) {
#if VNNI
    __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
    return sum;
#else
    return sum + (i16)__builtin_ia32_pmaddwd512(w, x);
#endif
}

#if BF16_PAIRS
INLINE v16 add_bf16_pairs(v16 sum, u16 w, u16 x) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
    return sum;
}
#endif

#include "matmul.h"
#include "rows.h"
#include "attention.h"
#include "backward.h"
