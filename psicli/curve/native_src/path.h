/* Every path's file includes this first. */
#define _DEFAULT_SOURCE
#include <stdint.h>
#include <string.h>

#include "psicli.h"

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
