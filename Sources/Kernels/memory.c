// Memory for weights, and the layout they are packed in.
#define _DEFAULT_SOURCE
#include "kernels.h"

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

size_t anira_packed_count(int n, int k) { return ((size_t)n + 15) / 16 * 16 * (size_t)k; }

// Outputs 16 panel ..< 16 panel + 16 of w [n, k] to [k][16], zeros past n.
static void pack_panel(const float *w, int n, int k, int panel, float *packed) {
    for (int lane = 0; lane < 16; lane++) {
        int output = panel * 16 + lane;
        const float *row = w + (size_t)output * (size_t)k;
        for (int i = 0; i < k; i++) packed[(size_t)i * 16 + (size_t)lane] = output < n ? row[i] : 0;
    }
}

void anira_pack(const float *w, int n, int k, float *packed) {
    for (int panel = 0; panel * 16 < n; panel++) pack_panel(w, n, k, panel, packed + (size_t)panel * 16 * (size_t)k);
}

void anira_pack_pair(const float *gate, const float *up, int n, int k, float *packed) {
    size_t size = 16 * (size_t)k;
    for (int panel = 0; panel * 16 < n; panel++, packed += 2 * size) {
        pack_panel(gate, n, k, panel, packed);
        pack_panel(up, n, k, panel, packed + size);
    }
}
