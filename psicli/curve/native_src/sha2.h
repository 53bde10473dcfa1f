/* SHA-512 and SHA-256 (FIPS 180-4), one message per lane; constant time in the messages, but not in their lengths.
 *
 * SHA-256's constants are the upper halves of SHA-512's, so one table serves both.
 */
#ifndef PSICLI_SHA2_H
#define PSICLI_SHA2_H

#define SHA512_BLOCK 128
#define SHA256_BLOCK 64

/* The first 64 bits of the fractional parts of the cube roots of the first 80 primes. */
static const uint64_t SHA2_K[80] = {
    UINT64_C(0x428a2f98d728ae22), UINT64_C(0x7137449123ef65cd), UINT64_C(0xb5c0fbcfec4d3b2f), UINT64_C(0xe9b5dba58189dbbc),
    UINT64_C(0x3956c25bf348b538), UINT64_C(0x59f111f1b605d019), UINT64_C(0x923f82a4af194f9b), UINT64_C(0xab1c5ed5da6d8118),
    UINT64_C(0xd807aa98a3030242), UINT64_C(0x12835b0145706fbe), UINT64_C(0x243185be4ee4b28c), UINT64_C(0x550c7dc3d5ffb4e2),
    UINT64_C(0x72be5d74f27b896f), UINT64_C(0x80deb1fe3b1696b1), UINT64_C(0x9bdc06a725c71235), UINT64_C(0xc19bf174cf692694),
    UINT64_C(0xe49b69c19ef14ad2), UINT64_C(0xefbe4786384f25e3), UINT64_C(0x0fc19dc68b8cd5b5), UINT64_C(0x240ca1cc77ac9c65),
    UINT64_C(0x2de92c6f592b0275), UINT64_C(0x4a7484aa6ea6e483), UINT64_C(0x5cb0a9dcbd41fbd4), UINT64_C(0x76f988da831153b5),
    UINT64_C(0x983e5152ee66dfab), UINT64_C(0xa831c66d2db43210), UINT64_C(0xb00327c898fb213f), UINT64_C(0xbf597fc7beef0ee4),
    UINT64_C(0xc6e00bf33da88fc2), UINT64_C(0xd5a79147930aa725), UINT64_C(0x06ca6351e003826f), UINT64_C(0x142929670a0e6e70),
    UINT64_C(0x27b70a8546d22ffc), UINT64_C(0x2e1b21385c26c926), UINT64_C(0x4d2c6dfc5ac42aed), UINT64_C(0x53380d139d95b3df),
    UINT64_C(0x650a73548baf63de), UINT64_C(0x766a0abb3c77b2a8), UINT64_C(0x81c2c92e47edaee6), UINT64_C(0x92722c851482353b),
    UINT64_C(0xa2bfe8a14cf10364), UINT64_C(0xa81a664bbc423001), UINT64_C(0xc24b8b70d0f89791), UINT64_C(0xc76c51a30654be30),
    UINT64_C(0xd192e819d6ef5218), UINT64_C(0xd69906245565a910), UINT64_C(0xf40e35855771202a), UINT64_C(0x106aa07032bbd1b8),
    UINT64_C(0x19a4c116b8d2d0c8), UINT64_C(0x1e376c085141ab53), UINT64_C(0x2748774cdf8eeb99), UINT64_C(0x34b0bcb5e19b48a8),
    UINT64_C(0x391c0cb3c5c95a63), UINT64_C(0x4ed8aa4ae3418acb), UINT64_C(0x5b9cca4f7763e373), UINT64_C(0x682e6ff3d6b2b8a3),
    UINT64_C(0x748f82ee5defb2fc), UINT64_C(0x78a5636f43172f60), UINT64_C(0x84c87814a1f0ab72), UINT64_C(0x8cc702081a6439ec),
    UINT64_C(0x90befffa23631e28), UINT64_C(0xa4506cebde82bde9), UINT64_C(0xbef9a3f7b2c67915), UINT64_C(0xc67178f2e372532b),
    UINT64_C(0xca273eceea26619c), UINT64_C(0xd186b8c721c0c207), UINT64_C(0xeada7dd6cde0eb1e), UINT64_C(0xf57d4f7fee6ed178),
    UINT64_C(0x06f067aa72176fba), UINT64_C(0x0a637dc5a2c898a6), UINT64_C(0x113f9804bef90dae), UINT64_C(0x1b710b35131c471b),
    UINT64_C(0x28db77f523047d84), UINT64_C(0x32caab7b40c72493), UINT64_C(0x3c9ebe0a15c9bebc), UINT64_C(0x431d67c49c100d4c),
    UINT64_C(0x4cc5d4becb3e42b6), UINT64_C(0x597f299cfc657e2a), UINT64_C(0x5fcb6fab3ad6faec), UINT64_C(0x6c44198c4a475817)};

