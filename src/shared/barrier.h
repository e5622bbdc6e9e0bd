/* Threads, and a barrier at which each waits until all have arrived. The wait is short, so it
 * spins, then yields the processor, then sleeps. */
#ifndef MICROGPT_BARRIER_H
#define MICROGPT_BARRIER_H

#include <pthread.h>
#include <sched.h>
#include <time.h>

typedef struct {
    int size;
    int arrived;
    int round;
} Barrier;

static inline void barrier_wait(Barrier *barrier) {
    int size = __atomic_load_n(&barrier->size, __ATOMIC_RELAXED); /* grows while threads start */
    if (size == 1) return;
    int round = __atomic_load_n(&barrier->round, __ATOMIC_RELAXED);
    int arrived = __atomic_add_fetch(&barrier->arrived, 1, __ATOMIC_ACQ_REL);
    if (arrived == __atomic_load_n(&barrier->size, __ATOMIC_RELAXED)) {
        __atomic_store_n(&barrier->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&barrier->round, round + 1, __ATOMIC_RELEASE);
        return;
    }
    for (long spins = 0; __atomic_load_n(&barrier->round, __ATOMIC_ACQUIRE) == round; spins++) {
        if (spins > 20000) {
            struct timespec moment = {0, 20000};
            nanosleep(&moment, NULL);
        } else if (spins > 2000) {
            sched_yield();
        }
    }
}

/* Python's own threads may wait for ever for one that found no memory to begin; these report
 * the system's error at once. They run no Python code. */
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
