/* The path for processors with AES-NI, CLMUL and AVX2. */
#ifdef __x86_64__
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("aes,pclmul,avx2"))), apply_to = function)
#else
#pragma GCC target("aes,pclmul,avx2")
#endif
#include "field.h"

#include "x86.h"

#define LANES 8 /* blocks that are encrypted at the same time */

static void aes_blocks(const aes_key *key, block *out, const block *in, size_t n) {
    size_t done = 0;
    for (; done + LANES <= n; done += LANES) {
        __m128i x[LANES];
        for (int i = 0; i < LANES; i++)
            x[i] = _mm_xor_si128(loaded(in + done + i), key->round[0]);
        for (int round = 1; round < ROUNDS; round++)
            for (int i = 0; i < LANES; i++)
                x[i] = _mm_aesenc_si128(x[i], key->round[round]);
        for (int i = 0; i < LANES; i++)
            stored(out + done + i, _mm_aesenclast_si128(x[i], key->round[ROUNDS]));
    }
    encrypt_singly(key, out + done, in + done, n - done);
}

#define PATH ole_aesni
#define PATH_NAME "aesni"
#include "kernel.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
