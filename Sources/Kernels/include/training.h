// Kernels of training: derivatives of the layers, attention over a whole sequence in both directions, AdamW.
//
// Dispatched to the CPU's instruction set like kernels.h and deterministic, but without its promise about batches.
// Gradient outputs named d.. are added to unless said otherwise.
//
// Letters: M rows, H hidden size, I intermediate size, D head width, A query rows, T positions of a sequence.
#ifndef ANIRA_TRAINING_H
#define ANIRA_TRAINING_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Derivative of anira_rmsnorm.  x, dy, dx: [m, h]; w, dw: [h].
void anira_rmsnorm_backward(const float *x, const float *w, const float *dy, float eps, int m, int h, float *dx,
                            float *dw);
// Derivative of anira_layernorm.  x, dy, dx: [m, h]; w, dw, db: [h].
void anira_layernorm_backward(const float *x, const float *w, const float *dy, float eps, int m, int h, float *dx,
                              float *dw, float *db);
// y = silu(gate) * up.  gu: [m, 2i], gates then ups; y: [m, i].
void anira_swiglu(const float *gu, int m, int i, float *y);
// Writes dgu [m, 2i], which may be gu itself, and y [m, i] once more, from dy [m, i].
void anira_swiglu_backward(const float *gu, const float *dy, int m, int i, float *y, float *dgu);
// Writes dx = dy silu'(x), n floats; dx may be dy.
void anira_silu_backward(const float *x, const float *dy, int n, float *dx);
// Sum over n of g (a - b).
float anira_dot_difference(const float *g, const float *a, const float *b, int n);
// y += x, n floats.
void anira_add(const float *x, int n, float *y);

// Floats of scratch that the two functions below need for A queries over T positions with heads of d.
size_t anira_sequence_scratch(int queries, int count, int d);
// Causal attention within one sequence of T positions.  q: [A, heads * d] at row distance ldq, the queries of
// `positions` (ascending, each < count); kv: [T, 2 kv_heads d], keys then values; out: [A, heads * d] at distance ldo;
// lse: [A, heads], the log of the sum of exp of the scores, which the derivative needs.
void anira_sequence_attention(const float *q, int ldq, const int32_t *positions, int queries, const float *kv,
                              int count, int heads, int kv_heads, int d, float scale, float *scratch, float *out,
                              int ldo, float *lse);
// Its derivative: writes dq [A, heads * d] at distance ldq and dkv [T, 2 kv_heads d] from dout at distance ldo.
void anira_sequence_attention_backward(const float *q, int ldq, const int32_t *positions, int queries,
                                       const float *kv, int count, int heads, int kv_heads, int d, float scale,
                                       float *scratch, const float *lse, const float *dout, int ldo, float *dq,
                                       float *dkv);

// One AdamW step over n weights w with gradient clip * g and moments m, v.  correction1, 2: 1 - beta^step.
void anira_adamw(float *w, const float *g, float *m, float *v, size_t n, float clip, float rate, float beta1,
                 float beta2, float eps, float decay, float correction1, float correction2);

#ifdef __cplusplus
}
#endif
#endif
