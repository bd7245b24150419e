// The functions of kernels.h and training.h, each a jump into the chosen variant.
#include "variant.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

// Set before main, and changed only by anira_kernels_select; relaxed, since what it points to is constant.
static _Atomic(const Variant *) chosen = &anira_portable;

static inline const Variant *variant(void) { return atomic_load_explicit(&chosen, memory_order_relaxed); }

// The variant of that name, the best one for NULL; NULL when this CPU cannot run it.
static const Variant *supported(const char *name) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")
               && __builtin_cpu_supports("pclmul");
    int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")
                 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    int vnni = avx512 && __builtin_cpu_supports("avx512vnni");
    int bf16 = vnni && __builtin_cpu_supports("avx512bf16");
    if (bf16 && (!name || !strcmp(name, anira_avx512bf16.name))) return &anira_avx512bf16;
    if (vnni && (!name || !strcmp(name, anira_avx512vnni.name))) return &anira_avx512vnni;
    if (avx512 && (!name || !strcmp(name, anira_avx512.name))) return &anira_avx512;
    if (avx2 && (!name || !strcmp(name, anira_avx2.name))) return &anira_avx2;
#endif
    return !name || !strcmp(name, anira_portable.name) ? &anira_portable : NULL;
}

int anira_kernels_select(const char *name) {
    const Variant *found = supported(name);
    if (found) atomic_store_explicit(&chosen, found, memory_order_relaxed);
    return found != NULL;
}

__attribute__((constructor)) static void choose_variant(void) {
    if (!anira_kernels_select(getenv("ANIRA_KERNELS"))) anira_kernels_select(NULL);
}

const char *anira_kernels_variant(void) { return variant()->name; }

// A product cut into ranges of outputs, one a part.
typedef struct {
    const Variant *variant;
    Ending ending;
    const Rows *x;
    const anira_matrix *w;
    int m, parts;
    float *y;
    size_t ldy;
} Product;

static void product_part(void *context, int part) {
    const Product *job = context;
    int columns = anira_columns(job->w->n);
    int first = (int)((long)columns * part / job->parts), end = (int)((long)columns * (part + 1) / job->parts);
    job->variant->product(job->ending, job->x, job->w, first, end, job->m, job->y, job->ldy);
}

// Below this many multiply-adds waking another thread costs more than it saves.
enum { SMALLEST_SHARED = 1 << 17 };

static void run_product(Ending ending, const float *x, int ldx, const anira_matrix *w, int m, float *y, int ldy) {
    if (m <= 0) return;
    const Variant *mine = variant();  // tests change it meanwhile; rows and tiles have to be of one
    Rows rows = anira_rows(mine, w->format, x, (size_t)ldx, m, w->k);
    long work = (long)m * w->n * w->k * (ending == SWIGLU ? 2 : 1);
    int threads = work < SMALLEST_SHARED ? 1 : anira_threads();
    // More parts than threads where they are large: a thread that is held up then holds up less.
    int parts = threads == 1 ? 1 : work > 64L * SMALLEST_SHARED ? 4 * threads : threads;
    Product job = {mine, ending, &rows, w, m, parts, y, (size_t)ldy};
    if (job.parts == 1) return product_part(&job, 0);
    anira_parallel(job.parts, product_part, &job);
}

void anira_matmul(const float *x, int ldx, const anira_matrix *w, int m, float *y, int ldy) {
    run_product(PUT, x, ldx, w, m, y, ldy);
}

void anira_matmul_add(const float *x, int ldx, const anira_matrix *w, int m, float *y, int ldy) {
    run_product(ADD, x, ldx, w, m, y, ldy);
}

void anira_matmul_swiglu(const float *x, int ldx, const anira_matrix *w, int m, float *y, int ldy) {
    run_product(SWIGLU, x, ldx, w, m, y, ldy);
}

void anira_rmsnorm(const float *x, int ldx, const float *w, float eps, int m, int h, float *y, int ldy) {
    variant()->rmsnorm(x, ldx, w, eps, m, h, y, ldy);
}

void anira_layernorm(const float *x, int ldx, const float *w, const float *b, float eps, int m, int h, float *y,
                     int ldy) {
    variant()->layernorm(x, ldx, w, b, eps, m, h, y, ldy);
}

void anira_rope(float *x, int heads, int d, const float *cosine, const float *sine) {
    variant()->rope(x, heads, d, cosine, sine);
}

void anira_silu(float *x, int n) { variant()->silu(x, n); }

void anira_softmax(float *x, int n) { variant()->softmax(x, n); }

