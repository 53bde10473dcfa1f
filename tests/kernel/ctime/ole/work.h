/* The operations of the kernel of RR22 on generated input, for the programs in the folder above; see common.h. */
#ifndef WORK_H
#define WORK_H

#include "../common.h"

#include "ole.h"

typedef ole_path kernel_path;

static const kernel_path *const PATHS[] = {
#ifdef __x86_64__
    &ole_vaes, &ole_aesni,
#endif
    &ole_portable,
};
FIND_PATH

/* The alignment of a block; vectors are wider. */
#define SHIFT 8
/* So many trees or groups of streams at once. */
#define GROUPS 3

enum { BLOCKS, KEY, POINTS };

typedef struct {
    WORK;
    size_t length; /* of the store */
    region rows;   /* public, as the caller's own items are */
} work;

typedef struct {
    const char *name;
    void (*run)(const kernel_path *path, work *w);
    /* How many blocks it takes, and how many it returns. */
    size_t (*taken)(size_t count), (*made)(size_t count);
    size_t size; /* of a result [bytes] */
} operation;

static size_t one(size_t count) {
    return count;
}

static size_t two(size_t count) {
    return 2 * count;
}

static size_t planes(size_t count) {
    return OLE_DELTA * count;
}

static unsigned levels(size_t width) {
    unsigned depth = 0;
    while ((size_t)1 << depth < width)
        depth++;
    return depth;
}

static size_t one_sum_a_level(size_t width) {
    return GROUPS * levels(width);
}

static size_t leaves(size_t width) {
    return GROUPS * width;
}

static size_t leaves_and_sums(size_t width) {
    return GROUPS * (width + 2 * levels(width));
}

static size_t seeds(size_t count) {
    return count ? GROUPS : 0;
}

static size_t groups_of_seeds(size_t count) {
    return OLE_STREAMS * seeds(count);
}

static size_t sums_and_planes(size_t count) {
    return GROUPS * (1 + OLE_PLANES) * count;
}

static size_t positions(size_t count) {
    return 2 * count + OLE_BAND;
}

/* An operation, with `in`, `out` and `n` blocks, and the key. */
#define OPERATION(name, call)                                                                                          \
    static void run_##name(const kernel_path *path, work *w) {                                                         \
        const block *in = (const void *)w->secrets[BLOCKS].bytes;                                                      \
        block *out = (void *)w->out.bytes;                                                                             \
        const uint8_t *key = w->secrets[KEY].bytes;                                                                    \
        const uint32_t *points = (const void *)w->secrets[POINTS].bytes;                                               \
        size_t n = w->count;                                                                                           \
        (void)in, (void)key, (void)points;                                                                             \
        call;                                                                                                          \
        ole_wipe_stack();                                                                                              \
    }

static void copy(block *out, const block *in, size_t n) {
    memcpy(out, in, n * sizeof *out);
}

static void must(int done) {
    if (done < 0)
        exit(2);
}

OPERATION(encrypt, path->encrypt(out, in, n, key))
OPERATION(hashes, path->hashes(out, in, n, 7))
OPERATION(add_products, (copy(out, in, n), path->add_products(out, in + n, n, (const block *)(const void *)key)))
OPERATION(combine, path->combine(out, in, n))
OPERATION(transpose, path->transpose(out, in, n))
OPERATION(grow, must(n ? path->grow(out, out + leaves(n), in, GROUPS, n, levels(n)) : 0))
OPERATION(regrow, must(n ? path->regrow(out, in, points, GROUPS, n, levels(n)) : 0))
OPERATION(spread, path->spread(out, out + GROUPS * n, in, NULL, seeds(n), n))
OPERATION(spread_at_points, path->spread(out, out + GROUPS * n, in, points, seeds(n), n))
OPERATION(convolve, (copy(out, in, n), path->convolve(out, n, 1)))
OPERATION(convolve_pairs, (copy(out, in, 2 * n), path->convolve(out, n, 2)))
OPERATION(expand, path->expand(out, 3, n, in, n, 1))
OPERATION(expand_pairs, path->expand(out, 3, n, in, n, 2))
OPERATION(rows, path->rows((void *)out, in, n / 5 * 2, OLE_BAND + n, key))
OPERATION(encode, (copy(out, in + n, w->length), must(path->encode(out, w->length, (const void *)w->rows.bytes, in, n))))
OPERATION(decode, must(path->decode(out, in, w->length, (const void *)w->rows.bytes, n)))

static size_t values_and_positions(size_t count) {
    return count + positions(count);
}

/* Rows have five words, and blocks two. */
static size_t blocks_of_rows(size_t count) {
    return count / 5 * 5;
}

static const operation OPERATIONS[] = {
    {"encrypt", run_encrypt, one, one, 16},
    {"hashes", run_hashes, one, one, 16},
    {"add_products", run_add_products, two, one, 16},
    {"combine", run_combine, planes, one, 16},
    {"transpose", run_transpose, planes, planes, 16},
    {"grow", run_grow, seeds, leaves_and_sums, 16},
    {"regrow", run_regrow, one_sum_a_level, leaves, 16},
    {"spread", run_spread, groups_of_seeds, sums_and_planes, 16},
    {"spread_at_points", run_spread_at_points, groups_of_seeds, sums_and_planes, 16},
    {"convolve", run_convolve, one, one, 16},
    {"convolve_pairs", run_convolve_pairs, two, two, 16},
    {"expand", run_expand, one, one, 16},
    {"expand_pairs", run_expand_pairs, two, two, 16},
    {"rows", run_rows, one, blocks_of_rows, 16},
    {"encode", run_encode, values_and_positions, positions, 16},
    {"decode", run_decode, positions, one, 16},
};
#define OPERATION_COUNT (sizeof OPERATIONS / sizeof *OPERATIONS)

/* The leaf of a tree that has no other is public, and so are the first bits of the start of a row: they are zeros. */
static inline int has_secret(const operation *o, size_t index) {
    (void)index;
    return o->run != run_regrow && o->run != run_rows;
}

static void fill_secrets(work *w, uint64_t seed) {
    fill(w->secrets[BLOCKS], seed);
    fill(w->secrets[KEY], seed + 1);
    fill(w->secrets[POINTS], seed + 2);
    for (size_t i = 0; i < w->secrets[POINTS].size / 4; i++) {
        uint32_t *point = (uint32_t *)(void *)w->secrets[POINTS].bytes + i;
        *point %= w->count && w->count < OLE_STREAMS ? (uint32_t)w->count : OLE_STREAMS;
    }
}

static work make_work(const operation *o, size_t count) {
    work w = {.count = count, .length = positions(count)};
    w.secrets[BLOCKS] = make_region(o->taken(count) * sizeof(block), SHIFT);
    w.secrets[KEY] = make_region(16, SHIFT);
    w.secrets[POINTS] = make_region(GROUPS * 4, SHIFT);
    w.rows = make_region(count * sizeof(ole_row), SHIFT);
    w.out = make_region(o->made(count) * o->size, SHIFT);
    w.flags = make_region(0, SHIFT);
    fill_secrets(&w, 1);
    fill(w.rows, 0);
    for (size_t i = 0; i < count; i++)
        ((ole_row *)(void *)w.rows.bytes)[i].start %= w.length - OLE_BAND + 1;
    memset(w.out.bytes, 0, w.out.size);
    return w;
}

static void drop_work(work *w) {
    region *all[] = {&w->secrets[BLOCKS], &w->secrets[KEY], &w->secrets[POINTS], &w->rows, &w->out, &w->flags};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        drop_region(all[i], SHIFT);
}

#endif
