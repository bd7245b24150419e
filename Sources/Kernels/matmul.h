// Products of rows with packed weights. Included once per variant, which defines the shapes of its register tiles:
//   TILE_ROWS          most rows a tile holds
//   TILE_PANELS(f, r)  panels in a tile of r rows with weights of format f
//   TILES(T)           T(r, panels) for every tile needed: T(r, 1) for each r is what the columns left over take, and blocks
//                      one row lower than the first have its panels
//   AHEAD(f, r, panels) bytes between a load of weights and what is asked for then, 0 for nothing, where no other tile asks
//   add_pairs(s, w, x) s + lane by lane the sum of two products of 16-bit integers, [16] int32 of [16][2] int16
//   BF16_PAIRS         1 where the CPU multiplies bf16 itself, with an add_bf16_pairs of the variant's own
//
// Each output is one chain of fused multiply-adds over k in sequence, whatever the tile; with int8 weights it is one
// sum of integers, which has no order. Tiles exist only to have enough chains in flight (latency) and to use each
// loaded weight for several rows (bandwidth).
#include "vector.h"

// Pointers to rows, of which the compiler forgets how they relate: it would save registers there are enough of by an
// addition for each load, and the front of the CPU, which neighbours on the same core share, is what these loops wait for.
#define POINT_AT_ROWS(pointers, rows, x, ldx)                                                                          \
    _Pragma("clang loop unroll(full)") for (int r = 0; r < (rows); r++) {                                              \
        (pointers)[r] = (x) + (size_t)r * (ldx);                                                                       \
        if ((rows) > 1) __asm__("" : "+r"((pointers)[r]));                                                             \
    }

enum { GROUP_PANELS = 8 };  // most panels of a group, which keeps its sums until all of them are there

typedef int16_t shorts16 __attribute__((vector_size(32)));
typedef int8_t bytes32 __attribute__((vector_size(32)));
typedef u16 u16_anywhere __attribute__((aligned(4), may_alias));
typedef bytes32 bytes32_anywhere __attribute__((aligned(1), may_alias));

// Weights i of a panel as floats. In bf16 those of two inputs share 32 bits, the first above; odd tells which this is.
INLINE v16 weights_at(const anira_format format, const char *panel, size_t i, const int odd) {
    if (format == ANIRA_F32) return load((const float *)panel + i * 16);
    u16 pair = *(const u16_anywhere *)(panel + (i - (size_t)odd) * 32);
    return odd ? (v16)(pair << 16) : (v16)(pair & 0xffff0000u);
}

// One step of the chains: acc[p * rows + r] += x[r][i] * weights i of panel p. What there is less of, rows or panels, is
// held in registers meanwhile.
INLINE void step(const anira_format format, const int rows, const int panels, const int odd, const float *const *x,
                 const char *const *w, size_t i, v16 *acc) {
    v16 held[GROUP_PANELS];
    if (rows <= panels) {
#pragma clang loop unroll(full)
        for (int r = 0; r < rows; r++) held[r] = splat(x[r][i]);
#pragma clang loop unroll(full)
        for (int p = 0; p < panels; p++) {
            v16 weight = weights_at(format, w[p], i, odd);
#pragma clang loop unroll(full)
            for (int r = 0; r < rows; r++) acc[p * rows + r] = fma16(held[r], weight, acc[p * rows + r]);
        }
        return;
    }
#pragma clang loop unroll(full)
    for (int p = 0; p < panels; p++) held[p] = weights_at(format, w[p], i, odd);
#pragma clang loop unroll(full)
    for (int r = 0; r < rows; r++) {
        v16 input = splat(x[r][i]);
#pragma clang loop unroll(full)
        for (int p = 0; p < panels; p++) acc[p * rows + r] = fma16(input, held[p], acc[p * rows + r]);
    }
}

