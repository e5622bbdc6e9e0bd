/* CPython's random.Random().random(): the Mersenne Twister MT19937, two words a number.
 * Source: Modules/_randommodule.c `genrand_uint32`, `_random_Random_random_impl`. */
#ifndef MICROGPT_GENERATOR_H
#define MICROGPT_GENERATOR_H

#include <stdint.h>

enum { WORDS = 624, SHIFT = 397 };

typedef struct {
    uint32_t words[WORDS];
    int next; /* word, or WORDS where all are used */
} Generator;

static inline uint32_t twist(uint32_t high, uint32_t low) {
    uint32_t y = (high & 0x80000000u) | (low & 0x7fffffffu);
    return (y >> 1) ^ (y & 1 ? 0x9908b0dfu : 0);
}

/* Not inlined: once in 312 numbers, and long where it is unrolled. */
__attribute__((noinline)) static void next_words(Generator *g) {
    uint32_t *w = g->words;
    int i = 0;
    for (; i < WORDS - SHIFT; i++) w[i] = w[i + SHIFT] ^ twist(w[i], w[i + 1]);
    for (; i < WORDS - 1; i++) w[i] = w[i + SHIFT - WORDS] ^ twist(w[i], w[i + 1]);
    w[i] = w[SHIFT - 1] ^ twist(w[i], w[0]);
    g->next = 0;
}

static inline uint32_t next_word(Generator *g) {
    if (g->next >= WORDS) next_words(g);
    uint32_t y = g->words[g->next++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

/* Return a number in [0, 1) of 53 random bits. */
static inline double draw_number(Generator *g) {
    uint32_t a = next_word(g) >> 5, b = next_word(g) >> 6;
    return (a * 67108864.0 + b) * (1.0 / 9007199254740992.0);
}

#endif
