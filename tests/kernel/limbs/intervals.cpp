// Compute the limb bounds of a field from its own header, by running the kernel's code on intervals instead of numbers.
//
// An interval is the smallest and the largest value that a number may have. If a number may wrap around, or lose bits
// in the CPU's multipliers, the program prints the function, the limb and the call, and exits. There are two passes:
//   1. Run each field function alone on all arguments that the header allows: its results must be as the header states.
//   2. Run the curve's code on all points and hashes: each function must get arguments that the header allows. The
//      output of every part becomes input of every part, until no interval grows any more.
//
// test_limbs.py compiles this once for each field, with
//   FIELD          51, 52 or 25, the number in the header's name;
//   TIGHT, LOOSE   the largest value [inclusive] of each limb, separated by commas;
//   CARRIED        the largest limb that fe_carry takes;
//   COLUMN_BITS    all numbers in a product stay below 2 to this power.

#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <type_traits>

typedef unsigned __int128 u128;

// The part and the function that run now, for messages and the table.
static const char *part = "", *function = "a field function";
static long calls_of_part;
static u128 largest; // the largest number computed in this call

static double bits(u128 x) {
    return x ? (double)log2l((long double)x) : 0;
}

struct text {
    char of[32];
};

// Write a number just above a power of two as 2^n + 2^m, because a rounded logarithm hides the difference.
static text show(u128 x) {
    text t;
    int n = x ? (int)bits(x) : 0;
    u128 above = x - ((u128)1 << n);
    if (x == 0)
        snprintf(t.of, sizeof t.of, "0");
    else if (above && above < (u128)1 << (n > 6 ? n - 6 : 0))
        snprintf(t.of, sizeof t.of, "2^%d+2^%.2f", n, bits(above));
    else
        snprintf(t.of, sizeof t.of, "2^%.3f", bits(x));
    return t;
}

[[noreturn]] static void fail(int limb, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("%s, limb %d, call %ld of %s: ", function, limb, calls_of_part, part);
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
    exit(1);
}

// Numbers ----------------------------------------------------------------------------------------------------------

// The values that an unsigned number of BITS bits may have. `limb` is the limb of the argument that it comes from, for
// messages.
template <int BITS> struct interval {
    u128 lo, hi;
    int limb;

    interval(unsigned long long x = 0) : lo(x), hi(x), limb(-1) {}
    interval(u128 lo, u128 hi, int limb) : lo(lo), hi(hi), limb(limb) {
        if (hi > largest)
            largest = hi;
    }
    template <int FEWER, class = std::enable_if_t<(FEWER < BITS)>>
    interval(const interval<FEWER> &x) : lo(x.lo), hi(x.hi), limb(x.limb) {}

    interval &operator+=(const interval &b) { return *this = *this + b; }
    interval &operator&=(const interval &b) { return *this = *this & b; }
    interval &operator|=(const interval &b) { return *this = *this | b; }

    friend interval operator+(const interval &a, const interval &b) {
        u128 hi = a.hi + b.hi;
        if (hi < a.hi || !fits(hi))
            fail(origin(a, b), "a sum reaches 2^%d: %s + %s", BITS, show(a.hi).of, show(b.hi).of);
        return interval(a.lo + b.lo, hi, origin(a, b));
    }
    friend interval operator-(const interval &a, const interval &b) {
        if (a.lo < b.hi)
            fail(origin(a, b), "a difference below zero: %s - %s", show(a.lo).of, show(b.hi).of);
        return interval(a.lo - b.hi, a.hi - b.lo, origin(a, b));
    }
    friend interval operator*(const interval &a, const interval &b) {
        static_assert(BITS <= 64, "the product must fit 128 bits");
        if (!fits(a.hi * b.hi))
            fail(origin(a, b), "a product reaches 2^%d: %s * %s", BITS, show(a.hi).of, show(b.hi).of);
        return interval(a.lo * b.lo, a.hi * b.hi, origin(a, b));
    }
    friend interval operator<<(const interval &a, int n) {
        u128 hi = a.hi << n;
        if (hi >> n != a.hi || !fits(hi))
            fail(a.limb, "a shift by %d reaches 2^%d: %s", n, BITS, show(a.hi).of);
        return interval(a.lo << n, hi, a.limb);
    }
    friend interval operator>>(const interval &a, int n) { return interval(a.lo >> n, a.hi >> n, a.limb); }
    friend interval operator&(const interval &a, const interval &b) {
        // A mask that covers all bits of a number does not change it.
        if (b.lo == b.hi && b.hi == filled(b.hi) && a.hi <= b.hi)
            return a;
        return interval(0, a.hi < b.hi ? a.hi : b.hi, origin(a, b));
    }
    friend interval operator|(const interval &a, const interval &b) {
        return interval(a.lo > b.lo ? a.lo : b.lo, filled(a.hi | b.hi), origin(a, b));
    }
    friend interval operator^(const interval &a, const interval &b) {
        return interval(0, filled(a.hi | b.hi), origin(a, b));
    }

  private:
    static bool fits(u128 x) { return BITS == 128 || x >> (BITS % 128) == 0; }
    static int origin(const interval &a, const interval &b) { return a.limb >= 0 ? a.limb : b.limb; }
    // Return x with all bits below its highest one set.
    static u128 filled(u128 x) {
        for (int n = 1; n < 128; n *= 2)
            x |= x >> n;
        return x;
    }
};

