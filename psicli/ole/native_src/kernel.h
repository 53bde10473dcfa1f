/* What all paths share; the path's file defines aes_key, aes_expand, aes_blocks, gf_product and PATH before. */

#define CHUNK 256 /* blocks that are handled at a time, on the stack */
enum { AHEAD = 8 }; /* how many steps ahead memory is fetched */

static inline void wipe(void *memory, size_t size) {
    memset(memory, 0, size);
    __asm__ __volatile__("" : : "r"(memory) : "memory");
}

static void aes(block *out, const block *in, size_t n, const uint8_t key[16]) {
    aes_key k = aes_expand(key);
    aes_blocks(&k, out, in, n);
    wipe(&k, sizeof k);
}

static void stream_with(const aes_key *key, block *out, size_t n, uint64_t first) {
    block counters[CHUNK];
    for (size_t done = 0; done < n; done += CHUNK) {
        size_t count = n - done < CHUNK ? n - done : CHUNK;
        for (size_t i = 0; i < count; i++)
            counters[i] = (block){first + done + i, 0};
        aes_blocks(key, out + done, counters, count);
    }
}

static void stream(block *out, size_t n, const uint8_t key[16], uint64_t first) {
    aes_key k = aes_expand(key);
    stream_with(&k, out, n, first);
    wipe(&k, sizeof k);
}

/* The fixed keys of the public permutations: the first digits of pi and of e in binary. */
static const uint8_t PI[16] = {0x24, 0x3f, 0x6a, 0x88, 0x85, 0xa3, 0x08, 0xd3,
                               0x13, 0x19, 0x8a, 0x2e, 0x03, 0x70, 0x73, 0x44};
static const uint8_t E[16] = {0xb7, 0xe1, 0x51, 0x62, 0x8a, 0xed, 0x2a, 0x6a,
                              0xbf, 0x71, 0x58, 0x80, 0x9c, 0xf4, 0xf3, 0xc7};

/* hash(x, i) = p(p(x) + i) + p(x), where p is a public permutation: the tweakable correlation-robust hash of Guo et al.,
 * ePrint 2019/074, section 7.4. */
static void hashes(block *out, const block *in, size_t n, uint64_t first) {
    aes_key key = aes_expand(PI);
    block once[CHUNK], twice[CHUNK];
    for (size_t done = 0; done < n; done += CHUNK) {
        size_t count = n - done < CHUNK ? n - done : CHUNK;
        aes_blocks(&key, once, in + done, count);
        for (size_t i = 0; i < count; i++)
            twice[i] = add(once[i], (block){first + done + i, 0});
        aes_blocks(&key, twice, twice, count);
        for (size_t i = 0; i < count; i++)
            out[done + i] = add(once[i], twice[i]);
    }
    wipe(once, sizeof once);
    wipe(twice, sizeof twice);
}

static void multiply_add(block *out, const block *in, size_t n, const block *factor) {
    block by = *factor;
    for (size_t i = 0; i < n; i++)
        out[i] = add(out[i], gf_product(in[i], by));
    wipe(&by, sizeof by);
}

static void inner(block *out, const block *in, const block *by, size_t n) {
    block sum = {0, 0};
    for (size_t i = 0; i < n; i++)
        sum = add(sum, gf_product(in[i], by[i]));
    *out = sum;
}

/* The key-value store ------------------------------------------------------------------------------------------- */

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

