/* Field elements modulo p = 2^255 - 19 as five limbs of 51 bits, for CPUs that multiply 52 x 52 bits (AVX-512 IFMA).
 *
 * Limb i has the weight 2^(51 i). Limbs are unsigned. Every function takes and returns tight elements: limbs below
 * 2^51 + 2^15, which one round of carries achieves. The multiplier uses only the low 52 bits of a limb, so fe_add and
 * fe_sub carry too. It returns either the low or the high 52 bits of a product. The high bits have the weight 2^52,
 * twice the weight of the next limb. A folded column, at most 20 * 15 * 2^52, stays below 2^61. tests/kernel/limbs
 * computes these bounds from this code.
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

static inline vec times19(vec x) {
    return (((x << 3) + x) << 1) + x;
}

/* Turn five columns below 2^61 into a tight element, all limbs in parallel. The last limb carries to the first, times
 * 19: 2^255 = 19 mod p. */
static inline void carry_columns(fe *h, const vec *c) {
    vec last = c[4] >> 51, carry[LIMBS] = {times19(last), c[0] >> 51, c[1] >> 51, c[2] >> 51, c[3] >> 51};
    for (int i = 0; i < LIMBS; i++)
        h->v[i] = (c[i] & LIMB_MASK(i)) + carry[i];
}

/* h = f, tight; limbs of f below 2^61. */
static inline void fe_carry(fe *h, const fe *f) {
    vec c[LIMBS];
    for (int i = 0; i < LIMBS; i++)
        c[i] = f->v[i];
    carry_columns(h, c);
}

/* h = f + g */
static inline void fe_add(fe *h, const fe *f, const fe *g) {
    vec c[LIMBS];
    for (int i = 0; i < LIMBS; i++)
        c[i] = f->v[i] + g->v[i];
    carry_columns(h, c);
}

/* h = f - g. Adds 2p, whose limbs are larger than those of g. */
static inline void fe_sub(fe *h, const fe *f, const fe *g) {
    vec c[LIMBS];
    for (int i = 0; i < LIMBS; i++)
        c[i] = f->v[i] + (2 * LIMB_MASK(i) - (i == 0 ? 36 : 0)) - g->v[i];
    carry_columns(h, c);
}

/* Turn ten columns into a tight element. Column k is low[k], plus high[k] from the products of the column before. */
static inline void fold_columns(fe *h, const vec *low, const vec *high) {
    vec c[LIMBS];
UNROLL
    for (int k = 0; k < LIMBS; k++)
        c[k] = low[k] + (high[k] << 1) + times19(low[k + LIMBS] + (high[k + LIMBS] << 1));
    carry_columns(h, c);
}

/* h = f * g */
PSICLI_FUNCTION void fe_mul(fe *h, const fe *f, const fe *g) {
    vec low[2 * LIMBS], high[2 * LIMBS];
UNROLL
    for (int k = 0; k < 2 * LIMBS; k++)
        low[k] = high[k] = v_all(0);
UNROLL
    for (int i = 0; i < LIMBS; i++) {
UNROLL
        for (int j = 0; j < LIMBS; j++) {
            low[i + j] = v_add_low52(low[i + j], f->v[i], g->v[j]);
            high[i + j + 1] = v_add_high52(high[i + j + 1], f->v[i], g->v[j]);
        }
    }
    fold_columns(h, low, high);
}

/* h = f^2. Products of two different limbs are summed first, and the sums are doubled. */
PSICLI_FUNCTION void fe_sqr(fe *h, const fe *f) {
    vec low[2 * LIMBS], high[2 * LIMBS];
UNROLL
    for (int k = 0; k < 2 * LIMBS; k++)
        low[k] = high[k] = v_all(0);
UNROLL
    for (int i = 0; i < LIMBS; i++) {
UNROLL
        for (int j = i + 1; j < LIMBS; j++) {
            low[i + j] = v_add_low52(low[i + j], f->v[i], f->v[j]);
            high[i + j + 1] = v_add_high52(high[i + j + 1], f->v[i], f->v[j]);
        }
    }
UNROLL
    for (int k = 1; k < 2 * LIMBS - 1; k++) {
        low[k] = low[k] << 1;
        high[k] = high[k] << 1;
    }
UNROLL
    for (int i = 0; i < LIMBS; i++) {
        low[2 * i] = v_add_low52(low[2 * i], f->v[i], f->v[i]);
        high[2 * i + 1] = v_add_high52(high[2 * i + 1], f->v[i], f->v[i]);
    }
    fold_columns(h, low, high);
}

/* h = f * n; n below 2^32. */
static inline void fe_mul_small(fe *h, const fe *f, uint32_t n) {
    vec low[2 * LIMBS], high[2 * LIMBS];
UNROLL
    for (int k = 0; k < 2 * LIMBS; k++)
        low[k] = high[k] = v_all(0);
UNROLL
    for (int i = 0; i < LIMBS; i++) {
        low[i] = v_add_low52(low[i], f->v[i], v_all(n));
        high[i + 1] = v_add_high52(high[i + 1], f->v[i], v_all(n));
    }
    fold_columns(h, low, high);
}

/* h = f, each limb within its bits and the value below p. */
static inline void fe_reduce(fe *h, const fe *f) {
    vec c[LIMBS];
    for (int i = 0; i < LIMBS; i++)
        c[i] = f->v[i];
    /* A tight value is below 2p. q is 1 if the value is p or above, that is, if adding 19 carries into bit 255. */
    vec q = (c[0] + 19) >> 51;
    for (int i = 1; i < LIMBS; i++)
        q = (c[i] + q) >> 51;
    c[0] += times19(q);
    for (int i = 0; i < LIMBS - 1; i++) {
        c[i + 1] += c[i] >> 51;
        c[i] &= LIMB_MASK(i);
    }
    c[LIMBS - 1] &= LIMB_MASK(LIMBS - 1);
    for (int i = 0; i < LIMBS; i++)
        h->v[i] = c[i];
}

#endif
