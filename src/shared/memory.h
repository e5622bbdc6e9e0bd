/* Zeroed memory at a cache line's start, so that no vector lies across two, and in huge
 * pages where it is large: a step walks over every weight, and with small pages it would
 * wait for their addresses more than for the numbers. */
#ifndef MICROGPT_MEMORY_H
#define MICROGPT_MEMORY_H

#include <stdlib.h>
#include <string.h>

#if defined(__linux__)
#include <sys/mman.h>
#elif defined(_WIN32)
#include <malloc.h>
#endif

#define CACHE_LINE ((size_t)64)
#define HUGE_PAGE ((size_t)2 << 20)

static inline void *zeros(size_t bytes) {
    void *p = NULL;
    int huge = bytes >= 2 * HUGE_PAGE;
#if defined(_WIN32)
    p = _aligned_malloc(bytes, huge ? HUGE_PAGE : CACHE_LINE);
    if (!p) return NULL;
#else
    if (posix_memalign(&p, huge ? HUGE_PAGE : CACHE_LINE, bytes)) return NULL;
#endif
#if defined(__linux__)
    if (huge) madvise(p, bytes, MADV_HUGEPAGE);
#endif
    return memset(p, 0, bytes);
}

/* Free memory that zeros returned. */
static inline void free_zeros(void *p) {
#if defined(_WIN32)
    _aligned_free(p);
#else
    free(p);
#endif
}

#endif
