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

#include "batch.h"
#include "hashing.h"

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
