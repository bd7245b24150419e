// Kernels of training: derivatives, and attention over whole sequences in both directions. Unlike the kernels of
// serving they may add in an order that depends on the batch; they are still deterministic. Included once per variant.
#include "vector.h"

// ---- norms ----------------------------------------------------------------------------------------------

// y = x s w with s = 1 / sqrt(mean(x^2) + eps):
// dx += s w dy - x s^3 / h sum(dy w x),  dw += dy x s.   x, dy, dx: [m, h], w, dw: [h].
static void rmsnorm_backward(const float *x, const float *w, const float *dy, float eps, int m, int h, float *dx,
                             float *dw) {
    for (int row = 0; row < m; row++, x += h, dy += h, dx += h) {
        v16 squares = splat(0), dots = splat(0);
        for (int i = 0; i < h; i += 16) {
            v16 v = load_first(x + i, h - i);
            squares = fma16(v, v, squares);
            dots = fma16(load_first(dy + i, h - i) * load_first(w + i, h - i), v, dots);
        }
        float s = 1.0f / __builtin_sqrtf(sum(squares) / (float)h + eps);
        float pull = s * s * s / (float)h * sum(dots);
        for (int i = 0; i < h; i += 16) {
            int n = h - i;
            v16 v = load_first(x + i, n), g = load_first(dy + i, n) * s;
            store_first(dw + i, fma16(g, v, load_first(dw + i, n)), n);
            store_first(dx + i, load_first(dx + i, n) + (g * load_first(w + i, n) - v * pull), n);
        }
    }
}

// y = n w + b with n = (x - mean) s:  dx += s (dn - mean(dn) - n mean(dn n)), dn = dy w;  dw += dy n, db += dy.
static void layernorm_backward(const float *x, const float *w, const float *dy, float eps, int m, int h, float *dx,
                               float *dw, float *db) {
    for (int row = 0; row < m; row++, x += h, dy += h, dx += h) {
        v16 total = splat(0), squares = splat(0), flows = splat(0), dots = splat(0);
        for (int i = 0; i < h; i += 16) total += load_first(x + i, h - i);
        float mean = sum(total) / (float)h;
        for (int i = 0; i < h; i += 16) {
            v16 v = keep_first(load_first(x + i, h - i) - mean, h - i, splat(0));
            v16 dn = load_first(dy + i, h - i) * load_first(w + i, h - i);
            squares = fma16(v, v, squares);
            flows += dn;
            dots = fma16(dn, v, dots);
        }
        float s = 1.0f / __builtin_sqrtf(sum(squares) / (float)h + eps);
        float flow = sum(flows) / (float)h, dot = sum(dots) * s / (float)h;
        for (int i = 0; i < h; i += 16) {
            int n = h - i;
            v16 g = load_first(dy + i, n), normed = (load_first(x + i, n) - mean) * s;
            store_first(dw + i, fma16(g, normed, load_first(dw + i, n)), n);
            store_first(db + i, load_first(db + i, n) + g, n);
            v16 d = (g * load_first(w + i, n) - flow - normed * dot) * s;
            store_first(dx + i, load_first(dx + i, n) + d, n);
        }
    }
}

// ---- activations ------------------------------------------------------------------------------------------

// d silu(x) / dx = s + x s (1 - s), s = sigmoid(x).
INLINE v16 silu_slope(v16 x, v16 s) { return fma16(x * s, 1.0f - s, s); }

// y = silu(g) u.  gu: [m, 2i], gates then ups; y: [m, i].
static void swiglu(const float *gu, int m, int i, float *y) {
    for (int row = 0; row < m; row++, gu += 2 * i, y += i)
        for (int at = 0; at < i; at += 16)
            store_first(y + at, silu16(load_first(gu + at, i - at)) * load_first(gu + i + at, i - at), i - at);
}

// dgu from dy, and y once more.  gu, dgu: [m, 2i]; y, dy: [m, i].  dgu may be gu.
static void swiglu_backward(const float *gu, const float *dy, int m, int i, float *y, float *dgu) {
    for (int row = 0; row < m; row++, gu += 2 * i, dgu += 2 * i, y += i, dy += i) {
        for (int at = 0; at < i; at += 16) {
            int n = i - at;
            v16 g = load_first(gu + at, n), u = load_first(gu + i + at, n), d = load_first(dy + at, n);
            v16 s = 1.0f / (exp16(-g) + 1.0f);
            store_first(y + at, g * s * u, n);
            store_first(dgu + at, d * u * silu_slope(g, s), n);
            store_first(dgu + i + at, d * g * s, n);
        }
    }
}

