/* Field elements modulo p = 2^255 - 19 as ten limbs of alternately 26 and 25 bits, for CPUs that multiply 32 x 32 bits.
 *
 * Limb i has the weight 2^ceil(25.5 i). Limbs are unsigned. An element is
 *   tight    if its limbs are below 2^26 + 2^18 (even) and 2^25 + 2^18 (odd): results of fe_carry and of products;
 *   loose    if its limbs are below 2^27.6 (even) and 2^26.6 (odd): one sum or difference of tight elements.
 * Products take loose elements and return tight ones. 19 * 2^27.6 stays below 2^32, and the largest column of a
 * product, 2^55.2 * (1 + 19 * 6.5), below 2^62.2. tests/kernel/limbs computes these bounds from this code.
 *
 * All functions are constant time. Results may overlap arguments.
 */
#ifndef PSICLI_FIELD_H
#define PSICLI_FIELD_H

#define LIMBS 10
#define LIMB_BITS(i) (26 - ((i) & 1))
#define LIMB_OFFSET(i) ((51 * (i) + 1) / 2)
#define LIMB_MASK(i) ((UINT64_C(1) << LIMB_BITS(i)) - 1)

typedef struct {
    vec v[LIMBS];
} fe;

static inline vec times19(vec x) {
    return (x << 4) + (x << 1) + x;
}

/* Carry the excess bits of limb i to the next limb. The last limb carries to the first, times 19: 2^255 = 19 mod p. */
static inline void carry_limb(vec *h, int i) {
    vec c = h[i] >> LIMB_BITS(i);
    h[i] &= LIMB_MASK(i);
    if (i < LIMBS - 1)
        h[i + 1] += c;
    else
        h[0] += times19(c);
}

/* Turn ten columns below 2^63 into a tight element. Two chains alternate, because a carry waits for the one before. */
static inline void carry_columns(fe *h, vec *c) {
    carry_limb(c, 0);
    carry_limb(c, 4);
    carry_limb(c, 1);
    carry_limb(c, 5);
    carry_limb(c, 2);
    carry_limb(c, 6);
    carry_limb(c, 3);
    carry_limb(c, 7);
    carry_limb(c, 4);
    carry_limb(c, 8);
    carry_limb(c, 9);
    carry_limb(c, 0);
    for (int i = 0; i < LIMBS; i++)
        h->v[i] = c[i];
}

/* h = f, tight; limbs of f below 2^63. */
static inline void fe_carry(fe *h, const fe *f) {
    vec c[LIMBS];
    for (int i = 0; i < LIMBS; i++)
        c[i] = f->v[i];
    carry_columns(h, c);
}

/* h = f + g, loose if both are tight. */
static inline void fe_add(fe *h, const fe *f, const fe *g) {
    for (int i = 0; i < LIMBS; i++)
        h->v[i] = f->v[i] + g->v[i];
}

/* h = f - g, loose if f is tight; g must be tight. Adds 2p, whose limbs are larger than those of g. */
static inline void fe_sub(fe *h, const fe *f, const fe *g) {
    for (int i = 0; i < LIMBS; i++)
        h->v[i] = f->v[i] + (2 * LIMB_MASK(i) - (i == 0 ? 36 : 0)) - g->v[i];
}

/* One row of a product: limb i of f times each limb of g, added to their columns. The weight of an odd limb is rounded
 * up by half a bit, so the product of two odd limbs counts twice. V_KEEP keeps the columns in registers and the limbs
 * of g in memory, from where multiplications read them. Without it, compilers mix rows until the registers run out. */
#define ROW(i, b0, b1, b2, b3, b4, b5, b6, b7, b8, b9)                                                                  \
    do {                                                                                                               \
        vec a = f->v[i], twice = (i) & 1 ? a + a : a;                                                                  \
        c0 += v_mul32(twice, b0), c1 += v_mul32(a, b1), c2 += v_mul32(twice, b2), c3 += v_mul32(a, b3);                \
        c4 += v_mul32(twice, b4), c5 += v_mul32(a, b5), c6 += v_mul32(twice, b6), c7 += v_mul32(a, b7);                \
        c8 += v_mul32(twice, b8), c9 += v_mul32(a, b9);                                                                \
        V_KEEP(c0, c1, c2, c3, c4, c5, c6, c7, c8, c9);                                                                \
    } while (0)