typedef interval<64> vec;
typedef interval<64> vmask;
typedef interval<128> wide;

static const u128 WORD = UINT64_MAX;

static void must_stay_below(const vec &x, int power, const char *what) {
    if (x.hi >> power)
        fail(x.limb, "%s reaches 2^%d: %s", what, power, show(x.hi).of);
}

// The definitions of lanes.h and of the paths' files -----------------------------------------------------------------

#define LANES 1
#define WAYS 2
#define UNROLL
#define PSICLI_FUNCTION static
#define V_KEEP(...)

static vec v_all(uint64_t x) {
    return vec(x);
}

static vec v_mul32(const vec &a, const vec &b) {
    must_stay_below(a, 32, "an operand of a multiplication");
    must_stay_below(b, 32, "an operand of a multiplication");
    return a * b;
}

// The mask is secret, so the result may be either of the two.
static vec v_select(const vmask &, const vec &a, const vec &b) {
    return vec(a.lo < b.lo ? a.lo : b.lo, a.hi > b.hi ? a.hi : b.hi, a.limb);
}

static vmask v_if_zero(const vec &) {
    return vmask(0, WORD, -1);
}

static vmask v_if_odd(const vec &) {
    return vmask(0, WORD, -1);
}

static vec v_bits(const vec *number, int words, int offset, int width) {
    int word = offset >> 6, shift = offset & 63;
    u128 mask = ((u128)1 << width) - 1, hi = number[word].hi >> shift;
    bool continues = shift + width > 64 && word + 1 < words && number[word + 1].hi > 0;
    return vec(0, continues || hi > mask ? mask : hi, -1);
}

static void v_put_bits(vec *number, int words, int offset, const vec &limb) {
    int word = offset >> 6, shift = offset & 63;
    if (number[word].hi >> shift)
        fail(limb.limb, "a limb overlaps the bits of another limb: %s", show(number[word].hi).of);
    u128 put = limb.hi << shift;
    if (word + 1 == words && put > WORD)
        fail(limb.limb, "the highest limb exceeds the number: %s", show(limb.hi).of);
    number[word] = vec(0, number[word].hi | (put & WORD), -1);
    if (word + 1 < words)
        number[word + 1] = vec(0, put >> 64, -1);
}

#if FIELD == 51
static wide w_mul(const vec &a, const vec &b) {
    return wide(a.lo * b.lo, a.hi * b.hi, a.limb);
}

static vec w_low(const wide &) {
    return vec(0, WORD, -1);
}

static vec w_shift_right(const wide &x, int n) {
    if (x.hi >> n > WORD)
        fail(x.limb, "a carry reaches 2^64: %s", show(x.hi >> n).of);
    return vec(x.lo >> n, x.hi >> n, x.limb);
}
#elif FIELD == 52
static u128 product52(const vec &a, const vec &b) {
    must_stay_below(a, 52, "an operand of a multiplication");
    must_stay_below(b, 52, "an operand of a multiplication");
    return a.hi * b.hi;
}