float anira_logsumexp(const float *x, int n) { return variant()->logsumexp(x, n); }

int anira_argmax(const float *x, int n) { return variant()->argmax(x, n); }

void anira_attention(const float *q, int ldq, const int32_t *counts, int m, const anira_cache *cache,
                     const uint32_t *rows, const uint32_t *next, int next_count, int heads, int kv_heads, int d,
                     float scale, float *scratch, float *out, int ldo) {
    variant()->attention(q, ldq, counts, m, cache, rows, next, next_count, heads, kv_heads, d, scale, scratch, out,
                         ldo);
}

size_t anira_attention_scratch(int m, int heads, int kv_heads, int count, int d) {
    size_t columns = ((size_t)count + 15) & ~(size_t)15, padded = ((size_t)d + 15) & ~(size_t)15;
    // Of every query and pair of heads 48, or a head's keys and values and the queries, sums, weights and factors of twelve.
    int shared = heads / kv_heads, few = (ANIRA_PACKED_QUERIES - 1) / shared;
    size_t gathered = (size_t)(m < few ? m : few) * (size_t)((heads + 1) / 2) * 48;
    size_t packed = m * shared < ANIRA_PACKED_QUERIES
                        ? 0 : 2 * columns * padded + 12 * (2 * padded + columns + columns / 8 + columns / 64 + 1) + columns / 8;
    return gathered > packed ? gathered : packed;
}

void anira_store_cached(anira_kv_type type, const float *x, int n, void *out) {
    variant()->store_cached(type, x, n, out);
}

float anira_sum(const float *x, size_t n) { return variant()->sum_all(x, n); }

double anira_multiply_adds(size_t rounds) { return variant()->multiply_adds(rounds); }

void anira_rmsnorm_backward(const float *x, const float *w, const float *dy, float eps, int m, int h, float *dx,
                            float *dw) {
    variant()->rmsnorm_backward(x, w, dy, eps, m, h, dx, dw);
}

void anira_layernorm_backward(const float *x, const float *w, const float *dy, float eps, int m, int h, float *dx,
                              float *dw, float *db) {
    variant()->layernorm_backward(x, w, dy, eps, m, h, dx, dw, db);
}

void anira_swiglu(const float *gu, int m, int i, float *y) { variant()->swiglu(gu, m, i, y); }

void anira_swiglu_backward(const float *gu, const float *dy, int m, int i, float *y, float *dgu) {
    variant()->swiglu_backward(gu, dy, m, i, y, dgu);
}

void anira_silu_backward(const float *x, const float *dy, int n, float *dx) { variant()->silu_backward(x, dy, n, dx); }

float anira_dot_difference(const float *g, const float *a, const float *b, int n) {
    return variant()->dot_difference(g, a, b, n);
}

void anira_add(const float *x, int n, float *y) { variant()->add(x, n, y); }

size_t anira_sequence_scratch(int queries, int count, int d) {
    size_t columns = ((size_t)count + 15) & ~(size_t)15, width = ((size_t)d + 15) & ~(size_t)15;
    size_t rows = (size_t)queries + 4;
    return 2 * rows * columns + 2 * (size_t)d * columns + (3 * columns + 2 * rows + 4) * width + 4 * columns;
}

void anira_sequence_attention(const float *q, int ldq, const int32_t *positions, int queries, const float *kv,
                              int count, int heads, int kv_heads, int d, float scale, float *scratch, float *out,
                              int ldo, float *lse) {
    variant()->sequence_attention(q, ldq, positions, queries, kv, count, heads, kv_heads, d, scale, scratch, out, ldo,
                                  lse);
}

void anira_sequence_attention_backward(const float *q, int ldq, const int32_t *positions, int queries,
                                       const float *kv, int count, int heads, int kv_heads, int d, float scale,
                                       float *scratch, const float *lse, const float *dout, int ldo, float *dq,
                                       float *dkv) {
    variant()->sequence_attention_backward(q, ldq, positions, queries, kv, count, heads, kv_heads, d, scale, scratch,
                                           lse, dout, ldo, dq, dkv);
}

void anira_adamw(float *w, const float *g, float *m, float *v, size_t n, float clip, float rate, float beta1,
                 float beta2, float eps, float decay, float correction1, float correction2) {
    variant()->adamw(w, g, m, v, n, clip, rate, beta1, beta2, eps, decay, correction1, correction2);
}

uint32_t anira_crc32c(uint32_t crc, const void *data, size_t n) { return variant()->crc32c(crc, data, n); }
