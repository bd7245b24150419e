// Last words for a library that follows damaged data into memory that is not there (LMDB checks no page before it follows
// it), or gives up with abort: instead of dying by a signal without a word, the process says what it was reading, puts it out
// of the way where it may, and ends.
#include "kernels.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const int signals[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE};
enum { COUNT = sizeof signals / sizeof *signals };

static _Thread_local const struct anira_last_words *words;
static struct sigaction before[COUNT];
static pthread_once_t installed = PTHREAD_ONCE_INIT;

// Calls only what a signal handler may.
void anira_leave(const struct anira_last_words *said) {
    int is_aside = said->aside && rename(said->file, said->aside) == 0;
    if (is_aside) unlink(said->lock);
    const char *text = is_aside ? said->aside_text : said->text;
    if (write(STDERR_FILENO, text, strlen(text)) < 0) _exit(2);
    _exit(is_aside ? ANIRA_SET_ASIDE_STATUS : 1);
}

// Runs on the thread at fault. Without words, or when another process sent the signal, it comes once more, to whom it went
// before.
static void fault(int number, siginfo_t *info, void *context) {
    (void)context;
    if (words && (info->si_code > 0 || info->si_pid == getpid())) anira_leave(words);
    for (int i = 0; i < COUNT; i++) {
        if (signals[i] == number) sigaction(number, &before[i], NULL);
    }
    raise(number);
}

static void install(void) {
    struct sigaction action = {.sa_sigaction = fault, .sa_flags = SA_SIGINFO};
    for (int i = 0; i < COUNT; i++) sigaction(signals[i], &action, &before[i]);
}

const struct anira_last_words *anira_last_words(const struct anira_last_words *said) {
    pthread_once(&installed, install);
    const struct anira_last_words *earlier = words;
    words = said;
    return earlier;
}