/* The same for the square roots of the first eight primes. */
static const uint64_t SHA2_START[8] = {
    UINT64_C(0x6a09e667f3bcc908), UINT64_C(0xbb67ae8584caa73b), UINT64_C(0x3c6ef372fe94f82b), UINT64_C(0xa54ff53a5f1d36f1),
    UINT64_C(0x510e527fade682d1), UINT64_C(0x9b05688c2b3e6c1f), UINT64_C(0x1f83d9abfb41bd6b), UINT64_C(0x5be0cd19137e2179)};

#define ROTATE(x, n, width) (((x) >> (n)) | ((x) << ((width) - (n))))
#define CHOOSE(e, f, g) ((g) ^ ((e) & ((f) ^ (g))))
#define MAJORITY(a, b, c) (((a) & (b)) | ((c) & ((a) | (b))))

/* The rounds of both hashes, which differ in the width of a word, the number of rounds, and the rotations. */
#define SHA2_COMPRESS(T, state, w, rounds, width, A0, A1, A2, E0, E1, E2, S0, S1, S2, T0, T1, T2)                       \
    do {                                                                                                               \
        T a = state[0], b = state[1], c = state[2], d = state[3];                                                      \
        T e = state[4], f = state[5], g = state[6], h = state[7];                                                      \
        for (int t = 0; t < rounds; t++) {                                                                             \
            if (t >= 16) {                                                                                             \
                T x = w[(t + 1) & 15], y = w[(t + 14) & 15];                                                           \
                w[t & 15] += (ROTATE(x, S0, width) ^ ROTATE(x, S1, width) ^ (x >> S2)) + w[(t + 9) & 15] +             \
                             (ROTATE(y, T0, width) ^ ROTATE(y, T1, width) ^ (y >> T2));                                \
            }                                                                                                          \
            T t1 = h + (ROTATE(e, E0, width) ^ ROTATE(e, E1, width) ^ ROTATE(e, E2, width)) + CHOOSE(e, f, g) +        \
                   w[t & 15] + (uint##width##_t)(SHA2_K[t] >> (64 - width));                                           \
            T t2 = (ROTATE(a, A0, width) ^ ROTATE(a, A1, width) ^ ROTATE(a, A2, width)) + MAJORITY(a, b, c);           \
            h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;                                         \
        }                                                                                                              \
        state[0] += a, state[1] += b, state[2] += c, state[3] += d;                                                    \
        state[4] += e, state[5] += f, state[6] += g, state[7] += h;                                                    \
    } while (0)

/* Update the states with one block per lane; w has the sixteen words of the block and is overwritten. */
PSICLI_FUNCTION void sha512_compress(vec state[8], vec w[16]) {
    SHA2_COMPRESS(vec, state, w, 80, 64, 28, 34, 39, 14, 18, 41, 1, 8, 7, 19, 61, 6);
}

/* The words of SHA-256 are half as wide, so a vector of the same size has twice as many lanes. */
#define LANES32 (LANES > 1 ? 2 * LANES : 4)
typedef uint32_t vec32 __attribute__((vector_size(4 * LANES32)));

PSICLI_FUNCTION void sha256_compress(vec32 state[8], vec32 w[16]) {
    SHA2_COMPRESS(vec32, state, w, 64, 32, 2, 13, 22, 6, 11, 25, 7, 18, 3, 17, 19, 10);
}

static inline void sha512_start(vec state[8]) {
    for (int i = 0; i < 8; i++)
        state[i] = v_all(SHA2_START[i]);
}

static inline void sha256_start(vec32 state[8]) {
    for (int i = 0; i < 8; i++)
        state[i] = (vec32){0} + (uint32_t)(SHA2_START[i] >> 32);
}

static inline uint64_t load_be64(const uint8_t *bytes) {
    uint64_t x = 0;
    for (int i = 0; i < 8; i++)
        x = x << 8 | bytes[i];
    return x;
}

static inline uint32_t load_be32(const uint8_t *bytes) {
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

/* Append the padding of a message of `length` [bytes], of which the last `used` are at the start of `tail`, up to the
 * end of a block of `block` [bytes]. Return the bytes now in `tail`, a whole number of blocks. */
static inline size_t sha2_pad(uint8_t *tail, size_t used, uint64_t length, size_t block) {
    size_t end = (used + 1 + block / 8 + block - 1) / block * block;
    memset(tail + used, 0, end - used);
    tail[used] = 0x80;
    for (int i = 0; i < 8; i++)
        tail[end - 1 - i] = (uint8_t)(length * 8 >> (8 * i));
    return end;
}

#endif