/* Return the indices of rows in the order of their starts, or NULL if memory runs out. */
static uint32_t *in_order(const ole_row *rows, size_t n, size_t length) {
    /* Rows that share their first 64 positions may be in any order for decoding, but encoding wants them sorted well:
     * a counting sort by start. */
    size_t *ends = calloc(length + 1, sizeof *ends);
    uint32_t *order = malloc((n ? n : 1) * sizeof *order);
    if (ends != NULL && order != NULL) {
        for (size_t i = 0; i < n; i++)
            ends[rows[i].start + 1]++;
        for (size_t i = 0; i < length; i++)
            ends[i + 1] += ends[i];
        for (size_t i = 0; i < n; i++)
            order[ends[rows[i].start]++] = (uint32_t)i;
    } else {
        free(order);
        order = NULL;
    }
    free(ends);
    return order;
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
    uint32_t *order = in_order(rows, n, length);
    pivot *pivots = calloc(length, sizeof *pivots);
    int solved = order != NULL && pivots != NULL ? 1 : -1;
    for (size_t i = 0; solved > 0 && i < n; i++) {
        size_t later = order[i + AHEAD < n ? i + AHEAD : i];
        __builtin_prefetch(&rows[later]);
        __builtin_prefetch(&values[later]);
        solved = eliminate(pivots, &rows[order[i]], values[order[i]]);
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
    free(order);
    free(pivots);
    return solved;
}

static int decode(block *out, const block *store, size_t length, const ole_row *rows, size_t n) {
    /* In the order of the positions, so that these are in the cache. */
    uint32_t *order = in_order(rows, n, length);
    if (order == NULL)
        return -1;
    for (size_t i = 0; i < n; i++) {
        const ole_row *row = &rows[order[i]];
        __builtin_prefetch(&rows[order[i + AHEAD < n ? i + AHEAD : i]]);
        out[order[i]] = sum_of(store + row->start, row->band);
    }
    free(order);
    return 0;
}

/* The transposition, for the extension of oblivious transfers ---------------------------------------------------- */

/* Transpose 128 x 128 bits in place: swap the corners of ever smaller squares. */
static void transpose_square(block m[128]) {
    static const uint64_t MASKS[6] = {0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F,
                                      0x00FF00FF00FF00FF, 0x0000FFFF0000FFFF, 0x00000000FFFFFFFF};
    for (int i = 0; i < 64; i++) {
        uint64_t high = m[i].high;
        m[i].high = m[i + 64].low;
        m[i + 64].low = high;
    }
    for (int level = 5; level >= 0; level--) {
        int size = 1 << level;
        for (int i = 0; i < 128; i++) {
            if (i & size)
                continue;
            uint64_t low = (m[i].low >> size ^ m[i + size].low) & MASKS[level];
            uint64_t high = (m[i].high >> size ^ m[i + size].high) & MASKS[level];
            m[i + size].low ^= low;
            m[i].low ^= low << size;
            m[i + size].high ^= high;
            m[i].high ^= high << size;
        }
    }
}

static void transpose(block *out, const uint8_t *rows, size_t n) {
    for (size_t column = 0; column < n; column += 128) {
        for (size_t row = 0; row < 128; row++)
            memcpy(&out[column + row], rows + (row * n + column) / 8, sizeof *out);
        transpose_square(out + column);
    }
}

/* The puncturable trees ----------------------------------------------------------------------------------------- */

/* The children of n nodes: node i has the children 2i and 2i + 1, each p(x) + x under a permutation of its own. */
static void children(block *out, const block *nodes, size_t n, const aes_key keys[2]) {
    block made[CHUNK];
    for (size_t done = 0; done < n; done += CHUNK) {
        size_t count = n - done < CHUNK ? n - done : CHUNK;
        for (size_t side = 0; side < 2; side++) {
            aes_blocks(&keys[side], made, nodes + done, count);
            for (size_t i = 0; i < count; i++)
                out[2 * (done + i) + side] = add(made[i], nodes[done + i]);
        }
    }
    wipe(made, sizeof made);
}

static void sides(block sums[2], const block *nodes, size_t pairs) {
    sums[0] = sums[1] = (block){0, 0};
    for (size_t i = 0; i < pairs; i++) {
        sums[0] = add(sums[0], nodes[2 * i]);
        sums[1] = add(sums[1], nodes[2 * i + 1]);
    }
}

static int grow(block *leaves, block *sums, const block *seeds, size_t n, size_t width, unsigned depth) {
    aes_key keys[2] = {aes_expand(PI), aes_expand(E)};
    size_t all = (size_t)1 << depth;
    block *levels[2] = {malloc(all * sizeof(block)), malloc(all * sizeof(block))};
    int done = levels[0] != NULL && levels[1] != NULL ? 0 : -1;
    for (size_t tree = 0; done == 0 && tree < n; tree++) {
        levels[0][0] = seeds[tree];
        for (unsigned level = 0; level < depth; level++) {
            /* Only the nodes above the leaves that are wanted. */
            size_t parents = (width + ((size_t)1 << (depth - level)) - 1) >> (depth - level);
            children(levels[(level + 1) % 2], levels[level % 2], parents, keys);
            sides(sums + 2 * (tree * depth + level), levels[(level + 1) % 2], parents);
        }
        memcpy(leaves + tree * width, levels[depth % 2], width * sizeof(block));
    }
    for (int i = 0; i < 2; i++) {
        if (levels[i] != NULL)
            wipe(levels[i], all * sizeof(block));
        free(levels[i]);
    }
    return done;
}

static inline uint64_t all_ones_if_equal(uint64_t a, uint64_t b) {
    uint64_t x = a ^ b;
    return ((x | -x) >> 63) - 1;
}

static int regrow(block *leaves, const block *sums, const uint32_t *points, size_t n, size_t width, unsigned depth) {
    aes_key keys[2] = {aes_expand(PI), aes_expand(E)};
    size_t all = (size_t)1 << depth;
    block *levels[2] = {malloc(all * sizeof(block)), malloc(all * sizeof(block))};
    int done = levels[0] != NULL && levels[1] != NULL ? 0 : -1;
    for (size_t tree = 0; done == 0 && tree < n; tree++) {
        levels[0][0] = (block){0, 0};
        for (unsigned level = 0; level < depth; level++) {
            size_t parents = (width + ((size_t)1 << (depth - level)) - 1) >> (depth - level);
            uint64_t on_path = points[tree] >> (depth - level), bit = points[tree] >> (depth - level - 1) & 1;
            block *made = levels[(level + 1) % 2], found[2];
            children(made, levels[level % 2], parents, keys);
            /* The node on the path is unknown, so its children are: clear them, without telling where they are. The
             * sum of the other side of the level gives the one beside the path. */
            for (size_t i = 0; i < parents; i++) {
                uint64_t keep = ~all_ones_if_equal(i, on_path);
                for (int side = 0; side < 2; side++) {
                    made[2 * i + (size_t)side].low &= keep;
                    made[2 * i + (size_t)side].high &= keep;
                }
            }
            sides(found, made, parents);
            uint64_t right = all_ones_if_equal(bit, 0);
            block other = sums[tree * depth + level];
            other.low ^= (found[1].low & right) | (found[0].low & ~right);
            other.high ^= (found[1].high & right) | (found[0].high & ~right);
            for (size_t i = 0; i < 2 * parents; i++) {
                uint64_t here = all_ones_if_equal(i, 2 * on_path + (1 - bit));
                made[i].low ^= other.low & here;
                made[i].high ^= other.high & here;
            }
        }
        memcpy(leaves + tree * width, levels[depth % 2], width * sizeof(block));
    }
    for (int i = 0; i < 2; i++) {
        if (levels[i] != NULL)
            wipe(levels[i], all * sizeof(block));
        free(levels[i]);
    }
    return done;
}

/* The code ------------------------------------------------------------------------------------------------------ */

enum { TAPS = 24, WEIGHT = 21 };

/* Element i gains the element before it, and those of the 23 before that one whose bit of the seed's stream is set. */
static void convolve(block *elements, size_t n, unsigned width, const uint8_t seed[16]) {
    aes_key key = aes_expand(seed);
    /* Four masks of 32 bits in each block of the stream. */
    block masks[CHUNK];
    for (size_t i = 0; i < n; i++) {
        if (i % (4 * CHUNK) == 0)
            stream_with(&key, masks, CHUNK, i / 4);
        uint32_t mask;
        memcpy(&mask, (const uint8_t *)masks + 4 * (i % (4 * CHUNK)), sizeof mask);
        mask |= 1;
        size_t most = i < TAPS ? i : TAPS;
        for (size_t tap = 0; tap < most; tap++) {
            uint64_t chosen = -(uint64_t)(mask >> tap & 1);
            for (unsigned w = 0; w < width; w++) {
                elements[width * i + w].low ^= elements[width * (i - tap - 1) + w].low & chosen;
                elements[width * i + w].high ^= elements[width * (i - tap - 1) + w].high & chosen;
            }
        }
    }
}

static void expand(block *out, size_t from, size_t to, const block *elements, size_t n, unsigned width,
                   const uint8_t seed[16]) {
    enum { WORDS = 24, BLOCKS = WORDS / 4, STEPS = 32 }; /* three numbers of an element are unused */
    aes_key key = aes_expand(seed);
    uint32_t numbers[WORDS * (STEPS + AHEAD)];
    for (size_t i = from; i < to; i += STEPS) {
        size_t count = to - i < STEPS ? to - i : STEPS;
        stream_with(&key, (block *)(void *)numbers, BLOCKS * (STEPS + AHEAD), (uint64_t)i * BLOCKS);
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
            memcpy(out + width * (i - from + step), sums, width * sizeof *sums);
        }
    }
}

const ole_path PATH = {
    PATH_NAME, aes, stream, hashes, multiply_add, inner, rows, encode, decode, grow, regrow, transpose, convolve, expand,
};