// Steps i and i + 1, the second only if it exists. bf16 weights of both share registers: one row uses them panel by panel;
// several, whose sums fill the registers, load them again for the second step, since the compiler must not keep them.
INLINE void steps(const anira_format format, const int rows, const int panels, const int both, const float *const *x,
                  const char *const *w, size_t i, v16 *acc) {
    if (format == ANIRA_BF16 && both && rows == 1) {
#pragma clang loop unroll(full)
        for (int p = 0; p < panels; p++) {
            v16 first = weights_at(format, w[p], i, 0), second = weights_at(format, w[p], i + 1, 1);
            acc[p] = fma16(splat(x[0][i]), first, acc[p]);
            acc[p] = fma16(splat(x[0][i + 1]), second, acc[p]);
        }
        return;
    }
    step(format, rows, panels, 0, x, w, i, acc);
    if (!both) return;
    if (format == ANIRA_BF16) __asm__("" ::: "memory");
    step(format, rows, panels, 1, x, w, i + 1, acc);
}

// Steps from i on, two by two; returns where they end. What is asked for meanwhile is, of each panel, `ahead` bytes after its
// beginning and `pace` more every two steps, or, where none is given, what follows. More than two rows of f32 take four steps
// an iteration, for which the others' decoded weights or many panels leave no registers.
INLINE size_t steps_by_twos(const anira_format format, const int rows, const int panels, const int given,
                            const float *const *x, const char *const *w, size_t i, size_t to, size_t ahead,
                            size_t pace, v16 *acc) {
    const size_t line = format == ANIRA_F32 ? 64 : 32;  // bytes of weights a step
    const size_t far = given ? 0 : AHEAD(format, rows, panels);
    const size_t pairs = format == ANIRA_F32 && rows > 2 ? 2 : 1;
    const size_t end = i + (to - i) / (2 * pairs) * (2 * pairs);
    // Both conditions say the same. The compiler spills sums of one row with the second, and counts twice with the first.
    for (; rows == 1 ? i + 1 < to : i < end; i += 2 * pairs) {
#pragma clang loop unroll(full)
        for (size_t pair = 0; pair < pairs; pair++) {
            const size_t at = i + 2 * pair;
#pragma clang loop unroll(full)
            for (int p = 0; given && p < panels; p++) __builtin_prefetch(w[p] + ahead);
            ahead += pace;
#pragma clang loop unroll(full)
            for (int p = 0; far && p < panels; p++) {
                __builtin_prefetch(w[p] + at * line + far);
                if (format == ANIRA_F32) __builtin_prefetch(w[p] + at * line + far + 64);
            }
            steps(format, rows, panels, 1, x, w, at, acc);
        }
    }
    if (pairs > 1 && i + 1 < to) {
        steps(format, rows, panels, 1, x, w, i, acc);
        i += 2;
    }
    return i;
}

// sums[p * rows + r] continues with x[r, from..<to] . panel p, from zero where from is 0. ahead: where in each panel to ask
// for memory meanwhile; 0: none is given. rows and panels are constants at each call.
INLINE void tile(const anira_format format, const int rows, const int panels, const float *x, size_t ldx,
                 const char *const *w, size_t from, size_t to, size_t ahead, size_t pace, v16 *sums) {
    const float *row[TILE_ROWS];
    v16 acc[TILE_ROWS * GROUP_PANELS];
    POINT_AT_ROWS(row, rows, x, ldx)
#pragma clang loop unroll(full)
    for (int i = 0; i < rows * panels; i++) acc[i] = from == 0 ? splat(0) : sums[i];
    size_t i = ahead ? steps_by_twos(format, rows, panels, 1, row, w, from, to, ahead, pace, acc)
                     : steps_by_twos(format, rows, panels, 0, row, w, from, to, 0, 0, acc);
    if (i < to) steps(format, rows, panels, 0, row, w, i, acc);
#pragma clang loop unroll(full)
    for (int i = 0; i < rows * panels; i++) sums[i] = acc[i];
}