static vec v_add_low52(const vec &sum, const vec &a, const vec &b) {
    const u128 mask = ((u128)1 << 52) - 1;
    u128 product = product52(a, b);
    return sum + vec(0, product < mask ? product : mask, a.limb);
}

static vec v_add_high52(const vec &sum, const vec &a, const vec &b) {
    return sum + vec(0, product52(a, b) >> 52, a.limb);
}
#endif

// The field functions, with checks -----------------------------------------------------------------------------------

#define fe_carry field_carry
#define fe_add field_add
#define fe_sub field_sub
#define fe_mul field_mul
#define fe_sqr field_sqr
#define fe_mul_small field_mul_small
#define fe_reduce field_reduce
#if FIELD == 25
#include "field25.h"
#elif FIELD == 51
#include "field51.h"
#else
#include "field52.h"
#endif
#undef fe_carry
#undef fe_add
#undef fe_sub
#undef fe_mul
#undef fe_sqr
#undef fe_mul_small
#undef fe_reduce

// The largest value of each limb.
struct limits {
    u128 hi[LIMBS];
};

static const limits tight = {{TIGHT}}, loose = {{LOOSE}};

static limits all_limbs(u128 hi) {
    limits l;
    for (int i = 0; i < LIMBS; i++)
        l.hi[i] = hi;
    return l;
}

static limits within_bits() {
    limits l;
    for (int i = 0; i < LIMBS; i++)
        l.hi[i] = LIMB_MASK(i);
    return l;
}

static const limits carried = all_limbs(CARRIED), reduced = within_bits(), untouched = all_limbs(0);

// What a function may take and must return, and the largest values that were seen.
struct watched {
    const char *name;
    const limits *f, *g, *result;
    bool is_product;
    long calls;
    limits seen_f, seen_g, seen_result;
    u128 seen_largest;
};

#if FIELD == 52
// fe_add and fe_sub carry their results.
static const limits *const of_sum = &tight;
#else
static const limits *const of_sum = &loose;
#endif

enum { CARRY, ADD, SUBTRACT, MULTIPLY, SQUARE, MULTIPLY_SMALL, REDUCE, FUNCTIONS };
static watched functions[FUNCTIONS] = {
    {"fe_carry", &carried, &untouched, &tight, false, 0, {}, {}, {}, 0},
    {"fe_add", &tight, &tight, of_sum, false, 0, {}, {}, {}, 0},
    {"fe_sub", &tight, &tight, of_sum, false, 0, {}, {}, {}, 0},
    {"fe_mul", &loose, &loose, &tight, true, 0, {}, {}, {}, 0},
    {"fe_sqr", &loose, &untouched, &tight, true, 0, {}, {}, {}, 0},
    {"fe_mul_small", &loose, &untouched, &tight, true, 0, {}, {}, {}, 0},
    {"fe_reduce", &tight, &untouched, &reduced, false, 0, {}, {}, {}, 0},
};

static fe labelled(const fe *f) {
    fe copy = *f;
    for (int i = 0; i < LIMBS; i++)
        copy.v[i].limb = i;
    return copy;
}

static void check(const fe &f, const limits &allowed, limits &seen, const char *what) {
    for (int i = 0; i < LIMBS; i++) {
        if (f.v[i].hi > allowed.hi[i])
            fail(i, "%s is too large: %s, the limit is %s", what, show(f.v[i].hi).of, show(allowed.hi[i]).of);
        if (f.v[i].hi > seen.hi[i])
            seen.hi[i] = f.v[i].hi;
    }
}

template <class Work> static void watch(int which, fe *h, const fe *f, const fe *g, Work work) {
    watched &w = functions[which];
    fe zero = fe(), first = labelled(f), second = labelled(g ? g : &zero), result;
    function = w.name;
    calls_of_part++, w.calls++;
    check(first, *w.f, w.seen_f, "the argument");
    check(second, *w.g, w.seen_g, "the second argument");
    largest = 0;
    work(&result, &first, &second);
    if (largest > w.seen_largest)
        w.seen_largest = largest;
    if (w.is_product && bits(largest) >= COLUMN_BITS)
        fail(-1, "a column is too large: %s, the limit is 2^%.1f", show(largest).of, (double)COLUMN_BITS);
    check(result, *w.result, w.seen_result, "the result");
    *h = result;
    function = "between field functions";
}

