/* The functions of the kernel, for LANES points in parallel. Every CPU path compiles them with its own field.
 *
 * A path's file defines
 *   LANES             the number of points in a vec, which make up a block;
 *   WAYS              the number of blocks that go through the ladder together: while the products of one block wait
 *                     for each other, the CPU computes those of another;
 *   PSICLI_FUNCTION   whether the products of field elements are inlined. Long ones are not, because nine inlined
 *                     products for each step and block do not fit into the CPU's cache of decoded instructions;
 *   PSICLI_PATH, PSICLI_NAME
 * and includes path.h, lanes.h, its field, curve.h, sha2.h, and then this file. Spare lanes in the last block of a call
 * hold copies of its last point. All secrets are on the stack, and are overwritten before a function returns. The
 * contracts are in psicli.h.
 */
#ifndef PSICLI_KERNEL_H
#define PSICLI_KERNEL_H

/* The number of blocks that share an inversion. An inversion costs 265 products, which makes 8 or 16 for each block; a
 * block costs about 2,300 in all. Large elements have smaller batches, because a batch is on the stack, and some
 * systems give a thread only 128 KiB. */
#define BATCH (LANES * LIMBS > 64 ? 16 : 32)
#define MIN(a, b) ((a) < (b) ? (a) : (b))
typedef struct {
    fe x[BATCH], z[BATCH], before[BATCH];
    vmask bad[BATCH];
} batch;

/* More stack than any function below uses: a batch, and three times as much as they use in addition [bytes]. */
#define STACK_BYTES (sizeof(batch) + 65536)
/* A function with its own frame, which its caller can overwrite completely. */
#define WORKER __attribute__((noinline)) static

/* Overwrite the part of the stack that functions used before they returned. */
WORKER void wipe_stack(void) {
    uint8_t used[STACK_BYTES];
    explicit_bzero(used, sizeof used);
}

static inline uint64_t load_le64(const uint8_t *bytes) {
    uint64_t x = 0;
    for (int i = 7; i >= 0; i--)
        x = x << 8 | bytes[i];
    return x;
}

static inline void store_le64(uint8_t *bytes, uint64_t x) {
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(x >> (8 * i));
}

/* Load a block of `count` (at least 1) points; set `bad` for points that are not canonical (p or above). */
static void load_points(fe *u, vmask *bad, const uint8_t *points, size_t count) {
    uint64_t words[4][LANES], above[LANES];
    vec loaded[4];
    for (size_t lane = 0; lane < LANES; lane++) {
        const uint8_t *point = points + 32 * MIN(lane, count - 1);
        for (int i = 0; i < 4; i++)
            words[i][lane] = load_le64(point + 8 * i);
        uint64_t high = words[1][lane] & words[2][lane] & (words[3][lane] | UINT64_C(1) << 63);
        uint64_t from_p = (uint64_t)(high == UINT64_MAX) & (uint64_t)(words[0][lane] >= UINT64_MAX - 18);
        above[lane] = 0 - (from_p | words[3][lane] >> 63);
    }
    memcpy(loaded, words, sizeof words);
    memcpy(bad, above, sizeof above);
    fe_from_words(u, loaded);
}

/* Store the first `count` points of a block, as zeros if `bad` is set. */
static void store_points(uint8_t *points, const fe *u, vmask bad, size_t count) {
    uint64_t words[4][LANES];
    vec canonical[4];
    fe_to_words(canonical, u);
    for (int i = 0; i < 4; i++)
        canonical[i] &= ~bad;
    memcpy(words, canonical, sizeof words);
    for (size_t lane = 0; lane < count; lane++)
        for (int i = 0; i < 4; i++)
            store_le64(points + 32 * lane + 8 * i, words[i][lane]);
}

