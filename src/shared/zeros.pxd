"""Zeroed, aligned memory: see zeros.h."""


# glibc has a memory.h, which flags of the user may bring first.
cdef extern from "zeros.h" nogil:
    void *zeros(size_t n_bytes)
    void free_zeros(void *p)
