// Products of rows with packed weights. Included once per variant, which defines the shapes of its register tiles:
//   TILE_ROWS         most rows a tile holds
//   TILE_PANELS(f, r) panels in a tile of r rows with weights of format f
//   TILE_REST(w, l)   panels in the next tile where l are left, fewer than w
//   TILES(T)          T(r, panels) for every tile needed
//   DOT_PAIRS(w, x)   lane by lane the sum of two products of 16-bit integers, [16] int32 of [16][2] int16
//
// Each output is one chain of fused multiply-adds over k in sequence, whatever the tile; with int8 weights it is one
// sum of integers, which has no order. Tiles exist only to have enough chains in flight (latency) and to use each
// loaded weight for several rows (bandwidth).
#include "vector.h"

enum { GROUP_PANELS = 8 };  // most panels in flight: the sums of a group are at most TILE_ROWS x GROUP_PANELS

// Bytes between a load of weights and what is asked for then: long enough for memory to answer. A tile of several panels
// reads as many streams, which the CPU's own prefetcher does better alone.
enum { PREFETCH_AHEAD = 8192, FEW_STREAMS = 2 };

typedef uint32_t u16 __attribute__((vector_size(64)));
typedef int16_t pairs16 __attribute__((vector_size(64)));  // [16][2]
typedef int16_t shorts16 __attribute__((vector_size(32)));
typedef int8_t bytes32 __attribute__((vector_size(32)));
typedef u16 u16_anywhere __attribute__((aligned(4), may_alias));
typedef bytes32 bytes32_anywhere __attribute__((aligned(1), may_alias));

// One step of the chains: acc[p * rows + r] += x[r, i] * weights i of panel p. What there is less of, rows or panels, is
// held in registers meanwhile.
INLINE void step_f32(const int rows, const int panels, const float *x, size_t ldx, const char *w, size_t stride,
                     size_t i, v16 *acc) {
    v16 held[GROUP_PANELS];
    if (rows <= panels) {
#pragma clang loop unroll(full)
        for (int r = 0; r < rows; r++) held[r] = splat(x[(size_t)r * ldx + i]);
#pragma clang loop unroll(full)
        for (int p = 0; p < panels; p++) {
            v16 weight = load((const float *)(w + (size_t)p * stride) + i * 16);
#pragma clang loop unroll(full)
            for (int r = 0; r < rows; r++) acc[p * rows + r] = fma16(held[r], weight, acc[p * rows + r]);
        }
        return;
    }
#pragma clang loop unroll(full)
    for (int p = 0; p < panels; p++) held[p] = load((const float *)(w + (size_t)p * stride) + i * 16);
#pragma clang loop unroll(full)
    for (int r = 0; r < rows; r++) {
        v16 input = splat(x[(size_t)r * ldx + i]);
#pragma clang loop unroll(full)
        for (int p = 0; p < panels; p++) acc[p * rows + r] = fma16(input, held[p], acc[p * rows + r]);
    }
}

// Two steps, of inputs i and i + 1, whose weights share 32 bits; the second only if it exists. One panel after the
// other, so that no more than its weights are in registers.
INLINE void steps_bf16(const int rows, const int panels, const int both, const float *x, size_t ldx, const char *w,
                       size_t stride, size_t i, v16 *acc) {
#pragma clang loop unroll(full)
    for (int p = 0; p < panels; p++) {
        u16 pair = *(const u16_anywhere *)(w + (size_t)p * stride + i * 32);
        v16 low = (v16)(pair << 16), high = (v16)(pair & 0xffff0000u);
#pragma clang loop unroll(full)
        for (int r = 0; r < rows; r++) {
            const float *input = x + (size_t)r * ldx + i;
            acc[p * rows + r] = fma16(splat(input[0]), low, acc[p * rows + r]);
            if (both) acc[p * rows + r] = fma16(splat(input[1]), high, acc[p * rows + r]);
        }
    }
}

INLINE void steps(const anira_format format, const int rows, const int panels, const int both, const float *x,
                  size_t ldx, const char *w, size_t stride, size_t i, v16 *acc) {
    if (format == ANIRA_BF16) return steps_bf16(rows, panels, both, x, ldx, w, stride, i, acc);
    step_f32(rows, panels, x, ldx, w, stride, i, acc);
    if (both) step_f32(rows, panels, x, ldx, w, stride, i + 1, acc);
}