/* Divide the fractions of a batch, store the quotients, and set `flags` for points that are bad or have no product. */
static void finish_batch(batch *b, uint8_t *points, uint8_t *flags, size_t count) {
    invert_all(b->z, b->before, (int)((count + LANES - 1) / LANES));
    for (size_t first = 0, i = 0; first < count; first += LANES, i++) {
        uint64_t bad[LANES];
        size_t here = MIN(LANES, count - first);
        fe_mul(&b->x[i], &b->x[i], &b->z[i]);
        b->bad[i] |= fe_if_zero(&b->x[i]);
        store_points(points + 32 * first, &b->x[i], b->bad[i], here);
        memcpy(bad, &b->bad[i], sizeof bad);
        for (size_t lane = 0; lane < here; lane++)
            flags[first + lane] = (uint8_t)(bad[lane] & 1);
    }
}

/* Multiply the u-coordinates in b->x, WAYS blocks at a time. If the number of blocks is odd, the last call also
 * multiplies the unused block behind them. */
static void ladders(batch *b, size_t blocks, const uint8_t *scalar) {
    for (size_t i = 0; i < blocks; i += WAYS) {
        fe u[WAYS];
        memcpy(u, &b->x[i], sizeof u);
        ladder(&b->x[i], &b->z[i], u, scalar);
    }
}

static void mask_batch(batch *b, const uint8_t *scalar, const uint8_t *points, size_t count, uint8_t *out, uint8_t *flags) {
    size_t blocks = (count + LANES - 1) / LANES;
    for (size_t i = 0; i < blocks; i++)
        load_points(&b->x[i], &b->bad[i], points + 32 * i * LANES, count - i * LANES);
    ladders(b, blocks, scalar);
    finish_batch(b, out, flags, count);
}

static void clamp(uint8_t clamped[32], const uint8_t scalar[32]) {
    memcpy(clamped, scalar, 32);
    clamped[0] &= 248;
    clamped[31] = (clamped[31] & 127) | 64;
}

WORKER void mask(uint8_t *out, uint8_t *flags, const uint8_t *points, size_t n, const uint8_t scalar[32]) {
    uint8_t clamped[32];
    batch b;
    clamp(clamped, scalar);
    for (size_t first = 0; first < n; first += BATCH * LANES)
        mask_batch(&b, clamped, points + 32 * first, MIN(BATCH * LANES, n - first), out + 32 * first, flags + first);
    explicit_bzero(clamped, sizeof clamped);
    explicit_bzero(&b, sizeof b);
}

/* The other point is in every lane, and so is `bad`, which tells whether it is bad. */
static void partners_batch(batch *b, const fe *other, vmask bad, const uint8_t *points, const uint8_t *signs,
                           size_t count, uint8_t *out, uint8_t *flags) {
    fe point, right;
    right_side(&right, other);
    for (size_t first = 0, i = 0; first < count; first += LANES, i++) {
        uint64_t lanes[LANES];
        vmask odd;
        for (size_t lane = 0; lane < LANES; lane++)
            lanes[lane] = 0 - (uint64_t)(signs[MIN(first + lane, count - 1)] & 1);
        memcpy(&odd, lanes, sizeof odd);
        load_points(&point, &b->bad[i], points + 32 * first, count - first);
        b->bad[i] |= bad | ~add_or_subtract(&b->x[i], &b->z[i], &point, other, &right, odd);
    }
    finish_batch(b, out, flags, count);
}

WORKER void partners(uint8_t *out, uint8_t *flags, const uint8_t *points, size_t n, const uint8_t other[32],
                     const uint8_t *signs) {
    batch b;
    fe in_lanes;
    vmask bad;
    load_points(&in_lanes, &bad, other, 1);
    for (size_t first = 0; first < n; first += BATCH * LANES)
        partners_batch(&b, &in_lanes, bad, points + 32 * first, signs + first, MIN(BATCH * LANES, n - first),
                       out + 32 * first, flags + first);
    explicit_bzero(&b, sizeof b);
}

/* Hashing ----------------------------------------------------------------------------------------------------- */

