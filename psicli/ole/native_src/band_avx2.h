#define ALL ~(uint64_t)0

/* The sum of the positions of a band: two bits choose the mask of two blocks. */
static inline block sum_of(const block *at, const uint64_t band[OLE_BAND_WORDS]) {
    static const uint64_t MASKS[4][4] = {{0, 0, 0, 0}, {ALL, ALL, 0, 0}, {0, 0, ALL, ALL}, {ALL, ALL, ALL, ALL}};
    __m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    const __m256i *pairs = (const __m256i *)(const void *)at;
    for (int w = 0; w < OLE_BAND_WORDS; w++) {
        uint64_t bits = band[w];
        for (int i = 0; i < 32; i++, bits >>= 2) {
            __m256i mask = _mm256_loadu_si256((const __m256i *)(const void *)MASKS[bits & 3]);
            sums[i % 2] = _mm256_xor_si256(sums[i % 2], _mm256_and_si256(mask, _mm256_loadu_si256(pairs++)));
        }
    }
    __m256i sum = _mm256_xor_si256(sums[0], sums[1]);
    block result;
    stored(&result, _mm_xor_si128(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1)));
    return result;
}
