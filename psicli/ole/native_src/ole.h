/* The contract of the kernel for oblivious linear evaluation: what a CPU path provides and the Python binding calls.
 *
 * A block is 16 bytes. As a field element it is a polynomial over GF(2): bit i of its little-endian value is the
 * coefficient of x^i, modulo x^128 + x^7 + x^2 + x + 1. Results must not overlap arguments unless a function says so.
 * All numbers of blocks, rows and bits are public. Functions are constant time in everything else, except those of the
 * key-value store, whose addresses depend on the rows of its caller's own items.
 */
#ifndef PSICLI_OLE_H
#define PSICLI_OLE_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint64_t low, high;
} block;

enum {
    OLE_BAND = 256, /* the bits of a row of the key-value store */
    OLE_BAND_WORDS = OLE_BAND / 64,
};

/* A row of the key-value store: bit i of the band belongs to position start + i. */
typedef struct {
    uint64_t start;
    uint64_t band[OLE_BAND_WORDS];
} ole_row;

typedef struct {
    const char *name;
    /* Encrypt n blocks with AES-128 in the electronic codebook mode, FIPS 197. */
    void (*aes)(block *out, const block *in, size_t n, const uint8_t key[16]);
    /* Write AES(key, first), AES(key, first + 1), … as a stream of n blocks. */
    void (*stream)(block *out, size_t n, const uint8_t key[16], uint64_t first);
    /* Write the correlation-robust hashes of n blocks: hash i uses the tweak first + i. */
    void (*hashes)(block *out, const block *in, size_t n, uint64_t first);
    /* out[i] += factor * in[i] in GF(2^128). */
    void (*multiply_add)(block *out, const block *in, size_t n, const block *factor);
    /* Write the sum of in[i] * by[i]. */
    void (*inner)(block *out, const block *in, const block *by, size_t n);
    /* Write the rows of n keys for a store of `length` positions, at least OLE_BAND. */
    void (*rows)(ole_row *out, const block *keys, size_t n, size_t length, const uint8_t seed[16]);
    /* Fill the store so that each row's positions sum to its value; the positions that no row decides keep what `store`
     * holds. Return 1, 0 if there is no solution, or -1 if memory runs out. */
    int (*encode)(block *store, size_t length, const ole_row *rows, const block *values, size_t n);
    /* Write the sum of each row's positions. Return 0, or -1 if memory runs out. */
    int (*decode)(block *out, const block *store, size_t length, const ole_row *rows, size_t n);
    /* Expand each of n trees from its seed to `leaves` leaves, and write them one tree after another. Write for every
     * tree and each of its `depth` levels the sum of all left and of all right children. */
    int (*grow)(block *leaves, block *sums, const block *seeds, size_t n, size_t width, unsigned depth);
    /* Grow n trees without the leaf at points[i] of each, which becomes zero, from one sum of each level. */
    int (*regrow)(block *leaves, const block *sums, const uint32_t *points, size_t n, size_t width, unsigned depth);
    /* Transpose a matrix of 128 rows of n bits, n a multiple of 128, into n blocks. */
    void (*transpose)(block *out, const uint8_t *rows, size_t n);
    /* The convolution of the code, in place, on n elements of `width` blocks. */
    void (*convolve)(block *elements, size_t n, unsigned width, const uint8_t seed[16]);
    /* The expander of the code: write elements `from` to `to` of its result, each the sum of some of n elements. */
    void (*expand)(block *out, size_t from, size_t to, const block *elements, size_t n, unsigned width,
                   const uint8_t seed[16]);
} ole_path;

#define OLE_HIDDEN __attribute__((visibility("hidden")))
extern OLE_HIDDEN const ole_path ole_portable;
#ifdef __x86_64__
extern OLE_HIDDEN const ole_path ole_aesni, ole_vaes;
#endif

#endif
