/* Zeroed memory at a cache line's start, so that no vector lies across two, and in huge
 * pages where it is large: a step reads every weight, and with small pages it would wait longer
 * for the translation of addresses than for the numbers. */
#ifndef MICROGPT_ZEROS_H
#define MICROGPT_ZEROS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#define CACHE_LINE ((size_t)64)
#define HUGE_PAGE ((size_t)2 << 20)

/* calloc does not clear large memory again, which is zero as it comes from the system. Small
 * memory is cleared here, so that all of it is resident at once. What the allocator returned is
 * kept before the aligned memory. */
static inline void *zeros(size_t bytes) {
    int huge = bytes >= 2 * HUGE_PAGE;
    size_t align = huge ? HUGE_PAGE : CACHE_LINE;
    size_t more = align + sizeof(void *);
    if (bytes > SIZE_MAX - more) return NULL;
    char *start = huge ? calloc(1, bytes + more) : malloc(bytes + more);
    if (!start) return NULL;
    void **p = (void **)(((uintptr_t)start + more) & ~(uintptr_t)(align - 1));
    p[-1] = start;
#if defined(__linux__)
    if (huge) madvise(p, bytes, MADV_HUGEPAGE);
#endif
    return huge ? p : memset(p, 0, bytes);
}

/* Free memory that zeros returned. */
static inline void free_zeros(void *p) {
    if (p) free(((void **)p)[-1]);
}

#endif