/* h = f * g, tight; f and g loose. */
PSICLI_FUNCTION void fe_mul(fe *h, const fe *f, const fe *g) {
    vec c0 = v_all(0), c1 = c0, c2 = c0, c3 = c0, c4 = c0, c5 = c0, c6 = c0, c7 = c0, c8 = c0, c9 = c0;
    vec n[LIMBS];
    for (int i = 1; i < LIMBS; i++)
        n[i] = v_mul32(g->v[i], v_all(19));
    const vec *m = g->v;
    ROW(0, m[0], m[1], m[2], m[3], m[4], m[5], m[6], m[7], m[8], m[9]);
    ROW(1, n[9], m[0], m[1], m[2], m[3], m[4], m[5], m[6], m[7], m[8]);
    ROW(2, n[8], n[9], m[0], m[1], m[2], m[3], m[4], m[5], m[6], m[7]);
    ROW(3, n[7], n[8], n[9], m[0], m[1], m[2], m[3], m[4], m[5], m[6]);
    ROW(4, n[6], n[7], n[8], n[9], m[0], m[1], m[2], m[3], m[4], m[5]);
    ROW(5, n[5], n[6], n[7], n[8], n[9], m[0], m[1], m[2], m[3], m[4]);
    ROW(6, n[4], n[5], n[6], n[7], n[8], n[9], m[0], m[1], m[2], m[3]);
    ROW(7, n[3], n[4], n[5], n[6], n[7], n[8], n[9], m[0], m[1], m[2]);
    ROW(8, n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9], m[0], m[1]);
    ROW(9, n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9], m[0]);
    vec c[LIMBS] = {c0, c1, c2, c3, c4, c5, c6, c7, c8, c9};
    carry_columns(h, c);
}

/* h = f^2, tight; f loose. Also row by row. A product of two different limbs counts twice, or 4 times if both are
 * odd. */
