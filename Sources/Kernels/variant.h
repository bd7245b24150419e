// A variant: one compilation of every kernel for one instruction set.
#ifndef ANIRA_VARIANT_H
#define ANIRA_VARIANT_H

#include "kernels.h"
#include "training.h"

// What a product does with its sums.
typedef enum { PUT, ADD, SWIGLU } Ending;

// The rows of a product as weights of a format take them: floats; for bf16 what `shorten` makes of them; for int8 16-bit
// integers with a scale for each row.
typedef struct {
    const void *inputs;
    size_t stride;  // bytes
    const float *scales;
} Rows;

// Columns of 16 outputs, the last one padded.
static inline int anira_columns(int n) { return (n + 15) / 16; }
// Bytes of a panel of 16 outputs.
size_t anira_panel_bytes(anira_format format, int k);

// Members are the functions of kernels.h without their prefix.
typedef struct {
    const char *name;
    void (*product)(Ending ending, const Rows *x, const anira_matrix *w, int first, int end, int m, float *y,
                    size_t ldy);
    void (*quantize)(const float *x, size_t ldx, int m, int k, float limit, int16_t *out, size_t width, float *scales);
    size_t (*shorten)(const float *x, size_t ldx, int m, int k, void *out, size_t width);
    __typeof__(anira_rmsnorm) *rmsnorm;
    __typeof__(anira_layernorm) *layernorm;
    __typeof__(anira_rope) *rope;
    __typeof__(anira_silu) *silu;
    __typeof__(anira_softmax) *softmax;
    __typeof__(anira_logsumexp) *logsumexp;
    __typeof__(anira_argmax) *argmax;
    __typeof__(anira_attention) *attention;
    __typeof__(anira_store_cached) *store_cached;
    __typeof__(anira_sum) *sum_all;
    __typeof__(anira_multiply_adds) *multiply_adds;
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

// The rows of a product with weights of a format, in memory of the calling thread that its next call reuses.
Rows anira_rows(const Variant *variant, anira_format format, const float *x, size_t ldx, int m, int k);

// Every kernel of the including file, in the order of Variant.
#define ANIRA_KERNELS_OF_THIS_FILE                                                                                     \
    product, quantize, shorten, rmsnorm, layernorm, rope, silu, softmax, logsumexp, argmax, attention,                 \
        store_cached, sum_all, multiply_adds, rmsnorm_backward, layernorm_backward, swiglu, swiglu_backward,           \
        silu_backward, dot_difference, add, sequence_attention, sequence_attention_backward, adamw

extern const Variant anira_portable;
#if defined(__x86_64__)
extern const Variant anira_avx2, anira_avx512, anira_avx512vnni, anira_avx512bf16;
#endif

uint32_t anira_crc32c_table(uint32_t crc, const void *data, size_t n);
uint32_t anira_crc32c_sse42(uint32_t crc, const void *data, size_t n);

#endif
