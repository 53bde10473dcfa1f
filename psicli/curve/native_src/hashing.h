/* Hashing of items, to points and to digests. Included by kernel.h. */
#ifndef PSICLI_HASHING_H
#define PSICLI_HASHING_H

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

#endif
