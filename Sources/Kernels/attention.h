// Attention of query rows over gathered cache rows. Included once per variant, after rows.h. The variant defines the tiles of
// queries that share a list, as large as there are registers for:
//   SCORE_QUERIES   queries of a tile of dot products, two vectors of sums each
//   VALUE_QUERIES   queries of a tile of weighted values, VALUE_VECTORS vectors of sums each
//
// The sums, whatever the way to them: a dot product in sixteen lanes over d, folded by the tree of vector.h. Positions come
// in spans of eight, and weights are e^(score - the greatest one so far, this span's included): where a span raises it, what
// was summed before is scaled down first. Weighted values are added in sequence over positions, weights in eight lanes, and
// the one is divided by the other's sum at the end.
//
// Few queries (`gathered`): cache rows lie apart and each holds all heads, so that one pass walks the positions outermost, a
// span at a time: each row is read once, keys and then values, from end to end, and serves all queries while it is in the
// nearest cache. What comes next is asked for meanwhile, about 16 KB ahead of where it is read.
//
// Many queries that share a list (`packed`, the chunks of a prompt): each head's keys are copied in panels of sixteen
// positions and its values side by side, so that a tile of queries passes over them as in a matrix product. A lane of the
// dot product is then a vector over positions, and the tree folds whole vectors.
#include "vector.h"

enum { SPAN = 8, STEP = 4 };  // positions of a step: their dot products share the loads of q and one fold

typedef _Float16 halves16 __attribute__((vector_size(32)));
typedef uint16_t upper16 __attribute__((vector_size(32)));

// Sixteen elements from element i of a cache row, as floats.
INLINE v16 load_cached(const anira_kv_type type, const char *p, size_t i) {
    if (type == ANIRA_KV_F32) return load((const float *)p + i);
    upper16 bits;
    memcpy(&bits, p + 2 * i, sizeof bits);
    if (type == ANIRA_KV_F16) return __builtin_convertvector((halves16)bits, v16);
    return (v16)(__builtin_convertvector(bits, u16) << 16);
}

// The first `valid` of them, zeros after; memory past them is not touched.
INLINE v16 load_first_cached(const anira_kv_type type, const char *p, size_t i, int valid) {
    if (valid >= 16) return load_cached(type, p, i);
    char part[64] = {0};
    size_t size = anira_cached_size(type);
    memcpy(part, p + size * i, (size_t)valid * size);
    return load_cached(type, part, 0);
}

// Floats to cached elements, to nearest, halves to even. What is finite stays so: f16 ends at 65,504.
static void store_cached(anira_kv_type type, const float *x, int n, void *out) {
    if (type == ANIRA_KV_F32) return (void)memcpy(out, x, (size_t)n * sizeof(float));
    for (int i = 0; i < n; i += 16) {
        v16 v = load_first(x + i, n - i);
        upper16 bits;
        if (type == ANIRA_KV_F16) {
            const v16 most = splat(65504.0f), infinity = splat(__builtin_inff());
            v16 bounded = choose(v > most, most, choose(v < -most, -most, v));
            bits = (upper16)__builtin_convertvector(choose((v == infinity) | (v == -infinity), v, bounded), halves16);
        } else {
            bits = __builtin_convertvector(to_bf16(v) >> 16, upper16);
        }
        memcpy((char *)out + 2 * i, &bits, n - i < 16 ? (size_t)(n - i) * 2 : sizeof bits);
    }
}

typedef struct {
    const anira_cache *cache;
    const uint32_t *rows;
    int count, kv_heads, shared, d;  // count: the most any query sees; shared: query heads that read the same KV head
    const uint32_t *next;            // the list that is read after this one
    int next_count;
} Gather;

// Query rows q [m, heads, d], ldq floats apart; row r sees the first counts[r] positions.
typedef struct {
    const float *q;
    size_t ldq;
    const int32_t *counts;
    int m;
    float *scratch;
} Queries;

