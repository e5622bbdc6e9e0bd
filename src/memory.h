/* Zeroed memory, in huge pages where it is large: a step walks over every weight, and
 * with small pages it would wait for their addresses more than for the numbers. */
#ifndef MICROGPT_MEMORY_H
#define MICROGPT_MEMORY_H

#include <stdlib.h>
#include <string.h>

#if defined(__linux__)
#include <sys/mman.h>
#define HUGE_PAGE ((size_t)2 << 20)

static inline void *zeros(size_t bytes) {
    void *p = NULL;
    if (bytes < 2 * HUGE_PAGE) return calloc(bytes, 1);
    if (posix_memalign(&p, HUGE_PAGE, bytes)) return NULL;
    madvise(p, bytes, MADV_HUGEPAGE);
    return memset(p, 0, bytes);
}
#else
static inline void *zeros(size_t bytes) { return calloc(bytes, 1); }
#endif

#endif
