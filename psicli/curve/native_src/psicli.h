/* The curve kernel: what a CPU path offers, and the binding calls.
 *
 * Points are packed 32-byte little-endian u-coordinates. Results never overlap arguments. `n` and all lengths are public,
 * everything else is handled in constant time: no branch and no address depends on a scalar, an item or a point. Any
 * number of threads may call at once. What held secrets on the stack is overwritten before a function returns.
 */
#ifndef PSICLI_H
#define PSICLI_H

#include <stddef.h>
#include <stdint.h>

/* Items as Arrow holds them: item i is data[offset i .. offset i + 1], where offsets are 32 or 64 bits wide. Offsets must
 * ascend and lie within the data; whoever makes this has checked it. */
typedef struct {
    const void *offsets;
    const uint8_t *data;
    int wide; /* whether offsets have 64 bits */
    size_t count;
} psicli_items;

/* What goes before every item, and the domain separation tag of the hash (at most 255 bytes). */
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
    /* Write the products of n points with the clamped scalar. flags[i] becomes 1 where point i is not canonical or has
     * no product, whose place is filled with zeros, else 0. RFC 7748 section 5. */
    void (*mask)(uint8_t *out, uint8_t *flags, const uint8_t *points, size_t n, const uint8_t scalar[32]);
    /* Write the u-coordinates of hash_to_curve(prefix ‖ item), RFC 9380, suite curve25519_XMD:SHA-512_ELL2_RO_.
     * flags[i] becomes 1 in the exceptional cases no message is known to reach, else 0. */
    void (*hash_to_points)(uint8_t *out, uint8_t *flags, const psicli_items *items, const psicli_suite *suite);
    /* The same, then the products with the clamped scalar. */
    void (*hash_and_mask)(uint8_t *out, uint8_t *flags, const psicli_items *items, const psicli_suite *suite,
                          const uint8_t scalar[32]);
    /* Write the first 16 bytes of SHA-256(secret ‖ item) of every item. */
    void (*keyed_hashes)(uint8_t *out, const psicli_items *items, const uint8_t secret[32]);
    /* Write the first 16 bytes of SHA-256(prefix ‖ point) of n points. */
    void (*tokens)(uint8_t *out, const uint8_t *points, size_t n, const uint8_t *prefix, size_t prefix_size);
    /* Return whether all n points are canonical and on the curve, not on its twist. */
    int (*on_curve)(const uint8_t *points, size_t n);
    /* For tests: one field function on `limbs` vectors of `lanes` numbers, whatever they are. */
    void (*field)(enum psicli_field_operation operation, uint64_t *out, const uint64_t *a, const uint64_t *b);
} psicli_path;

#define PSICLI_FIELD_LIMBS (10 * 8) /* the most numbers a field element has */

#define PSICLI_HIDDEN __attribute__((visibility("hidden")))
extern PSICLI_HIDDEN const psicli_path psicli_portable;
#ifdef __x86_64__
extern PSICLI_HIDDEN const psicli_path psicli_avx2, psicli_avx512, psicli_avx512ifma;
#endif

/* Return where an item begins and set its size [bytes]. */
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