// sums[p * rows + r] continues with x[r, from..<to] . panel p, from zero where from is 0.  Panels are `stride` bytes
// apart. ahead: memory to ask for meanwhile, `pace` bytes every two steps; NULL: what follows in each panel. rows and panels
// are constants at each call.
INLINE void tile(const anira_format format, const int rows, const int panels, const float *x, size_t ldx,
                 const char *w, size_t stride, size_t from, size_t to, const char *ahead, size_t pace, v16 *sums) {
    const size_t line = format == ANIRA_F32 ? 64 : 32;  // bytes of weights a step
    v16 acc[TILE_ROWS * GROUP_PANELS];
#pragma clang loop unroll(full)
    for (int i = 0; i < rows * panels; i++) acc[i] = from == 0 ? splat(0) : sums[i];
    size_t i = from;
    for (; i + 1 < to; i += 2) {
        if (ahead) {
            __builtin_prefetch(ahead);
            ahead += pace;
        } else if (panels <= FEW_STREAMS) {
#pragma clang loop unroll(full)
            for (int p = 0; p < panels; p++) {
                const char *at = w + (size_t)p * stride + i * line + PREFETCH_AHEAD;
                __builtin_prefetch(at);
                if (format == ANIRA_F32) __builtin_prefetch(at + 64);
            }
        }
        steps(format, rows, panels, 1, x, ldx, w, stride, i, acc);
    }
    if (i < to) steps(format, rows, panels, 0, x, ldx, w, stride, i, acc);
#pragma clang loop unroll(full)
    for (int i = 0; i < rows * panels; i++) sums[i] = acc[i];
}

// The same from integers: x in 16 bits, two at a time, weights in 8.
INLINE void tile_int8(const int rows, const int panels, const int16_t *x, size_t ldx, const char *w, size_t stride,
                      size_t pairs, const float *row_scales, const float *output_scales, v16 *sums) {
    i16 acc[TILE_ROWS * GROUP_PANELS];
#pragma clang loop unroll(full)
    for (int i = 0; i < rows * panels; i++) acc[i] = (i16){0};
    for (size_t i = 0; i < pairs; i++) {
        pairs16 weights[GROUP_PANELS];
#pragma clang loop unroll(full)
        for (int p = 0; p < panels; p++)
            weights[p] = __builtin_convertvector(*(const bytes32_anywhere *)(w + (size_t)p * stride + i * 32), pairs16);
#pragma clang loop unroll(full)
        for (int r = 0; r < rows; r++) {
            int32_t both;
            memcpy(&both, x + (size_t)r * ldx + 2 * i, sizeof both);
            i16 inputs = (i16){0} + both;
#pragma clang loop unroll(full)
            for (int p = 0; p < panels; p++) acc[p * rows + r] += DOT_PAIRS(weights[p], (pairs16)inputs);
        }
    }
#pragma clang loop unroll(full)
    for (int p = 0; p < panels; p++)
#pragma clang loop unroll(full)
        for (int r = 0; r < rows; r++)
            sums[p * rows + r] =
                __builtin_convertvector(acc[p * rows + r], v16) * splat(row_scales[r]) * load(output_scales + p * 16);
}

// Rows row... of the inputs and panels panel... of the weights. f32 weights with more than two rows: inputs from..<to of
// each, ahead as above; otherwise all of them.
typedef struct {
    int row, rows, panel, panels;
    size_t from, to;
    const char *ahead;
    size_t pace;
} Tile;

