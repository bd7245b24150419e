// Last words for a library that follows damaged data into memory that is not there (LMDB checks no page before it follows
// it), or gives up with abort: instead of dying by a signal without a word, the process says what it was reading and ends
// with status 1.
#include "kernels.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static const int signals[] = {SIGSEGV, SIGBUS, SIGABRT};
enum { COUNT = sizeof signals / sizeof *signals };

static _Thread_local const char *words;
static struct sigaction before[COUNT];
static pthread_once_t installed = PTHREAD_ONCE_INIT;

// Runs on the thread at fault. Without words the signal comes once more, to whom it went before.
static void fault(int number) {
    if (words) {
        if (write(STDERR_FILENO, words, strlen(words)) < 0) _exit(2);
        _exit(1);
    }
    for (int i = 0; i < COUNT; i++) {
        if (signals[i] == number) sigaction(number, &before[i], NULL);
    }
    raise(number);
}

static void install(void) {
    struct sigaction action = {.sa_handler = fault};
    for (int i = 0; i < COUNT; i++) sigaction(signals[i], &action, &before[i]);
}

const char *anira_last_words(const char *text) {
    pthread_once(&installed, install);
    const char *earlier = words;
    words = text;
    return earlier;
}