PSICLI_FUNCTION void fe_sqr(fe *h, const fe *f) {
    vec c0 = v_all(0), c1 = c0, c2 = c0, c3 = c0, c4 = c0, c5 = c0, c6 = c0, c7 = c0, c8 = c0, c9 = c0;
    vec a, a2, a4, n[LIMBS];
    const vec *m = f->v;
    for (int i = LIMBS / 2; i < LIMBS; i++)
        n[i] = v_mul32(m[i], v_all(19));
    a = m[0], a2 = a + a;
    c0 += v_mul32(a, m[0]), c1 += v_mul32(a2, m[1]), c2 += v_mul32(a2, m[2]), c3 += v_mul32(a2, m[3]);
    c4 += v_mul32(a2, m[4]), c5 += v_mul32(a2, m[5]), c6 += v_mul32(a2, m[6]), c7 += v_mul32(a2, m[7]);
    c8 += v_mul32(a2, m[8]), c9 += v_mul32(a2, m[9]);
    V_KEEP(c0, c1, c2, c3, c4, c5, c6, c7, c8, c9);
    a = m[1], a2 = a + a, a4 = a2 + a2;
    c2 += v_mul32(a2, m[1]), c3 += v_mul32(a2, m[2]), c4 += v_mul32(a4, m[3]), c5 += v_mul32(a2, m[4]);
    c6 += v_mul32(a4, m[5]), c7 += v_mul32(a2, m[6]), c8 += v_mul32(a4, m[7]), c9 += v_mul32(a2, m[8]);
    c0 += v_mul32(a4, n[9]);
    V_KEEP(c0, c1, c2, c3, c4, c5, c6, c7, c8, c9);
    a = m[2], a2 = a + a;
    c4 += v_mul32(a, m[2]), c5 += v_mul32(a2, m[3]), c6 += v_mul32(a2, m[4]), c7 += v_mul32(a2, m[5]);
    c8 += v_mul32(a2, m[6]), c9 += v_mul32(a2, m[7]), c0 += v_mul32(a2, n[8]), c1 += v_mul32(a2, n[9]);
    V_KEEP(c0, c1, c2, c3, c4, c5, c6, c7, c8, c9);
    a = m[3], a2 = a + a, a4 = a2 + a2;
    c6 += v_mul32(a2, m[3]), c7 += v_mul32(a2, m[4]), c8 += v_mul32(a4, m[5]), c9 += v_mul32(a2, m[6]);
    c0 += v_mul32(a4, n[7]), c1 += v_mul32(a2, n[8]), c2 += v_mul32(a4, n[9]);
    V_KEEP(c0, c1, c2, c3, c4, c5, c6, c7, c8, c9);
    a = m[4], a2 = a + a;
    c8 += v_mul32(a, m[4]), c9 += v_mul32(a2, m[5]), c0 += v_mul32(a2, n[6]), c1 += v_mul32(a2, n[7]);
    c2 += v_mul32(a2, n[8]), c3 += v_mul32(a2, n[9]);
    V_KEEP(c0, c1, c2, c3, c4, c5, c6, c7, c8, c9);
    a = m[5], a2 = a + a, a4 = a2 + a2;
    c0 += v_mul32(a2, n[5]), c1 += v_mul32(a2, n[6]), c2 += v_mul32(a4, n[7]), c3 += v_mul32(a2, n[8]);
    c4 += v_mul32(a4, n[9]);
    V_KEEP(c0, c1, c2, c3, c4, c5, c6, c7, c8, c9);
    a = m[6], a2 = a + a;
    c2 += v_mul32(a, n[6]), c3 += v_mul32(a2, n[7]), c4 += v_mul32(a2, n[8]), c5 += v_mul32(a2, n[9]);
    V_KEEP(c0, c1, c2, c3, c4, c5, c6, c7, c8, c9);
    a = m[7], a2 = a + a, a4 = a2 + a2;
    c4 += v_mul32(a2, n[7]), c5 += v_mul32(a2, n[8]), c6 += v_mul32(a4, n[9]);
    V_KEEP(c0, c1, c2, c3, c4, c5, c6, c7, c8, c9);
    a = m[8], a2 = a + a;
    c6 += v_mul32(a, n[8]), c7 += v_mul32(a2, n[9]);
    V_KEEP(c0, c1, c2, c3, c4, c5, c6, c7, c8, c9);
    a = m[9], a2 = a + a;
    c8 += v_mul32(a2, n[9]);
    vec c[LIMBS] = {c0, c1, c2, c3, c4, c5, c6, c7, c8, c9};
    carry_columns(h, c);
}

/* h = f * n, tight; f loose, n below 2^32. */
static inline void fe_mul_small(fe *h, const fe *f, uint32_t n) {
    vec c[LIMBS];
    for (int i = 0; i < LIMBS; i++)
        c[i] = v_mul32(f->v[i], v_all(n));
    carry_columns(h, c);
}

/* h = f, each limb within its bits and the value below p; f tight. */
static inline void fe_reduce(fe *h, const fe *f) {
    vec c[LIMBS];
    for (int i = 0; i < LIMBS; i++)
        c[i] = f->v[i];
    /* A tight value is below 2p. q is 1 if the value is p or above, that is, if adding 19 carries into bit 255. */
    vec q = (c[0] + 19) >> LIMB_BITS(0);
    for (int i = 1; i < LIMBS; i++)
        q = (c[i] + q) >> LIMB_BITS(i);
    c[0] += times19(q);
    for (int i = 0; i < LIMBS - 1; i++)
        carry_limb(c, i);
    c[LIMBS - 1] &= LIMB_MASK(LIMBS - 1);
    for (int i = 0; i < LIMBS; i++)
        h->v[i] = c[i];
}

#endif
