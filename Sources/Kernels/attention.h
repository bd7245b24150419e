// Attention of one query row over gathered cache rows. Included once per variant, after rows.h.
//
// Cache rows lie apart and each holds all heads, so both passes walk positions outermost, a few at a time: each row
// is then read once, from end to end, which the CPU's own prefetcher follows (asking in software measured slower,
// and no faster from cold memory). Sums: a dot product in sixteen lanes over d, folded; a weighted value in sequence
// over positions.
#include "vector.h"

enum { STEP = 4 };  // positions together: their dot products share the loads of q and one fold

typedef struct {
    const float *cache;
    size_t stride;
    const uint32_t *rows;
    int count, kv_heads, shared, d;  // shared: query heads that read the same KV head
} Gather;

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

// scores[h, j] = q[h] . key[j] * scale, for all heads.  q: [heads, d], scores: [heads, pitch].
INLINE void dot_keys(const Gather *g, size_t offset, const float *q, float scale, float *scores, size_t pitch) {
    for (int first = 0; first < g->count; first += STEP) {
        const float *keys[STEP];
        gather_step(g, offset, first, keys);
        for (int kv = 0, h = 0; kv < g->kv_heads; kv++) {
            size_t at = (size_t)kv * (size_t)g->d;
            for (int end = h + g->shared; h < end; h++) {
                v4 dots = dot_step(q + h * g->d, keys, at, g->d) * scale;
                memcpy(scores + (size_t)h * pitch + first, &dots, sizeof dots);
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

// out[h] = sum over j of weights[h, j] * value[j].  weights: [heads, pitch], out: [heads, d].
INLINE void weigh_values(const Gather *g, size_t offset, const float *weights, size_t pitch, float *out) {
    const int d = g->d;
    memset(out, 0, (size_t)(g->kv_heads * g->shared * d) * sizeof(float));
    for (int first = 0; first < g->count; first += STEP) {
        const float *values[STEP];
        gather_step(g, offset, first, values);
        int positions = g->count - first < STEP ? g->count - first : STEP;
        for (int kv = 0, h = 0; kv < g->kv_heads; kv++) {
            size_t at = (size_t)(kv * d);
            for (int end = h + g->shared; h < end; h++) {
                const float *row = weights + (size_t)h * pitch + first;
                int i = 0;
                for (; d - i >= 64; i += 64) add_values(4, values, at + i, row, positions, out + h * d + i, 64);
                for (; i < d; i += 16) add_values(1, values, at + i, row, positions, out + h * d + i, d - i);
            }
        }
    }
}

static void attention(const float *q, const float *cache, size_t stride, size_t key_offset, size_t value_offset,
                      const uint32_t *rows, int count, int heads, int kv_heads, int d, float scale, float *scores,
                      float *out) {
    const Gather gather = {cache, stride, rows, count, kv_heads, heads / kv_heads, d};
    size_t pitch = ((size_t)count + 15) & ~(size_t)15;
    dot_keys(&gather, key_offset, q, scale, scores, pitch);
    for (int h = 0; h < heads; h++) softmax(scores + (size_t)h * pitch, count);
    weigh_values(&gather, value_offset, scores, pitch, out);
}
