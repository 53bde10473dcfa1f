/* Lists of packed records, such as hashes, points or tokens: their order, and a sieve that finds what two lists may
 * share. Also values of different sizes, as Arrow stores them, in another order. Of a record, only the first eight bytes
 * count here, as a little-endian number, its word. No function is constant time; each takes linear time, whatever the
 * records are.
 */
#define _DEFAULT_SOURCE
#include <stdlib.h>
#include <string.h>

#include "psicli.h"

typedef struct {
    uint64_t word, at;
} entry;

/* The most bits of a digit: twice as many parts do not fit into the caches. */
#define MOST_BITS 10
/* So few entries are in order sooner by insertion. */
#define FEW 24

static uint64_t word_of(const uint8_t *records, size_t width, size_t at) {
    uint64_t word = 0;
    for (int i = 7; i >= 0; i--)
        word = word << 8 | records[at * width + (size_t)i];
    return word;
}

/* Sort entries that differ in their `left` lowest bits only; equal words keep their order. A part that is divided again
 * has lost at least four bits, so there are at most 16 levels. */
static void sort(entry *entries, entry *scratch, size_t n, int left) {
    if (n <= FEW) {
        for (size_t i = 1, j; i < n; i++) {
            entry moved = entries[i];
            for (j = i; j && entries[j - 1].word > moved.word; j--)
                entries[j] = entries[j - 1];
            entries[j] = moved;
        }
        return;
    }
    int bits = 0;
    while (bits < MOST_BITS && bits < left && n >> (bits + 1))
        bits++;
    left -= bits;
    size_t mask = ((size_t)1 << bits) - 1;
    uint32_t ends[(1 << MOST_BITS) + 1];
    memset(ends, 0, (mask + 2) * sizeof *ends);
    for (size_t i = 0; i < n; i++)
        ends[(entries[i].word >> left & mask) + 1]++;
    for (size_t digit = 0; digit < mask; digit++)
        ends[digit + 1] += ends[digit];
    for (size_t i = 0; i < n; i++)
        scratch[ends[entries[i].word >> left & mask]++] = entries[i];
    memcpy(entries, scratch, n * sizeof *entries);
    for (size_t digit = 0, start = 0; left && digit <= mask; start = ends[digit++])
        if (ends[digit] - start > 1)
            sort(entries + start, scratch, ends[digit] - start, left);
}

int psicli_order(uint32_t *order, uint64_t *words, const uint8_t *records, size_t n, size_t width) {
    entry *entries = malloc((n ? n : 1) * sizeof *entries), *scratch = malloc((n ? n : 1) * sizeof *scratch);
    int done = entries != NULL && scratch != NULL;
    if (done) {
        for (size_t i = 0; i < n; i++)
            entries[i] = (entry){word_of(records, width, i), i};
        sort(entries, scratch, n, 64);
        for (size_t i = 0; i < n; i++) {
            order[i] = (uint32_t)entries[i].at;
            words[i] = entries[i].word;
        }
        /* The records may be those of a secret order. */
        explicit_bzero(entries, n * sizeof *entries);
        explicit_bzero(scratch, n * sizeof *scratch);
    }
    free(entries);
    free(scratch);
    return done;
}

/* The sieve has between eight and sixteen bits for each record. */
int psicli_seen(uint8_t *seen, const uint8_t *records, size_t n, const uint8_t *others, size_t count, size_t width) {
    size_t bits = 64;
    while (bits < 8 * n)
        bits *= 2;
    uint8_t *sieve = calloc(bits / 8, 1);
    if (sieve == NULL)
        return 0;
    for (size_t i = 0; i < n; i++) {
        size_t at = (size_t)word_of(records, width, i) & (bits - 1);
        sieve[at / 8] |= (uint8_t)(1 << at % 8);
    }
    for (size_t i = 0; i < count; i++) {
        size_t at = (size_t)word_of(others, width, i) & (bits - 1);
        seen[i] = sieve[at / 8] >> at % 8 & 1;
    }
    free(sieve);
    return 1;
}

/* How far ahead of their use values are fetched, which lie in no order [values]. */
#define AHEAD 16

int psicli_spans(int64_t *starts, int64_t *ends, const int64_t *offsets, size_t count, size_t size,
                 const uint32_t *places, size_t n) {
    int64_t total = 0;
    ends[0] = 0;
    for (size_t i = 0; i < n; i++) {
        if (i + AHEAD < n && places[i + AHEAD] < count)
            __builtin_prefetch(offsets + places[i + AHEAD]);
        if (places[i] >= count)
            return 0;
        int64_t from = offsets[places[i]], to = offsets[(size_t)places[i] + 1];
        if (from < 0 || to < from || (uint64_t)to > size || total > INT64_MAX - (to - from))
            return 0;
        starts[i] = from;
        ends[i + 1] = total += to - from;
    }
    return 1;
}

void psicli_gather(uint8_t *out, const uint8_t *data, const int64_t *starts, const int64_t *ends, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (i + AHEAD < n)
            __builtin_prefetch(data + starts[i + AHEAD]);
        memcpy(out + ends[i], data + starts[i], (size_t)(ends[i + 1] - ends[i]));
    }
}