static void run_tile(const Rows *x, const anira_matrix *w, const Tile *t, v16 *sums) {
    const size_t k = (size_t)w->k, stride = anira_panel_bytes(w->format, w->k), pairs = (k + 1) / 2;
    const char *at = (const char *)w->panels + (size_t)t->panel * stride;
    const float *floats = x->floats + (size_t)t->row * x->stride;
    const int16_t *integers = x->integers + (size_t)t->row * x->integer_stride;
#define TILE_CASE(R, P)                                                                                                \
    case (R) * 16 + (P):                                                                                               \
        switch (w->format) {                                                                                           \
        case ANIRA_F32:                                                                                                \
            if ((R) < 3) return tile(ANIRA_F32, R, P, floats, x->stride, at, stride, 0, k, NULL, 0, sums);             \
            return tile(ANIRA_F32, R, P, floats, x->stride, at, stride, t->from, t->to, t->ahead, t->pace, sums);      \
        case ANIRA_BF16: return tile(ANIRA_BF16, R, P, floats, x->stride, at, stride, 0, k, NULL, 0, sums);            \
        case ANIRA_INT8:                                                                                               \
            return tile_int8(R, P, integers, x->integer_stride, at, stride, pairs, x->scales + t->row,                 \
                             w->scales + t->panel * 16, sums);                                                         \
        }
    switch (t->rows * 16 + t->panels) { TILES(TILE_CASE) }
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

// Up to BLOCKS blocks of rows pass together over a group of panels. With f32 weights all of them take one part of the
// inputs before the next part: the part's weights then come from the nearest cache for all but the first block, and the
// first blocks ask for the part after it.
enum { BLOCKS = 12, PART = 256 };

// Rows of block b when m are divided into n of nearly one height, the higher ones first.
INLINE int height(int m, int n, int b) { return m / n + (b < m % n ? 1 : 0); }

// Outputs of the panels panel..<panel+count, a group, for rows that pass together.
static void group(Ending ending, const Rows *x, const anira_matrix *w, int first_row, int m, int panel, int count,
                  int width, float *y, size_t ldy) {
    const int blocks = (m + TILE_ROWS - 1) / TILE_ROWS, column = panel / (ending == SWIGLU ? 2 : 1) * 16;
    const size_t k = (size_t)w->k, part = blocks == 1 || w->format != ANIRA_F32 ? k : PART;
    v16 sums[BLOCKS * TILE_ROWS * GROUP_PANELS];
    for (int p = 0, step; p < count; p += step) {
        step = count - p >= width ? width : TILE_REST(width, count - p);
        for (size_t from = 0, to; from < k; from = to) {
            to = k - from < part ? k : from + part;
            const char *next = (const char *)w->panels + ((size_t)(panel + p) * k + to) * 64, *end = next + (to - from) * 64;
            // The first four blocks ask for a quarter each, or, where there are fewer, for half.
            Tile t = {first_row, 0, panel + p, step, from, to, part == k ? NULL : next, blocks < 4 ? 64 : 32};
            for (int b = 0; b < blocks; b++, t.row += t.rows) {
                t.rows = height(m, blocks, b);
                run_tile(x, w, &t, sums + (t.row - first_row) * count + p * t.rows);
                if (t.ahead && (t.ahead += (to - from) / 2 * t.pace) >= end) t.ahead = next;
            }
        }
    }
    for (int b = 0, row = 0, rows; b < blocks; b++, row += rows) {
        rows = height(m, blocks, b);
        for (int r = 0; r < rows; r++)
            finish_row(ending, sums + row * count + r, rows, count, y + (size_t)(first_row + row + r) * ldy + column,
                       w->n - column);
    }
}

// Outputs 16 first ..< 16 end of m rows.
static void product(Ending ending, const Rows *x, const anira_matrix *w, int first, int end, int m, float *y,
                    size_t ldy) {
    const int per_output = ending == SWIGLU ? 2 : 1, last = end * per_output;
    const int passes = (m + BLOCKS * TILE_ROWS - 1) / (BLOCKS * TILE_ROWS);
    for (int pass = 0, row = 0, rows; pass < passes; pass++, row += rows) {
        rows = height(m, passes, pass);
        const int width = TILE_PANELS(w->format, height(rows, (rows + TILE_ROWS - 1) / TILE_ROWS, 0));
        const int most = width % per_output ? width * per_output : width;  // gate and up stay together
        for (int panel = first * per_output; panel < last; panel += most)
            group(ending, x, w, row, rows, panel, last - panel < most ? last - panel : most, width, y, ldy);
    }
}

// Rows of k floats to integers of at most `limit`: out[i] = nearest(x[i] / scale), scale = max |x| / limit. Zeros fill
// up to `width`, a multiple of 16.
static void quantize(const float *x, size_t ldx, int m, int k, float limit, int16_t *out, size_t width, float *scales) {
    for (int row = 0; row < m; row++, x += ldx, out += width) {
        v16 top = splat(0);
        for (int i = 0; i < k; i += 16) {
            v16 v = load_first(x + i, k - i);
            top = larger(choose(v < 0.0f, -v, v), top);
        }
        float most = largest(top);
        float inverse = most > 0 ? limit / most : 0;
        scales[row] = most / limit;
        for (size_t i = 0; i < width; i += 16) {
            int valid = (int)((size_t)k > i ? (size_t)k - i : 0);
            v16 v = load_first(x + i, valid) * inverse;
            // To nearest, halves to even, by adding what leaves no bits for a fraction: |v| is below 2^22.
            v = (v + 0x1.8p23f) - 0x1.8p23f;
            shorts16 integers = __builtin_convertvector(__builtin_convertvector(v, i16), shorts16);
            memcpy(out + i, &integers, sizeof integers);
        }
    }
}
