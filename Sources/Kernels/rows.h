// Kernels over one row at a time. A row's tail goes through the same lanes as the rest, padded with what leaves
// the result alone, so an element's bits do not depend on where in the row it is. Included once per variant.
#include "vector.h"

// y = x / sqrt(mean(x^2) + eps) * w.  x, y: [m, h], w: [h].
static void rmsnorm(const float *x, int ldx, const float *w, float eps, int m, int h, float *y, int ldy) {
    for (int row = 0; row < m; row++, x += ldx, y += ldy) {
        v16 squares = splat(0);
        for (int i = 0; i < h; i += 16) {
            v16 v = load_first(x + i, h - i);
            squares = fma16(v, v, squares);
        }
        float scale = 1.0f / __builtin_sqrtf(sum(squares) / (float)h + eps);
        for (int i = 0; i < h; i += 16)
            store_first(y + i, load_first(x + i, h - i) * scale * load_first(w + i, h - i), h - i);
    }
}

// y = (x - mean) / sqrt(var + eps) * w + b.  x, y: [m, h], w, b: [h].  Two passes: the variance is that of x - mean.
static void layernorm(const float *x, int ldx, const float *w, const float *b, float eps, int m, int h, float *y,
                      int ldy) {
    for (int row = 0; row < m; row++, x += ldx, y += ldy) {
        v16 total = splat(0), squares = splat(0);
        for (int i = 0; i < h; i += 16) total += load_first(x + i, h - i);
        float mean = sum(total) / (float)h;
        for (int i = 0; i < h; i += 16) {
            v16 v = keep_first(load_first(x + i, h - i) - mean, h - i, splat(0));
            squares = fma16(v, v, squares);
        }
        float scale = 1.0f / __builtin_sqrtf(sum(squares) / (float)h + eps);
        for (int i = 0; i < h; i += 16) {
            v16 v = (load_first(x + i, h - i) - mean) * scale;
            store_first(y + i, fma16(v, load_first(w + i, h - i), load_first(b + i, h - i)), h - i);
        }
    }
}

// Turns the pairs (i, i + d/2) of each head by the angle of this position.  x: [heads, d], cosine, sine: [d/2].
static void rope(float *x, int heads, int d, const float *cosine, const float *sine) {
    int half = d / 2;
    for (int head = 0; head < heads; head++, x += d) {
        for (int i = 0; i < half; i += 16) {
            int valid = half - i;
            v16 a = load_first(x + i, valid), b = load_first(x + half + i, valid);
            v16 c = load_first(cosine + i, valid), s = load_first(sine + i, valid);
            store_first(x + i, a * c - b * s, valid);
            store_first(x + half + i, b * c + a * s, valid);
        }
    }
}

// x = silu(x).  x: [n].
static void silu(float *x, int n) {
    for (int i = 0; i < n; i += 16) store_first(x + i, silu16(load_first(x + i, n - i)), n - i);
}

// The largest of n floats; -inf when there are none.
INLINE float maximum(const float *x, int n) {
    const v16 least = splat(-__builtin_inff());
    v16 best = least;
    for (int i = 0; i < n; i += 16) best = larger(keep_first(load_first(x + i, n - i), n - i, least), best);
    return largest(best);
}

// x = exp(x - max), returns the sum of them.  x: [n].
INLINE float exponentials(float *x, int n) {
    float max = maximum(x, n);
    v16 total = splat(0);
    for (int i = 0; i < n; i += 16) {
        v16 e = exp16(load_first(x + i, n - i) - max);
        store_first(x + i, e, n - i);
        total += keep_first(e, n - i, splat(0));
    }
    return sum(total);
}

static void softmax(float *x, int n) {
    float scale = 1.0f / exponentials(x, n);
    for (int i = 0; i < n; i += 16) store_first(x + i, load_first(x + i, n - i) * scale, n - i);
}

// ln x for a positive normal x: x = 2^e m with m near 1, ln m = 2 artanh((m - 1) / (m + 1)). In plain double
// arithmetic rather than by libm's log, whose last bit depends on the CPU it finds.
INLINE double natural_log(double x) {
    int64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int64_t e = (bits - 0x3fe6a09e667f3bcd) >> 52;  // so that sqrt(1/2) <= m < sqrt(2)
    bits -= e << 52;
    double m;
    memcpy(&m, &bits, sizeof m);
    double s = (m - 1) / (m + 1), square = s * s, series = 0;
    for (int odd = 19; odd > 0; odd -= 2) series = series * square + 1.0 / odd;
    return (double)e * 0.6931471805599453 + 2 * s * series;
}

// ln of the sum of exp(x).  x: [n].  -inf and inf are their own answer.
static float logsumexp(const float *x, int n) {
    float max = maximum(x, n);
    if (__builtin_isinf(max)) return max;
    v16 total = splat(0);
    for (int i = 0; i < n; i += 16)
        total += keep_first(exp16(load_first(x + i, n - i) - max), n - i, splat(0));
    float all = sum(total);
    return all != all ? all : (float)(natural_log(all) + max);
}

static int argmax(const float *x, int n) {
    float max = maximum(x, n);
    for (int i = 0; i < n; i++)
        if (x[i] == max) return i;
    return 0;
}

// Four streams, like the product kernels read weights: one alone does not saturate memory.
static float sum_all(const float *x, size_t n) {
    size_t quarter = n / 64 * 16;
    v16 a = {0}, b = {0}, c = {0}, d = {0};
    for (size_t i = 0; i < quarter; i += 16) {
        a += load(x + i);
        b += load(x + quarter + i);
        c += load(x + 2 * quarter + i);
        d += load(x + 3 * quarter + i);
    }
    float total = sum(a + b + c + d);
    for (size_t i = 4 * quarter; i < n; i++) total += x[i];
    return total;
}

// As many chains as a tile has rows: enough to hide the latency, and registers for all of them.
static double multiply_adds(size_t rounds) {
    v16 chains[TILE_ROWS], factor = splat(0.5f), addend = splat(1.0f);
    __asm__("" : "+m"(factor), "+m"(addend));  // unknown, or the compiler would foresee the result
    for (int c = 0; c < TILE_ROWS; c++) chains[c] = splat((float)c);
    for (size_t i = 0; i < rounds; i++)
#pragma clang loop unroll(full)
        for (int c = 0; c < TILE_ROWS; c++) chains[c] = fma16(chains[c], factor, addend);
    v16 total = splat(0);
    for (int c = 0; c < TILE_ROWS; c++) total += chains[c];
    __asm__ volatile("" : : "m"(total));
    return 2.0 * 16 * TILE_ROWS * (double)rounds;
}
