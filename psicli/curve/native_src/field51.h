/* Field elements modulo p = 2^255 - 19 as five limbs of 51 bits, for any CPU that multiplies 64 x 64 bits. One lane.
 *
 * Limb i has the weight 2^(51 i). Limbs are unsigned. An element is
 *   tight    if its limbs are below 2^51 + 2^17: results of fe_carry and of products;
 *   loose    if its limbs are below 2^53: one sum or difference of tight elements.
 * Products take loose elements and return tight ones. A column, at most 2^106 * (1 + 19 * 4), stays below 2^113.
 * tests/kernel/limbs computes these bounds from this code.
 *
 * All functions are constant time. Results may overlap arguments.
 */
#ifndef PSICLI_FIELD_H
#define PSICLI_FIELD_H

#define LIMBS 5
#define LIMB_BITS(i) 51
#define LIMB_OFFSET(i) (51 * (i))
#define LIMB_MASK(i) ((UINT64_C(1) << 51) - 1)

typedef struct {
    vec v[LIMBS];
} fe;

/* Turn five columns below 2^114 into a tight element. The last limb carries to the first, times 19:
 * 2^255 = 19 mod p. */
static inline void carry_wide(fe *h, const wide *column) {
    vec c[LIMBS], carry = 0;
    for (int i = 0; i < LIMBS; i++) {
        wide sum = column[i] + carry;
        c[i] = w_low(sum) & LIMB_MASK(i);
        carry = w_shift_right(sum, 51);
    }
    wide folded = w_mul(carry, 19) + c[0];
    h->v[0] = w_low(folded) & LIMB_MASK(0);
    h->v[1] = c[1] + w_shift_right(folded, 51);
    for (int i = 2; i < LIMBS; i++)
        h->v[i] = c[i];
}

/* h = f, tight; limbs of f below 2^63. */
static inline void fe_carry(fe *h, const fe *f) {
    vec c[LIMBS];
    for (int i = 0; i < LIMBS; i++)
        c[i] = f->v[i] >> 51;
    h->v[0] = (f->v[0] & LIMB_MASK(0)) + 19 * c[4];
    for (int i = 1; i < LIMBS; i++)
        h->v[i] = (f->v[i] & LIMB_MASK(i)) + c[i - 1];
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

/* h = f * g, tight; f and g loose. */
PSICLI_FUNCTION void fe_mul(fe *h, const fe *f, const fe *g) {
    vec f0 = f->v[0], f1 = f->v[1], f2 = f->v[2], f3 = f->v[3], f4 = f->v[4];
    vec g0 = g->v[0], g1 = g->v[1], g2 = g->v[2], g3 = g->v[3], g4 = g->v[4];
    vec h1 = 19 * g1, h2 = 19 * g2, h3 = 19 * g3, h4 = 19 * g4;
    wide c[LIMBS] = {
        w_mul(f0, g0) + w_mul(f1, h4) + w_mul(f2, h3) + w_mul(f3, h2) + w_mul(f4, h1),
        w_mul(f0, g1) + w_mul(f1, g0) + w_mul(f2, h4) + w_mul(f3, h3) + w_mul(f4, h2),
        w_mul(f0, g2) + w_mul(f1, g1) + w_mul(f2, g0) + w_mul(f3, h4) + w_mul(f4, h3),
        w_mul(f0, g3) + w_mul(f1, g2) + w_mul(f2, g1) + w_mul(f3, g0) + w_mul(f4, h4),
        w_mul(f0, g4) + w_mul(f1, g3) + w_mul(f2, g2) + w_mul(f3, g1) + w_mul(f4, g0),
    };
    carry_wide(h, c);
}

/* h = f^2, tight; f loose. */
PSICLI_FUNCTION void fe_sqr(fe *h, const fe *f) {
    vec f0 = f->v[0], f1 = f->v[1], f2 = f->v[2], f3 = f->v[3], f4 = f->v[4];
    vec d0 = 2 * f0, d1 = 2 * f1, d2 = 2 * f2, h3 = 19 * f3, h4 = 19 * f4;
    wide c[LIMBS] = {
        w_mul(f0, f0) + w_mul(d1, h4) + w_mul(d2, h3),
        w_mul(d0, f1) + w_mul(d2, h4) + w_mul(f3, h3),
        w_mul(d0, f2) + w_mul(f1, f1) + w_mul(2 * f3, h4),
        w_mul(d0, f3) + w_mul(d1, f2) + w_mul(f4, h4),
        w_mul(d0, f4) + w_mul(d1, f3) + w_mul(f2, f2),
    };
    carry_wide(h, c);
}

/* h = f * n, tight; f loose, n below 2^32. */
static inline void fe_mul_small(fe *h, const fe *f, uint32_t n) {
    wide c[LIMBS];
    for (int i = 0; i < LIMBS; i++)
        c[i] = w_mul(f->v[i], n);
    carry_wide(h, c);
}

/* h = f, each limb within its bits and the value below p; f tight. */
static inline void fe_reduce(fe *h, const fe *f) {
    vec c[LIMBS];
    for (int i = 0; i < LIMBS; i++)
        c[i] = f->v[i];
    /* A tight value is below 2p. q is 1 if the value is p or above, that is, if adding 19 carries into bit 255. */
    vec q = (c[0] + 19) >> 51;
    for (int i = 1; i < LIMBS; i++)
        q = (c[i] + q) >> 51;
    c[0] += 19 * q;
    for (int i = 0; i < LIMBS - 1; i++) {
        c[i + 1] += c[i] >> 51;
        c[i] &= LIMB_MASK(i);
    }
    c[LIMBS - 1] &= LIMB_MASK(LIMBS - 1);
    for (int i = 0; i < LIMBS; i++)
        h->v[i] = c[i];
}

#endif
