/* Check that a kernel leaves nothing on the stack that depends on a secret.
 *
 *   remnants PATH [leave]
 *
 * Runs each operation twice on a separate stack, with different secrets and everything else equal. Both stacks must be
 * equal afterwards. The second argument plants a copy of the second secret. Prints how much stack each operation used [bytes].
 */
#define _DEFAULT_SOURCE
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "work.h"

#define STACK_SIZE (1 << 20)
#define UNTOUCHED 0xa5

static struct {
    const kernel_path *path;
    const operation *operation;
    work *work;
    int leave;
} job;

static ucontext_t here, there;

static void leave_secret(void) {
    volatile uint8_t left[16];
    for (size_t i = 0; i < sizeof left; i++)
        left[i] = job.work->secrets[1].bytes[i];
}

static void run_job(void) {
    job.operation->run(job.path, job.work);
    if (job.leave)
        leave_secret();
}

/* Run the job on a stack, in a new process, because the dynamic linker leaves traces on the stack when a function is
 * called for the first time. */
static void run_on(uint8_t *stack) {
    int status = 0;
    memset(stack, UNTOUCHED, STACK_SIZE);
    pid_t child = fork();
    if (child == 0) {
        there.uc_stack.ss_sp = stack;
        there.uc_stack.ss_size = STACK_SIZE;
        there.uc_link = &here;
        makecontext(&there, run_job, 0);
        _exit(swapcontext(&here, &there) == 0 ? 0 : 2);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        exit(2);
}

/* Return how far below the top of the stack something was written [bytes]. */
static size_t depth(const uint8_t *stack) {
    size_t i = 0;
    while (i < STACK_SIZE && stack[i] == UNTOUCHED)
        i++;
    return STACK_SIZE - i;
}

int main(int argc, char **argv) {
    static uint8_t once[STACK_SIZE];
    if (argc != 2 && argc != 3)
        return 2;
    uint8_t *stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED)
        return 2;
    /* Once, so that each run begins with the same values in registers, which it may save on the stack. */
    if (getcontext(&there) != 0)
        return 2;
    job.path = find_path(argv[1]);
    job.leave = argc == 3;
    int found = 0;
    for (size_t i = 0; i < OPERATION_COUNT * COUNT_COUNT; i++) {
        const operation *o = job.operation = &OPERATIONS[i / COUNT_COUNT];
        size_t count = COUNTS[i % COUNT_COUNT], different = 0;
        work w = make_work(o, count);
        job.work = &w;
        run_on(stack);
        memcpy(once, stack, STACK_SIZE);
        fill_secrets(&w, 4); /* with this seed, on_curve returns the same result, which is public */
        run_on(stack);
        for (size_t at = 0; at < STACK_SIZE; at++)
            different += once[at] != stack[at];
        if (different > 0)
            fprintf(stderr, "%s of %zu leaves %zu bytes\n", o->name, count, different);
        found |= different > 0;
        printf("%s %zu %zu\n", o->name, count, depth(stack));
        drop_work(&w);
    }
    return found;
}