/* What expand_message_xmd (RFC 9380 section 5.3.1) hashes in addition to the message, prepared once per call. */
typedef struct {
    vec started[8];         /* the state after Z_pad, one block of zeros */
    uint8_t suffix[3 + 256]; /* l_i_b_str, 0, DST_prime */
    size_t suffix_size;
    vec tail[3 * 16]; /* the blocks of b_1: space for b_0, then 1, DST_prime and the padding */
    int tail_blocks;
} expansion;

static void prepare_expansion(expansion *e, const psicli_suite *suite) {
    uint8_t blocks[3 * SHA512_BLOCK] = {0};
    size_t used = SHA512_BLOCK / 2;
    vec words[16];
    sha512_start(e->started);
    for (int i = 0; i < 16; i++)
        words[i] = v_all(0);
    sha512_compress(e->started, words);
    e->suffix[0] = 0, e->suffix[1] = 2 * 48, e->suffix[2] = 0;
    memcpy(e->suffix + 3, suite->dst, suite->dst_size);
    e->suffix[3 + suite->dst_size] = (uint8_t)suite->dst_size;
    e->suffix_size = 3 + suite->dst_size + 1;
    blocks[used] = 1;
    memcpy(blocks + used + 1, e->suffix + 3, suite->dst_size + 1);
    used += 1 + suite->dst_size + 1;
    e->tail_blocks = (int)(sha2_pad(blocks, used, used, SHA512_BLOCK) / SHA512_BLOCK);
    for (int i = 0; i < 16 * e->tail_blocks; i++)
        e->tail[i] = v_all(load_be64(blocks + 8 * i));
}

/* The message of one lane: up to three parts that follow `before` bytes already hashed, in blocks of `block` bytes. */
typedef struct {
    const uint8_t *part[3];
    size_t size[3], before, total, block, blocks;
} message;

static void begin_message(message *m, size_t before, size_t block) {
    m->before = before;
    m->block = block;
    m->total = m->size[0] + m->size[1] + m->size[2];
    m->blocks = (m->total + 1 + block / 8 + block - 1) / block;
}

/* Write block `index` of the padded message. */
static void message_block(uint8_t *block, const message *m, size_t index) {
    size_t from = index * m->block, used = 0, start = 0;
    for (int i = 0; i < 3; start += m->size[i], i++) {
        size_t skip = from + used - start;
        if (from + used < start + m->size[i] && used < m->block) {
            size_t here = MIN(m->size[i] - skip, m->block - used);
            memcpy(block + used, m->part[i] + skip, here);
            used += here;
        }
    }
    memset(block + used, 0, m->block - used);
    if (from + used == m->total && used < m->block)
        block[used] = 0x80;
    if (index + 1 == m->blocks)
        for (int i = 0; i < 8; i++)
            block[m->block - 1 - i] = (uint8_t)((m->before + (uint64_t)m->total) * 8 >> (8 * i));
}

static size_t most_blocks(const message *messages, size_t lanes) {
    size_t most = 0;
    for (size_t lane = 0; lane < lanes; lane++)
        most = messages[lane].blocks > most ? messages[lane].blocks : most;
    return most;
}

/* Compute b_0 for every lane. Lanes whose message has ended keep their state. Lengths are public. */
static void hash_messages(vec b_0[8], const expansion *e, const message *messages) {
    memcpy(b_0, e->started, sizeof e->started);
    for (size_t index = 0, most = most_blocks(messages, LANES); index < most; index++) {
        uint64_t words[16][LANES] = {{0}}, on[LANES];
        uint8_t block[SHA512_BLOCK];
        vec loaded[16], state[8];
        vmask active;
        for (int lane = 0; lane < LANES; lane++) {
            on[lane] = 0 - (uint64_t)(index < messages[lane].blocks);
            if (!on[lane])
                continue;
            message_block(block, &messages[lane], index);
            for (int i = 0; i < 16; i++)
                words[i][lane] = load_be64(block + 8 * i);
        }
        memcpy(loaded, words, sizeof words);
        memcpy(&active, on, sizeof on);
        memcpy(state, b_0, sizeof state);
        sha512_compress(state, loaded);
        for (int i = 0; i < 8; i++)
            b_0[i] = v_select(active, state[i], b_0[i]);
    }
}

