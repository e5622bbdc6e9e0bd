/* One vector type for every instruction set: LANES doubles, as many as a
 * register of the compiled target holds. `+ - * /` on it are the compilers'
 * own vector arithmetic (GCC, Clang), lane by lane, so the bits are the same
 * everywhere. What they have no operator for is below. */
#ifndef MICROGPT_SIMD_H
#define MICROGPT_SIMD_H

#include <math.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define LANES 8
#define TILE_ROWS 8
#define TILE_VECS 3
#elif defined(__AVX__)
#define LANES 4
#define TILE_ROWS 6
#define TILE_VECS 2
#elif defined(__aarch64__)
#define LANES 2
#define TILE_ROWS 6
#define TILE_VECS 4
#else
#define LANES 2
#define TILE_ROWS 6
#define TILE_VECS 2
#endif

#define PANEL (TILE_VECS * LANES)

typedef double vec __attribute__((vector_size(LANES * 8)));

static inline vec vec_set(double x) { return x - (vec){}; }

static inline vec vec_load(const double *p) {
    vec x;
    memcpy(&x, p, sizeof x);
    return x;
}

static inline void vec_store(double *p, vec x) { memcpy(p, &x, sizeof x); }

/* Store the first count lanes, and touch nothing after them. */
static inline void vec_store_part(double *p, vec x, Py_ssize_t count) {
    for (Py_ssize_t i = 0; i < count; i++) p[i] = x[i];
}

/* What follows compares. A mask says in which lanes a comparison holds. */
typedef long long ints __attribute__((vector_size(LANES * 8)));

/* The larger of size and |x|, or size where x is no number. */
static inline vec vec_max_size(vec size, vec x) {
    ints magnitude = (ints)x & 0x7fffffffffffffffLL, larger = (vec)magnitude > size;
    return (vec)((magnitude & larger) | ((ints)size & ~larger));
}

/* The largest power of two that is not above a normal positive number. */
static inline vec vec_power_of_two(vec x) { return (vec)((ints)x & 0x7ff0000000000000LL); }

/* The double before a normal positive number where side is negative, else the one after it. */
static inline vec vec_neighbour(vec x, vec side) {
    return (vec)((ints)x + 1 + 2 * (ints)(side < vec_set(0.0)));
}

#if defined(__AVX512F__)
typedef __mmask8 mask;
static inline vec vec_sqrt(vec x) { return _mm512_sqrt_pd(x); }
static inline mask vec_equal(vec a, vec b) { return _mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ); }
static inline mask vec_within(vec low, vec x, vec high) {
    return _mm512_mask_cmp_pd_mask(_mm512_cmp_pd_mask(low, x, _CMP_LE_OQ), x, high, _CMP_LE_OQ);
}
static inline unsigned mask_bits(mask m) { return m; }
#else
typedef ints mask;
static inline mask vec_equal(vec a, vec b) { return a == b; }
static inline mask vec_within(vec low, vec x, vec high) { return (low <= x) & (x <= high); }
#if defined(__AVX2__)
static inline vec vec_sqrt(vec x) { return _mm256_sqrt_pd(x); }
static inline unsigned mask_bits(mask m) { return _mm256_movemask_pd((vec)m); }
#else
static inline vec vec_sqrt(vec x) {
    for (int i = 0; i < LANES; i++) x[i] = sqrt(x[i]);
    return x;
}
static inline unsigned mask_bits(mask m) {
    unsigned bits = 0;
    for (int i = 0; i < LANES; i++) bits |= (m[i] != 0) << i;
    return bits;
}
#endif
#endif

/* x - s * s, exactly, where s * s is x but for its rounding. */
static inline vec vec_residual(vec x, vec s) {
#if defined(__AVX512F__)
    return _mm512_fnmadd_pd(s, s, x);
#elif defined(__FMA__)
    return _mm256_fnmadd_pd(s, s, x);
#elif defined(__aarch64__)
    return vfmsq_f64(x, s, s);
#else
    /* s * s = square + low exactly (Dekker, Veltkamp), x - square because they are close. */
    vec square = s * s, big = s * 134217729.0, high = big - (big - s), rest = s - high;
    vec low = ((high * high - square) + 2.0 * high * rest) + rest * rest;
    return (x - square) - low;
#endif
}

/* The number of the first 26 bits of a double; what is left of it has 27. */
static inline double first_half(double x) {
    unsigned long long bits;
    memcpy(&bits, &x, sizeof x);
    bits &= ~0x7ffffffULL;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The largest power of two that is not above a normal positive number. */
static inline double power_of_two(double x) {
    unsigned long long bits;
    memcpy(&bits, &x, sizeof x);
    bits &= 0x7ff0000000000000ULL;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Whether libm is glibc 2.28 or later, whose pow has the bound of optimizer.pxd. */
#if defined(__GLIBC__)
#include <gnu/libc-version.h>
#include <stdlib.h>
static inline int pow_keeps_bound(void) {
    const char *version = gnu_get_libc_version();
    const char *minor = strchr(version, '.');
    return atoi(version) > 2 || (atoi(version) == 2 && minor && atoi(minor + 1) >= 28);
}
#else
static inline int pow_keeps_bound(void) { return 0; }
#endif

/* Whether this processor runs code compiled for an instruction set. */
#if defined(__x86_64__)
static inline int runs_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
static inline int runs_avx512(void) {
    return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
#else
static inline int runs_avx2(void) { return 0; }
static inline int runs_avx512(void) { return 0; }
#endif

#endif
