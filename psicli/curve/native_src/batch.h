/* Batches of points: loading, storing and dividing them, products by a scalar, and sums. Included by kernel.h. */
#ifndef PSICLI_BATCH_H
#define PSICLI_BATCH_H

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

#endif
