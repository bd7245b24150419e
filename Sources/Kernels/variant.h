// A variant: one compilation of every kernel for one instruction set.
#ifndef ANIRA_VARIANT_H
#define ANIRA_VARIANT_H

#include "kernels.h"
#include "training.h"

// Members are the functions of kernels.h without their prefix.
typedef struct {
    const char *name;
    __typeof__(anira_matmul) *matmul, *matmul_add, *matmul_swiglu;
    __typeof__(anira_rmsnorm) *rmsnorm;
    __typeof__(anira_layernorm) *layernorm;
    __typeof__(anira_rope) *rope;
    __typeof__(anira_silu) *silu;
    __typeof__(anira_softmax) *softmax;
    __typeof__(anira_logsumexp) *logsumexp;
    __typeof__(anira_argmax) *argmax;
    __typeof__(anira_attention) *attention;
    __typeof__(anira_sum) *sum_all;
    __typeof__(anira_rmsnorm_backward) *rmsnorm_backward;
    __typeof__(anira_layernorm_backward) *layernorm_backward;
    __typeof__(anira_swiglu) *swiglu;
    __typeof__(anira_swiglu_backward) *swiglu_backward;
    __typeof__(anira_silu_backward) *silu_backward;
    __typeof__(anira_dot_difference) *dot_difference;
    __typeof__(anira_add) *add;
    __typeof__(anira_sequence_attention) *sequence_attention;
    __typeof__(anira_sequence_attention_backward) *sequence_attention_backward;
    __typeof__(anira_adamw) *adamw;
    __typeof__(anira_crc32c) *crc32c;
} Variant;

// Every kernel of the including file, in the order of Variant.
#define ANIRA_KERNELS_OF_THIS_FILE                                                                                \
    matmul, matmul_add, matmul_swiglu, rmsnorm, layernorm, rope, silu, softmax, logsumexp, argmax, attention, sum_all,      \
        rmsnorm_backward, layernorm_backward, swiglu, swiglu_backward, silu_backward, dot_difference, add,             \
        sequence_attention, sequence_attention_backward, adamw

extern const Variant anira_portable;
#if defined(__x86_64__)
extern const Variant anira_avx2, anira_avx512;
#endif

uint32_t anira_crc32c_table(uint32_t crc, const void *data, size_t n);
uint32_t anira_crc32c_sse42(uint32_t crc, const void *data, size_t n);

#endif
