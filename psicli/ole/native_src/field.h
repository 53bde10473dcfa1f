/* Every path's file includes this first. */
#include <stdlib.h>
#include <string.h>

#include "ole.h"

/* The convolution of the code adds some of so many elements before an element. */
enum { TAPS = 24 };

static inline block add(block a, block b) {
    return (block){a.low ^ b.low, a.high ^ b.high};
}

/* Reduce a polynomial of 256 bits modulo x^128 + x^7 + x^2 + x + 1. */
static inline block gf_reduced(const uint64_t t[4]) {
    /* x^128 = x^7 + x^2 + x + 1. What is beyond x^127 after the first step has at most 7 bits. */
    uint64_t high = t[3], middle = t[2];
    uint64_t over = high >> 63 ^ high >> 62 ^ high >> 57;
    middle ^= over;
    block r = {t[0], t[1]};
    r.low ^= middle ^ middle << 1 ^ middle << 2 ^ middle << 7;
    r.high ^= high ^ high << 1 ^ high << 2 ^ high << 7 ^ middle >> 63 ^ middle >> 62 ^ middle >> 57;
    return r;
}
