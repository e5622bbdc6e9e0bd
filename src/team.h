/* Threads that meet: each waits until all have come. The wait is short, so it spins,
 * but gives the processor away when it is not. */
#ifndef MICROGPT_TEAM_H
#define MICROGPT_TEAM_H

#include <pthread.h>
#include <sched.h>
#include <time.h>

typedef struct {
    int size;
    int arrived;
    int round;
} Team;

static inline void meet(Team *team) {
    if (team->size == 1) return;
    int round = __atomic_load_n(&team->round, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(&team->arrived, 1, __ATOMIC_ACQ_REL) == team->size) {
        __atomic_store_n(&team->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&team->round, round + 1, __ATOMIC_RELEASE);
        return;
    }
    for (long spins = 0; __atomic_load_n(&team->round, __ATOMIC_ACQUIRE) == round; spins++) {
        if (spins > 20000) {
            struct timespec moment = {0, 20000};
            nanosleep(&moment, NULL);
        } else if (spins > 2000) {
            sched_yield();
        }
    }
}

/* Threads without a Python state: the system's answer comes at once, where Python's own threads
 * may wait for one that found no memory to begin. */
#define STACK_BYTES ((size_t)1 << 20)

/* Start work(argument) in a thread of its own; return 0, or the error. */
static inline int start_thread(pthread_t *thread, void *(*work)(void *), void *argument) {
    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);
    if (error) return error;
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    error = pthread_create(thread, &attributes, work, argument);
    pthread_attr_destroy(&attributes);
    return error;
}

#endif
