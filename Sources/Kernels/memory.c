// Memory for weights, and the layout they are packed in.
#define _DEFAULT_SOURCE
#include "variant.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { LINE = 64, HUGE = 2 << 20, LARGE = 1 << 20 };

static size_t rounded_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

// Zeroed, on huge pages where the kernel has them: streaming weights through 4 KiB pages costs a TLB miss each.
// More is mapped than needed, to find an aligned start, and the ends are given back.
static void *map_aligned(size_t bytes) {
    size_t mapped = bytes + HUGE;
    char *base = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return NULL;
    size_t before = rounded_up((size_t)base, HUGE) - (size_t)base;
    if (before > 0) munmap(base, before);
    munmap(base + before + bytes, mapped - before - bytes);
    madvise(base + before, bytes, MADV_HUGEPAGE);  // advice: without it the memory is only slower
    return base + before;
}

float *anira_allocate(size_t count) {
    size_t bytes = count * sizeof(float);
    if (bytes >= LARGE) return map_aligned(rounded_up(bytes, HUGE));
    bytes = rounded_up(bytes > 0 ? bytes : 1, LINE);
    float *memory = aligned_alloc(LINE, bytes);
    return memory ? memset(memory, 0, bytes) : NULL;
}

void anira_release(float *memory, size_t count) {
    size_t bytes = count * sizeof(float);
    if (!memory || bytes < LARGE) return free(memory);
    munmap(memory, rounded_up(bytes, HUGE));
}

size_t anira_panel_bytes(anira_format format, int k) {
    size_t pairs = ((size_t)k + 1) / 2;
    switch (format) {
    case ANIRA_F32: return (size_t)k * 64;
    case ANIRA_BF16: return pairs * 64;
    case ANIRA_INT8: return pairs * 32;
    }
    return 0;
}

size_t anira_packed_bytes(anira_format format, int n, int k) {
    return (size_t)anira_columns(n) * anira_panel_bytes(format, k);
}

// As bf16_factors in matmul.h rounds the rows that they are multiplied with. Weights are finite (checked at load).
static uint32_t bf16_factor(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits & 0x7f800000u ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0;
}

// One output of a panel: weights 0..<k to their places, and its scale.
static void pack_output(anira_format format, const float *w, int k, int lane, char *panel, float *scale) {
    float most = 0;
    for (int i = 0; i < k; i++) most = fabsf(w[i]) > most ? fabsf(w[i]) : most;
    if (format == ANIRA_INT8) *scale = most / 127;
    for (int i = 0; i < k; i++) {
        size_t pair = ((size_t)i / 2 * 16 + (size_t)lane);
        switch (format) {
        case ANIRA_F32: ((float *)panel)[(size_t)i * 16 + (size_t)lane] = w[i]; break;
        case ANIRA_BF16: ((uint32_t *)panel)[pair] |= bf16_factor(w[i]) << (i % 2 ? 0 : 16); break;
        case ANIRA_INT8: ((int8_t *)panel)[2 * pair + (size_t)i % 2] = most > 0 ? (int8_t)lrintf(w[i] * (127 / most)) : 0;
        }
    }
}

// Outputs 16 panel ..< 16 panel + 16 of w [n, k], zeros past n.
static void pack_panel(anira_format format, const float *w, int n, int k, int panel, char *packed, float *scales) {
    memset(packed, 0, anira_panel_bytes(format, k));
    for (int lane = 0; lane < 16; lane++) {
        int output = panel * 16 + lane;
        if (format == ANIRA_INT8) scales[lane] = 0;
        if (output < n) pack_output(format, w + (size_t)output * (size_t)k, k, lane, packed, scales + lane);
    }
}

void anira_pack(anira_format format, const float *w, int n, int k, void *panels, float *scales) {
    for (int panel = 0; panel * 16 < n; panel++)
        pack_panel(format, w, n, k, panel, (char *)panels + (size_t)panel * anira_panel_bytes(format, k),
                   scales + panel * 16);
}

void anira_pack_pair(anira_format format, const float *gate, const float *up, int n, int k, void *panels,
                     float *scales) {
    anira_pack(format, gate, n, k, panels, scales);
    anira_pack(format, up, n, k, (char *)panels + anira_packed_bytes(format, n, k), scales + 16 * anira_columns(n));
}

// ---- rows of a product ----------------------------------------------------------------------------------

typedef struct {
    void *inputs;
    float *scales;
    size_t room, scale_room;  // in bytes and floats
} Shortened;

static pthread_key_t shortened_key;
static pthread_once_t shortened_once = PTHREAD_ONCE_INIT;

static void free_shortened(void *memory) {
    Shortened *held = memory;
    free(held->inputs);
    free(held->scales);
    free(held);
}

static void make_shortened_key(void) { pthread_key_create(&shortened_key, free_shortened); }

// The calling thread's memory, grown to the largest batch it saw: nothing is allocated for a token.
static Shortened *shortened_memory(size_t bytes, size_t scales) {
    static _Thread_local Shortened *mine;
    if (!mine) {
        pthread_once(&shortened_once, make_shortened_key);
        mine = calloc(1, sizeof *mine);
        if (mine) pthread_setspecific(shortened_key, mine);
    }
    if (mine && mine->room < bytes) {
        free(mine->inputs);
        mine->inputs = aligned_alloc(LINE, bytes);
        mine->room = bytes;
    }
    if (mine && mine->scale_room < scales) {
        free(mine->scales);
        mine->scales = malloc(scales * sizeof *mine->scales);
        mine->scale_room = scales;
    }
    if (!mine || !mine->inputs || !mine->scales) {
        perror("no memory for the rows of a product");
        abort();
    }
    return mine;
}

Rows anira_rows(const Variant *variant, anira_format format, const float *x, size_t ldx, int m, int k) {
    if (format == ANIRA_F32) return (Rows){x, ldx * sizeof *x, NULL};
    size_t width = rounded_up((size_t)k, 32);
    Shortened *memory = shortened_memory((size_t)m * width * sizeof *x, (size_t)m);
    Rows rows = {memory->inputs, width * sizeof(int16_t), memory->scales};
    if (format == ANIRA_BF16) {
        rows.stride = variant->shorten(x, ldx, m, k, memory->inputs, width);
    } else {
        // The largest integers whose products with bytes cannot overflow a sum of k.
        float most = (float)((INT32_MAX - 1) / 127 / k);
        variant->quantize(x, ldx, m, k, most > INT16_MAX ? INT16_MAX : most, memory->inputs, width, memory->scales);
    }
    return rows;
}
