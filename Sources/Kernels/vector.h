// The vocabulary of every kernel: sixteen floats at once, whatever the CPU's own width.
//
// One v16 is one AVX-512 register, two of AVX2 or four of SSE. Because sums are laid out in these sixteen lanes
// and folded by the one tree below, the order of additions, and so every bit, is the same on each of them.
#ifndef ANIRA_VECTOR_H
#define ANIRA_VECTOR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

// Vectors pass between these functions by value. All of them are inlined, so no calling convention is involved.
#pragma clang diagnostic ignored "-Wpsabi"

#define INLINE static inline __attribute__((always_inline, unused))

typedef float v4 __attribute__((vector_size(16)));
typedef float v8 __attribute__((vector_size(32)));
typedef float v16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef uint32_t u16 __attribute__((vector_size(64)));
typedef int16_t pairs16 __attribute__((vector_size(64)));  // [16][2]
typedef v16 v16_anywhere __attribute__((aligned(4), may_alias));

INLINE v16 splat(float x) { return (v16){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }

INLINE v16 load(const float *p) { return *(const v16_anywhere *)p; }

INLINE void store(float *p, v16 v) { *(v16_anywhere *)p = v; }

// The first `valid` floats at p, zeros after them; memory past them is not touched.
INLINE v16 load_first(const float *p, int valid) {
    if (valid >= 16) return load(p);
    v16 v = {0};
    memcpy(&v, p, (size_t)valid * sizeof(float));
    return v;
}

INLINE void store_first(float *p, v16 v, int valid) {
    if (valid >= 16) return store(p, v);
    memcpy(p, &v, (size_t)valid * sizeof(float));
}

INLINE v16 fma16(v16 a, v16 b, v16 c) { return __builtin_elementwise_fma(a, b, c); }

// Lane by lane: mask ? a : b, where a mask is the result of comparing two v16.
INLINE v16 choose(i16 mask, v16 a, v16 b) { return (v16)((mask & (i16)a) | (~mask & (i16)b)); }

// To the nearest bf16, halves to even, in the upper half of each lane.
INLINE u16 to_bf16(v16 v) {
    u16 bits = (u16)v;
    return (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
}

INLINE v16 larger(v16 a, v16 b) { return choose(a > b, a, b); }

// v in the first `valid` lanes, `rest` in the others.
INLINE v16 keep_first(v16 v, int valid, v16 rest) {
    const i16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return choose(lane < valid, v, rest);
}

INLINE v8 first_half(v16 v) { return __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7); }
INLINE v8 second_half(v16 v) { return __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15); }

// Sixteen lanes to four: lane i + lane i+8, then i + i+4.
INLINE v4 fold(v16 v) {
    v8 half = first_half(v) + second_half(v);
    return __builtin_shufflevector(half, half, 0, 1, 2, 3) + __builtin_shufflevector(half, half, 4, 5, 6, 7);
}

// The four sums of four vectors: fold, then i + i+2, then i + i+1.
INLINE v4 sums(v16 a, v16 b, v16 c, v16 d) {
    v4 fa = fold(a), fb = fold(b), fc = fold(c), fd = fold(d);
    v4 ab = __builtin_shufflevector(fa, fb, 0, 1, 4, 5) + __builtin_shufflevector(fa, fb, 2, 3, 6, 7);
    v4 cd = __builtin_shufflevector(fc, fd, 0, 1, 4, 5) + __builtin_shufflevector(fc, fd, 2, 3, 6, 7);
    return __builtin_shufflevector(ab, cd, 0, 2, 4, 6) + __builtin_shufflevector(ab, cd, 1, 3, 5, 7);
}

INLINE float sum(v16 v) { return sums(v, v, v, v)[0]; }

INLINE float largest(v16 v) {
    float best = v[0];
    for (int lane = 1; lane < 16; lane++) best = v[lane] > best ? v[lane] : best;
    return best;
}

// e^x, at most 1.02 ulp off (every float tried). Zero where the result would not be normal (so also for -inf), inf
// above the largest float, NaN for NaN. Cephes' expf: x = n ln 2 + r, a polynomial in r, times 2^n in two steps so that n = 128
// is not too large for one.
INLINE v16 exp16(v16 x) {
    const v16 least = splat(-87.33654f), most = splat(88.8f), round = splat(0x1.8p23f);
    v16 bounded = choose(x < least, least, choose(x > most, most, x));
    v16 shifted = fma16(bounded, splat(0x1.715476p+0f), round);  // the low bits of `shifted` are n
    v16 n = shifted - round;
    v16 r = fma16(n, splat(-0x1.62e4p-1f), bounded);
    r = fma16(n, splat(-0x1.7f7d1cp-20f), r);
    v16 p = splat(1.9875691500e-4f);
    p = fma16(p, r, splat(1.3981999507e-3f));
    p = fma16(p, r, splat(8.3334519073e-3f));
    p = fma16(p, r, splat(4.1665795894e-2f));
    p = fma16(p, r, splat(1.6666665459e-1f));
    p = fma16(p, r, splat(5.0000001201e-1f));
    p = fma16(p, r * r, r) + 1.0f;
    i16 exponent = (i16)shifted - (i16)round, half = exponent >> 1;
    v16 scaled = p * (v16)((half + 127) << 23) * (v16)((exponent - half + 127) << 23);
    return choose(x < least, splat(0), scaled);
}

// x * sigmoid(x). For very negative x the division by inf gives -0.
INLINE v16 silu16(v16 x) { return x / (exp16(-x) + 1.0f); }

#endif