#if !BF16_PAIRS
// sum + lane by lane two products of bf16, the upper one first.
INLINE v16 add_bf16_pairs(v16 sum, u16 w, u16 x) {
    sum = fma16((v16)(w & 0xffff0000u), (v16)(x & 0xffff0000u), sum);
    return fma16((v16)(w << 16), (v16)(x << 16), sum);
}
#endif

// The same from inputs in 16 bits, two at a time: integers, whose weights have 8, or bf16.
INLINE void tile_pairs(const anira_format format, const int rows, const int panels, const char *x, size_t stride,
                       const char *const *w, size_t pairs, const float *row_scales, const float *const *output_scales,
                       v16 *sums) {
    const size_t bytes = format == ANIRA_BF16 ? 64 : 32, ahead = AHEAD(format, rows, panels);
    const char *row[TILE_ROWS];
    u16 acc[TILE_ROWS * GROUP_PANELS];
    POINT_AT_ROWS(row, rows, x, stride)
#pragma clang loop unroll(full)
    for (int i = 0; i < rows * panels; i++) acc[i] = (u16){0};
#pragma clang loop unroll_count(2)
    for (size_t i = 0; i < pairs; i++) {
        u16 weights[GROUP_PANELS];
#pragma clang loop unroll(full)
        for (int p = 0; p < panels; p++) {
            const char *at = w[p] + i * bytes;
            if (ahead && i * bytes % 64 == 0) __builtin_prefetch(at + ahead);
            weights[p] = format == ANIRA_BF16
                             ? *(const u16_anywhere *)at
                             : (u16)__builtin_convertvector(*(const bytes32_anywhere *)at, pairs16);
        }
#pragma clang loop unroll(full)
        for (int r = 0; r < rows; r++) {
            uint32_t both;
            memcpy(&both, row[r] + 4 * i, sizeof both);
            u16 inputs = (u16){0} + both;
#pragma clang loop unroll(full)
            for (int p = 0; p < panels; p++) {
                u16 *sum = &acc[p * rows + r];
                *sum = format == ANIRA_BF16 ? (u16)add_bf16_pairs((v16)*sum, weights[p], inputs)
                                            : (u16)add_pairs((i16)*sum, (pairs16)weights[p], (pairs16)inputs);
            }
        }
    }
#pragma clang loop unroll(full)
    for (int p = 0; p < panels; p++)
#pragma clang loop unroll(full)
        for (int r = 0; r < rows; r++) {
            u16 sum = acc[p * rows + r];
            sums[p * rows + r] = format == ANIRA_BF16 ? (v16)sum
                                                      : __builtin_convertvector((i16)sum, v16) * splat(row_scales[r])
                                                            * load(output_scales[p]);
        }
}

// Rows row... of the inputs and some panels of the weights. f32 weights with more than two rows: inputs from..<to of each,
// ahead as above; otherwise all of them.
typedef struct {
    int row, rows, panels;
    const char *weights[GROUP_PANELS];
    const float *scales[GROUP_PANELS];
    size_t from, to, ahead, pace;
} Tile;

static void run_tile(const Rows *x, const anira_matrix *w, const Tile *t, v16 *sums) {
    const size_t k = (size_t)w->k, pairs = (k + 1) / 2, stride = x->stride, apart = stride / sizeof(float);
    const char *inputs = (const char *)x->inputs + (size_t)t->row * stride;
    const float *floats = (const float *)(const void *)inputs;
#define TILE_CASE(R, P)                                                                                                \
    case (R) * 16 + (P):                                                                                               \
        switch (w->format) {                                                                                           \
        case ANIRA_F32:                                                                                                \
            if ((R) < 3) return tile(ANIRA_F32, R, P, floats, apart, t->weights, 0, k, 0, 0, sums);                    \
            return tile(ANIRA_F32, R, P, floats, apart, t->weights, t->from, t->to, t->ahead, t->pace, sums);          \
        case ANIRA_BF16:                                                                                               \
            if (BF16_PAIRS) return tile_pairs(ANIRA_BF16, R, P, inputs, stride, t->weights, pairs, NULL, NULL, sums);  \
            return tile(ANIRA_BF16, R, P, floats, apart, t->weights, 0, k, 0, 0, sums);                                \
        case ANIRA_INT8:                                                                                               \
            return tile_pairs(ANIRA_INT8, R, P, inputs, stride, t->weights, pairs, x->scales + t->row, t->scales,      \
                              sums);                                                                                   \
        }
    switch (t->rows * 16 + t->panels) {
        TILES(TILE_CASE)
    default: __builtin_trap();  // a shape that TILES lacks
    }
#undef TILE_CASE
}

