// Attention of query rows over gathered cache rows. Included once per variant, after rows.h.
//
// Cache rows lie apart and each holds all heads, so both passes walk positions outermost, a few at a time: each row
// is then read once, from end to end, which the CPU's own prefetcher follows (asking in software measured slower,
// and no faster from cold memory), and serves all queries of the call while it is in the nearest cache. Sums: a dot
// product in sixteen lanes over d, folded; a weighted value in sequence over positions.
#include "vector.h"

enum { STEP = 4 };  // positions together: their dot products share the loads of q and one fold

typedef struct {
    const float *cache;
    size_t stride;
    const uint32_t *rows;
    int count, kv_heads, shared, d;  // count: the most any query sees; shared: query heads that read the same KV head
} Gather;

// Query rows q [m, heads, d], ldq floats apart; row r sees the first counts[r] positions. scores: [m, heads, pitch].
typedef struct {
    const float *q;
    size_t ldq;
    const int32_t *counts;
    int m;
    float *scores;
    size_t pitch;
} Queries;

// The part at `offset` of positions first..<first+STEP, the last position repeated past the end.
INLINE void gather_step(const Gather *g, size_t offset, int first, const float *parts[STEP]) {
    for (int j = 0; j < STEP; j++) {
        int position = first + j < g->count ? first + j : g->count - 1;
        parts[j] = g->cache + g->rows[position] * g->stride + offset;
    }
}

// The dot products of one query head with the keys of a step.
INLINE v4 dot_step(const float *q, const float *const keys[STEP], size_t at, int d) {
    v16 acc[STEP] = {{0}};
    int i = 0;
    for (; d - i >= 16; i += 16) {
        v16 part = load(q + i);
        for (int j = 0; j < STEP; j++) acc[j] = fma16(part, load(keys[j] + at + i), acc[j]);
    }
    if (i < d) {
        v16 part = load_first(q + i, d - i);
        for (int j = 0; j < STEP; j++) acc[j] = fma16(part, load_first(keys[j] + at + i, d - i), acc[j]);
    }
    return sums(acc[0], acc[1], acc[2], acc[3]);
}

// scores[r, h, j] = q[r, h] . key[j] * scale, for all heads of the rows that see a position of the step.
INLINE void dot_keys(const Gather *g, size_t offset, const Queries *x, float scale) {
    for (int first = 0; first < g->count; first += STEP) {
        const float *keys[STEP];
        gather_step(g, offset, first, keys);
        for (int r = 0; r < x->m; r++) {
            if (x->counts[r] <= first) continue;
            const float *q = x->q + (size_t)r * x->ldq;
            float *scores = x->scores + (size_t)(r * g->kv_heads * g->shared) * x->pitch + first;
            for (int kv = 0, h = 0; kv < g->kv_heads; kv++) {
                size_t at = (size_t)kv * (size_t)g->d;
                for (int end = h + g->shared; h < end; h++) {
                    v4 dots = dot_step(q + h * g->d, keys, at, g->d) * scale;
                    memcpy(scores + (size_t)h * x->pitch, &dots, sizeof dots);
                }
            }
        }
    }
}

// out[h, 0..<16*chunks] += sum over `positions` of weights[j] * value[j], in sequence.  chunks is a constant.
INLINE void add_values(const int chunks, const float *const values[STEP], size_t at, const float *weights,
                       int positions, float *out, int valid) {
    v16 acc[4];
#pragma clang loop unroll(full)
    for (int c = 0; c < chunks; c++) acc[c] = load_first(out + 16 * c, valid - 16 * c);
    for (int j = 0; j < positions; j++) {
        v16 weight = splat(weights[j]);
#pragma clang loop unroll(full)
        for (int c = 0; c < chunks; c++)
            acc[c] = fma16(weight, load_first(values[j] + at + 16 * c, valid - 16 * c), acc[c]);
    }
#pragma clang loop unroll(full)
    for (int c = 0; c < chunks; c++) store_first(out + 16 * c, acc[c], valid - 16 * c);
}

// out[r, h] = sum over j of scores[r, h, j] * value[j].  out: [m, heads, d], ldo floats apart.
INLINE void weigh_values(const Gather *g, size_t offset, const Queries *x, float *out, size_t ldo) {
    const int d = g->d, heads = g->kv_heads * g->shared;
    for (int r = 0; r < x->m; r++) memset(out + (size_t)r * ldo, 0, (size_t)(heads * d) * sizeof(float));
    for (int first = 0; first < g->count; first += STEP) {
        const float *values[STEP];
        gather_step(g, offset, first, values);
        for (int r = 0; r < x->m; r++) {
            int positions = x->counts[r] - first < STEP ? x->counts[r] - first : STEP;
            if (positions <= 0) continue;
            float *sum = out + (size_t)r * ldo;
            for (int kv = 0, h = 0; kv < g->kv_heads; kv++) {
                size_t at = (size_t)(kv * d);
                for (int end = h + g->shared; h < end; h++) {
                    const float *row = x->scores + (size_t)(r * heads + h) * x->pitch + first;
                    int i = 0;
                    for (; d - i >= 64; i += 64) add_values(4, values, at + i, row, positions, sum + h * d + i, 64);
                    for (; i < d; i += 16) add_values(1, values, at + i, row, positions, sum + h * d + i, d - i);
                }
            }
        }
    }
}

static void attention(const float *q, int ldq, const int32_t *counts, int m, const float *cache, size_t stride,
                      size_t key_offset, size_t value_offset, const uint32_t *rows, int heads, int kv_heads, int d,
                      float scale, float *scores, float *out, int ldo) {
    int count = 0;
    for (int r = 0; r < m; r++) count = counts[r] > count ? counts[r] : count;
    const Gather gather = {cache, stride, rows, count, kv_heads, heads / kv_heads, d};
    const Queries queries = {q, (size_t)ldq, counts, m, scores, ((size_t)count + 15) & ~(size_t)15};
    dot_keys(&gather, key_offset, &queries, scale);
    for (int r = 0; r < m; r++)
        for (int h = 0; h < heads; h++) softmax(scores + (size_t)(r * heads + h) * queries.pitch, counts[r]);
    weigh_values(&gather, value_offset, &queries, out, (size_t)ldo);
}
