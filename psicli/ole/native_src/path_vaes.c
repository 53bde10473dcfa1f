/* The path for processors with VAES, CLMUL and AVX2. */
#ifdef __x86_64__
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("aes,pclmul,avx2,vaes"))), apply_to = function)
#else
#pragma GCC target("aes,pclmul,avx2,vaes")
#endif
#include "field.h"

#include "x86.h"

#define LANES 8 /* pairs of blocks that are encrypted at the same time */

static void aes_blocks(const aes_key *key, block *out, const block *in, size_t n) {
    __m256i round[ROUNDS + 1];
    for (int i = 0; i <= ROUNDS; i++)
        round[i] = _mm256_broadcastsi128_si256(key->round[i]);
    size_t done = 0;
    for (; done + 2 * LANES <= n; done += 2 * LANES) {
        __m256i x[LANES];
        for (int i = 0; i < LANES; i++)
            x[i] = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(const void *)(in + done + 2 * i)), round[0]);
        for (int r = 1; r < ROUNDS; r++)
            for (int i = 0; i < LANES; i++)
                x[i] = _mm256_aesenc_epi128(x[i], round[r]);
        for (int i = 0; i < LANES; i++)
            _mm256_storeu_si256((__m256i *)(void *)(out + done + 2 * i), _mm256_aesenclast_epi128(x[i], round[ROUNDS]));
    }
    encrypt_singly(key, out + done, in + done, n - done);
}

#define PATH ole_vaes
#define PATH_NAME "vaes"
#include "kernel.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