static void fe_carry(fe *h, const fe *f) {
    watch(CARRY, h, f, nullptr, [](fe *r, const fe *a, const fe *) { field_carry(r, a); });
}

static void fe_add(fe *h, const fe *f, const fe *g) {
    watch(ADD, h, f, g, [](fe *r, const fe *a, const fe *b) { field_add(r, a, b); });
}

static void fe_sub(fe *h, const fe *f, const fe *g) {
    watch(SUBTRACT, h, f, g, [](fe *r, const fe *a, const fe *b) { field_sub(r, a, b); });
}

static void fe_mul(fe *h, const fe *f, const fe *g) {
    watch(MULTIPLY, h, f, g, [](fe *r, const fe *a, const fe *b) { field_mul(r, a, b); });
}

static void fe_sqr(fe *h, const fe *f) {
    watch(SQUARE, h, f, nullptr, [](fe *r, const fe *a, const fe *) { field_sqr(r, a); });
}

static void fe_mul_small(fe *h, const fe *f, uint32_t n) {
    watch(MULTIPLY_SMALL, h, f, nullptr, [n](fe *r, const fe *a, const fe *) { field_mul_small(r, a, n); });
}

static void fe_reduce(fe *h, const fe *f) {
    // The value must be below 2p, whose limbs are twice the masks, minus 36 in the lowest.
    for (int i = 0; i < LIMBS; i++)
        if (f->v[i].hi > 2 * LIMB_MASK(i) - (i == 0 ? 37 : 0))
            fail(i, "the argument of fe_reduce is not below 2p: %s", show(f->v[i].hi).of);
    watch(REDUCE, h, f, nullptr, [](fe *r, const fe *a, const fe *) { field_reduce(r, a); });
}

#include "curve.h"

// field_from_wide intentionally drops bits in left shifts.
struct word : vec {
    word(const vec &x = vec()) : vec(x) {}
    friend word operator<<(const word &, int) { return vec(0, WORD, -1); }
    friend word operator>>(const word &a, int n) { return (const vec &)a >> n; }
    friend word operator|(const word &a, const word &b) { return (const vec &)a | (const vec &)b; }
};

static void fe_from_words(fe *h, const word words[4]) {
    vec copy[4];
    for (int i = 0; i < 4; i++)
        copy[i] = words[i];
    fe_from_words(h, copy);
}

#define vec word
#include "field_from_wide.h" // a copy of the function in hashing.h
#undef vec

// The two passes ---------------------------------------------------------------------------------------------------

static fe anything_within(const limits &l) {
    fe f;
    for (int i = 0; i < LIMBS; i++)
        f.v[i] = vec(0, l.hi[i], i);
    return f;
}

static void begin(const char *name) {
    part = name;
    calls_of_part = 0;
}

static void check_functions_alone() {
    fe t = anything_within(tight), l = anything_within(loose), c = anything_within(carried), h;
    begin("each function alone");
    fe_carry(&h, &c);
    fe_add(&h, &t, &t);
    fe_sub(&h, &t, &t);
    fe_mul(&h, &l, &l);
    fe_sqr(&h, &l);
    fe_mul_small(&h, &l, UINT32_MAX);
    fe_reduce(&h, &t);
#if FIELD == 51
    wide columns[LIMBS];
    for (int i = 0; i < LIMBS; i++)
        columns[i] = wide(0, ((u128)1 << 114) - 1, i);
    function = "carry_wide";
    carry_wide(&h, columns);
    limits seen = {};
    check(h, tight, seen, "the result");
#endif
}

// Add the output of a part to its input, and return whether the input grew. Elements between parts are tight.
static bool grow(fe *f, const fe &g) {
    bool grown = false;
    limits seen = {};
    check(g, tight, seen, "the output");
    for (int i = 0; i < LIMBS; i++) {
        vec &v = f->v[i];
        grown |= g.v[i].lo < v.lo || g.v[i].hi > v.hi;
        v = v_select(vmask(), v, g.v[i]);
    }
    return grown;
}

