/* Threads, and a barrier at which each waits until all have arrived. The wait is mostly short, so
 * it spins first; then it sleeps, so that another thread or program takes the core. */
#ifndef MICROGPT_BARRIER_H
#define MICROGPT_BARRIER_H

#include <pthread.h>

typedef struct {
    int size;
    int arrived;
    int round;
    int sleepers;
    int taken; /* shares of the work between two waits: see take_share */
    pthread_mutex_t mutex;
    pthread_cond_t next_round;
} Barrier;

#define SPINS 1000 /* about 20 microseconds */

static inline void barrier_init(Barrier *barrier, int size) {
    Barrier fresh = {size, 0, 0, 0, 0, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER};
    *barrier = fresh;
}

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

static inline int round_of(Barrier *barrier) {
    return __atomic_load_n(&barrier->round, __ATOMIC_SEQ_CST);
}

static inline void barrier_wait(Barrier *barrier) {
    int size = __atomic_load_n(&barrier->size, __ATOMIC_RELAXED); /* grows while threads start */
    if (size == 1) {
        barrier->taken = 0;
        return;
    }
    int round = round_of(barrier);
    int arrived = __atomic_add_fetch(&barrier->arrived, 1, __ATOMIC_ACQ_REL);
    if (arrived == __atomic_load_n(&barrier->size, __ATOMIC_RELAXED)) {
        __atomic_store_n(&barrier->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&barrier->taken, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&barrier->round, round + 1, __ATOMIC_SEQ_CST);
        /* A thread that counts itself after this sees the new round, and does not sleep. */
        if (__atomic_load_n(&barrier->sleepers, __ATOMIC_SEQ_CST)) {
            pthread_mutex_lock(&barrier->mutex);
            pthread_cond_broadcast(&barrier->next_round);
            pthread_mutex_unlock(&barrier->mutex);
        }
        return;
    }
    for (int i = 0; i < SPINS; i++) {
        if (round_of(barrier) != round) return;
        relax();
    }
    pthread_mutex_lock(&barrier->mutex);
    __atomic_add_fetch(&barrier->sleepers, 1, __ATOMIC_SEQ_CST);
    while (round_of(barrier) == round) pthread_cond_wait(&barrier->next_round, &barrier->mutex);
    __atomic_sub_fetch(&barrier->sleepers, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&barrier->mutex);
}

/* Return the number of the next share of the work, counted from the last wait on. */
static inline int take_share(Barrier *barrier) {
    if (barrier->size == 1) return barrier->taken++;
    return __atomic_fetch_add(&barrier->taken, 1, __ATOMIC_RELAXED);
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