// dx = dy silu'(x), n floats; dx may be dy.
static void silu_backward(const float *x, const float *dy, int n, float *dx) {
    for (int i = 0; i < n; i += 16) {
        v16 v = load_first(x + i, n - i);
        store_first(dx + i, load_first(dy + i, n - i) * silu_slope(v, 1.0f / (exp16(-v) + 1.0f)), n - i);
    }
}

// ---- rows -------------------------------------------------------------------------------------------------

// sum over i of g[i] (a[i] - b[i]).
static float dot_difference(const float *g, const float *a, const float *b, int n) {
    v16 total = splat(0);
    for (int i = 0; i < n; i += 16)
        total = fma16(load_first(g + i, n - i), load_first(a + i, n - i) - load_first(b + i, n - i), total);
    return sum(total);
}

// y += x, n floats.
static void add(const float *x, int n, float *y) {
    for (int i = 0; i < n; i += 16) store_first(y + i, load_first(y + i, n - i) + load_first(x + i, n - i), n - i);
}

// ---- attention of one sequence ------------------------------------------------------------------------------
// Query rows are a subset of the positions (all of them, or those whose result is needed). Small products of up to
// four rows at a time, over copies that are padded to whole vectors.

#define QUERIES 4

// out[r][0..<n] = sum over c of a[r][c] b[c][0..<n] for r < rows; n a multiple of 16.  lda, ldb, ldo: row distances.
INLINE void small_product(const float *a, int lda, const float *b, int ldb, int rows, int n, int inner, float *out,
                          int ldo) {
    const float *a1 = a + (rows > 1 ? lda : 0), *a2 = a + (rows > 2 ? 2 * lda : 0), *a3 = a + (rows > 3 ? 3 * lda : 0);
    for (int at = 0; at < n; at += 16) {
        v16 s0 = splat(0), s1 = s0, s2 = s0, s3 = s0;
        for (int c = 0; c < inner; c++) {
            v16 v = load(b + (size_t)c * ldb + at);
            s0 = fma16(splat(a[c]), v, s0);
            s1 = fma16(splat(a1[c]), v, s1);
            s2 = fma16(splat(a2[c]), v, s2);
            s3 = fma16(splat(a3[c]), v, s3);
        }
        store(out + at, s0);
        if (rows > 1) store(out + ldo + at, s1);
        if (rows > 2) store(out + 2 * ldo + at, s2);
        if (rows > 3) store(out + 3 * ldo + at, s3);
    }
}

// out[r][0..<n] += sum over c of a[c][r] b[c][0..<n] for r < QUERIES: the same with a transposed.
INLINE void small_product_transposed(const float *a, int lda, const float *b, int ldb, int n, int inner, float *out,
                                     int ldo) {
    for (int at = 0; at < n; at += 16) {
        v16 s0 = load(out + at), s1 = load(out + ldo + at), s2 = load(out + 2 * ldo + at),
            s3 = load(out + 3 * ldo + at);
        for (int c = 0; c < inner; c++) {
            const float *x = a + (size_t)c * lda;
            v16 v = load(b + (size_t)c * ldb + at);
            s0 = fma16(splat(x[0]), v, s0);
            s1 = fma16(splat(x[1]), v, s1);
            s2 = fma16(splat(x[2]), v, s2);
            s3 = fma16(splat(x[3]), v, s3);
        }
        store(out + at, s0);
        store(out + ldo + at, s1);
        store(out + 2 * ldo + at, s2);
        store(out + 3 * ldo + at, s3);
    }
}

INLINE int whole_vectors(int n) { return (n + 15) & ~15; }

// Copies `rows` rows of d floats into rows of `padded`, zeros after.
INLINE void copy_rows(const float *x, int ldx, int rows, int d, float *out, int padded) {
    for (int row = 0; row < rows; row++)
        for (int c = 0; c < padded; c += 16) store(out + row * padded + c, load_first(x + row * ldx + c, d - c));
}

// out[c][row] = x[row][c]; out rows of `padded`, zeros after.
INLINE void transpose_rows(const float *x, int ldx, int rows, int d, float *out, int padded) {
    for (int c = 0; c < d; c++) {
        for (int row = 0; row < rows; row++) out[c * padded + row] = x[row * ldx + c];
        for (int row = rows; row < padded; row++) out[c * padded + row] = 0;
    }
}

