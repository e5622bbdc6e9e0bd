/* Preloaded into a test's process: malloc and its kin, which fail when told to. */
#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

static long left, rest; /* allocations until the next failure; how many fail after it */

/* Let the n-th allocation from now fail (0: none), and so many more that follow it. */
void fail_at(long n, long more) {
    rest = more;
    __atomic_store_n(&left, n, __ATOMIC_SEQ_CST);
}

/* Return whether the failure has not come yet. */
int is_pending(void) { return __atomic_load_n(&left, __ATOMIC_SEQ_CST) > 0; }

static int fails(void) {
    long n = __atomic_load_n(&left, __ATOMIC_SEQ_CST);
    if (n == 0) return 0;
    if (n < 0) return __atomic_fetch_sub(&rest, 1, __ATOMIC_SEQ_CST) > 0 ? (errno = ENOMEM) : 0;
    if (__atomic_sub_fetch(&left, 1, __ATOMIC_SEQ_CST) > 0) return 0;
    __atomic_store_n(&left, -1, __ATOMIC_SEQ_CST);
    return errno = ENOMEM;
}

void *malloc(size_t n) { return fails() ? NULL : __libc_malloc(n); }
void *calloc(size_t n, size_t size) { return fails() ? NULL : __libc_calloc(n, size); }
void *realloc(void *p, size_t n) { return fails() ? NULL : __libc_realloc(p, n); }
int posix_memalign(void **p, size_t alignment, size_t n) {
    if (fails()) return ENOMEM;
    *p = __libc_memalign(alignment, n);
    return *p ? 0 : ENOMEM;
}
