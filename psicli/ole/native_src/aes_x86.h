/* Products in GF(2^128) and the key schedule of AES-128 with the instructions of x86 processors. */
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

static aes_key aes_expand(const uint8_t octets[16]) {
    /* The last word, with its bytes in the order of RotWord, FIPS 197, section 5.2, in all columns: the last round of
     * the cipher then substitutes it and adds the constant, because shifting the rows of equal columns has no effect. */
    const __m128i rotated = _mm_set1_epi32(0x0C0F0E0D);
    aes_key k;
    __m128i round = _mm_loadu_si128((const __m128i *)(const void *)octets);
    int constant = 1;
    for (int i = 0;; i++) {
        k.round[i] = round;
        if (i == ROUNDS)
            return k;
        __m128i last = _mm_aesenclast_si128(_mm_shuffle_epi8(round, rotated), _mm_set1_epi32(constant));
        round = _mm_xor_si128(round, _mm_slli_si128(round, 4));
        round = _mm_xor_si128(round, _mm_slli_si128(round, 8));
        round = _mm_xor_si128(round, last);
        constant = constant << 1 ^ (constant >> 7) * 0x11B;
    }
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