// One head's part of a sequence, and where its copies lie.
typedef struct {
    const int32_t *positions;
    int queries, count, d, columns, width;  // columns, width: count and d in whole vectors
    float scale;
} Sequence;

INLINE int fewer(int a, int b) { return a < b ? a : b; }

// p = softmax(p scale) over the visible positions, zeros after, up to n. Returns the log of the sum of exp.
INLINE float softmax_visible(float *p, int visible, int n, float scale) {
    const v16 least = splat(-__builtin_inff());
    v16 best = least, total = splat(0);
    for (int j = 0; j < n; j += 16) {
        v16 s = keep_first(load(p + j) * scale, visible - j, least);
        store(p + j, s);
        best = larger(s, best);
    }
    float max = largest(best);
    for (int j = 0; j < n; j += 16) {
        v16 e = exp16(load(p + j) - max);
        store(p + j, e);
        total += e;
    }
    float all = sum(total), part = 1.0f / all;
    for (int j = 0; j < n; j += 16) store(p + j, load(p + j) * part);
    return max + __builtin_logf(all);
}

// out[a] = sum over j of softmax(q[a] . k[j] scale) v[j] for one head; lse is written at distance ldl.
INLINE void attend_head(const Sequence *s, const float *q, int ldq, const float *keys, const float *values, float *p,
                        float *row, float *out, int ldo, float *lse, int ldl) {
    for (int a = 0; a < s->queries; a += QUERIES) {
        int rows = fewer(QUERIES, s->queries - a), last = s->positions[a + rows - 1] + 1, n = whole_vectors(last);
        small_product(q + (size_t)a * ldq, ldq, keys, s->columns, rows, n, s->d, p, s->columns);
        for (int r = 0; r < rows; r++)
            lse[(size_t)(a + r) * ldl] =
                softmax_visible(p + r * s->columns, s->positions[a + r] + 1, n, s->scale);
        small_product(p, s->columns, values, s->width, rows, s->width, last, row, s->width);
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < s->d; c += 16)
                store_first(out + (size_t)(a + r) * ldo + c, load(row + r * s->width + c), s->d - c);
    }
}

static void sequence_attention(const float *q, int ldq, const int32_t *positions, int queries, const float *kv,
                               int count, int heads, int kv_heads, int d, float scale, float *scratch, float *out,
                               int ldo, float *lse) {
    Sequence s = {positions, queries, count, d, whole_vectors(count), whole_vectors(d), scale};
    float *keys = scratch, *values = keys + d * s.columns, *p = values + s.columns * s.width,
          *row = p + QUERIES * s.columns;
    int ldkv = 2 * kv_heads * d;
    for (int g = 0, h = 0; g < kv_heads; g++) {
        transpose_rows(kv + g * d, ldkv, count, d, keys, s.columns);
        copy_rows(kv + (kv_heads + g) * d, ldkv, count, d, values, s.width);
        for (int end = h + heads / kv_heads; h < end; h++)
            attend_head(&s, q + h * d, ldq, keys, values, p, row, out + h * d, ldo, lse + h, heads);
    }
}

// Turns scores and dp into p = exp(score scale - lse) and ds = p (dp - sum(p dp)) scale, zeros past `visible`.
INLINE void softmax_backward(float *score, float *dp, int visible, int n, float scale, float lse) {
    v16 total = splat(0);
    for (int j = 0; j < n; j += 16) {
        v16 p = keep_first(exp16(fma16(load(score + j), splat(scale), splat(-lse))), visible - j, splat(0));
        store(score + j, p);
        total = fma16(p, load(dp + j), total);
    }
    float delta = sum(total);
    for (int j = 0; j < n; j += 16) store(dp + j, load(score + j) * (load(dp + j) - delta) * scale);
}

typedef struct {
    float *keys_t, *values_t, *keys, *dkeys, *dvalues, *p, *ds, *q, *dout, *row;
} BackwardScratch;

INLINE BackwardScratch backward_scratch(const Sequence *s, float *at) {
    int across = s->d * s->columns, down = s->columns * s->width, rows = s->queries + QUERIES;
    BackwardScratch b;
    b.keys_t = at, b.values_t = at + across, at += 2 * across;
    b.keys = at, b.dkeys = at + down, b.dvalues = at + 2 * down, at += 3 * down;
    b.p = at, b.ds = at + (size_t)rows * s->columns, at += 2 * (size_t)rows * s->columns;
    b.q = at, b.dout = at + rows * s->width, b.row = at + 2 * rows * s->width;
    return b;
}