/* Update the states with one block of each lane, of which words are given; lanes that are not on keep their state. */
static void hash_words32(vec32 state[8], uint32_t words[16][LANES32], const uint32_t on[LANES32]) {
    vec32 loaded[16], next[8], active;
    memcpy(loaded, words, sizeof loaded);
    memcpy(&active, on, sizeof active);
    memcpy(next, state, sizeof next);
    sha256_compress(next, loaded);
    for (int i = 0; i < 8; i++)
        state[i] ^= active & (state[i] ^ next[i]);
}

/* Update the states with block `index` of each lane's message; lanes whose message has ended keep their state. */
static void hash_block32(vec32 state[8], const message *messages, size_t index) {
    uint32_t words[16][LANES32] = {{0}}, on[LANES32];
    uint8_t block[SHA256_BLOCK];
    for (size_t lane = 0; lane < LANES32; lane++) {
        on[lane] = 0 - (uint32_t)(index < messages[lane].blocks);
        if (!on[lane])
            continue;
        message_block(block, &messages[lane], index);
        for (int i = 0; i < 16; i++)
            words[i][lane] = load_be32(block + 4 * i);
    }
    hash_words32(state, words, on);
}

/* Store the first `size` bytes of the first `count` lanes' digests. */
static void store_digests(uint8_t *out, size_t size, const vec32 state[8], size_t count) {
    uint32_t digest[8][LANES32];
    memcpy(digest, state, sizeof digest);
    for (size_t lane = 0; lane < count; lane++)
        for (size_t i = 0; i < size; i++)
            out[size * lane + i] = (uint8_t)(digest[i / 4][lane] >> (24 - 8 * (i % 4)));
}

/* b_i = H(half ‖ i ‖ DST_prime) */
static void hash_half(vec b_i[8], const expansion *e, const vec half[8], int i) {
    sha512_start(b_i);
    for (int block = 0; block < e->tail_blocks; block++) {
        vec words[16];
        memcpy(words, e->tail + 16 * block, sizeof words);
        if (block == 0) {
            memcpy(words, half, 8 * sizeof *half);
            words[8] ^= (uint64_t)(i ^ 1) << 56;
        }
        sha512_compress(b_i, words);
    }
}

/* h = a big-endian number of six words modulo p: its lower 255 bits plus 19 times the others. */
static void field_from_wide(fe *h, const vec big_endian[6]) {
    vec low[4], high[4];
    fe above;
    for (int i = 0; i < 4; i++)
        low[i] = big_endian[5 - i];
    high[0] = low[3] >> 63 | big_endian[1] << 1;
    high[1] = big_endian[1] >> 63 | big_endian[0] << 1;
    high[2] = big_endian[0] >> 63;
    high[3] = v_all(0);
    fe_from_words(h, low);
    fe_from_words(&above, high);
    fe_mul_small(&above, &above, 19);
    fe_add(h, h, &above);
    fe_carry(h, h);
}

/* Hash one message per lane to two field elements: hash_to_field, RFC 9380 section 5.2. */
static void hash_to_field(fe u[PAIR], const expansion *e, const message *messages) {
    vec b_0[8], uniform[16], mixed[8];
    hash_messages(b_0, e, messages);
    hash_half(uniform, e, b_0, 1);
    for (int i = 0; i < 8; i++)
        mixed[i] = b_0[i] ^ uniform[i];
    hash_half(uniform + 8, e, mixed, 2);
    field_from_wide(&u[0], uniform);
    field_from_wide(&u[1], uniform + 6);
}

