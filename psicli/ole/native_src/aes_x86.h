/* Products in GF(2^128) and the key schedule of AES-128 with the instructions of x86 processors. */
#include <immintrin.h>

#define ROUNDS 10

typedef struct {
    __m128i round[ROUNDS + 1];
} aes_key;

static inline __m128i loaded(const block *b) {
    return _mm_loadu_si128((const __m128i *)(const void *)b);
}

static inline void stored(block *b, __m128i x) {
    _mm_storeu_si128((__m128i *)(void *)b, x);
}

static inline __m128i next_round(__m128i key, __m128i assist) {
    assist = _mm_shuffle_epi32(assist, 0xFF);
    key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
    key = _mm_xor_si128(key, _mm_slli_si128(key, 8));
    return _mm_xor_si128(key, assist);
}

static aes_key aes_expand(const uint8_t octets[16]) {
    aes_key k;
    __m128i *r = k.round;
    r[0] = _mm_loadu_si128((const __m128i *)(const void *)octets);
    /* The constant of a round must be known to the compiler. */
    r[1] = next_round(r[0], _mm_aeskeygenassist_si128(r[0], 0x01));
    r[2] = next_round(r[1], _mm_aeskeygenassist_si128(r[1], 0x02));
    r[3] = next_round(r[2], _mm_aeskeygenassist_si128(r[2], 0x04));
    r[4] = next_round(r[3], _mm_aeskeygenassist_si128(r[3], 0x08));
    r[5] = next_round(r[4], _mm_aeskeygenassist_si128(r[4], 0x10));
    r[6] = next_round(r[5], _mm_aeskeygenassist_si128(r[5], 0x20));
    r[7] = next_round(r[6], _mm_aeskeygenassist_si128(r[6], 0x40));
    r[8] = next_round(r[7], _mm_aeskeygenassist_si128(r[7], 0x80));
    r[9] = next_round(r[8], _mm_aeskeygenassist_si128(r[8], 0x1B));
    r[10] = next_round(r[9], _mm_aeskeygenassist_si128(r[9], 0x36));
    return k;
}

static inline block gf_product(block a, block b) {
    __m128i x = _mm_set_epi64x((long long)a.high, (long long)a.low);
    __m128i y = _mm_set_epi64x((long long)b.high, (long long)b.low);
    __m128i low = _mm_clmulepi64_si128(x, y, 0x00), high = _mm_clmulepi64_si128(x, y, 0x11);
    __m128i middle = _mm_xor_si128(_mm_clmulepi64_si128(x, y, 0x01), _mm_clmulepi64_si128(x, y, 0x10));
    block l, m, h;
    stored(&l, low);
    stored(&m, middle);
    stored(&h, high);
    return gf_reduced((uint64_t[4]){l.low, l.high ^ m.low, h.low ^ m.high, h.high});
}
