/* What the paths for x86 processors share: the key schedule of AES-128, products in GF(2^128) and sums of chosen blocks,
 * with AES-NI, CLMUL and AVX2. */
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

/* Encrypt the blocks that are left over from the lanes of a path. */
static inline void encrypt_singly(const aes_key *key, block *out, const block *in, size_t n) {
    for (size_t i = 0; i < n; i++) {
        __m128i x = _mm_xor_si128(loaded(in + i), key->round[0]);
        for (int round = 1; round < ROUNDS; round++)
            x = _mm_aesenc_si128(x, key->round[round]);
        stored(out + i, _mm_aesenclast_si128(x, key->round[ROUNDS]));
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

/* The sum of the positions of a band, two at a time, from the last to the first. */
static inline block sum_of(const block *at, const uint64_t band[OLE_BAND_WORDS]) {
    const __m256d zero = _mm256_setzero_pd();
    __m256d even = zero, odd = zero;
    for (int w = OLE_BAND_WORDS - 1; w >= 0; w--) {
        const double *pairs = (const double *)(const void *)(at + 64 * w);
        /* The highest bit of each half of a position chooses it. */
        __m256i bits = _mm256_sllv_epi64(_mm256_set1_epi64x((long long)band[w]), _mm256_set_epi64x(0, 0, 1, 1));
        for (int i = 15; i >= 0; i--) {
            __m256d chosen = _mm256_blendv_pd(zero, _mm256_loadu_pd(pairs + 8 * i + 4), _mm256_castsi256_pd(bits));
            odd = _mm256_xor_pd(odd, chosen);
            bits = _mm256_slli_epi64(bits, 2);
            chosen = _mm256_blendv_pd(zero, _mm256_loadu_pd(pairs + 8 * i), _mm256_castsi256_pd(bits));
            even = _mm256_xor_pd(even, chosen);
            bits = _mm256_slli_epi64(bits, 2);
        }
    }
    __m256i sum = _mm256_castpd_si256(_mm256_xor_pd(even, odd));
    block result;
    stored(&result, _mm_xor_si128(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1)));
    return result;
}

/* Add those of the TAPS elements before an element that the bits of the mask choose, from the farthest to the nearest,
 * for which there is the least time. */
static inline void add_taps(block *element, uint32_t mask, unsigned width) {
    const double *before = (const double *)(const void *)(element - width * TAPS);
    __m256i bits = _mm256_set1_epi64x((long long)((uint64_t)mask << (64 - TAPS)));
    if (width == 1) {
        __m128i narrow = _mm256_castsi256_si128(bits);
        __m128d sum = _mm_loadu_pd((const double *)(const void *)element);
        for (int i = 0; i < TAPS; i++, narrow = _mm_slli_epi64(narrow, 1))
            sum = _mm_xor_pd(sum, _mm_blendv_pd(_mm_setzero_pd(), _mm_loadu_pd(before + 2 * i), _mm_castsi128_pd(narrow)));
        _mm_storeu_pd((double *)(void *)element, sum);
    } else {
        __m256d sum = _mm256_loadu_pd((const double *)(const void *)element);
        for (int i = 0; i < TAPS; i++, bits = _mm256_slli_epi64(bits, 1)) {
            __m256d there = _mm256_loadu_pd(before + 4 * i);
            sum = _mm256_xor_pd(sum, _mm256_blendv_pd(_mm256_setzero_pd(), there, _mm256_castsi256_pd(bits)));
        }
        _mm256_storeu_pd((double *)(void *)element, sum);
    }
}
