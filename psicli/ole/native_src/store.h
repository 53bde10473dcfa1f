/* The oblivious key-value store: a linear system whose rows are bands of random bits. ePrint 2023/903. */

static void rows(ole_row *out, const block *keys, size_t n, size_t length, const uint8_t seed[16]) {
    enum { EACH = 3 };
    aes_key key = aes_expand(seed);
    block in[EACH * 64];
    uint64_t starts = length - OLE_BAND + 1;
    for (size_t done = 0; done < n; done += 64) {
        size_t count = n - done < 64 ? n - done : 64;
        for (size_t i = 0; i < count; i++)
            for (int j = 0; j < EACH; j++)
                in[EACH * i + (size_t)j] = add(keys[done + i], (block){(uint64_t)j, 0});
        aes_blocks(&key, in, in, EACH * count);
        for (size_t i = 0; i < count; i++) {
            const block *made = in + EACH * i;
            out[done + i].start = (uint64_t)(((unsigned __int128)made[2].low * starts) >> 64);
            memcpy(out[done + i].band, made, 2 * sizeof *made);
        }
    }
}

/* So many positions, 2^NEAR_BITS, fit into the fastest cache together with a band. */
enum { NEAR_BITS = 10 };

typedef struct {
    uint32_t start, row;
} place;

/* Return n rows in the order of bit `from` and the higher ones of their starts, or NULL if memory runs out: a radix sort
 * from the lowest digit on. */
static place *in_order(const ole_row *rows, size_t n, size_t length, unsigned from) {
    enum { BITS = 11, BUCKETS = 1 << BITS };
    place *sorted = malloc((n ? n : 1) * sizeof *sorted), *other = malloc((n ? n : 1) * sizeof *other);
    if (sorted == NULL || other == NULL) {
        free(sorted);
        free(other);
        return NULL;
    }
    for (size_t i = 0; i < n; i++)
        sorted[i] = (place){(uint32_t)rows[i].start, (uint32_t)i};
    for (; length >> from > 0; from += BITS) {
        size_t ends[BUCKETS + 1] = {0};
        for (size_t i = 0; i < n; i++)
            ends[(sorted[i].start >> from) % BUCKETS + 1]++;
        for (size_t i = 0; i < BUCKETS; i++)
            ends[i + 1] += ends[i];
        for (size_t i = 0; i < n; i++)
            other[ends[(sorted[i].start >> from) % BUCKETS]++] = sorted[i];
        place *swap = sorted;
        sorted = other;
        other = swap;
    }
    discard(other, n * sizeof *other);
    return sorted;
}

typedef struct {
    uint64_t band[OLE_BAND_WORDS]; /* bit 0 belongs to the position that the row decides; 0 where there is no row */
    block value;
} pivot;

/* Shift a band down to its lowest bit, which is set; return by how much. */
static unsigned normalise(uint64_t band[OLE_BAND_WORDS]) {
    unsigned words = 0;
    while (band[words] == 0)
        words++;
    unsigned bits = (unsigned)__builtin_ctzll(band[words]);
    for (unsigned w = 0; w < OLE_BAND_WORDS; w++) {
        uint64_t here = w + words < OLE_BAND_WORDS ? band[w + words] : 0;
        uint64_t next = w + words + 1 < OLE_BAND_WORDS ? band[w + words + 1] : 0;
        band[w] = bits ? here >> bits | next << (64 - bits) : here;
    }
    return 64 * words + bits;
}

/* Add a row to the system; return whether it still has a solution. */
static int eliminate(pivot *pivots, const ole_row *row, block value) {
    uint64_t band[OLE_BAND_WORDS], at = row->start;
    memcpy(band, row->band, sizeof band);
    while (band[0] | band[1] | band[2] | band[3]) {
        at += normalise(band);
        pivot *there = &pivots[at];
        if (!(there->band[0] & 1)) {
            memcpy(there->band, band, sizeof band);
            there->value = value;
            return 1;
        }
        for (int w = 0; w < OLE_BAND_WORDS; w++)
            band[w] ^= there->band[w];
        value = add(value, there->value);
    }
    return (value.low | value.high) == 0;
}

static int encode(block *store, size_t length, const ole_row *rows, const block *values, size_t n) {
    place *order = in_order(rows, n, length, 0);
    pivot *pivots = calloc(length, sizeof *pivots);
    int solved = order != NULL && pivots != NULL ? 1 : -1;
    for (size_t i = 0; solved > 0 && i < n; i++) {
        size_t later = order[i + AHEAD < n ? i + AHEAD : i].row, row = order[i].row;
        __builtin_prefetch(&rows[later]);
        __builtin_prefetch(&values[later]);
        solved = eliminate(pivots, &rows[row], values[row]);
    }
    if (solved > 0) {
        /* The last band may end beyond the store: its bits there are never set. */
        for (size_t at = length; at-- > 0;) {
            const pivot *row = &pivots[at];
            if (!(row->band[0] & 1))
                continue;
            block sum = row->value;
            if (at + OLE_BAND <= length) {
                store[at] = (block){0, 0};
                sum = add(sum, sum_of(store + at, row->band));
            } else {
                for (size_t i = 1; at + i < length; i++)
                    if (row->band[i / 64] >> (i % 64) & 1)
                        sum = add(sum, store[at + i]);
            }
            store[at] = sum;
        }
    }
    discard(order, n * sizeof *order);
    discard(pivots, length * sizeof *pivots);
    return solved;
}

static int decode(block *out, const block *store, size_t length, const ole_row *rows, size_t n) {
    /* In the order of the positions, or nearly, so that these are in the cache. */
    place *order = in_order(rows, n, length, NEAR_BITS);
    if (order == NULL)
        return -1;
    for (size_t i = 0; i < n; i++) {
        size_t later = order[i + AHEAD < n ? i + AHEAD : i].row, row = order[i].row;
        __builtin_prefetch(&rows[later]);
        __builtin_prefetch(&out[later], 1);
        out[row] = sum_of(store + rows[row].start, rows[row].band);
    }
    discard(order, n * sizeof *order);
    return 0;
}
