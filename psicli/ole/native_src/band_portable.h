/* The sum of the positions of a band, without branches: two bits choose one of four masks. */
static inline block sum_of(const block *at, const uint64_t band[OLE_BAND_WORDS]) {
    block sums[2] = {{0, 0}, {0, 0}};
    for (int w = 0; w < OLE_BAND_WORDS; w++) {
        uint64_t bits = band[w];
        for (int i = 0; i < 64; i += 2, at += 2, bits >>= 2) {
            uint64_t even = -(bits & 1), odd = -(bits >> 1 & 1);
            sums[0].low ^= at[0].low & even;
            sums[0].high ^= at[0].high & even;
            sums[1].low ^= at[1].low & odd;
            sums[1].high ^= at[1].high & odd;
        }
    }
    return add(sums[0], sums[1]);
}