// Up to BLOCKS blocks of rows pass together over a group of panels. With f32 weights all of them take one part of the
// inputs before the next part: the part's weights then come from the nearest cache for all but the first block, and the
// first blocks ask for the part after it.
enum { BLOCKS = 12, PART = 256 };

// Rows of block b when m are divided into n of nearly one height, the higher ones first.
INLINE int height(int m, int n, int b) { return m / n + (b < m % n ? 1 : 0); }

INLINE int blocks_of(int m) { return (m + TILE_ROWS - 1) / TILE_ROWS; }

// Some columns of 16 outputs, the first of them and every apart-th after it. Their panels, two of each column of a pair, are
// counted through the gates, then the ups; a tile takes `width` of them.
typedef struct {
    int first, columns, apart, panels, width;
} Group;

// The tiles of m rows that begin with this panel of a group. sums: those of the whole group.
static void run_tiles(const Rows *x, const anira_matrix *w, const Group *g, int panel, int first_row, int m, v16 *sums) {
    const int blocks = blocks_of(m);
    const size_t k = (size_t)w->k, part = blocks == 1 || w->format != ANIRA_F32 ? k : PART;
    const size_t size = anira_panel_bytes(w->format, w->k);
    Tile tile;
    tile.panels = g->width;
    for (int p = 0; p < g->width; p++) {
        int half = panel + p >= g->columns, column = panel + p - half * g->columns;
        size_t index = (size_t)(half * anira_columns(w->n) + g->first + column * g->apart);
        tile.weights[p] = (const char *)w->panels + index * size;
        tile.scales[p] = w->format == ANIRA_INT8 ? w->scales + index * 16 : NULL;
    }
    for (tile.from = 0; tile.from < k; tile.from = tile.to) {
        tile.to = k - tile.from < part ? k : tile.from + part;
        // The first four blocks ask for a quarter each, or, where there are fewer, for half.
        const size_t next = tile.to * 64, last = next + (tile.to - tile.from) * 64;
        tile.ahead = part == k ? 0 : next;
        tile.pace = blocks < 4 ? 64 : 32;
        tile.row = first_row;
        for (int b = 0; b < blocks; b++, tile.row += tile.rows) {
            tile.rows = height(m, blocks, b);
            run_tile(x, w, &tile, sums + (tile.row - first_row) * g->panels + panel * tile.rows);
            if (tile.ahead && (tile.ahead += (tile.to - tile.from) / 2 * tile.pace) >= last) tile.ahead = next;
        }
    }
}

// Writes the outputs of a group for m rows.
static void run_group(Ending ending, const Rows *x, const anira_matrix *w, const Group *g, int first_row, int m,
                      float *y, size_t ldy) {
    v16 sums[BLOCKS * TILE_ROWS * GROUP_PANELS];
    for (int panel = 0; panel < g->panels; panel += g->width) run_tiles(x, w, g, panel, first_row, m, sums);
    const int blocks = blocks_of(m);
    for (int b = 0, row = 0, rows; b < blocks; b++, row += rows) {
        rows = height(m, blocks, b);
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < g->columns; c++) {
                const v16 *found = sums + row * g->panels + c * rows + r;
                int output = 16 * (g->first + c * g->apart), valid = w->n - output;
                float *out = y + (size_t)(first_row + row + r) * ldy + output;
                v16 v = *found;
                if (ending == ADD) v = load_first(out, valid) + v;
                if (ending == SWIGLU) v = silu16(v) * found[g->columns * rows];
                store_first(out, v, valid);
            }
    }
}

