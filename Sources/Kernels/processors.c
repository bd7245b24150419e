// Processors that several processes compute on. On a page of memory that they share, each says how many of its threads compute;
// a product takes further threads along only where a processor is left for them. Without it the threads of one stage wait for
// processors that another stage computes on, and every product for them. Only speed depends on it: what the page says may be
// late or wrong.
#define _GNU_SOURCE
#include "kernels.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { LINE = 64, SLOTS = 63, PAGE = LINE * (1 + SLOTS) };

// A process that said nothing for as long does not compute: it was killed, or stopped.
static const unsigned long SILENCE_NS = 1000000000;

typedef struct {
    _Alignas(LINE) atomic_ulong said;  // CLOCK_MONOTONIC
    atomic_int threads;
} Slot;

typedef struct {
    _Alignas(LINE) atomic_uint claims;  // processes so far; after SLOTS of them slots are used again
    Slot slots[SLOTS];
} Page;

_Static_assert(sizeof(Page) == PAGE, "one line a process");

static struct {
    _Atomic(Page *) page;
    Slot *own;
    int processors;
} shared;

static unsigned long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (unsigned long)time.tv_sec * 1000000000 + (unsigned long)time.tv_nsec;
}

// Maps the file, made as long as a page of it is, with its disk space: a full disk has to be told here, not by a signal later.
static int map(const char *path, Page **page) {
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) return errno;
    int result = posix_fallocate(file, 0, PAGE);
    void *memory = result ? MAP_FAILED : mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (!result && memory == MAP_FAILED) result = errno;
    close(file);
    *page = memory;
    return result;
}

int anira_share_processors(const char *path, int processors) {
    Page *page;
    int result = map(path, &page);
    if (result) return result;
    shared.own = &page->slots[atomic_fetch_add(&page->claims, 1) % SLOTS];
    shared.processors = processors;
    atomic_store(&shared.own->threads, 0);
    atomic_store(&shared.page, page);
    return 0;
}

int anira_processors_left(void) {
    Page *page = atomic_load_explicit(&shared.page, memory_order_acquire);
    if (!page) return INT_MAX;
    unsigned claims = atomic_load_explicit(&page->claims, memory_order_relaxed);
    unsigned long time = now();
    int left = shared.processors;
    for (unsigned i = 0; i < claims && i < SLOTS; i++) {
        Slot *slot = &page->slots[i];
        int threads = atomic_load_explicit(&slot->threads, memory_order_relaxed);
        if (slot == shared.own || threads < 1 || threads > shared.processors) continue;
        // It may have said so after `time` was read.
        long silence = (long)(time - atomic_load_explicit(&slot->said, memory_order_relaxed));
        if (silence < (long)SILENCE_NS) left -= threads;
    }
    return left < 1 ? 1 : left;
}

void anira_take_processors(int threads) {
    if (!atomic_load_explicit(&shared.page, memory_order_acquire)) return;
    atomic_store_explicit(&shared.own->said, now(), memory_order_relaxed);
    atomic_store_explicit(&shared.own->threads, threads, memory_order_relaxed);
}
