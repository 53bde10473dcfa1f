/* What the programs in this folder share. The work.h of a kernel is in the folder of that kernel, and defines
 *
 *   kernel_path        the type of its CPU paths, of which find_path returns one;
 *   work               the arguments and results of an operation, with the members of WORK;
 *   OPERATIONS         all operations;
 *   has_secret         whether result number `index` of an operation must be secret;
 *   fill_secrets       fills the secrets so that they depend on a seed;
 *   make_work          makes the arguments of an operation on `count` points, items or blocks; drop_work frees them.
 *
 * This code is not constant time. Counts, lengths, and which points are bad are public and do not depend on the seed;
 * all secrets do. Every buffer starts at an address that is aligned no better than it must be, and ends with its
 * allocation, so that tools detect an access to the next byte.
 */
#ifndef COMMON_H
#define COMMON_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    uint8_t *bytes;
    size_t size;
} region;

#define MOST_SECRETS 4

/* flags: results that are public. The first secret is not empty unless the count is 0, and the second never is. */
#define WORK                                                                                                           \
    size_t count;                                                                                                      \
    region secrets[MOST_SECRETS], out, flags

/* For 1, 4 and 8 lanes: no point, one, a block and one more, several pairs of blocks and a rest, a batch and a rest. */
static const size_t COUNTS[] = {0, 1, 2, 5, 9, 19, 35, 261};
#define COUNT_COUNT (sizeof COUNTS / sizeof *COUNTS)

/* Return a buffer that starts `shift` bytes behind the best alignment. */
static region make_region(size_t size, size_t shift) {
    uint8_t *bytes = malloc(size + shift);
    if (bytes == NULL)
        exit(2);
    return (region){bytes + shift, size};
}

static void drop_region(region *r, size_t shift) {
    free(r->bytes - shift);
}

/* Fill with pseudo-random bytes that depend on a seed (splitmix64). */
static void fill(region r, uint64_t seed) {
    for (size_t i = 0; i < r.size; i++) {
        uint64_t x = (seed * 1000003 + i + 1) * UINT64_C(0x9e3779b97f4a7c15);
        x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
        x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
        r.bytes[i] = (uint8_t)(x >> 56);
    }
}

#define FIND_PATH                                                                                                      \
    static const kernel_path *find_path(const char *name) {                                                            \
        for (size_t i = 0; i < sizeof PATHS / sizeof *PATHS; i++)                                                      \
            if (strcmp(PATHS[i]->name, name) == 0)                                                                     \
                return PATHS[i];                                                                                       \
        fprintf(stderr, "no such path: %s\n", name);                                                                   \
        exit(2);                                                                                                       \
    }

#endif