/* Hash `count` items to affine u-coordinates in b->x; set b->bad where the sum of the two points has none. */
static void hash_batch(batch *b, const expansion *e, const psicli_suite *suite, const psicli_items *items, size_t first,
                       size_t count) {
    size_t blocks = (count + LANES - 1) / LANES;
    for (size_t i = 0; i < blocks; i++) {
        message messages[LANES];
        fe u[PAIR];
        mapped q[PAIR];
        for (size_t lane = 0; lane < LANES; lane++) {
            size_t size, index = first + MIN(i * LANES + lane, count - 1);
            const uint8_t *item = psicli_item(items, index, &size);
            messages[lane] = (message){
                .part = {suite->prefix, item, e->suffix},
                .size = {suite->prefix_size, size, e->suffix_size},
            };
            begin_message(&messages[lane], SHA512_BLOCK, SHA512_BLOCK);
        }
        hash_to_field(u, e, messages);
        map_to_curve_elligator2(q, u);
        add_and_clear_cofactor(&b->x[i], &b->z[i], q);
        b->bad[i] = fe_if_zero(&b->z[i]);
    }
    invert_all(b->z, b->before, (int)blocks);
    for (size_t i = 0; i < blocks; i++)
        fe_mul(&b->x[i], &b->x[i], &b->z[i]);
}

WORKER void hash_to_points(uint8_t *out, uint8_t *flags, const psicli_items *items, const psicli_suite *suite) {
    expansion e;
    batch b;
    prepare_expansion(&e, suite);
    for (size_t first = 0; first < items->count; first += BATCH * LANES) {
        size_t count = MIN(BATCH * LANES, items->count - first);
        hash_batch(&b, &e, suite, items, first, count);
        for (size_t i = 0; i * LANES < count; i++)
            fe_small(&b.z[i], 1);
        finish_batch(&b, out + 32 * first, flags + first, count);
    }
    explicit_bzero(&b, sizeof b);
}

WORKER void hash_and_mask(uint8_t *out, uint8_t *flags, const psicli_items *items, const psicli_suite *suite,
                          const uint8_t scalar[32]) {
    uint8_t clamped[32];
    expansion e;
    batch b;
    clamp(clamped, scalar);
    prepare_expansion(&e, suite);
    for (size_t first = 0; first < items->count; first += BATCH * LANES) {
        size_t count = MIN(BATCH * LANES, items->count - first);
        hash_batch(&b, &e, suite, items, first, count);
        ladders(&b, (count + LANES - 1) / LANES, clamped);
        finish_batch(&b, out + 32 * first, flags + first, count);
    }
    explicit_bzero(clamped, sizeof clamped);
    explicit_bzero(&b, sizeof b);
}

/* A message of at most this size is copied as a whole, which is faster than block by block [bytes]. */
#define SHORT_BLOCKS 3
#define SHORT_MESSAGE (SHORT_BLOCKS * SHA256_BLOCK - 9)
_Static_assert(PSICLI_DIGEST_PREFIX <= SHORT_MESSAGE, "the padded messages have room for the prefix");

/* Hash prefix ‖ item for one item per lane, none longer than SHORT_MESSAGE in all; the padded messages begin with the
 * prefix. */
static void hash_short_items(vec32 state[8], uint8_t padded[LANES32][SHORT_BLOCKS * SHA256_BLOCK],
                             size_t prefix_size, const psicli_items *items, size_t first) {
    size_t blocks[LANES32], most = 0;
    for (size_t lane = 0; lane < LANES32; lane++) {
        size_t size;
        const uint8_t *item = psicli_item(items, MIN(first + lane, items->count - 1), &size);
        memcpy(padded[lane] + prefix_size, item, size);
        size += prefix_size;
        blocks[lane] = sha2_pad(padded[lane], size, size, SHA256_BLOCK) / SHA256_BLOCK;
        most = blocks[lane] > most ? blocks[lane] : most;
    }
    for (size_t index = 0; index < most; index++) {
        uint32_t words[16][LANES32], on[LANES32];
        for (size_t lane = 0; lane < LANES32; lane++) {
            on[lane] = 0 - (uint32_t)(index < blocks[lane]);
            for (size_t i = 0; i < 16; i++)
                words[i][lane] = load_be32(padded[lane] + SHA256_BLOCK * index + 4 * i);
        }
        hash_words32(state, words, on);
    }
}