// Adds one head's share to dkeys and dvalues and writes its dq.
INLINE void attend_head_backward(const Sequence *s, const BackwardScratch *b, const float *lse, int ldl, float *dq,
                                 int ldq) {
    for (int a = 0; a < s->queries; a += QUERIES) {
        int rows = fewer(QUERIES, s->queries - a), last = s->positions[a + rows - 1] + 1, n = whole_vectors(last);
        float *p = b->p + (size_t)a * s->columns, *ds = b->ds + (size_t)a * s->columns;
        small_product(b->q + a * s->width, s->width, b->keys_t, s->columns, rows, n, s->d, p, s->columns);
        small_product(b->dout + a * s->width, s->width, b->values_t, s->columns, rows, n, s->d, ds, s->columns);
        for (int r = 0; r < rows; r++)
            softmax_backward(p + r * s->columns, ds + r * s->columns, s->positions[a + r] + 1, n, s->scale,
                             lse[(size_t)(a + r) * ldl]);
        small_product(ds, s->columns, b->keys, s->width, rows, s->width, last, b->row, s->width);
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < s->d; c += 16)
                store_first(dq + (size_t)(a + r) * ldq + c, load(b->row + r * s->width + c), s->d - c);
    }
    for (int j = 0, a = 0; j < s->count; j += QUERIES) {
        while (a < s->queries && s->positions[a] < j) a++;
        size_t from = (size_t)a * s->columns + j;
        small_product_transposed(b->p + from, s->columns, b->dout + a * s->width, s->width, s->width, s->queries - a,
                                 b->dvalues + j * s->width, s->width);
        small_product_transposed(b->ds + from, s->columns, b->q + a * s->width, s->width, s->width, s->queries - a,
                                 b->dkeys + j * s->width, s->width);
    }
}

static void sequence_attention_backward(const float *q, int ldq, const int32_t *positions, int queries,
                                        const float *kv, int count, int heads, int kv_heads, int d, float scale,
                                        float *scratch, const float *lse, const float *dout, int ldo, float *dq,
                                        float *dkv) {
    Sequence s = {positions, queries, count, d, whole_vectors(count), whole_vectors(d), scale};
    BackwardScratch b = backward_scratch(&s, scratch);
    int ldkv = 2 * kv_heads * d;
    for (int g = 0, h = 0; g < kv_heads; g++) {
        size_t value = (size_t)(kv_heads + g) * d;
        transpose_rows(kv + g * d, ldkv, count, d, b.keys_t, s.columns);
        transpose_rows(kv + value, ldkv, count, d, b.values_t, s.columns);
        copy_rows(kv + g * d, ldkv, count, d, b.keys, s.width);
        memset(b.dkeys, 0, 2 * (size_t)s.columns * s.width * sizeof(float));
        for (int end = h + heads / kv_heads; h < end; h++) {
            copy_rows(q + h * d, ldq, queries, d, b.q, s.width);
            copy_rows(dout + h * d, ldo, queries, d, b.dout, s.width);
            attend_head_backward(&s, &b, lse + h, heads, dq + h * d, ldq);
        }
        for (int j = 0; j < count; j++) {
            for (int c = 0; c < d; c += 16) {
                store_first(dkv + (size_t)j * ldkv + g * d + c, load(b.dkeys + j * s.width + c), d - c);
                store_first(dkv + (size_t)j * ldkv + value + c, load(b.dvalues + j * s.width + c), d - c);
            }
        }
    }
}

// ---- the optimiser ------------------------------------------------------------------------------------------

// One step of AdamW over n floats; g is scaled by `clip` first; correction1, 2: 1 - beta^step.
static void adamw(float *w, const float *g, float *m, float *v, size_t n, float clip, float rate, float beta1,
                  float beta2, float eps, float decay, float correction1, float correction2) {
    float keep = 1.0f - rate * decay, step = rate / correction1, root = 1.0f / __builtin_sqrtf(correction2);
    for (size_t i = 0; i < n; i += 16) {
        int valid = n - i < 16 ? (int)(n - i) : 16;
        v16 gradient = load_first(g + i, valid) * clip;
        v16 first = fma16(load_first(m + i, valid), splat(beta1), gradient * (1.0f - beta1));
        v16 second = fma16(load_first(v + i, valid), splat(beta2), gradient * gradient * (1.0f - beta2));
        store_first(m + i, first, valid);
        store_first(v + i, second, valid);
        v16 size = __builtin_elementwise_sqrt(second) * root + eps;
        store_first(w + i, load_first(w + i, valid) * keep - first * step / size, valid);
    }
}
