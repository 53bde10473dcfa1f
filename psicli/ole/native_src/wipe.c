/* Overwrites what functions left on the stack. */
#include <string.h>

#include "ole.h"

/* More than any function of a path uses [bytes]. */
enum { STACK = 65536 };

__attribute__((noinline)) void ole_wipe_stack(void) {
    uint8_t used[STACK];
    memset(used, 0, sizeof used);
    __asm__ __volatile__("" : : "r"(used) : "memory");
}
