#include <sys/eventfd.h>
#include <zmq.h>

// eventfd(2) and its flags are outside Swift's Glibc module.
static inline int anira_eventfd(void) { return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC); }
