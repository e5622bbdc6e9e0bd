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

/* The most of any instruction set: code that is compiled once leaves room for these. */
#define MOST_LANES 8
#define WIDEST_PANEL 24
_Static_assert(LANES <= MOST_LANES && PANEL <= WIDEST_PANEL, "there is not room for a vector");

typedef double vec __attribute__((vector_size(LANES * 8)));

static inline vec vec_set(double x) { return x - (vec){}; }

static inline vec vec_load(const double *p) {
    vec x;
    memcpy(&x, p, sizeof x);
    return x;
}

static inline void vec_store(double *p, vec x) { memcpy(p, &x, sizeof x); }

/* The constraint of a vector register in inline assembly. */
#if defined(__AVX512F__)
#define VEC_REGISTER "+v"
#elif defined(__x86_64__)
#define VEC_REGISTER "+x"
#elif defined(__aarch64__)
#define VEC_REGISTER "+w"
#else
#define VEC_REGISTER "+m"
#endif

/* *x * y. Compilers load *x into a register for several products, but on Zen 4 such a broadcast
 * takes the place of half a multiplication; as its operand it takes none. */
static inline vec vec_times(const double *x, vec y) {
#if defined(__AVX512F__)
    vec product;
    __asm__("vmulpd %1%{1to8%}, %2, %0" : "=v"(product) : "m"(*x), "v"(y));
    return product;
#else
    return *x * y;
#endif
}

/* Store the first count lanes, and touch nothing after them. */
static inline void vec_store_part(double *p, vec x, Py_ssize_t count) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_pd(p, (1u << count) - 1, x);
#else
    if (count == LANES) vec_store(p, x);
    else for (Py_ssize_t i = 0; i < count; i++) p[i] = x[i];
#endif
}

/* Write the transpose of a square of LANES rows of from. Each round interleaves the
 * first half of the vectors with the second (a perfect shuffle). */
#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ints){__VA_ARGS__})
#endif
#if LANES == 8
#define SHUFFLE_LOW(a, b) SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define SHUFFLE_HIGH(a, b) SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#elif LANES == 4 /* 0 4 1 5 and 2 6 3 7: gcc would take six instructions for the two, not four */
#define SHUFFLE_HALVES(a, b, halves) \
    _mm256_permute2f128_pd(_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b), halves)
#define SHUFFLE_LOW(a, b) SHUFFLE_HALVES(a, b, 0x20)
#define SHUFFLE_HIGH(a, b) SHUFFLE_HALVES(a, b, 0x31)
#else
#define SHUFFLE_LOW(a, b) SHUFFLE(a, b, 0, 2)
#define SHUFFLE_HIGH(a, b) SHUFFLE(a, b, 1, 3)
#endif
typedef long long ints __attribute__((vector_size(LANES * 8)));

static inline void vec_transpose(double *to, Py_ssize_t to_row, const double *const *from,
                                 Py_ssize_t k) {
    vec x[LANES], y[LANES];
    for (int i = 0; i < LANES; i++) x[i] = vec_load(from[i] + k);
    for (int round = LANES; round > 1; round /= 2) {
        for (int i = 0; i < LANES / 2; i++) {
            y[2 * i] = SHUFFLE_LOW(x[i], x[i + LANES / 2]);
            y[2 * i + 1] = SHUFFLE_HIGH(x[i], x[i + LANES / 2]);
        }
        memcpy(x, y, sizeof x);
    }
    for (int i = 0; i < LANES; i++) vec_store(to + i * to_row, x[i]);
}

/* The lanes of before up to first, then those of after; first from -LANES to 2 * LANES. */
static inline vec vec_join(vec before, vec after, Py_ssize_t first) {
    static const long long lanes[4 * LANES] = {[2 * LANES ... 4 * LANES - 1] = -1};
    ints whether;
    memcpy(&whether, lanes + 2 * LANES - first, sizeof whether);
    return (vec)(((ints)after & whether) | ((ints)before & ~whether));
}

/* Comparisons. A mask says in which lanes one holds. */

/* The larger of a and x, or a where x is NaN. */
static inline vec vec_max(vec a, vec x) {
#if defined(__AVX512F__)
    return _mm512_max_pd(x, a);
#elif defined(__AVX__)
    return _mm256_max_pd(x, a);
#else
    ints larger = x > a;
    return (vec)(((ints)x & larger) | ((ints)a & ~larger));
#endif
}

/* The distance from the largest power of two that is not above x, a positive number from 1e-290 on,
 * to the next double, times a factor. */
static inline vec vec_units(vec x, double factor) {
    return (vec)(((ints)x & 0x7ff0000000000000LL) + ((ints)vec_set(factor * 0x1p-52) - (ints)vec_set(1.0)));
}

/* The double before a positive number. */
static inline vec vec_before(vec x) { return (vec)((ints)x - 1); }

/* The double after a positive number, or before it where side is negative. */
static inline vec vec_neighbour(vec x, vec side) { return (vec)((ints)x + ((ints)side >> 63 | 1)); }

static inline vec vec_size(vec x) { return (vec)((ints)x & 0x7fffffffffffffffLL); }

/* Where a is larger than b or one of them is NaN; where they are not equal; where the bits
 * of a are below those of b as whole numbers. */
