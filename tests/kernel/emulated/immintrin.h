/* The intrinsics that the curve kernel uses on its wide paths, in plain C, for CPUs that lack them. */
#ifndef PSICLI_EMULATED
#define PSICLI_EMULATED

#include <stdint.h>

typedef uint64_t __m256i __attribute__((vector_size(32)));
typedef uint64_t __m512i __attribute__((vector_size(64)));

#define LOW_52 ((UINT64_C(1) << 52) - 1)

/* Return the product of the lower 52 bits of a and b. */
static inline unsigned __int128 product52(uint64_t a, uint64_t b) {
    return (unsigned __int128)(a & LOW_52) * (b & LOW_52);
}

static inline __m512i _mm512_madd52lo_epu64(__m512i sum, __m512i a, __m512i b) {
    for (int lane = 0; lane < 8; lane++)
        sum[lane] += (uint64_t)product52(a[lane], b[lane]) & LOW_52;
    return sum;
}

static inline __m512i _mm512_madd52hi_epu64(__m512i sum, __m512i a, __m512i b) {
    for (int lane = 0; lane < 8; lane++)
        sum[lane] += (uint64_t)(product52(a[lane], b[lane]) >> 52);
    return sum;
}

static inline __m512i _mm512_mul_epu32(__m512i a, __m512i b) {
    return (a & UINT32_MAX) * (b & UINT32_MAX);
}

static inline __m256i _mm256_mul_epu32(__m256i a, __m256i b) {
    return (a & UINT32_MAX) * (b & UINT32_MAX);
}

#endif
