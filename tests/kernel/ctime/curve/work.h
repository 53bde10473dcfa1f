/* The operations of the curve kernel on generated input, for the programs in the folder above; see common.h. */
#ifndef WORK_H
#define WORK_H

#include "../common.h"

#include "psicli.h"

typedef psicli_path kernel_path;

static const kernel_path *const PATHS[] = {
#ifdef __x86_64__
    &psicli_avx512ifma, &psicli_avx512, &psicli_avx2,
#endif
    &psicli_portable,
};
FIND_PATH

/* Item lengths around the ends of SHA-512's blocks, and one of many blocks. */
static const size_t SIZES[] = {0, 22, 1, 13, 100, 31, 32, 300, 59, 5, 60, 61, 187, 188, 189, 7};
#define LONG_SIZE 20011
/* Bytes may be at any address. */
#define SHIFT 1

enum { POINTS, SCALAR, DATA, SIGNS };

typedef struct {
    WORK;
    region prefix, dst;
    psicli_items items;
    psicli_suite suite;
    void *offsets;
} work;

typedef struct {
    const char *name;
    size_t size; /* of a result [bytes] */
    void (*run)(const kernel_path *path, work *w);
} operation;

static void run_mask(const kernel_path *path, work *w) {
    path->mask(w->out.bytes, w->flags.bytes, w->secrets[POINTS].bytes, w->count, w->secrets[SCALAR].bytes);
}

static void run_partners(const kernel_path *path, work *w) {
    static const uint8_t base_point[32] = {9};
    path->partners(w->out.bytes, w->flags.bytes, w->secrets[POINTS].bytes, w->count, base_point,
                   w->secrets[SIGNS].bytes);
}

static void run_hash_to_points(const kernel_path *path, work *w) {
    path->hash_to_points(w->out.bytes, w->flags.bytes, &w->items, &w->suite);
}

static void run_hash_and_mask(const kernel_path *path, work *w) {
    path->hash_and_mask(w->out.bytes, w->flags.bytes, &w->items, &w->suite, w->secrets[SCALAR].bytes);
}

static void run_tokens(const kernel_path *path, work *w) {
    path->tokens(w->out.bytes, w->secrets[POINTS].bytes, w->count, w->prefix.bytes, w->prefix.size);
}

static void run_digests(const kernel_path *path, work *w) {
    path->digests(w->out.bytes, 32, &w->items, w->secrets[SCALAR].bytes, w->secrets[SCALAR].size);
}

/* Write the one answer for all points as the first result. */
static void run_on_curve(const kernel_path *path, work *w) {
    uint8_t all = (uint8_t)path->on_curve(w->secrets[POINTS].bytes, w->count);
    if (w->count > 0)
        w->out.bytes[0] = all;
}

static const operation OPERATIONS[] = {
    {"mask", 32, run_mask},
    {"partners", 32, run_partners},
    {"hash_to_points", 32, run_hash_to_points},
    {"hash_and_mask", 32, run_hash_and_mask},
    {"digests", 32, run_digests},
    {"tokens", 16, run_tokens},
    {"on_curve", 1, run_on_curve},
};
#define OPERATION_COUNT (sizeof OPERATIONS / sizeof *OPERATIONS)

/* Return whether a point is bad, that is, of low order or not canonical. */
static int is_bad(size_t index) {
    return index % 11 == 3 || index % 11 == 7;
}

static void fill_points(region points, uint64_t seed) {
    fill(points, seed);
    for (size_t i = 0; i < points.size / 32; i++) {
        uint8_t *point = points.bytes + 32 * i;
        if (is_bad(i))
            memset(point, i % 11 == 3 ? 0 : 0xff, 32);
        else
            point[31] &= 0x7f;
    }
}

static size_t item_size(size_t index) {
    return index == 17 ? LONG_SIZE : SIZES[index % (sizeof SIZES / sizeof *SIZES)];
}

/* The zeros for a bad point, the result of on_curve, and the point of an empty item are public. */
static inline int has_secret(const operation *o, size_t index) {
    if (o->run == run_mask || o->run == run_partners)
        return !is_bad(index);
    if (o->run == run_hash_to_points)
        return item_size(index) > 0;
    return o->run != run_on_curve;
}

static void fill_secrets(work *w, uint64_t seed) {
    fill_points(w->secrets[POINTS], seed);
    fill(w->secrets[SCALAR], seed + 1);
    fill(w->secrets[DATA], seed + 2);
    fill(w->secrets[SIGNS], seed + 3);
}

/* Offsets have 64 bits if the count is odd. */
static work make_work(const operation *o, size_t count) {
    static const char dst[] = "PSICLI-TESTS-with-curve25519_XMD:SHA-512_ELL2_RO_";
    const int wide = count & 1;
    size_t data_size = 0;
    work w = {.count = count};
    w.offsets = malloc((count + 1) * (wide ? 8 : 4));
    if (w.offsets == NULL)
        exit(2);
    for (size_t i = 0; i <= count; i++) {
        if (wide)
            ((int64_t *)w.offsets)[i] = (int64_t)data_size;
        else
            ((int32_t *)w.offsets)[i] = (int32_t)data_size;
        data_size += i < count ? item_size(i) : 0;
    }
    w.secrets[POINTS] = make_region(32 * count, SHIFT);
    w.secrets[SCALAR] = make_region(32, SHIFT);
    w.secrets[DATA] = make_region(data_size, SHIFT);
    w.secrets[SIGNS] = make_region(count, SHIFT);
    w.prefix = make_region(33, SHIFT);
    w.dst = make_region(sizeof dst - 1, SHIFT);
    w.out = make_region(o->size * count, SHIFT);
    w.flags = make_region(count, SHIFT);
    fill_secrets(&w, 1);
    fill(w.prefix, 0);
    memcpy(w.dst.bytes, dst, w.dst.size);
    memset(w.out.bytes, 0, w.out.size);
    memset(w.flags.bytes, 0, w.flags.size);
    w.items = (psicli_items){w.offsets, w.secrets[DATA].bytes, wide, count};
    w.suite = (psicli_suite){w.prefix.bytes, w.dst.bytes, w.prefix.size, w.dst.size};
    return w;
}

static void drop_work(work *w) {
    region *all[] = {&w->secrets[POINTS], &w->secrets[SCALAR], &w->secrets[DATA], &w->secrets[SIGNS],
                     &w->prefix,          &w->dst,             &w->out,           &w->flags};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        drop_region(all[i], SHIFT);
    free(w->offsets);
}

#endif