WORKER void digests(uint8_t *out, size_t size, const psicli_items *items, const uint8_t *prefix, size_t prefix_size) {
    vec32 state[8];
    uint8_t padded[LANES32][SHORT_BLOCKS * SHA256_BLOCK] = {{0}};
    for (size_t lane = 0; lane < LANES32; lane++)
        memcpy(padded[lane], prefix, prefix_size);
    for (size_t first = 0; first < items->count; first += LANES32) {
        message messages[LANES32];
        size_t longest = 0;
        for (size_t lane = 0; lane < LANES32; lane++) {
            size_t length;
            const uint8_t *item = psicli_item(items, MIN(first + lane, items->count - 1), &length);
            messages[lane] = (message){.part = {prefix, item, item}, .size = {prefix_size, length, 0}};
            longest = length > longest ? length : longest;
        }
        sha256_start(state);
        if (longest <= SHORT_MESSAGE - prefix_size) {
            hash_short_items(state, padded, prefix_size, items, first);
        } else {
            for (size_t lane = 0; lane < LANES32; lane++)
                begin_message(&messages[lane], 0, SHA256_BLOCK);
            for (size_t index = 0, most = most_blocks(messages, LANES32); index < most; index++)
                hash_block32(state, messages, index);
        }
        store_digests(out + size * first, size, state, MIN(LANES32, items->count - first));
    }
    explicit_bzero(padded, sizeof padded);
    explicit_bzero(state, sizeof state);
}

/* Tokens and checks -------------------------------------------------------------------------------------------- */

/* All messages have the same length and differ in the words of the point only, so only those are loaded again. */
WORKER void tokens(uint8_t *out, const uint8_t *points, size_t n, const uint8_t *prefix, size_t prefix_size) {
    size_t used = prefix_size % SHA256_BLOCK, first_word = used / 4, last_word = (used + 32 + 3) / 4;
    uint8_t padded[2 * SHA256_BLOCK];
    uint32_t words[2 * 16][LANES32];
    vec32 started[8], state[8];
    sha256_start(started);
    for (size_t block = 0; block < prefix_size / SHA256_BLOCK; block++) {
        vec32 loaded[16];
        for (int i = 0; i < 16; i++)
            loaded[i] = (vec32){0} + load_be32(prefix + SHA256_BLOCK * block + 4 * i);
        sha256_compress(started, loaded);
    }
    memset(padded, 0, sizeof padded);
    memcpy(padded, prefix + prefix_size - used, used);
    size_t blocks = sha2_pad(padded, used + 32, prefix_size + 32, SHA256_BLOCK) / SHA256_BLOCK;
    for (size_t i = 0; i < 16 * blocks; i++)
        for (size_t lane = 0; lane < LANES32; lane++)
            words[i][lane] = load_be32(padded + 4 * i);
    for (size_t first = 0; first < n; first += LANES32) {
        for (size_t lane = 0; lane < LANES32; lane++) {
            memcpy(padded + used, points + 32 * MIN(first + lane, n - 1), 32);
            for (size_t i = first_word; i < last_word; i++)
                words[i][lane] = load_be32(padded + 4 * i);
        }
        memcpy(state, started, sizeof state);
        for (size_t block = 0; block < blocks; block++) {
            vec32 loaded[16];
            memcpy(loaded, words + 16 * block, sizeof loaded);
            sha256_compress(state, loaded);
        }
        store_digests(out + 16 * first, 16, state, MIN(LANES32, n - first));
    }
    explicit_bzero(padded, sizeof padded);
    explicit_bzero(words, sizeof words);
    explicit_bzero(state, sizeof state);
}