// Outputs 16 first ..< 16 end of m rows.
//
// The columns of a tile are as far apart as they can be: where one tile's panels end the next one's begin, so that each
// stream goes on through memory from one end to the other, and the CPU's prefetcher with it. For the same reason tiles of
// one panel take some gates, then their ups.
static void product(Ending ending, const Rows *x, const anira_matrix *w, int first, int end, int m, float *y,
                    size_t ldy) {
    const int halves = ending == SWIGLU ? 2 : 1;
    const int passes = (m + BLOCKS * TILE_ROWS - 1) / (BLOCKS * TILE_ROWS);
    for (int pass = 0, row = 0, rows; pass < passes; pass++, row += rows) {
        rows = height(m, passes, pass);
        const int width = TILE_PANELS(w->format, height(rows, blocks_of(rows), 0));
        const int columns = width % halves ? width : width / halves, apart = width == 1 ? 0 : (end - first) / columns;
        for (int i = 0; i < apart; i++)
            run_group(ending, x, w, &(Group){first + i, columns, apart, columns * halves, width}, row, rows, y, ldy);
        // All of them where a tile has one panel, otherwise those left over.
        for (int column = first + apart * columns, some; column < end; column += some) {
            some = end - column < GROUP_PANELS / 2 ? end - column : GROUP_PANELS / 2;
            run_group(ending, x, w, &(Group){column, some, 1, some * halves, 1}, row, rows, y, ldy);
        }
    }
}

// Rows of k floats to integers of at most `limit`: out[i] = nearest(x[i] / scale), scale = max |x| / limit. Zeros fill
// up to `width`, a multiple of 16.
static void quantize(const float *x, size_t ldx, int m, int k, float limit, int16_t *out, size_t width, float *scales) {
    for (int row = 0; row < m; row++, x += ldx, out += width) {
        v16 top = splat(0), none = splat(0);
        for (int i = 0; i < k; i += 16) {
            v16 v = load_first(x + i, k - i);
            top = larger(choose(v < 0.0f, -v, v), top);
            none += v - v;  // 0, or none where there is one: comparisons and integers would lose it
        }
        float most = largest(top);
        float inverse = most > 0 ? limit / most : 0;
        scales[row] = most / limit + sum(none);
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

// Floats to bf16, zero below the least normal one, as the CPU's own products take it.
INLINE u16 bf16_factors(v16 v) { return to_bf16(v) & (u16)(((u16)v & 0x7f800000u) != 0); }

// Rows of k floats to bf16, in floats or, where BF16_PAIRS, in pairs as the weights are. Zeros fill up to `width`, a multiple
// of 32. Returns the bytes of a row.
static size_t shorten(const float *x, size_t ldx, int m, int k, void *out, size_t width) {
    const size_t bytes = width * (BF16_PAIRS ? 2 : 4);
    for (int row = 0; row < m; row++)
        for (size_t i = 0; i < width; i += 32) {
            const float *from = x + (size_t)row * ldx + i;
            const int valid = k - (int)i;
            u16 first = bf16_factors(load_first(from, valid)), last = {0};
            if (valid > 16) last = bf16_factors(load_first(from + 16, valid - 16));
            char *to = (char *)out + (size_t)row * bytes + i * bytes / width;
            if (BF16_PAIRS) {
                u16 even = __builtin_shufflevector(first, last, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
                u16 odd = __builtin_shufflevector(first, last, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
                u16 pairs = even | odd >> 16;
                memcpy(to, &pairs, sizeof pairs);
            } else {
                memcpy(to, &first, sizeof first);
                memcpy(to + sizeof first, &last, sizeof last);
            }
        }
    return bytes;
}
