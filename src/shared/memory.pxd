"""Zeroed, aligned memory: see memory.h."""


cdef extern from "memory.h" nogil:
    void *zeros(size_t n_bytes)
    void free_zeros(void *p)
