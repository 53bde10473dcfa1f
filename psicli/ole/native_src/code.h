/* The dual of the expand-convolute code, for elements of one or two blocks. ePrint 2023/882. */

/* An element of the result is the sum of so many. */
enum { WEIGHT = 21 };

/* The first 16 bytes of SHA-256("psicli/v1/rr22/convolution\0") and of SHA-256("psicli/v1/rr22/expander\0"), so that
 * nobody chose the code. */
static const uint8_t CONVOLUTION_SEED[16] = {0x42, 0x3b, 0x84, 0x4f, 0x55, 0xe1, 0xdc, 0xd4,
                                             0x95, 0x16, 0xcf, 0x9d, 0x6d, 0xdb, 0x8f, 0x65};
static const uint8_t EXPANDER_SEED[16] = {0x46, 0x6d, 0xe9, 0xcd, 0x57, 0xf1, 0x7e, 0x07,
                                          0x0c, 0x5f, 0x56, 0x67, 0x4a, 0x85, 0xc3, 0xec};

/* Element i gains the element before it, and those of the 23 before that one whose bit of the seed's stream is set. */
static void convolve(block *elements, size_t n, unsigned width) {
    aes_key key = aes_expand(CONVOLUTION_SEED);
    /* Four masks of 32 bits in each block of the stream. */
    block masks[CHUNK];
    for (size_t i = 0; i < n; i++) {
        if (i % (4 * CHUNK) == 0)
            stream(&key, masks, CHUNK, i / 4);
        uint32_t mask;
        memcpy(&mask, (const uint8_t *)masks + 4 * (i % (4 * CHUNK)), sizeof mask);
        mask |= 1;
        block *element = elements + width * i;
        if (i >= TAPS) {
            add_taps(element, mask, width);
            continue;
        }
        for (unsigned tap = 0; tap < i; tap++)
            for (unsigned w = 0; w < width; w++)
                add_masked(element + w, element + w - width * (tap + 1), 1, -(uint64_t)(mask >> tap & 1));
    }
}

static void expand(block *out, size_t first, size_t total, const block *elements, size_t n, unsigned width) {
    enum { WORDS = 24, BLOCKS = WORDS / 4, STEPS = 32 }; /* three numbers of an element are unused */
    aes_key key = aes_expand(EXPANDER_SEED);
    uint32_t numbers[WORDS * (STEPS + AHEAD)];
    for (size_t done = 0; done < total; done += STEPS) {
        size_t count = total - done < STEPS ? total - done : STEPS;
        stream(&key, (block *)(void *)numbers, BLOCKS * (STEPS + AHEAD), (uint64_t)(first + done) * BLOCKS);
        for (size_t j = 0; j < WORDS * (STEPS + AHEAD); j++)
            numbers[j] = (uint32_t)(((uint64_t)numbers[j] * n) >> 32);
        for (size_t step = 0; step < count; step++) {
            const uint32_t *at = numbers + WORDS * step, *later = at + WORDS * AHEAD;
            for (int j = 0; j < WEIGHT; j++)
                __builtin_prefetch(elements + width * (size_t)later[j]);
            block sums[2] = {{0, 0}, {0, 0}};
            for (int j = 0; j < WEIGHT; j++)
                for (unsigned w = 0; w < width; w++)
                    sums[w] = add(sums[w], elements[width * (size_t)at[j] + w]);
            memcpy(out + width * (done + step), sums, width * sizeof *sums);
        }
    }
}
