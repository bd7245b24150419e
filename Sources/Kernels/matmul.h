// Products of rows with packed weights. Included once per variant, which defines the shapes of its register tiles:
//   TILE_ROWS         most rows a tile holds
//   TILE_PANELS(r)    panels in a tile of r rows
//   TILES(T)          T(r, panels) for every tile needed; T(r, 1) for each r is the remainder of a row of panels
//
// Each output is one chain of fused multiply-adds over k in sequence, whatever the tile. Tiles exist only to have
// enough chains in flight (latency) and to use each loaded weight for several rows (bandwidth).
#include "vector.h"

enum { GROUP_PANELS = 8 };  // most panels in flight: the sums of a group are at most TILE_ROWS x GROUP_PANELS

// Floats between a load of weights and what is asked for then: long enough for memory to answer. One row reads
// several panels as fast as memory gives them, which the CPU's own prefetcher does better alone.
enum { PREFETCH_AHEAD = 2048 };

typedef enum { PUT, ADD, SWIGLU } Ending;

// sums[p * rows + r] = x[r, 0..<k] . panel p.  w: [panels, k, 16].  rows and panels are constants at each call.
INLINE void tile(const int rows, const int panels, const float *x, size_t ldx, const float *w, size_t k, v16 *sums) {
    v16 acc[TILE_ROWS * GROUP_PANELS];
#pragma clang loop unroll(full)
    for (int i = 0; i < rows * panels; i++) acc[i] = splat(0);
    for (size_t i = 0; i < k; i++) {
        v16 weights[GROUP_PANELS];
#pragma clang loop unroll(full)
        for (int p = 0; p < panels; p++) {
            const float *at = w + ((size_t)p * k + i) * 16;
            if (rows > 1) __builtin_prefetch(at + PREFETCH_AHEAD);
            weights[p] = load(at);
        }
#pragma clang loop unroll(full)
        for (int r = 0; r < rows; r++) {
            v16 input = splat(x[(size_t)r * ldx + i]);
#pragma clang loop unroll(full)
            for (int p = 0; p < panels; p++) acc[p * rows + r] = fma16(input, weights[p], acc[p * rows + r]);
        }
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < rows * panels; i++) sums[i] = acc[i];
}

static void run_tile(int rows, int panels, const float *x, size_t ldx, const float *w, size_t k, v16 *sums) {
#define TILE_CASE(R, P) case (R) * 16 + (P): return tile(R, P, x, ldx, w, k, sums);
    switch (rows * 16 + panels) { TILES(TILE_CASE) }
#undef TILE_CASE
}

// Writes one row of a group: sums[p * rows] are the outputs of its panel p, `valid` those left in the row of y.
INLINE void finish_row(Ending ending, const v16 *sums, int rows, int panels, float *y, int valid) {
    int step = ending == SWIGLU ? 2 : 1;
    for (int p = 0; p < panels; p += step, y += 16, valid -= 16) {
        v16 v = sums[p * rows];
        if (ending == ADD) v = load_first(y, valid) + v;
        if (ending == SWIGLU) v = silu16(v) * sums[(p + 1) * rows];
        store_first(y, v, valid);
    }
}

// All products: for a group of panels that stays in cache, all blocks of rows. x: [m, k], w: [panels, k, 16].
INLINE void product(Ending ending, const float *x, size_t ldx, const float *w, int m, int n, size_t k, float *y,
                    size_t ldy) {
    if (m <= 0) return;
    int per_output = ending == SWIGLU ? 2 : 1;
    int panels = (n + 15) / 16 * per_output;
    int blocks = (m + TILE_ROWS - 1) / TILE_ROWS;
    int width = TILE_PANELS((m + blocks - 1) / blocks);
    int group = width > 1 ? width : 2;
    v16 sums[TILE_ROWS * GROUP_PANELS];
    for (int first = 0; first < panels; first += group) {
        int here = panels - first < group ? panels - first : group;
        int column = first / per_output * 16;
        for (int block = blocks, row = 0, rows; block > 0; block--, row += rows) {
            rows = (m - row + block - 1) / block;
            for (int p = 0, step; p < here; p += step) {
                step = here - p >= width ? width : 1;
                run_tile(rows, step, x + row * ldx, ldx, w + (size_t)(first + p) * k * 16, k, sums + p * rows);
            }
            for (int r = 0; r < rows; r++)
                finish_row(ending, sums + r, rows, here, y + (row + r) * ldy + column, n - column);
        }
    }
}

static void matmul(const float *x, int ldx, const float *packed, int m, int n, int k, float *y, int ldy) {
    product(PUT, x, (size_t)ldx, packed, m, n, (size_t)k, y, (size_t)ldy);
}

static void matmul_add(const float *x, int ldx, const float *packed, int m, int n, int k, float *y, int ldy) {
    product(ADD, x, (size_t)ldx, packed, m, n, (size_t)k, y, (size_t)ldy);
}

static void matmul_swiglu(const float *x, int ldx, const float *packed, int m, int n, int k, float *y, int ldy) {
    product(SWIGLU, x, (size_t)ldx, packed, m, n, (size_t)k, y, (size_t)ldy);
}
