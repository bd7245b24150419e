// Kernels: the numeric inner loops of the suite, in C with run-time SIMD dispatch.
//
// Contract that everything above relies on (docs/model.md, "Determinism"): the bits of an output row depend
// only on the inputs of that row and on the shape of the weights. They do not depend on how many other rows
// are in the call, on alignment, or on which instruction set was chosen: every variant adds in the same order
// with the same fused operations.
//
// Letters: M rows, K inputs, N outputs, H hidden width, D head width, C visible positions.
#ifndef ANIRA_KERNELS_H
#define ANIRA_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Which variant runs: "avx512bf16", "avx512vnni", "avx512", "avx2" or "portable". Chosen once from the CPU; the environment
// variable ANIRA_KERNELS (read once) forces one, for tests.
const char *anira_kernels_variant(void);
// For tests and benches only: runs the named variant from here on, the best one for NULL. Returns 0, changing
// nothing, when this CPU cannot.
int anira_kernels_select(const char *name);

// ---- packed weights -----------------------------------------------------------------------------------
// Panels of 16 outputs, padded with zeros. f32: [k][16] floats. bf16: [k / 2, rounded up][16] pairs in 32 bits, the even
// input above. int8: [k / 2, rounded up][16][2] bytes, and a scale for each output: w = byte * scale.
typedef enum { ANIRA_F32, ANIRA_BF16, ANIRA_INT8 } anira_format;

// Weights [n, k], or gate and up [n, k] each, the panels of the one before those of the other. With a smaller n it is the first
// outputs of a matrix (not of a pair).
typedef struct {
    anira_format format;
    int n, k;
    const void *panels;
    const float *scales;  // int8: one for each output of each panel
} anira_matrix;

// Bytes of the panels of a [n, k] matrix; twice that for a pair.
size_t anira_packed_bytes(anira_format format, int n, int k);
// Memory for `count` floats, zeroed, 2 MiB aligned with huge pages advised when large, else 64 byte aligned.
// NULL when out of memory. Release with anira_release.
float *anira_allocate(size_t count);
void anira_release(float *memory, size_t count);
// Packs row-major w [n, k] into `panels` (anira_packed_bytes). bf16 rounds to nearest, halves to even; int8 to nearest
// of 127 steps of an output's largest weight. scales: n rounded up to 16, written for int8 only.
void anira_pack(anira_format format, const float *w, int n, int k, void *panels, float *scales);
// Packs gate [n, k], then up [n, k]: twice the bytes and the scales.
void anira_pack_pair(anira_format format, const float *gate, const float *up, int n, int k, void *panels,
                     float *scales);

// ---- products -----------------------------------------------------------------------------------------
// y[m, 0..<n] = x[m, 0..<k] . W^T.  ldx, ldy: floats from one row to the next.  Each output is one chain of fused
// multiply-adds over k in sequence, starting from 0.  With bf16 weights x is rounded to bf16 first.  With int8 weights each
// row of x is rounded to 16-bit integers of its own scale first (as many bits as cannot overflow: 15 up to k = 516, 13 at 2048)
// and the sum is exact.  y must not overlap x.  n and k may be any size; weights are prefetched past the end of a panel, never
// read.
void anira_matmul(const float *x, int ldx, const anira_matrix *w, int m, float *y, int ldy);
// y += x . W^T (the product is summed first, then added once).
void anira_matmul_add(const float *x, int ldx, const anira_matrix *w, int m, float *y, int ldy);
// y[m, 0..<n] = silu(x . G^T) * (x . U^T), weights from anira_pack_pair.
void anira_matmul_swiglu(const float *x, int ldx, const anira_matrix *w, int m, float *y, int ldy);

// ---- threads ------------------------------------------------------------------------------------------
// Products use up to `count` threads, the caller among them (1 at start). Results do not depend on it. Idle threads spin
// for some microseconds, then sleep. Call before the first product.
void anira_set_threads(int count);
// As many as the next product may use: fewer while other processes compute on shared processors.
int anira_threads(void);
// body(context, part) for each part 0..<parts, on the caller and the threads; in any order, back when all are done.
// When another caller has the threads, this one works alone.
void anira_parallel(int parts, void (*body)(void *context, int part), void *context);

// ---- processors ---------------------------------------------------------------------------------------
// Shares `processors` with all processes that name the same file, which is made where it is missing. 0, or an errno, and then
// nothing is shared. Call before the first product; a second call replaces the first.
int anira_share_processors(const char *path, int processors);
// Tells the others how many threads of this process compute now.
void anira_take_processors(int threads);
// Processors that no thread of another process computes on, at least 1; INT_MAX where none are shared.
int anira_processors_left(void);

