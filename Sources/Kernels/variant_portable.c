// For any CPU. Where the baseline has no fused multiply-add (x86-64), each one is a call of fmaf: slow, same bits.
#include "variant.h"

#define TILE_ROWS 6
#define TILE_PANELS(format, rows) 1
#define BF16_PAIRS 0
#define SCORE_QUERIES 3
#define VALUE_QUERIES 2
#define VALUE_VECTORS 2
#define AHEAD(format, rows, panels) ((format) == ANIRA_INT8 ? 0 : 8192)
#define TILES(T) T(1, 1) T(2, 1) T(3, 1) T(4, 1) T(5, 1) T(6, 1)

#include "vector.h"

INLINE i16 add_pairs(i16 sum, pairs16 w, pairs16 x) {
    for (int lane = 0; lane < 16; lane++) sum[lane] += w[2 * lane] * x[2 * lane] + w[2 * lane + 1] * x[2 * lane + 1];
    return sum;
}

#include "matmul.h"
#include "rows.h"
#include "attention.h"
#include "backward.h"

const Variant anira_portable = {"portable", ANIRA_KERNELS_OF_THIS_FILE, anira_crc32c_table};
