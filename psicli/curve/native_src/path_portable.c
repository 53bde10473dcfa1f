/* The path for any 64-bit CPU: one point at a time, with products of 64 x 64 bits. */
#include "path.h"

#ifndef __SIZEOF_INT128__
#error "the curve kernel needs a compiler with 128-bit integers; psicli runs without it, slowly"
#endif

#define LANES 1
#define WAYS 1
#define PSICLI_FUNCTION static inline
#define PSICLI_PATH psicli_portable
#define PSICLI_NAME "portable"
#include "lanes.h"

__extension__ typedef unsigned __int128 wide;

static inline wide w_mul(vec a, vec b) {
    return (wide)a * b;
}

static inline vec w_low(wide x) {
    return (vec)x;
}

/* The result must fit in 64 bits. */
static inline vec w_shift_right(wide x, int n) {
    return (vec)(x >> n);
}

#include "field51.h"
#include "curve.h"
#include "sha2.h"
#include "kernel.h"
