/* A vec holds one 64-bit number for each of LANES points. GCC and clang provide C's operators for vectors.
 *
 * Define LANES before you include this. LANES 1 is plain C, 4 needs AVX2, and 8 needs AVX-512F. If PSICLI_PLAIN is
 * defined, the code avoids inline assembly and the ternary logic instruction, because the tests' tools cannot follow
 * values through them.
 *
 * Nothing here branches on the value of a lane. A vmask is all ones in lanes where a condition is true, and all zeros
 * in the others.
 */
#ifndef PSICLI_LANES_H
#define PSICLI_LANES_H

#include <stdint.h>

#if LANES > 1
#include <immintrin.h>
typedef uint64_t vec __attribute__((vector_size(8 * LANES)));
#else
typedef uint64_t vec;
#endif
typedef vec vmask;

/* Force the ten columns of a product into registers, and everything else into memory, at this point of the code. */
#if LANES > 1 && !defined(PSICLI_PLAIN)
#define V_KEEP(c0, c1, c2, c3, c4, c5, c6, c7, c8, c9)                                                                  \
    __asm__ volatile(""                                                                                                \
                     : "+v"(c0), "+v"(c1), "+v"(c2), "+v"(c3), "+v"(c4), "+v"(c5), "+v"(c6), "+v"(c7), "+v"(c8),       \
                       "+v"(c9)                                                                                        \
                     :                                                                                                 \
                     : "memory")
#else
#define V_KEEP(c0, c1, c2, c3, c4, c5, c6, c7, c8, c9)
#endif

/* Return the same number in every lane. */
static inline vec v_all(uint64_t x) {
#if LANES > 1
    return x - (vec){0};
#else
    return x;
#endif
}

/* Return a * b. Both must be below 2^32. */
static inline vec v_mul32(vec a, vec b) {
#if LANES == 8
    return (vec)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif LANES == 4
    return (vec)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#else
    return a * b;
#endif
}

/* Return a where the mask is set, b elsewhere. */
static inline vec v_select(vmask m, vec a, vec b) {
#if LANES == 8 && !defined(PSICLI_PLAIN)
    return (vec)_mm512_ternarylogic_epi64((__m512i)m, (__m512i)a, (__m512i)b, 0xCA);
#else
    return b ^ (m & (a ^ b));
#endif
}

/* Return the mask of the lanes that are zero. */
static inline vmask v_if_zero(vec x) {
    return ((x | (v_all(0) - x)) >> 63) - 1;
}

/* Return the mask of the lanes that are odd. */
static inline vmask v_if_odd(vec x) {
    return v_all(0) - (x & 1);
}

/* Return `width` (below 64) bits of a little-endian number of `words` words, starting at bit `offset`. */
static inline vec v_bits(const vec *number, int words, int offset, int width) {
    int word = offset >> 6, shift = offset & 63;
    vec bits = number[word] >> shift;
    if (shift + width > 64 && word + 1 < words)
        bits |= number[word + 1] << (64 - shift);
    return bits & ((UINT64_C(1) << width) - 1);
}

/* Write a limb into a number, starting at bit `offset`; the number must be zero there. The inverse of v_bits. */
static inline void v_put_bits(vec *number, int words, int offset, vec limb) {
    int word = offset >> 6, shift = offset & 63;
    number[word] |= limb << shift;
    if (shift && word + 1 < words)
        number[word + 1] |= limb >> (64 - shift);
}

#endif
