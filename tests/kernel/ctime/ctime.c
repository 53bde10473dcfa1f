/* Run the kernel on secrets that a checker takes for uninitialised: a branch on one, or an address from one, is an
 * error.
 *
 *   ctime PATH [branch | address | overflow | undefined]
 *
 * prints every result. Three builds: -DPSICLI_VALGRIND, for Valgrind's memcheck; clang's -fsanitize=memory with
 * -DPSICLI_PLAIN; and any other, which only computes. Under a checker, results must have inherited that they are
 * secret, or nothing was checked. The second argument plants a mistake, after a first result, that a checker or
 * sanitizer must find.
 *
 * MemorySanitizer lets a sum's carry out of secret bits pass for initialised, memcheck does not. What has to do with
 * carries alone is thus seen by memcheck, on the paths it can run. On the others steps.c sees
 * what two secrets tell apart.
 */
#include <limits.h>

#include "work.h"

#ifdef PSICLI_VALGRIND
#include <valgrind/memcheck.h>

static void hide(void *bytes, size_t size) {
    (void)VALGRIND_MAKE_MEM_UNDEFINED(bytes, size);
}

static void show(void *bytes, size_t size) {
    (void)VALGRIND_MAKE_MEM_DEFINED(bytes, size);
}

/* Whether a byte has secret bits; under no checker, yes. */
static int is_hidden(const uint8_t *byte) {
    uint8_t bits = 0;
    return VALGRIND_GET_VBITS(byte, &bits, 1) != 1 || bits != 0;
}

#elif defined(__has_feature)
#if __has_feature(memory_sanitizer)
#define PSICLI_MSAN
#endif
#endif

#ifdef PSICLI_MSAN
#include <sanitizer/msan_interface.h>

static void hide(void *bytes, size_t size) {
    __msan_allocated_memory(bytes, size);
}

static void show(void *bytes, size_t size) {
    __msan_unpoison(bytes, size);
}

static int is_hidden(const uint8_t *byte) {
    return __msan_test_shadow(byte, 1) == 0;
}

#elif !defined(PSICLI_VALGRIND)

static void hide(void *bytes, size_t size) {
    (void)bytes, (void)size;
}

static void show(void *bytes, size_t size) {
    (void)bytes, (void)size;
}

static int is_hidden(const uint8_t *byte) {
    (void)byte;
    return 1;
}
#endif

static volatile int sink;

static _Noreturn void plant(const char *mistake, work *w) {
    uint8_t table[256] = {0};
    if (strcmp(mistake, "branch") == 0) {
        if (w->out[0] & 1)
            sink = 1;
    } else if (strcmp(mistake, "address") == 0) {
        sink = table[w->out[0]];
    } else if (strcmp(mistake, "overflow") == 0) {
        sink = w->points[32 * w->count];
    } else if (strcmp(mistake, "undefined") == 0) {
        sink = INT_MAX + (int)w->count;
    } else {
        exit(2);
    }
    exit(0);
}

static void print_bytes(const uint8_t *bytes, size_t size) {
    putchar(' ');
    for (size_t i = 0; i < size; i++)
        printf("%02x", bytes[i]);
}

static void run(const psicli_path *path, const operation *o, size_t count, const char *mistake) {
    work w = make_work(o, count);
    hide(w.points, 32 * count);
    hide(w.scalar, 32);
    hide(w.data, w.data_size);
    o->run(path, &w);
    if (mistake != NULL && count > 0)
        plant(mistake, &w);
    for (size_t i = 0; i < w.out_size; i++)
        if (has_secret(o, i / o->size) && !is_hidden(w.out + i)) {
            fprintf(stderr, "the checker lost track of secrets: %s of %zu\n", o->name, count);
            exit(1);
        }
    show(w.out, w.out_size);
    show(w.flags, count);
    printf("%s %zu", o->name, count);
    print_bytes(w.out, w.out_size);
    print_bytes(w.flags, count);
    putchar('\n');
    drop_work(&w);
}

int main(int argc, char **argv) {
    if (argc != 2 && argc != 3)
        return 2;
    const psicli_path *path = find_path(argv[1]);
    for (size_t i = 0; i < COUNT_COUNT; i++)
        for (size_t o = 0; o < OPERATION_COUNT; o++)
            run(path, &OPERATIONS[o], COUNTS[i], argc == 3 ? argv[2] : NULL);
    return 0;
}
