/* The path for CPUs with AVX2: four points at a time, with products of 32 x 32 bits. */
#ifdef __x86_64__
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC target("avx2")
#endif
#include "path.h"

#define LANES 4
#define WAYS 2
#define PSICLI_FUNCTION __attribute__((noinline)) static
#define PSICLI_PATH psicli_avx2
#define PSICLI_NAME "avx2"
#include "lanes.h"

#include "field25.h"
#include "curve.h"
#include "sha2.h"
#include "kernel.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
