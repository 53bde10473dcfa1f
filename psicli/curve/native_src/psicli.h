/* The contract of the curve kernel: the functions that a CPU path provides and the Python binding calls.
 *
 * Points are packed 32-byte little-endian u-coordinates. Results must not overlap arguments. `n` and all lengths are
 * public. The functions are constant time in everything else: no branch and no address depends on a scalar, an item or
 * a point. Any number of threads may call them at the same time. Before a function returns, it overwrites all secrets
 * that it had on the stack.
 */
#ifndef PSICLI_H
#define PSICLI_H

#include <stddef.h>
#include <stdint.h>

/* Items as Arrow stores them: item i is data[offset i .. offset i + 1], and offsets have 32 or 64 bits. The caller must
 * check that offsets ascend and stay within the data. */
typedef struct {
    const void *offsets;
    const uint8_t *data;
    int wide; /* whether offsets have 64 bits */
    size_t count;
} psicli_items;

/* The prefix that is hashed before every item, and the domain separation tag of the hash (at most 255 bytes). */
typedef struct {
    const uint8_t *prefix, *dst;
    size_t prefix_size, dst_size;
} psicli_suite;

enum psicli_field_operation {
    PSICLI_ADD,
    PSICLI_SUBTRACT,
    PSICLI_MULTIPLY,
    PSICLI_SQUARE,
    PSICLI_MULTIPLY_SMALL, /* by b[0], below 2^32 */
    PSICLI_CARRY,
    PSICLI_REDUCE,
    PSICLI_FIELD_OPERATIONS
};

typedef struct {
    const char *name;
    int lanes, limbs;
    /* Write the products of n points with the clamped scalar. If point i is not canonical or has no product, its
     * product is written as zeros and flags[i] becomes 1, otherwise 0. RFC 7748 section 5. */
    void (*mask)(uint8_t *out, uint8_t *flags, const uint8_t *points, size_t n, const uint8_t scalar[32]);
    /* Write the u-coordinate of the sum or of the difference of each of n points and the other one. The lowest bit of
     * signs[i] chooses which: the even or the odd root of the product of both right sides of the curve's equation. If
     * a point is not canonical, one is on the curve and the other on its twist, or the result is zero or infinite, the
     * result is written as zeros and flags[i] becomes 1, otherwise 0. */
    void (*partners)(uint8_t *out, uint8_t *flags, const uint8_t *points, size_t n, const uint8_t other[32],
                     const uint8_t *signs);
    /* Write the u-coordinates of hash_to_curve(prefix ‖ item), RFC 9380, suite curve25519_XMD:SHA-512_ELL2_RO_.
     * flags[i] becomes 1 in the exceptional cases that no known message reaches, otherwise 0. */
    void (*hash_to_points)(uint8_t *out, uint8_t *flags, const psicli_items *items, const psicli_suite *suite);
    /* Like hash_to_points, but write the products of the points with the clamped scalar. */
    void (*hash_and_mask)(uint8_t *out, uint8_t *flags, const psicli_items *items, const psicli_suite *suite,
                          const uint8_t scalar[32]);
    /* Write the first `size` (1 to 32) bytes of SHA-256(prefix ‖ item) of every item. */
    void (*digests)(uint8_t *out, size_t size, const psicli_items *items, const uint8_t *prefix, size_t prefix_size);
    /* Write the first 16 bytes of SHA-256(prefix ‖ point) of n points. */
    void (*tokens)(uint8_t *out, const uint8_t *points, size_t n, const uint8_t *prefix, size_t prefix_size);
    /* Return whether all n points are canonical and on the curve, not on its twist. */
    int (*on_curve)(const uint8_t *points, size_t n);
    /* For tests: run one field function on `limbs` vectors of `lanes` numbers, which may have any values. */
    void (*field)(enum psicli_field_operation operation, uint64_t *out, const uint64_t *a, const uint64_t *b);
} psicli_path;

#define PSICLI_DIGEST_PREFIX 128 /* the most that `digests` hashes before an item [bytes] */

#define PSICLI_FIELD_LIMBS (10 * 8) /* the most numbers that a field element of any path has */

#define PSICLI_HIDDEN __attribute__((visibility("hidden")))
extern PSICLI_HIDDEN const psicli_path psicli_portable;
#ifdef __x86_64__
extern PSICLI_HIDDEN const psicli_path psicli_avx2, psicli_avx512, psicli_avx512ifma;
#endif

/* Write the positions of n records of `width` (at least 8) bytes in ascending order of their words, and the words in
 * this order; equal words keep their order. Return 0 if memory runs out. See lists.c. */
PSICLI_HIDDEN int psicli_order(uint32_t *order, uint64_t *words, const uint8_t *records, size_t n, size_t width);
/* Write for each of `count` other records whether one of n records may have the same word: 1 if one has, and 0 if none
 * has, but for one in eight of those. Return 0 if memory runs out. */
PSICLI_HIDDEN int psicli_seen(uint8_t *seen, const uint8_t *records, size_t n, const uint8_t *others, size_t count,
                              size_t width);

/* Write where the values at n places start in their data, and where they end once they follow each other, from 0 on
 * (n + 1 numbers). Return 0 if a place is not below `count`, or if offsets do not ascend within `size`. */
PSICLI_HIDDEN int psicli_spans(int64_t *starts, int64_t *ends, const int64_t *offsets, size_t count, size_t size,
                               const uint32_t *places, size_t n);
/* Copy the values that psicli_spans has found. */
PSICLI_HIDDEN void psicli_gather(uint8_t *out, const uint8_t *data, const int64_t *starts, const int64_t *ends,
                                 size_t n);

/* Return the start of an item and set its size [bytes]. */
static inline const uint8_t *psicli_item(const psicli_items *items, size_t index, size_t *size) {
    uint64_t from, to;
    if (items->wide) {
        from = (uint64_t)((const int64_t *)items->offsets)[index];
        to = (uint64_t)((const int64_t *)items->offsets)[index + 1];
    } else {
        from = (uint64_t)((const int32_t *)items->offsets)[index];
        to = (uint64_t)((const int32_t *)items->offsets)[index + 1];
    }
    *size = (size_t)(to - from);
    return items->data + from;
}

#endif
