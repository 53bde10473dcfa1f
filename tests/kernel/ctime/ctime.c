/* Run a kernel on secrets that a checker treats as uninitialised memory. The checker reports a branch or an address
 * that depends on one.
 *
 *   ctime PATH [branch | address | overflow | undefined]
 *
 * Prints all results. There are three builds: with -DPSICLI_VALGRIND, for Valgrind's memcheck; with clang's
 * -fsanitize=memory and -DPSICLI_PLAIN; and without either, which only computes. Under a checker, the results must be
 * secret too; otherwise, the checker has lost track of the secrets. The second argument plants an error after the
 * first result, which a checker or sanitizer must find.
 *
 * MemorySanitizer treats carries from secret bits as initialised, but memcheck does not. Therefore, only memcheck finds
 * code that depends on carries alone, on the paths that it supports. On the other paths, steps.c finds code that
 * behaves differently for two secrets.
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

/* Return whether a byte has secret bits; always true without a checker. */
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

static _Noreturn void plant(const char *error, work *w) {
    uint8_t table[256] = {0};
    if (strcmp(error, "branch") == 0) {
        if (w->out.bytes[0] & 1)
            sink = 1;
    } else if (strcmp(error, "address") == 0) {
        sink = table[w->out.bytes[0]];
    } else if (strcmp(error, "overflow") == 0) {
        sink = w->secrets[0].bytes[w->secrets[0].size];
    } else if (strcmp(error, "undefined") == 0) {
        sink = INT_MAX + (int)w->count;
    } else {
        exit(2);
    }
    exit(0);
}

static void print_region(const region *r) {
    putchar(' ');
    for (size_t i = 0; i < r->size; i++)
        printf("%02x", r->bytes[i]);
}

static void run(const kernel_path *path, const operation *o, size_t count, const char *error) {
    work w = make_work(o, count);
    for (size_t i = 0; i < MOST_SECRETS; i++)
        hide(w.secrets[i].bytes, w.secrets[i].size);
    o->run(path, &w);
    if (error != NULL && count > 0)
        plant(error, &w);
    for (size_t i = 0; i < w.out.size; i++)
        if (has_secret(o, i / o->size) && !is_hidden(w.out.bytes + i)) {
            fprintf(stderr, "the checker lost track of secrets: %s of %zu\n", o->name, count);
            exit(1);
        }
    show(w.out.bytes, w.out.size);
    show(w.flags.bytes, w.flags.size);
    printf("%s %zu", o->name, count);
    print_region(&w.out);
    print_region(&w.flags);
    putchar('\n');
    drop_work(&w);
}

int main(int argc, char **argv) {
    if (argc != 2 && argc != 3)
        return 2;
    const kernel_path *path = find_path(argv[1]);
    for (size_t i = 0; i < COUNT_COUNT; i++)
        for (size_t o = 0; o < OPERATION_COUNT; o++)
            run(path, &OPERATIONS[o], COUNTS[i], argc == 3 ? argv[2] : NULL);
    return 0;
}
