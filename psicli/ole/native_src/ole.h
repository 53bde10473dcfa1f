/* The contract of the kernel for oblivious linear evaluation: what a CPU path provides and the Python binding calls.
 *
 * A block is 16 bytes. As a field element it is a polynomial over GF(2): bit i of its little-endian value is the
 * coefficient of x^i, modulo x^128 + x^7 + x^2 + x + 1. Results must not overlap arguments unless a function says so.
 * All numbers of blocks, rows and bits are public. Functions are constant time in everything else, except those of the
 * key-value store, whose addresses depend on the rows of its caller's own items. Any number of threads may call them at
 * the same time. Call ole_wipe_stack after them: they leave secrets on the stack.
 */
#ifndef PSICLI_OLE_H
#define PSICLI_OLE_H

#include <stddef.h>
#include <stdint.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "blocks are little-endian; psicli uses its reference instead"
#endif

typedef struct {
    uint64_t low, high;
} block;

enum {
    OLE_BAND = 256, /* the bits of a row of the key-value store */
    OLE_BAND_WORDS = OLE_BAND / 64,
    OLE_STREAMS = 16, /* the streams of a group of SoftSpoken, and the bits of their numbers */
    OLE_PLANES = 4,
    OLE_DELTA = 128,    /* the bits of a block: so many planes are combined or transposed */
    OLE_MOST_DEPTH = 31, /* of a tree */
};

/* A row of the key-value store: bit i of the band belongs to position start + i. */
typedef struct {
    uint64_t start;
    uint64_t band[OLE_BAND_WORDS];
} ole_row;

typedef struct {
    const char *name;
    /* Encrypt n blocks with AES-128, each alone. FIPS 197. */
    void (*encrypt)(block *out, const block *in, size_t n, const uint8_t key[16]);
    /* Write the correlation-robust hashes of n blocks: hash i uses the tweak first + i. ePrint 2019/074, section 7.4. */
    void (*hashes)(block *out, const block *in, size_t n, uint64_t first);
    /* sums[i] += factor * in[i] */
    void (*add_products)(block *sums, const block *in, size_t n, const block *factor);
    /* Write the sum of x^b times plane b, for OLE_DELTA planes of n blocks that follow each other. */
    void (*combine)(block *out, const block *planes, size_t n);
    /* Transpose OLE_DELTA planes of n blocks: bit b of block i becomes bit i of plane b. */
    void (*transpose)(block *out, const block *planes, size_t n);
    /* Expand each of n trees from its seed to `width` leaves, and write them one tree after another. Write for every
     * tree and each of its `depth` levels the sum of all left and of all right children. Return 0, or -1 if memory runs
     * out. */
    int (*grow)(block *leaves, block *sums, const block *seeds, size_t n, size_t width, unsigned depth);
    /* Grow n trees without the leaf at points[i] of each, which becomes zero, from one sum of each level. */
    int (*regrow)(block *leaves, const block *sums, const uint32_t *points, size_t n, size_t width, unsigned depth);
    /* Expand groups of OLE_STREAMS seeds to streams of n blocks. Write for each group their sum, and OLE_PLANES sums of
     * those whose number has a bit set. A stream's number is its place, or, if `points` is not null, its place plus the
     * point of the group (exclusive or); then number 0 is left out. SoftSpoken, ePrint 2022/192. */
    void (*spread)(block *sums, block *planes, const block *seeds, const uint32_t *points, size_t groups, size_t n);
    /* The convolution of the code, in place, on n elements of `width` blocks, 1 or 2. ePrint 2023/882. */
    void (*convolve)(block *elements, size_t n, unsigned width);
    /* The expander of the code: write `count` elements of its result from `first` on, each the sum of some of n (at
     * least 1) elements. */
    void (*expand)(block *out, size_t first, size_t count, const block *elements, size_t n, unsigned width);
    /* Write the rows of n keys for a store of `length` positions, at least OLE_BAND and below 2^32. */
    void (*rows)(ole_row *out, const block *keys, size_t n, size_t length, const uint8_t seed[16]);
    /* Fill the store so that each row's positions sum to its value; the positions that no row decides keep what `store`
     * holds. All rows must be within the store. Return 1, 0 if there is no solution, or -1 if memory runs out. */
    int (*encode)(block *store, size_t length, const ole_row *rows, const block *values, size_t n);
    /* Write the sum of each row's positions. Return 0, or -1 if memory runs out. */
    int (*decode)(block *out, const block *store, size_t length, const ole_row *rows, size_t n);
} ole_path;

#define OLE_HIDDEN __attribute__((visibility("hidden")))
extern OLE_HIDDEN const ole_path ole_portable;
#ifdef __x86_64__
extern OLE_HIDDEN const ole_path ole_aesni, ole_vaes;
#endif

/* Overwrite the part of the stack that the functions of a path used before they returned. */
OLE_HIDDEN void ole_wipe_stack(void);

#endif