// Run all of the curve's code on `any`, add the outputs to it, and return whether it grew.
static bool run_curve(fe *any) {
    const int BATCH = 32;
    fe x[WAYS], z[WAYS], u[PAIR], zs[BATCH], before[BATCH];
    mapped q[PAIR];
    uint8_t scalar[32] = {}; // the bits do not matter, because v_select covers both cases
    vec words[4];
    bool grown = false;

    begin("map_to_curve_elligator2");
    u[0] = u[1] = *any;
    map_to_curve_elligator2(q, u);
    for (int k = 0; k < PAIR; k++) {
        begin("add_and_clear_cofactor");
        grown |= grow(any, q[k].xn) | grow(any, q[k].xd) | grow(any, q[k].y);
        q[k].xn = q[k].xd = q[k].y = *any;
    }
    add_and_clear_cofactor(&x[0], &z[0], q);
    grown |= grow(any, x[0]) | grow(any, z[0]);

    begin("ladder");
    for (int k = 0; k < WAYS; k++)
        u[k] = *any;
    ladder(x, z, u, scalar);
    for (int k = 0; k < WAYS; k++)
        grown |= grow(any, x[k]) | grow(any, z[k]);

    begin("invert_all");
    for (int i = 0; i < BATCH; i++)
        zs[i] = *any;
    invert_all(zs, before, BATCH);
    for (int i = 0; i < BATCH; i++)
        grown |= grow(any, zs[i]);
    fe_mul(&x[0], any, &zs[0]);
    grown |= grow(any, x[0]);

    begin("add_or_subtract");
    right_side(&u[0], any);
    grown |= grow(any, u[0]);
    add_or_subtract(&x[0], &z[0], any, any, any, vmask());
    grown |= grow(any, x[0]) | grow(any, z[0]);

    begin("if_on_curve");
    if_on_curve(any);
    begin("fe_to_words");
    fe_if_zero(any);
    fe_to_words(words, any);
    if (words[3].hi >> 63)
        fail(LIMBS - 1, "a stored number reaches 2^255");
    return grown;
}

static void print_limbs(const limits &l) {
    for (int i = 0; i < 2; i++) {
        u128 hi = 0;
        for (int k = i; k < LIMBS; k += 2)
            hi = l.hi[k] > hi ? l.hi[k] : hi;
        printf(" %-12s", hi ? show(hi).of : "");
    }
    printf(" |");
}

static void print_table(const char *title) {
    printf("\n%s: the largest even and odd limbs, and the largest number of all\n", title);
    printf("%-12s | %6s | %-25s | %-25s | %-25s | %s\n", "function", "calls", "f", "g", "result", "any");
    for (int i = 0; i < FUNCTIONS; i++) {
        const watched &w = functions[i];
        printf("%-12s | %6ld |", w.name, w.calls);
        print_limbs(w.seen_f);
        print_limbs(w.seen_g);
        print_limbs(w.seen_result);
        printf(" %s\n", show(w.seen_largest).of);
    }
}

static void reset() {
    for (int i = 0; i < FUNCTIONS; i++) {
        watched &w = functions[i];
        w.calls = 0;
        w.seen_f = w.seen_g = w.seen_result = untouched;
        w.seen_largest = 0;
    }
}

int main() {
    check_functions_alone();
    print_table("all arguments that the header allows");
    reset();

    // Points are loaded from any words, canonical or not, and field elements from any uniform bytes.
    vec words[4];
    word uniform[6];
    fe any, hashed;
    for (int i = 0; i < 4; i++)
        words[i] = vec(0, WORD, -1);
    for (int i = 0; i < 6; i++)
        uniform[i] = vec(0, WORD, -1);
    fe_from_words(&any, words);
    begin("field_from_wide");
    field_from_wide(&hashed, uniform);
    grow(&any, hashed);
    int rounds = 1;
    while (run_curve(&any))
        if (++rounds > 100)
            fail(-1, "the intervals do not stop growing");
    for (int i = 0; i < FUNCTIONS; i++)
        if (functions[i].calls == 0)
            fail(-1, "%s was never called", functions[i].name);
    print_table("reached by the curve's code");
    printf("stable after %d rounds\n", rounds);
    return 0;
}
