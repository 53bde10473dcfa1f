/* The operations of the kernel on generated input, for the programs in this folder. This code is not constant time.
 *
 * Counts, lengths, and which points are bad are public and do not depend on the seed; all secrets do. Every buffer
 * starts at an unaligned address and ends with its allocation, so that tools detect an access to the next byte.
 */
#ifndef WORK_H
#define WORK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "psicli.h"

static const psicli_path *const PATHS[] = {
#ifdef __x86_64__
    &psicli_avx512ifma, &psicli_avx512, &psicli_avx2,
#endif
    &psicli_portable,
};

/* For 1, 4 and 8 lanes: no point, one, a block and one more, several pairs of blocks and a rest, a batch and a rest. */
static const size_t COUNTS[] = {0, 1, 2, 5, 9, 19, 35, 261};
#define COUNT_COUNT (sizeof COUNTS / sizeof *COUNTS)

/* Item lengths around the ends of SHA-512's blocks, and one of many blocks. */
static const size_t SIZES[] = {0, 22, 1, 13, 100, 31, 32, 300, 59, 5, 60, 61, 187, 188, 189, 7};
#define LONG_SIZE 20011

typedef struct {
    size_t count, data_size, out_size;
    uint8_t *points, *scalar, *data, *prefix, *dst; /* all but the last two are secret */
    psicli_items items;
    psicli_suite suite;
    void *offsets;
    uint8_t *out, *flags;
} work;

typedef struct {
    const char *name;
    size_t size; /* of a result [bytes] */
    void (*run)(const psicli_path *path, work *w);
} operation;

static void run_mask(const psicli_path *path, work *w) {
    path->mask(w->out, w->flags, w->points, w->count, w->scalar);
}

static void run_hash_to_points(const psicli_path *path, work *w) {
    path->hash_to_points(w->out, w->flags, &w->items, &w->suite);
}

static void run_hash_and_mask(const psicli_path *path, work *w) {
    path->hash_and_mask(w->out, w->flags, &w->items, &w->suite, w->scalar);
}

static void run_tokens(const psicli_path *path, work *w) {
    path->tokens(w->out, w->points, w->count, w->prefix, w->suite.prefix_size);
}

static void run_digests(const psicli_path *path, work *w) {
    path->digests(w->out, 32, &w->items, w->scalar, 32);
}

/* Write the one answer for all points as the first result. */
static void run_on_curve(const psicli_path *path, work *w) {
    uint8_t all = (uint8_t)path->on_curve(w->points, w->count);
    if (w->count > 0)
        w->out[0] = all;
}

static const operation OPERATIONS[] = {
    {"mask", 32, run_mask},
    {"hash_to_points", 32, run_hash_to_points},
    {"hash_and_mask", 32, run_hash_and_mask},
    {"digests", 32, run_digests},
    {"tokens", 16, run_tokens},
    {"on_curve", 1, run_on_curve},
};
#define OPERATION_COUNT (sizeof OPERATIONS / sizeof *OPERATIONS)

static const psicli_path *find_path(const char *name) {
    for (size_t i = 0; i < sizeof PATHS / sizeof *PATHS; i++)
        if (strcmp(PATHS[i]->name, name) == 0)
            return PATHS[i];
    fprintf(stderr, "no such path: %s\n", name);
    exit(2);
}

static uint8_t *make_bytes(size_t size) {
    uint8_t *bytes = malloc(size + 1);
    if (bytes == NULL)
        exit(2);
    return bytes + 1;
}

static void drop_bytes(uint8_t *bytes) {
    free(bytes - 1);
}

/* Fill with pseudo-random bytes that depend on a seed (splitmix64). */
static void fill(uint8_t *bytes, size_t size, uint64_t seed) {
    for (size_t i = 0; i < size; i++) {
        uint64_t x = (seed * 1000003 + i + 1) * UINT64_C(0x9e3779b97f4a7c15);
        x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
        x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
        bytes[i] = (uint8_t)(x >> 56);
    }
}

/* Return whether a point is bad, that is, of low order or not canonical. */
static int is_bad(size_t index) {
    return index % 11 == 3 || index % 11 == 7;
}

static void fill_points(uint8_t *points, size_t count, uint64_t seed) {
    fill(points, 32 * count, seed);
    for (size_t i = 0; i < count; i++) {
        uint8_t *point = points + 32 * i;
        if (is_bad(i))
            memset(point, i % 11 == 3 ? 0 : 0xff, 32);
        else
            point[31] &= 0x7f;
    }
}

static size_t item_size(size_t index) {
    return index == 17 ? LONG_SIZE : SIZES[index % (sizeof SIZES / sizeof *SIZES)];
}

/* Return whether a result must be secret. The zeros for a bad point, the result of on_curve, and the hash of an empty
 * item are public. */
static inline int has_secret(const operation *o, size_t index) {
    if (o->run == run_mask)
        return !is_bad(index);
    if (o->run == run_hash_to_points)
        return item_size(index) > 0;
    return o->run != run_on_curve;
}

static void fill_secrets(work *w, uint64_t seed) {
    fill_points(w->points, w->count, seed);
    fill(w->scalar, 32, seed + 1);
    fill(w->data, w->data_size, seed + 2);
}

/* Make the arguments of an operation on `count` points or items. Offsets have 64 bits if the count is odd. */
static work make_work(const operation *o, size_t count) {
    static const char dst[] = "PSICLI-TESTS-with-curve25519_XMD:SHA-512_ELL2_RO_";
    const size_t prefix_size = 33, dst_size = sizeof dst - 1;
    const int wide = count & 1;
    work w = {.count = count, .out_size = o->size * count};
    w.offsets = malloc((count + 1) * (wide ? 8 : 4));
    if (w.offsets == NULL)
        exit(2);
    for (size_t i = 0; i <= count; i++) {
        if (wide)
            ((int64_t *)w.offsets)[i] = (int64_t)w.data_size;
        else
            ((int32_t *)w.offsets)[i] = (int32_t)w.data_size;
        w.data_size += i < count ? item_size(i) : 0;
    }
    w.points = make_bytes(32 * count);
    w.scalar = make_bytes(32);
    w.data = make_bytes(w.data_size);
    w.prefix = make_bytes(prefix_size);
    w.dst = make_bytes(dst_size);
    w.out = make_bytes(w.out_size);
    memset(w.out, 0, w.out_size);
    w.flags = make_bytes(count);
    fill_secrets(&w, 1);
    fill(w.prefix, prefix_size, 0);
    memcpy(w.dst, dst, dst_size);
    memset(w.flags, 0, count);
    w.items = (psicli_items){w.offsets, w.data, wide, count};
    w.suite = (psicli_suite){w.prefix, w.dst, prefix_size, dst_size};
    return w;
}

static void drop_work(work *w) {
    uint8_t *all[] = {w->points, w->scalar, w->data, w->prefix, w->dst, w->out, w->flags};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        drop_bytes(all[i]);
    free(w->offsets);
}

#endif
