/* The path for CPUs with AVX-512 IFMA: eight points at a time, with products of 52 x 52 bits. */
#ifdef __x86_64__
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512ifma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512ifma")
#endif
#include "path.h"

#define LANES 8
#define WAYS 2
#define PSICLI_FUNCTION __attribute__((noinline)) static
#define PSICLI_PATH psicli_avx512ifma
#define PSICLI_NAME "avx512ifma"
#include "lanes.h"

/* Return sum + the lower 52 bits of the product of the lower 52 bits of a and b. */
static inline vec v_add_low52(vec sum, vec a, vec b) {
    return (vec)_mm512_madd52lo_epu64((__m512i)sum, (__m512i)a, (__m512i)b);
}

/* Return sum + the upper 52 bits of the same product. */
static inline vec v_add_high52(vec sum, vec a, vec b) {
    return (vec)_mm512_madd52hi_epu64((__m512i)sum, (__m512i)a, (__m512i)b);
}

#include "field52.h"
#include "curve.h"
#include "sha2.h"
#include "kernel.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
