/* Check that the order of a kernel's instructions does not depend on a secret, on any CPU path of this machine.
 *
 *   steps PATH OPERATION [branch]
 *
 * Runs an operation on one point or item twice, with different secrets and everything else equal, in single steps, and
 * compares the addresses of the instructions. Unlike ctime.c, it does not find table lookups that depend on a secret,
 * and finds only branches that differ for these two secrets. But it needs no tool that supports all instructions. The
 * third argument plants a branch.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include "work.h"

#ifdef __x86_64__
#define TRAP_FLAG "0x100"
#define MOST_STEPS (1 << 24)

static uintptr_t steps[MOST_STEPS];
static size_t step, recorded, different;
static uintptr_t different_at;

static void record(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info;
    uintptr_t at = (uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    if (step >= MOST_STEPS)
        _exit(2);
    if (recorded == 0)
        steps[step] = at;
    else if (different == 0 && (step >= recorded || steps[step] != at))
        different = step, different_at = at;
    step++;
}

static volatile uint8_t sink;

static void run_stepping(const kernel_path *path, const operation *o, work *w, int plant) {
    step = 0;
    __asm__ volatile("pushfq; orq $" TRAP_FLAG ", (%%rsp); popfq" ::: "memory", "cc");
    o->run(path, w);
    if (plant && w->out.bytes[0] & 1)
        sink = 1;
    __asm__ volatile("pushfq; andq $~" TRAP_FLAG ", (%%rsp); popfq" ::: "memory", "cc");
}

/* Return whether an operation takes the same steps for two secrets. */
static int is_steady(const kernel_path *path, const operation *o, int plant) {
    work w = make_work(o, 1);
    o->run(path, &w); /* so that the dynamic linker finds all functions before the steps are recorded */
    run_stepping(path, o, &w, plant);
    recorded = step;
    fill_secrets(&w, 4);
    run_stepping(path, o, &w, plant);
    printf("%s %zu\n", o->name, recorded);
    if (different > 0)
        fprintf(stderr, "%s takes different steps from step %zu on, at %#zx\n", o->name, different,
                (size_t)different_at);
    else if (step != recorded)
        fprintf(stderr, "%s takes %zu steps, then %zu\n", o->name, recorded, step);
    drop_work(&w);
    return different == 0 && step == recorded && recorded > 1000;
}

int main(int argc, char **argv) {
    struct sigaction action = {.sa_sigaction = record, .sa_flags = SA_SIGINFO};
    if ((argc != 3 && argc != 4) || sigaction(SIGTRAP, &action, NULL) != 0)
        return 2;
    for (size_t i = 0; i < OPERATION_COUNT; i++)
        if (strcmp(OPERATIONS[i].name, argv[2]) == 0)
            return !is_steady(find_path(argv[1]), &OPERATIONS[i], argc == 4);
    return 2;
}
#endif
