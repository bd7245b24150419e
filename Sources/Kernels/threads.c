// The threads that products share. One caller at a time has them; another works alone meanwhile, which changes nothing
// but its speed, since no result depends on who computes what.
#define _GNU_SOURCE
#include "kernels.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>

enum {
    MOST_THREADS = 64,
    // Rounds of waiting before a thread sleeps: a few tens of microseconds, the gap between the products of a layer.
    SPINS = 2000
};

static struct {
    pthread_mutex_t caller;  // held by whoever has the threads
    pthread_mutex_t lock;    // guards `sleeping` and the condition
    pthread_cond_t wake;
    atomic_int threads, started, sleeping;
    // The job. A ticket is its number (32 bits), how many parts it has (16) and how many are taken (16), in one word, so
    // that taking a part of a job that has ended fails.
    atomic_ulong ticket;
    atomic_int left;
    atomic_int crew;  // threads that may yet join the caller
    void (*body)(void *context, int part);
    void *context;
} pool = {.caller = PTHREAD_MUTEX_INITIALIZER,
          .lock = PTHREAD_MUTEX_INITIALIZER,
          .wake = PTHREAD_COND_INITIALIZER,
          .threads = 1,
          .started = 1};

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    sched_yield();
#endif
}

// Takes parts of job `number` until none are left.
static void work(unsigned long number) {
    for (;;) {
        unsigned long ticket = atomic_load_explicit(&pool.ticket, memory_order_acquire);
        unsigned long part = ticket & 0xffff, parts = ticket >> 16 & 0xffff;
        if (ticket >> 32 != number || part >= parts) return;
        if (!atomic_compare_exchange_weak(&pool.ticket, &ticket, ticket + 1)) continue;
        pool.body(pool.context, (int)part);
        atomic_fetch_sub_explicit(&pool.left, 1, memory_order_release);
    }
}

static void *serve(void *unused) {
    (void)unused;
    unsigned long seen = 0;
    for (;;) {
        unsigned long number = atomic_load_explicit(&pool.ticket, memory_order_acquire) >> 32;
        for (int spin = 0; number == seen && spin < SPINS; spin++) {
            relax();
            if (spin % 64 == 63 && anira_processors_left() < 2) break;  // another process has use for this one
            number = atomic_load_explicit(&pool.ticket, memory_order_acquire) >> 32;
        }
        if (number == seen) {
            pthread_mutex_lock(&pool.lock);
            atomic_fetch_add(&pool.sleeping, 1);
            while ((number = atomic_load(&pool.ticket) >> 32) == seen) pthread_cond_wait(&pool.wake, &pool.lock);
            atomic_fetch_sub(&pool.sleeping, 1);
            pthread_mutex_unlock(&pool.lock);
        }
        seen = number;
        if (atomic_fetch_sub(&pool.crew, 1) > 0) work(number);
    }
    return NULL;
}

void anira_set_threads(int count) {
    count = count < 1 ? 1 : count > MOST_THREADS ? MOST_THREADS : count;
    pthread_mutex_lock(&pool.caller);
    while (atomic_load(&pool.started) < count) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, serve, NULL) != 0) {
            perror("fewer threads than asked for");
            count = atomic_load(&pool.started);
            break;
        }
        pthread_detach(thread);
        atomic_fetch_add(&pool.started, 1);
    }
    atomic_store(&pool.threads, count);
    pthread_mutex_unlock(&pool.caller);
}

int anira_threads(void) {
    int threads = atomic_load_explicit(&pool.threads, memory_order_relaxed);
    if (threads < 2) return threads;
    int left = anira_processors_left();
    return left < threads ? left : threads;
}

void anira_parallel(int parts, void (*body)(void *context, int part), void *context) {
    int threads = parts < 2 ? 1 : anira_threads();
    if (threads < 2 || parts > 0xffff || pthread_mutex_trylock(&pool.caller) != 0) {
        for (int part = 0; part < parts; part++) body(context, part);
        return;
    }
    // No thread is inside the last job: its `left` reached 0.
    pool.body = body;
    pool.context = context;
    anira_take_processors(threads);
    atomic_store(&pool.left, parts);
    atomic_store(&pool.crew, threads - 1);
    unsigned long number = ((atomic_load(&pool.ticket) >> 32) + 1) & 0xffffffff;
    atomic_store(&pool.ticket, number << 32 | (unsigned long)parts << 16);
    if (atomic_load(&pool.sleeping) > 0) {
        pthread_mutex_lock(&pool.lock);
        for (int woken = 1; woken < threads; woken++) pthread_cond_signal(&pool.wake);
        pthread_mutex_unlock(&pool.lock);
    }
    work(number);
    for (int spin = 0; atomic_load_explicit(&pool.left, memory_order_acquire) > 0; spin++)
        spin < SPINS ? relax() : (void)sched_yield();
    anira_take_processors(1);
    pthread_mutex_unlock(&pool.caller);
}