// ---- rows ---------------------------------------------------------------------------------------------
// y may be x itself. Sums run in sixteen lanes, folded by one fixed tree.
// y = x / sqrt(mean(x^2) + eps) * w, per row of h floats.
void anira_rmsnorm(const float *x, int ldx, const float *w, float eps, int m, int h, float *y, int ldy);
// y = (x - mean) / sqrt(var + eps) * w + b, per row of h floats.
void anira_layernorm(const float *x, int ldx, const float *w, const float *b, float eps, int m, int h, float *y,
                     int ldy);
// Rotate-half RoPE in place on `heads` heads of d floats; cosine and sine have d/2 values for this position.
void anira_rope(float *x, int heads, int d, const float *cosine, const float *sine);
// x = silu(x), n floats.
void anira_silu(float *x, int n);
// Softmax in place over n floats (subtracts the maximum).
void anira_softmax(float *x, int n);
// Natural log of the sum of exp over n floats; -inf for none.
float anira_logsumexp(const float *x, int n);
// Index of the first maximum; 0 for no floats.
int anira_argmax(const float *x, int n);

// ---- attention ----------------------------------------------------------------------------------------
// How cached keys and values are held.
typedef enum { ANIRA_KV_F32, ANIRA_KV_F16, ANIRA_KV_BF16 } anira_kv_type;

// Bytes of an element.
static inline size_t anira_cached_size(anira_kv_type type) { return type == ANIRA_KV_F32 ? 4 : 2; }

// Rows of cached keys and values, `stride` bytes apart. The key for KV head g of a row begins at its element keys + g * d,
// the value likewise at values + g * d.
typedef struct {
    anira_kv_type type;
    const void *rows;
    size_t stride;
    size_t keys, values;
} anira_cache;

// n floats to n elements of a cache row, each to the nearest, halves to even.
void anira_store_cached(anira_kv_type type, const float *x, int n, void *out);

// From so many query heads over one KV head on, a list is copied before it is read. It changes no bit.
enum { ANIRA_PACKED_QUERIES = 8 };

// m query rows, each against the first counts[row] of the cache rows that `rows` selects: rows[j] is the one that position j
// shows. heads is a multiple of kv_heads; query head h reads KV head h / (heads / kv_heads). counts are at least 1, d any
// size. next: the next_count cache rows of the same memory that will be read after these, of which the first are asked for
// meanwhile; none where next_count is 0. out: [m, heads * d], ldo floats apart. scratch: anira_attention_scratch floats. Rows
// that share a list read it once.
void anira_attention(const float *q, int ldq, const int32_t *counts, int m, const anira_cache *cache,
                     const uint32_t *rows, const uint32_t *next, int next_count, int heads, int kv_heads, int d,
                     float scale, float *scratch, float *out, int ldo);
// Enough for m rows and fewer, and `count` positions and fewer.
size_t anira_attention_scratch(int m, int heads, int kv_heads, int count, int d);

// ---- limits ---------------------------------------------------------------------------------------------
// Sum of n floats, as fast as memory delivers them: the read-bandwidth floor that benches compare with.
float anira_sum(const float *x, size_t n);
// Does `rounds` of independent multiply-adds in registers; returns how many floating-point operations they were: the rate
// that no product exceeds.
double anira_multiply_adds(size_t rounds);

// ---- checksums ----------------------------------------------------------------------------------------
// CRC-32C (Castagnoli) of n bytes, continuing from `crc` (0 to start).
uint32_t anira_crc32c(uint32_t crc, const void *data, size_t n);

// ---- faults ----------------------------------------------------------------------------------------
// What a process says on standard error before it ends because a file is damaged. Where `aside` is not NULL, the file gets
// that name first, `lock` is removed, and `aside_text` is said: whoever starts the process again finds the place empty.
struct anira_last_words {
    const char *text;
    const char *file, *aside, *lock, *aside_text;
};

// EX_TEMPFAIL of sysexits.h: the file is out of the way, to start again helps.
#define ANIRA_SET_ASIDE_STATUS 75

// While `words` are set for the calling thread, a fault in memory or abort on it ends the process as anira_leave does. NULL: as
// if nobody cared. Gives back what was set before; the words must live as long as they are set.
const struct anira_last_words *anira_last_words(const struct anira_last_words *words);

// Says the words and ends the process: with ANIRA_SET_ASIDE_STATUS when the file was set aside, with 1 otherwise.
_Noreturn void anira_leave(const struct anira_last_words *words);

// ---- references: naive loops that the fast kernels are tested against -------------------------------------
void anira_reference_matmul(const float *x, int ldx, const float *w, int m, int n, int k, float *y, int ldy);
void anira_reference_attention(const float *q, const float *cache, size_t stride, size_t key_offset,
                               size_t value_offset, const uint32_t *rows, int count, int heads, int kv_heads, int d,
                               float scale, float *out);

#ifdef __cplusplus
}
#endif
#endif
