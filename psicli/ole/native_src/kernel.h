/* What all paths share; the path's file defines aes_key, aes_expand, aes_blocks, gf_product and PATH before. */

#define CHUNK 256 /* blocks that are handled at a time, on the stack */
enum { AHEAD = 8 }; /* how many steps ahead memory is fetched */

static inline void wipe(void *memory, size_t size) {
    memset(memory, 0, size);
    __asm__ __volatile__("" : : "r"(memory) : "memory");
}

/* Wipe what malloc or calloc returned, and free it. */
static void discard(void *memory, size_t size) {
    if (memory != NULL)
        wipe(memory, size);
    free(memory);
}

static inline uint64_t all_ones_if_equal(uint64_t a, uint64_t b) {
    uint64_t x = a ^ b;
    return ((x | -x) >> 63) - 1;
}

static void add_masked(block *sums, const block *in, size_t n, uint64_t mask) {
    for (size_t i = 0; i < n; i++) {
        sums[i].low ^= in[i].low & mask;
        sums[i].high ^= in[i].high & mask;
    }
}

static void encrypt(block *out, const block *in, size_t n, const uint8_t key[16]) {
    aes_key k = aes_expand(key);
    aes_blocks(&k, out, in, n);
    wipe(&k, sizeof k);
}

static void stream(const aes_key *key, block *out, size_t n, uint64_t first) {
    block counters[CHUNK];
    for (size_t done = 0; done < n; done += CHUNK) {
        size_t count = n - done < CHUNK ? n - done : CHUNK;
        for (size_t i = 0; i < count; i++)
            counters[i] = (block){first + done + i, 0};
        aes_blocks(key, out + done, counters, count);
    }
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

static void add_products(block *sums, const block *in, size_t n, const block *factor) {
    block by = *factor;
    for (size_t i = 0; i < n; i++)
        sums[i] = add(sums[i], gf_product(in[i], by));
    wipe(&by, sizeof by);
}

/* Horner's rule, from the last plane to the first. */
static void combine(block *out, const block *planes, size_t n) {
    for (size_t i = 0; i < n; i++) {
        block sum = planes[(OLE_DELTA - 1) * n + i];
        for (size_t b = OLE_DELTA - 1; b-- > 0;) {
            uint64_t over = -(sum.high >> 63) & 0x87;
            sum = add((block){sum.low << 1 ^ over, sum.high << 1 | sum.low >> 63}, planes[b * n + i]);
        }
        out[i] = sum;
    }
}

/* The transposition, for the extension of oblivious transfers ---------------------------------------------------- */

/* Transpose 128 x 128 bits in place: swap the corners of ever smaller squares. */
static void transpose_square(block m[OLE_DELTA]) {
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

static void transpose(block *out, const block *planes, size_t n) {
    for (size_t i = 0; i < n; i++) {
        for (size_t b = 0; b < OLE_DELTA; b++)
            out[OLE_DELTA * i + b] = planes[b * n + i];
        transpose_square(out + OLE_DELTA * i);
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
    discard(levels[0], all * sizeof(block));
    discard(levels[1], all * sizeof(block));
    return done;
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
    discard(levels[0], all * sizeof(block));
    discard(levels[1], all * sizeof(block));
    return done;
}

/* The streams of SoftSpoken -------------------------------------------------------------------------------------- */

static void spread(block *sums, block *planes, const block *seeds, const uint32_t *points, size_t groups, size_t n) {
    aes_key keys[OLE_STREAMS];
    block made[CHUNK];
    memset(sums, 0, groups * n * sizeof *sums);
    memset(planes, 0, groups * OLE_PLANES * n * sizeof *planes);
    for (size_t group = 0; group < groups; group++) {
        uint8_t seed[16];
        for (size_t place = 0; place < OLE_STREAMS; place++) {
            memcpy(seed, &seeds[OLE_STREAMS * group + place], sizeof seed);
            keys[place] = aes_expand(seed);
        }
        wipe(seed, sizeof seed);
        for (size_t done = 0; done < n; done += CHUNK) {
            size_t count = n - done < CHUNK ? n - done : CHUNK;
            for (uint64_t place = 0; place < OLE_STREAMS; place++) {
                uint64_t number = points != NULL ? place ^ points[group] : place;
                /* Without points, the first stream counts, too. */
                uint64_t counts = points != NULL ? ~all_ones_if_equal(number, 0) : ~(uint64_t)0;
                stream(&keys[place], made, count, done);
                add_masked(sums + group * n + done, made, count, counts);
                for (size_t b = 0; b < OLE_PLANES; b++)
                    add_masked(planes + (OLE_PLANES * group + b) * n + done, made, count, -(number >> b & 1));
            }
        }
    }
    wipe(keys, sizeof keys);
    wipe(made, sizeof made);
}

#include "code.h"
#include "store.h"

const ole_path PATH = {
    .name = PATH_NAME,
    .encrypt = encrypt,
    .hashes = hashes,
    .add_products = add_products,
    .combine = combine,
    .transpose = transpose,
    .grow = grow,
    .regrow = regrow,
    .spread = spread,
    .convolve = convolve,
    .expand = expand,
    .rows = rows,
    .encode = encode,
    .decode = decode,
};