WORKER int on_curve(const uint8_t *points, size_t n) {
    uint64_t wrong = 0;
    fe u;
    for (size_t first = 0; first < n; first += LANES) {
        uint64_t lanes[LANES];
        vmask bad;
        load_points(&u, &bad, points + 32 * first, n - first);
        bad |= ~if_on_curve(&u);
        memcpy(lanes, &bad, sizeof lanes);
        for (int lane = 0; lane < LANES; lane++)
            wrong |= lanes[lane];
    }
    explicit_bzero(&u, sizeof u);
    return wrong == 0;
}

/* The functions of psicli.h ------------------------------------------------------------------------------------ */

/* Each of these calls a WORKER, whose frames are below its own, and then overwrites those frames. Every WORKER already
 * calls explicit_bzero, because the dynamic linker looks the function up at its first call and saves registers, vector
 * registers included, on the stack. That must happen before wipe_stack. */

static void wiped_mask(uint8_t *out, uint8_t *flags, const uint8_t *points, size_t n, const uint8_t scalar[32]) {
    mask(out, flags, points, n, scalar);
    wipe_stack();
}

static void wiped_partners(uint8_t *out, uint8_t *flags, const uint8_t *points, size_t n, const uint8_t other[32],
                           const uint8_t *signs) {
    partners(out, flags, points, n, other, signs);
    wipe_stack();
}

static void wiped_hash_to_points(uint8_t *out, uint8_t *flags, const psicli_items *items, const psicli_suite *suite) {
    hash_to_points(out, flags, items, suite);
    wipe_stack();
}

static void wiped_hash_and_mask(uint8_t *out, uint8_t *flags, const psicli_items *items, const psicli_suite *suite,
                                const uint8_t scalar[32]) {
    hash_and_mask(out, flags, items, suite, scalar);
    wipe_stack();
}

static void wiped_digests(uint8_t *out, size_t size, const psicli_items *items, const uint8_t *prefix,
                          size_t prefix_size) {
    digests(out, size, items, prefix, prefix_size);
    wipe_stack();
}

static void wiped_tokens(uint8_t *out, const uint8_t *points, size_t n, const uint8_t *prefix, size_t prefix_size) {
    tokens(out, points, n, prefix, prefix_size);
    wipe_stack();
}

static int wiped_on_curve(const uint8_t *points, size_t n) {
    int all = on_curve(points, n);
    wipe_stack();
    return all;
}

/* For tests ---------------------------------------------------------------------------------------------------- */

static void field(enum psicli_field_operation operation, uint64_t *out, const uint64_t *a, const uint64_t *b) {
    fe f, g, h;
    memcpy(&f, a, sizeof f);
    memcpy(&g, b, sizeof g);
    switch (operation) {
    case PSICLI_ADD:
        fe_add(&h, &f, &g);
        break;
    case PSICLI_SUBTRACT:
        fe_sub(&h, &f, &g);
        break;
    case PSICLI_MULTIPLY:
        fe_mul(&h, &f, &g);
        break;
    case PSICLI_SQUARE:
        fe_sqr(&h, &f);
        break;
    case PSICLI_MULTIPLY_SMALL:
        fe_mul_small(&h, &f, (uint32_t)b[0]);
        break;
    case PSICLI_CARRY:
        fe_carry(&h, &f);
        break;
    default:
        fe_reduce(&h, &f);
    }
    memcpy(out, &h, sizeof h);
}

const psicli_path PSICLI_PATH = {
    .name = PSICLI_NAME,
    .lanes = LANES,
    .limbs = LIMBS,
    .mask = wiped_mask,
    .partners = wiped_partners,
    .hash_to_points = wiped_hash_to_points,
    .hash_and_mask = wiped_hash_and_mask,
    .digests = wiped_digests,
    .tokens = wiped_tokens,
    .on_curve = wiped_on_curve,
    .field = field,
};

#endif