#if defined(__AVX512F__)
typedef __mmask8 mask;
static inline vec vec_sqrt(vec x) { return _mm512_sqrt_pd(x); }
static inline mask vec_exceeds(vec a, vec b) { return _mm512_cmp_pd_mask(a, b, _CMP_NLE_UQ); }
static inline mask vec_differ(vec a, vec b) { return _mm512_cmp_pd_mask(a, b, _CMP_NEQ_UQ); }
static inline mask bits_below(ints a, ints b) {
    return _mm512_cmplt_epu64_mask((__m512i)a, (__m512i)b);
}
static inline unsigned mask_bits(mask m) { return m; }
#else
typedef ints mask;
#if defined(__AVX__)
static inline mask vec_exceeds(vec a, vec b) { return (ints)_mm256_cmp_pd(a, b, _CMP_NLE_UQ); }
#else
static inline mask vec_exceeds(vec a, vec b) { return ~(a <= b); }
#endif
static inline mask vec_differ(vec a, vec b) { return a != b; }
static inline mask bits_below(ints a, ints b) {
    typedef unsigned long long words __attribute__((vector_size(LANES * 8)));
    return (words)a < (words)b;
}
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

/* Where x is below low, above high or NaN, or x or sign is negative; low and high are not
 * negative. As integers, the bits of such numbers lie outside. */
static inline mask vec_is_outside(vec x, vec sign, double low, double high) {
    ints negative = (ints)sign & (-0x7fffffffffffffffLL - 1);
    ints least = (ints)vec_set(low);
    return bits_below((ints)vec_set(high) - least, ((ints)x | negative) - least);
}

/* x + a * b, rounded once where the processor can. */
#if defined(__AVX512F__)
#define FUSES
static inline vec vec_fma(vec x, vec a, vec b) { return _mm512_fmadd_pd(a, b, x); }
#elif defined(__FMA__)
#define FUSES
static inline vec vec_fma(vec x, vec a, vec b) { return _mm256_fmadd_pd(a, b, x); }
#elif defined(__aarch64__)
#define FUSES
static inline vec vec_fma(vec x, vec a, vec b) { return vfmaq_f64(x, a, b); }
#else
static inline vec vec_fma(vec x, vec a, vec b) { return x + a * b; }
#endif

/* x - a * b, exactly, where a * b is x but for its rounding. */
static inline vec vec_residual(vec x, vec a, vec b) {
#ifdef FUSES
    return vec_fma(x, -a, b);
#else
    /* a * b = product + low exactly (Dekker, Veltkamp), x - product because they are close. */
    vec product = a * b, big_a = a * 134217729.0, big_b = b * 134217729.0;
    vec high_a = big_a - (big_a - a), high_b = big_b - (big_b - b);
    vec rest_a = a - high_a, rest_b = b - high_b;
    vec low = ((high_a * high_b - product) + high_a * rest_b + rest_a * high_b) + rest_a * rest_b;
    return (x - product) - low;
#endif
}

/* A divisor of many numbers, and its inverse as a sum of two doubles. */
typedef struct {
    double number, inverse, rest;
    enum { DIVIDE, MULTIPLY, LEAVE } way;
} divisor;

typedef struct {
    vec number, inverse, rest;
    int way;
} vec_divisor;

/* Its first significant bits are not all ones where the inverse is used: see vec_quotient. */
static inline divisor divisor_of(double number) {
    divisor d = {number, 1.0 / number, 0.0, DIVIDE};
    unsigned long long bits;
    memcpy(&bits, &number, sizeof bits);
    d.rest = fma(-d.inverse, number, 1.0) / number;
    if (number == 1.0) d.way = LEAVE;
#ifdef FUSES
    else if ((bits & 0xffffffffffff8ULL) != 0xffffffffffff8ULL) d.way = MULTIPLY;
#endif
    return d;
}

static inline vec_divisor vec_set_divisor(divisor d) {
    vec_divisor v = {vec_set(d.number), vec_set(d.inverse), vec_set(d.rest), d.way};
    return v;
}

/* x / d, correctly rounded, for x and d far from the ends of the range.
 *
 * near is off by half a unit in its last place and 2**-52 of one at most, so that the residual is
 * exact (it has 53 bits) and residual / d is all that near lacks. Multiplying by inverse instead,
 * which is 1 / d up to half a unit, errs by less than the distance that a quotient of doubles
 * always has from the middle between two, unless d's significant bits are close to all ones
 * (Markstein 1990). */
static inline vec vec_quotient(vec x, vec_divisor d) {
    if (d.way == MULTIPLY) {
        vec near = vec_fma(x * d.rest, x, d.inverse);
        return vec_fma(near, vec_residual(x, near, d.number), d.inverse);
    }
    return d.way == LEAVE ? x : x / d.number;
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

/* Whether libm is glibc 2.28 or later, whose pow has the bound of powers.pxd. */
static int libm_is_known;
#if defined(__GLIBC__)
#include <gnu/libc-version.h>
#include <stdlib.h>
__attribute__((constructor)) static void ask_libm(void) {
    const char *version = gnu_get_libc_version();
    const char *minor = strchr(version, '.');
    libm_is_known = atoi(version) > 2 || (atoi(version) == 2 && minor && atoi(minor + 1) >= 28);
}
#endif
static inline int pow_keeps_bound(void) { return libm_is_known; }

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