INLINE const char *row_at(const Gather *g, uint32_t row) {
    return (const char *)g->cache->rows + row * g->cache->stride;
}

// That of a position, past the end the last one.
INLINE const char *cache_row(const Gather *g, int position) {
    return row_at(g, g->rows[position < g->count ? position : g->count - 1]);
}

// That of the next list's position; where it has none, the last one of this.
INLINE const char *next_row(const Gather *g, int position) {
    return position < g->next_count ? row_at(g, g->next[position]) : cache_row(g, g->count - 1);
}

// ---- weights ------------------------------------------------------------------------------------------------

INLINE v16 widened(v8 v) {
    return __builtin_shufflevector(v, (v8){0}, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
INLINE v16 halves(float a, float b) { return (v16){a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b}; }

// The greatest of lanes 0..7 in each of them, likewise of 8..15.
INLINE v16 largest_of_halves(v16 v) {
    v = larger(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
    v = larger(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
    return larger(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
}

INLINE int any_above(v16 a, v16 b) { return __builtin_reduce_or(a > b); }

// ---- few queries ------------------------------------------------------------------------------------------

// Of two heads of one query, a half each: the greatest score so far, the weights summed so far, the scores and then weights
// of the span.
typedef struct {
    v16_anywhere most, total, span;
} HeadPair;

INLINE HeadPair *pairs_of(const Queries *x, int r, int heads) { return (HeadPair *)x->scratch + r * ((heads + 1) / 2); }

INLINE float *span_of(HeadPair *pairs, int h) { return (float *)&pairs[h / 2].span + h % 2 * SPAN; }

// Asks for element i of a row, once a cache line.
INLINE void ask_cached(const anira_kv_type type, const char *p, size_t i) {
    if (type == ANIRA_KV_F32 || i % 32 == 0) __builtin_prefetch(p + anira_cached_size(type) * i);
}

// The dot products of one query head with the keys of a step.  keys[STEP...]: of the steps after it.
INLINE v4 dot_step(const anira_kv_type type, const float *q, const char *const *keys, size_t at, int d) {
    const int ahead = type == ANIRA_KV_F32 ? STEP : SPAN;
    v16 acc[STEP] = {{0}};
    int i = 0;
    for (; d - i >= 16; i += 16) {
        v16 part = load(q + i);
        for (int j = 0; j < STEP; j++) {
            acc[j] = fma16(part, load_cached(type, keys[j], at + (size_t)i), acc[j]);
            ask_cached(type, keys[ahead + j], at + (size_t)i);
        }
    }
    if (i < d) {
        v16 part = load_first(q + i, d - i);
        for (int j = 0; j < STEP; j++)
            acc[j] = fma16(part, load_first_cached(type, keys[j], at + (size_t)i, d - i), acc[j]);
    }
    return sums(acc[0], acc[1], acc[2], acc[3]);
}

// The scores of all heads of one query for a span.
INLINE void score_span(const anira_kv_type type, const Gather *g, const char *const *rows, const float *q, float scale,
                       HeadPair *pairs) {
    for (int step = 0; step < SPAN; step += STEP)
        for (int kv = 0, h = 0; kv < g->kv_heads; kv++) {
            size_t at = g->cache->keys + (size_t)kv * (size_t)g->d;
            for (int end = h + g->shared; h < end; h++) {
                v4 dots = dot_step(type, q + h * g->d, rows + step, at, g->d) * scale;
                memcpy(span_of(pairs, h) + step, &dots, sizeof dots);
            }
        }
}

// Scores of which the first `visible` of each half count become weights. True when a maximum rose: then `factors` says, for
// each half, by how much what was summed before has to be scaled.
INLINE int weigh_span(HeadPair *pair, int visible, v16 *factors) {
    const i16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7};
    v16 scores = choose(lane < visible, pair->span, splat(-__builtin_inff()));
    int rises = any_above(scores, pair->most);
    if (rises) {
        v16 most = larger(largest_of_halves(scores), pair->most);
        *factors = exp16(pair->most - most);
        pair->total *= *factors;
        pair->most = most;
    }
    pair->span = exp16(scores - pair->most);
    pair->total += pair->span;
    return rises;
}

INLINE void scale_row(float *x, int n, float factor) {
    for (int i = 0; i < n; i += 16) store_first(x + i, load_first(x + i, n - i) * factor, n - i);
}

// out[0..<16*chunks] += sum over `positions` of weights[j] * value[j], in sequence.  chunks is a constant.
INLINE void add_values(const anira_kv_type type, const int chunks, const char *const *values, size_t at,
                       const float *weights, int positions, float *out, int valid) {
    v16 acc[4];
#pragma clang loop unroll(full)
    for (int c = 0; c < chunks; c++) acc[c] = load_first(out + 16 * c, valid - 16 * c);
    for (int j = 0; j < positions; j++) {
        v16 weight = splat(weights[j]);
#pragma clang loop unroll(full)
        for (int c = 0; c < chunks; c++) {
            acc[c] = fma16(weight, load_first_cached(type, values[j], at + 16 * (size_t)c, valid - 16 * c), acc[c]);
            ask_cached(type, values[SPAN + j], at + 16 * (size_t)c);
        }
    }
#pragma clang loop unroll(full)
    for (int c = 0; c < chunks; c++) store_first(out + 16 * c, acc[c], valid - 16 * c);
}

// One query takes a span of which it sees `visible` positions: its heads' sums [heads, d] go on.
INLINE void attend_span(const anira_kv_type type, const Gather *g, const char *const *rows, const float *q, int visible,
                        float scale, HeadPair *pairs, float *sums) {
    const int d = g->d, heads = g->kv_heads * g->shared;
    score_span(type, g, rows, q, scale, pairs);
    for (int h = 0; h < heads; h += 2) {
        v16 factors;
        if (!weigh_span(pairs + h / 2, visible, &factors)) continue;
        scale_row(sums + h * d, d, factors[0]);
        if (h + 1 < heads) scale_row(sums + (h + 1) * d, d, factors[SPAN]);
    }
    for (int h = 0; h < heads; h++) {
        const float *weights = span_of(pairs, h);
        float *sum = sums + h * d;
        size_t at = g->cache->values + (size_t)(h / g->shared * d), i = 0;
        for (; d - (int)i >= 64; i += 64) add_values(type, 4, rows, at + i, weights, visible, sum + i, 64);
        for (; (int)i < d; i += 16) add_values(type, 1, rows, at + i, weights, visible, sum + i, d - (int)i);
    }
}

INLINE void gathered(const anira_kv_type type, const Gather *g, const Queries *x, float scale, float *out, size_t ldo) {
    const int d = g->d, heads = g->kv_heads * g->shared;
    const HeadPair none = {splat(-__builtin_inff()), splat(0), splat(0)};
    for (int r = 0; r < x->m; r++) {
        for (int h = 0; h < heads; h += 2) pairs_of(x, r, heads)[h / 2] = none;
        memset(out + (size_t)r * ldo, 0, (size_t)(heads * d) * sizeof(float));
    }
    for (int first = 0; first < g->count; first += SPAN) {
        // This span's rows and the next one's.
        const char *rows[2 * SPAN];
        for (int j = 0; j < SPAN; j++) {
            rows[j] = cache_row(g, first + j);
            rows[SPAN + j] = first + SPAN < g->count ? cache_row(g, first + SPAN + j) : next_row(g, j);
        }
        for (int r = 0; r < x->m; r++) {
            int visible = x->counts[r] - first < SPAN ? x->counts[r] - first : SPAN;
            if (visible <= 0) continue;
            attend_span(type, g, rows, x->q + (size_t)r * x->ldq, visible, scale, pairs_of(x, r, heads),
                        out + (size_t)r * ldo);
        }
    }
    for (int r = 0; r < x->m; r++)
        for (int h = 0; h < heads; h++) {
            v16 total = pairs_of(x, r, heads)[h / 2].total;
            float weight = sum(widened(h % 2 ? second_half(total) : first_half(total)));
            scale_row(out + (size_t)r * ldo + h * d, d, 1.0f / weight);
        }
}

// ---- many queries that share a list -------------------------------------------------------------------------

enum { GROUP = 12, VALUE_BLOCK = 64 };

// Eight vectors of eight, turned.
INLINE void transpose8(v8 v[8]) {
    v8 t[8], u[8];
    for (int i = 0; i < 4; i++) {
        t[2 * i] = __builtin_shufflevector(v[2 * i], v[2 * i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
        t[2 * i + 1] = __builtin_shufflevector(v[2 * i], v[2 * i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
    }
    for (int half = 0; half < 8; half += 4)
        for (int i = 0; i < 2; i++) {
            u[half + i] = __builtin_shufflevector(t[half + i], t[half + i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            u[half + i + 2] = __builtin_shufflevector(t[half + i], t[half + i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    for (int i = 0; i < 4; i++) {
        v[i] = __builtin_shufflevector(u[i], u[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        v[i + 4] = __builtin_shufflevector(u[i], u[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

// keys: [panels of 16 positions][padded][16]; values: [positions][padded]; zeros from d on and past the last position.
INLINE void pack_head(const anira_kv_type type, const Gather *g, int kv, int padded, float *keys, float *values) {
    const int d = g->d;
    const size_t at = (size_t)(kv * d);
    for (int first = 0; first < g->count; first += 8) {
        const char *rows[8];
        for (int j = 0; j < 8; j++) rows[j] = first + j < g->count ? cache_row(g, first + j) : NULL;
        float *panel = keys + (size_t)(first & ~15) * (size_t)padded + (first & 8);
        for (int i = 0; i < padded; i += 16) {
            v8 low[8], high[8];
            for (int j = 0; j < 8; j++) {
                v16 v = splat(0);
                if (rows[j] && i < d) v = load_first_cached(type, rows[j], g->cache->keys + at + (size_t)i, d - i);
                low[j] = first_half(v);
                high[j] = second_half(v);
            }
            transpose8(low);
            transpose8(high);
            for (int j = 0; j < 8; j++) {
                memcpy(panel + (i + j) * 16, &low[j], sizeof low[j]);
                memcpy(panel + (i + 8 + j) * 16, &high[j], sizeof high[j]);
            }
        }
        for (int j = 0; j < 8 && rows[j]; j++)
            for (int i = 0; i < padded; i += 16)
                store(values + (size_t)(first + j) * (size_t)padded + i,
                      i < d ? load_first_cached(type, rows[j], g->cache->values + at + (size_t)i, d - i) : splat(0));
    }
}

// Lanes l and l + 8 of the dot products of n queries with sixteen keys, added.
INLINE void lane_pair(const int n, const float *q, int padded, const float *panel, int l, v16 *sum) {
    v16 a[SCORE_QUERIES], b[SCORE_QUERIES];
#pragma clang loop unroll(full)
    for (int r = 0; r < n; r++) a[r] = b[r] = splat(0);
    for (int i = l; i < padded; i += 16) {
        v16 low = load(panel + i * 16);
#pragma clang loop unroll(full)
        for (int r = 0; r < n; r++) a[r] = fma16(splat(q[r * padded + i]), low, a[r]);
        v16 high = load(panel + (i + 8) * 16);
#pragma clang loop unroll(full)
        for (int r = 0; r < n; r++) b[r] = fma16(splat(q[r * padded + i + 8]), high, b[r]);
    }
#pragma clang loop unroll(full)
    for (int r = 0; r < n; r++) sum[r] = a[r] + b[r];
}

// scores[r, 0..<16] = q[r] . key * scale for n queries and a panel of keys.  n is a constant.
INLINE void dot_panel(const int n, const float *q, int padded, const float *panel, float scale, float *scores,
                      size_t pitch) {
    v16 folded[4][SCORE_QUERIES];
    for (int l = 0; l < 4; l++) {
        v16 other[SCORE_QUERIES];
        lane_pair(n, q, padded, panel, l, folded[l]);
        lane_pair(n, q, padded, panel, l + 4, other);
        for (int r = 0; r < n; r++) folded[l][r] += other[r];
    }
    for (int r = 0; r < n; r++)
        store(scores + (size_t)r * pitch, ((folded[0][r] + folded[2][r]) + (folded[1][r] + folded[3][r])) * scale);
}

// The same for n queries, SCORE_QUERIES at most.
static void dot_tile(int n, const float *q, int padded, const float *panel, float scale, float *scores, size_t pitch) {
    switch (n) {
    case 1: return dot_panel(1, q, padded, panel, scale, scores, pitch);
    case 2: return dot_panel(2, q, padded, panel, scale, scores, pitch);
    case 3: return dot_panel(3, q, padded, panel, scale, scores, pitch);
#if SCORE_QUERIES > 3
    case 4: return dot_panel(4, q, padded, panel, scale, scores, pitch);
    case 5: return dot_panel(5, q, padded, panel, scale, scores, pitch);
    case 6: return dot_panel(6, q, padded, panel, scale, scores, pitch);
#endif
    }
}

// out[r, 0..<16*chunks] += sum over `positions` of weights[r, j] * values[j], in sequence.  n and chunks are constants.
INLINE void weigh_tile(const int n, const int chunks, const float *weights, size_t pitch, const float *values,
                       int padded, int positions, float *out) {
    v16 acc[VALUE_QUERIES][VALUE_VECTORS];
#pragma clang loop unroll(full)
    for (int r = 0; r < n; r++)
#pragma clang loop unroll(full)
        for (int c = 0; c < chunks; c++) acc[r][c] = load(out + r * padded + 16 * c);
    for (int j = 0; j < positions; j++)
#pragma clang loop unroll(full)
        for (int c = 0; c < chunks; c++) {
            v16 value = load(values + (size_t)j * (size_t)padded + 16 * c);
#pragma clang loop unroll(full)
            for (int r = 0; r < n; r++) acc[r][c] = fma16(splat(weights[(size_t)r * pitch + j]), value, acc[r][c]);
        }
#pragma clang loop unroll(full)
    for (int r = 0; r < n; r++)
#pragma clang loop unroll(full)
        for (int c = 0; c < chunks; c++) store(out + r * padded + 16 * c, acc[r][c]);
}

// The same for n ≤ VALUE_QUERIES.
INLINE void weigh_vectors(int n, const int vectors, const float *weights, size_t pitch, const float *values, int padded,
                          int positions, float *out) {
    switch (n) {
    case 1: return weigh_tile(1, vectors, weights, pitch, values, padded, positions, out);
    case 2: return weigh_tile(2, vectors, weights, pitch, values, padded, positions, out);
#if VALUE_QUERIES > 2
    case 3: return weigh_tile(3, vectors, weights, pitch, values, padded, positions, out);
    case 4: return weigh_tile(4, vectors, weights, pitch, values, padded, positions, out);
#endif
    }
}

// The same for a whole head.
static void weigh_block(int n, const float *weights, size_t pitch, const float *values, int padded, int positions,
                        float *out) {
    enum { WIDTH = 16 * VALUE_VECTORS };
    int i = 0;
    for (; padded - i >= WIDTH; i += WIDTH)
        weigh_vectors(n, VALUE_VECTORS, weights, pitch, values + i, padded, positions, out + i);
    for (; i < padded; i += 16) weigh_vectors(n, 1, weights, pitch, values + i, padded, positions, out + i);
}

// The spans of a block of values that raise a maximum, a bit each.
typedef uint32_t Rises __attribute__((may_alias));

// One query's scores become weights, zeros from `count` on up to a multiple of sixteen; returns their sum. factors: for each
// span, by how much what was summed before it has to be scaled, 1 but for those in `rises`. most: room for as many.
INLINE float weigh_scores(float *scores, int count, float *factors, Rises *rises, float *most) {
    const float least = -__builtin_inff();
    const int rest = count & 15, panels = (count + 15) / 16;
    if (rest) store(scores + count - rest, keep_first(load(scores + count - rest), rest, splat(least)));
    for (int panel = 0; panel < panels; panel++) {
        v16 tops = largest_of_halves(load(scores + panel * 16));
        most[2 * panel] = tops[0];
        most[2 * panel + 1] = tops[SPAN];
    }
    float greatest = least;
    for (int span = 0; span < 2 * panels; span++) {
        const int block = span * SPAN / VALUE_BLOCK, bit = span % (VALUE_BLOCK / SPAN);
        rises[block] = (bit > 0 ? rises[block] : 0) | (Rises)(most[span] > greatest) << bit;
        factors[span] = greatest;
        greatest = most[span] > greatest ? most[span] : greatest;
        most[span] = greatest;
    }
    for (int span = 0; span < 2 * panels; span += 16) {
        const int valid = 2 * panels - span;
        store_first(factors + span, exp16(load_first(factors + span, valid) - load_first(most + span, valid)), valid);
    }
    v8 total = {0};
    for (int at = 0; at < count; at += 16) {
        const int span = at / SPAN;
        v16 weights = exp16(load(scores + at) - halves(most[span], most[span + 1]));
        total = (total * factors[span] + first_half(weights)) * factors[span + 1] + second_half(weights);
        store(scores + at, weights);
    }
    return sum(widened(total));
}

// Positions from..<to of n queries' lists, all in one block. Their sums [n, padded] are scaled at the spans that raise one's
// maximum. Weights of a query are pitch apart, factors pitch / SPAN.
static void weigh_spans(int n, const float *weights, size_t pitch, const float *factors, Rises rises, const float *values,
                        int padded, int from, int to, float *sums) {
    for (int end; from < to; from = end) {
        const int span = from % VALUE_BLOCK / SPAN;
        for (int r = 0; r < n && from % SPAN == 0 && (rises >> span & 1); r++)
            scale_row(sums + r * padded, padded, factors[(size_t)r * (pitch / SPAN) + from / SPAN]);
        const Rises later = rises >> span >> 1;
        end = later ? (from / SPAN + 1 + __builtin_ctz(later)) * SPAN : to;
        if (end > to) end = to;
        weigh_block(n, weights + from, pitch, values + (size_t)from * (size_t)padded, padded, end - from, sums);
    }
}

// All queries' heads that read KV head kv, GROUP at a time.
static void attend_packed(const Gather *g, const Queries *x, int kv, int padded, size_t pitch, const float *keys,
                          const float *values, float *work, float scale, float *out, size_t ldo) {
    float *q = work, *sums = q + GROUP * padded, *scores = sums + GROUP * padded, *factors = scores + GROUP * pitch;
    float *room = factors + GROUP * (pitch / SPAN);
    Rises *rises = (Rises *)(room + pitch / SPAN);  // [GROUP][blocks]
    const size_t blocks = (pitch + VALUE_BLOCK - 1) / VALUE_BLOCK;
    for (int first = 0, total = x->m * g->shared; first < total; first += GROUP) {
        const int n = total - first < GROUP ? total - first : GROUP;
        int counts[GROUP], most = 0;
        float weight[GROUP];
        memset(q, 0, (size_t)(2 * GROUP * padded) * sizeof(float));
        for (int i = 0; i < n; i++) {
            const int r = (first + i) / g->shared, h = kv * g->shared + (first + i) % g->shared;
            memcpy(q + i * padded, x->q + (size_t)r * x->ldq + h * g->d, (size_t)g->d * sizeof(float));
            counts[i] = x->counts[r];
            most = counts[i] > most ? counts[i] : most;
        }
        for (int position = 0; position < most; position += 16) {
            const float *panel = keys + (size_t)position * (size_t)padded;
            for (int i = 0; i < n; i += SCORE_QUERIES) {
                float *to = scores + (size_t)i * pitch + position;
                int here = n - i < SCORE_QUERIES ? n - i : SCORE_QUERIES;
                dot_tile(here, q + i * padded, padded, panel, scale, to, pitch);
            }
        }
        for (int i = 0; i < n; i++)
            weight[i] = weigh_scores(scores + (size_t)i * pitch, counts[i], factors + (size_t)i * (pitch / SPAN),
                                     rises + i * blocks, room);
        for (int from = 0; from < most; from += VALUE_BLOCK)
            for (int i = 0, here; i < n; i += here) {
                here = n - i < VALUE_QUERIES ? n - i : VALUE_QUERIES;
                // What all queries of the tile see, then each one's rest.
                int end = from + VALUE_BLOCK, common = end;
                Rises any = 0;
                for (int r = i; r < i + here; r++) {
                    common = counts[r] < common ? counts[r] : common;
                    if (from < counts[r]) any |= rises[r * blocks + from / VALUE_BLOCK];
                }
                if (common < from) common = from;
                weigh_spans(here, scores + (size_t)i * pitch, pitch, factors + (size_t)i * (pitch / SPAN), any, values,
                            padded, from, common, sums + i * padded);
                for (int r = i; r < i + here; r++)
                    weigh_spans(1, scores + (size_t)r * pitch, pitch, factors + (size_t)r * (pitch / SPAN), any, values,
                                padded, common, counts[r] < end ? counts[r] : end, sums + r * padded);
            }
        for (int i = 0; i < n; i++) {
            const int r = (first + i) / g->shared, h = kv * g->shared + (first + i) % g->shared;
            scale_row(sums + i * padded, padded, 1.0f / weight[i]);
            memcpy(out + (size_t)r * ldo + h * g->d, sums + i * padded, (size_t)g->d * sizeof(float));
        }
    }
}

INLINE void packed(const anira_kv_type type, const Gather *g, const Queries *x, float scale, float *out, size_t ldo) {
    const int padded = (g->d + 15) & ~15;
    const size_t pitch = ((size_t)g->count + 15) & ~(size_t)15;
    float *keys = x->scratch, *values = keys + pitch * (size_t)padded, *work = values + pitch * (size_t)padded;
    for (int kv = 0; kv < g->kv_heads; kv++) {
        pack_head(type, g, kv, padded, keys, values);
        attend_packed(g, x, kv, padded, pitch, keys, values, work, scale, out, ldo);
    }
}

// ---- either -------------------------------------------------------------------------------------------------

INLINE void attend(const anira_kv_type type, const Gather *g, const Queries *x, float scale, float *out, size_t ldo) {
    if (x->m * g->shared >= ANIRA_PACKED_QUERIES) return packed(type, g, x, scale, out, ldo);
    gathered(type, g, x, scale, out, ldo);
}

static void attention(const float *q, int ldq, const int32_t *counts, int m, const anira_cache *cache,
                      const uint32_t *rows, const uint32_t *next, int next_count, int heads, int kv_heads, int d,
                      float scale, float *scratch, float *out, int ldo) {
    int count = 0;
    for (int r = 0; r < m; r++) count = counts[r] > count ? counts[r] : count;
    const Gather g = {cache, rows, count, kv_heads, heads / kv_heads, d, next, next_count};
    const Queries x = {q, (size_t)ldq, counts, m, scratch};
    switch (cache->type) {
    case ANIRA_KV_F32: return attend(ANIRA_KV_F32, &g, &x, scale, out, (size_t)ldo);
    case ANIRA_KV_F16: return attend(ANIRA_KV_F16, &g, &x, scale, out, (size_t)ldo);
    case ANIRA_KV_BF16: return attend(ANIRA_KV_BF16, &g, &x, scale, out, (size_t)ldo);
    }
}
