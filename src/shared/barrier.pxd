"""Threads, and the barrier at which they wait for each other: see barrier.h."""


cdef extern from "barrier.h" nogil:
    ctypedef struct Barrier:
        int size
    void barrier_init(Barrier *barrier, int size)
    void barrier_wait(Barrier *barrier)
    int take_share(Barrier *barrier)
    ctypedef struct pthread_t:
        pass
    int start_thread(pthread_t *thread, void *(*work)(void *) noexcept nogil, void *argument)
    int pthread_join(pthread_t thread, void **result)

cdef extern from "unistd.h" nogil:
    int getpid()
