/* Zeroed memory at a cache line's start, so that no vector lies across two, and in huge
 * pages where it is large: a step walks over every weight, and with small pages it would
 * wait for their addresses more than for the numbers. */
#ifndef MICROGPT_MEMORY_H
#define MICROGPT_MEMORY_H

#include <stdlib.h>
#include <string.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#define CACHE_LINE ((size_t)64)
#define HUGE_PAGE ((size_t)2 << 20)

static inline void *zeros(size_t bytes) {
    void *p = NULL;
    int huge = bytes >= 2 * HUGE_PAGE;
    if (posix_memalign(&p, huge ? HUGE_PAGE : CACHE_LINE, bytes)) return NULL;
#if defined(__linux__)
    if (huge) madvise(p, bytes, MADV_HUGEPAGE);
#endif
    return memset(p, 0, bytes);
}

#endif
