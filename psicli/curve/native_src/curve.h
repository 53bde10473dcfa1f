/* curve25519, v^2 = u^3 + J u^2 + u, over the field that was included before: ladder, Elligator 2, batched inversion.
 *
 * The formulas are the same for every CPU path; only the field functions differ. Elements are tight unless stated
 * otherwise. Every function is constant time in all elements and in the scalar. Points are x-only fractions X / Z.
 */
#ifndef PSICLI_CURVE_H
#define PSICLI_CURVE_H

#define J 486662
#define A24 121665 /* (J - 2) / 4, as in RFC 7748 section 5 */
#define EACH(work) for (int k = 0; k < count; k++) work
#define PAIR 2     /* an item is hashed to two field elements */

/* 2^((p + 3) / 8) and the square root 2^((p - 1) / 4) of -1: c2 and c3 of RFC 9380 appendix G.2.1. */
static const uint64_t C2[4] = {UINT64_C(0xc4ee1b274a0ea0b1), UINT64_C(0x2f431806ad2fe478), UINT64_C(0x2b4d00993dfbd7a7),
                               UINT64_C(0x2b8324804fc1df0b)};
static const uint64_t C3[4] = {UINT64_C(0xc4ee1b274a0ea0b0), UINT64_C(0x2f431806ad2fe478), UINT64_C(0x2b4d00993dfbd7a7),
                               UINT64_C(0x2b8324804fc1df0b)};

/* h = the lower 255 bits of four 64-bit words, lowest word first. */
static inline void fe_from_words(fe *h, const vec words[4]) {
    for (int i = 0; i < LIMBS; i++)
        h->v[i] = v_bits(words, 4, LIMB_OFFSET(i), LIMB_BITS(i));
}

/* words = the value of f, reduced below p. */
static inline void fe_to_words(vec words[4], const fe *f) {
    fe r;
    fe_reduce(&r, f);
    for (int i = 0; i < 4; i++)
        words[i] = v_all(0);
    for (int i = 0; i < LIMBS; i++)
        v_put_bits(words, 4, LIMB_OFFSET(i), r.v[i]);
}

static inline void fe_constant(fe *h, const uint64_t value[4]) {
    vec words[4];
    for (int i = 0; i < 4; i++)
        words[i] = v_all(value[i]);
    fe_from_words(h, words);
}

/* h = n */
static inline void fe_small(fe *h, uint32_t n) {
    for (int i = 0; i < LIMBS; i++)
        h->v[i] = v_all(i == 0 ? n : 0);
}

/* h = f where the mask is set, g elsewhere. */
static inline void fe_select(fe *h, vmask m, const fe *f, const fe *g) {
    for (int i = 0; i < LIMBS; i++)
        h->v[i] = v_select(m, f->v[i], g->v[i]);
}

static inline vmask fe_if_zero(const fe *f) {
    fe r;
    fe_reduce(&r, f);
    vec any = r.v[0];
    for (int i = 1; i < LIMBS; i++)
        any |= r.v[i];
    return v_if_zero(any);
}

static inline vmask fe_if_equal(const fe *f, const fe *g) {
    fe d;
    fe_sub(&d, f, g);
    fe_carry(&d, &d);
    return fe_if_zero(&d);
}

/* Return the mask of the lanes whose value, reduced below p, is odd: sgn0 of RFC 9380 section 4.1. */
static inline vmask fe_if_odd(const fe *f) {
    fe r;
    fe_reduce(&r, f);
    return v_if_odd(r.v[0]);
}

/* h = f^(2^n); n at least 1. */
static inline void fe_sqr_times(fe *h, const fe *f, int n) {
    fe_sqr(h, f);
    for (int i = 1; i < n; i++)
        fe_sqr(h, h);
}

/* h[k] = f[k]^(2^250 - 1) and f11[k] = f[k]^11, for `count` elements in parallel. With one element, every squaring has
 * to wait for the one before. The exponent is public; this is the usual addition chain. */
static void fe_pow_2_250_1(fe *h, fe *f11, const fe *f, int count) {
    for (int k = 0; k < count; k++) {
        fe f2, f9;
        fe_sqr(&f2, &f[k]);
        fe_sqr_times(&f9, &f2, 2);
        fe_mul(&f9, &f9, &f[k]);
        fe_mul(&f11[k], &f9, &f2);
        fe_sqr(&h[k], &f11[k]);
        fe_mul(&h[k], &h[k], &f9); /* 2^5 - 1 */
    }
    /* A step goes from the exponent 2^m - 1 to 2^(m + n) - 1, and `with` is the step that starts from 2^n - 1. */
    static const struct {
        int squarings, with;
    } chain[] = {{5, 0}, {10, 1}, {20, 2}, {10, 1}, {50, 4}, {100, 5}, {50, 4}};
    fe reached[7][PAIR];
    for (int step = 0; step < 7; step++) {
        for (int k = 0; k < count; k++)
            reached[step][k] = h[k];
        for (int i = 0; i < chain[step].squarings; i++)
            for (int k = 0; k < count; k++)
                fe_sqr(&h[k], &h[k]);
        for (int k = 0; k < count; k++)
            fe_mul(&h[k], &h[k], &reached[chain[step].with][k]);
    }
}

/* h = 1 / f, computed as f^(p - 2); 0 for 0. */
static void fe_invert(fe *h, const fe *f) {
    fe power, f11;
    fe_pow_2_250_1(&power, &f11, f, 1);
    fe_sqr_times(&power, &power, 5);
    fe_mul(h, &power, &f11);
}

/* h[k] = f[k]^((p - 5) / 8) = f[k]^(2^252 - 3) for `count` elements in parallel. */
static void fe_pow_p58(fe *h, const fe *f, int count) {
    fe power[PAIR], f11[PAIR];
    fe_pow_2_250_1(power, f11, f, count);
    for (int k = 0; k < count; k++) {
        fe_sqr_times(&power[k], &power[k], 2);
        fe_mul(&h[k], &power[k], &f[k]);
    }
}

/* (X, Z) = 2 (X, Z) for `count` points in parallel, given X + Z and X - Z, which may be loose. RFC 7748 section 5. */
static inline void double_from(fe *X, fe *Z, const fe *sum, const fe *difference, int count) {
    fe aa[WAYS], bb[WAYS], e[WAYS], t[WAYS];
    EACH(fe_sqr(&aa[k], &sum[k]));
    EACH(fe_sqr(&bb[k], &difference[k]));
    EACH(fe_sub(&e[k], &aa[k], &bb[k]));
    EACH(fe_mul_small(&t[k], &e[k], A24));
    EACH(fe_add(&t[k], &t[k], &aa[k]));
    EACH(fe_mul(&X[k], &aa[k], &bb[k]));
    EACH(fe_mul(&Z[k], &e[k], &t[k]));
}

static inline void point_double(fe *X, fe *Z, int count) {
    fe sum[WAYS], difference[WAYS];
    EACH(fe_add(&sum[k], &X[k], &Z[k]));
    EACH(fe_sub(&difference[k], &X[k], &Z[k]));
    double_from(X, Z, sum, difference, count);
}

/* (X, Z) = scalar * u for WAYS blocks of points and one clamped scalar. RFC 7748 section 5.
 *
 * As in the RFC, the ladder maintains two multiples of u whose difference is u. A step doubles one of them and replaces
 * the other by their sum. The sum uses D A + C B and (D A - C B)^2, which do not change if the two are exchanged, so
 * the ladder never swaps them. It selects the one to double by whether this bit differs from the last one. Clamping
 * sets bit 254, where the ladder starts, and clears bits 0 to 2, for which only doublings remain.
 */
static void ladder(fe *X, fe *Z, const fe *u, const uint8_t scalar[32]) {
    const int count = WAYS;
    fe double_x[WAYS], double_z[WAYS], sum_x[WAYS], sum_z[WAYS];
    fe a[WAYS], b[WAYS], c[WAYS], d[WAYS], da[WAYS], cb[WAYS], t[WAYS];
    EACH(double_x[k] = sum_x[k] = u[k]);
    EACH(fe_small(&double_z[k], 1));
    EACH(fe_small(&sum_z[k], 1));
    point_double(double_x, double_z, count);
    uint64_t last = 1;
    for (int i = 253; i >= 3; i--) {
        uint64_t bit = (scalar[i >> 3] >> (i & 7)) & 1;
        vmask other = v_all(0 - (bit ^ last));
        last = bit;
        EACH(fe_add(&a[k], &double_x[k], &double_z[k]));
        EACH(fe_sub(&b[k], &double_x[k], &double_z[k]));
        EACH(fe_add(&c[k], &sum_x[k], &sum_z[k]));
        EACH(fe_sub(&d[k], &sum_x[k], &sum_z[k]));
        EACH(fe_mul(&da[k], &d[k], &a[k]));
        EACH(fe_mul(&cb[k], &c[k], &b[k]));
        EACH(fe_select(&a[k], other, &c[k], &a[k]));
        EACH(fe_select(&b[k], other, &d[k], &b[k]));
        double_from(double_x, double_z, a, b, count);
        EACH(fe_add(&t[k], &da[k], &cb[k]));
        EACH(fe_sqr(&sum_x[k], &t[k]));
        EACH(fe_sub(&t[k], &da[k], &cb[k]));
        EACH(fe_sqr(&t[k], &t[k]));
        EACH(fe_mul(&sum_z[k], &t[k], &u[k]));
    }
    vmask other = v_all(0 - last);
    EACH(fe_select(&X[k], other, &sum_x[k], &double_x[k]));
    EACH(fe_select(&Z[k], other, &sum_z[k], &double_z[k]));
    for (int i = 0; i < 3; i++)
        point_double(X, Z, count);
}

/* zs[i] = 1 / zs[i] for `count` elements with a single inversion (Montgomery's trick), and 0 for 0. A zero is replaced
 * by one in the shared product, so that it does not affect other elements. `before` is scratch space for `count`
 * elements. */
static void invert_all(fe *zs, fe *before, int count) {
    fe product, one, z, inverse;
    fe_small(&one, 1);
    product = one;
    for (int i = 0; i < count; i++) {
        before[i] = product;
        fe_select(&z, fe_if_zero(&zs[i]), &one, &zs[i]);
        fe_mul(&product, &product, &z);
    }
    fe_invert(&inverse, &product);
    for (int i = count - 1; i >= 0; i--) {
        vmask zero = fe_if_zero(&zs[i]);
        fe_select(&z, zero, &one, &zs[i]);
        fe_mul(&before[i], &before[i], &inverse);
        fe_mul(&inverse, &inverse, &z);
        fe_small(&z, 0);
        fe_select(&zs[i], zero, &z, &before[i]);
    }
}

typedef struct {
    fe xn, xd, y; /* the point (xn / xd, y) */
} mapped;

/* Map two field elements per lane to the curve. RFC 9380 section 6.7.1, with the variable names of appendix G.2.1. */
static void map_to_curve_elligator2(mapped *to, const fe *u) {
    fe c2, c3, one, tv1[PAIR], gxd[PAIR], gx1[PAIR], tv3[PAIR], power[PAIR];
    fe_constant(&c2, C2);
    fe_constant(&c3, C3);
    fe_small(&one, 1);
    for (int k = 0; k < PAIR; k++) {
        fe t, v;
        fe_sqr(&t, &u[k]);
        fe_mul_small(&tv1[k], &t, 2);
        fe_add(&to[k].xd, &tv1[k], &one); /* never zero: -1 is a square and 2 is not */
        fe_carry(&to[k].xd, &to[k].xd);
        fe_sqr(&v, &to[k].xd);
        fe_mul(&gxd[k], &v, &to[k].xd);
        /* x1 = -J / xd; the right side of the curve equation at x1, times xd^3, is -J (xd^2 - J^2 tv1) */
        fe_mul_small(&t, &tv1[k], J);
        fe_mul_small(&t, &t, J);
        fe_sub(&t, &t, &v);
        fe_mul_small(&gx1[k], &t, J);
        fe_sqr(&tv3[k], &gxd[k]);
        fe_sqr(&t, &tv3[k]);
        fe_mul(&tv3[k], &tv3[k], &gxd[k]);
        fe_mul(&tv3[k], &tv3[k], &gx1[k]);
        fe_mul(&power[k], &t, &tv3[k]);
    }
    fe_pow_p58(power, power, PAIR);
    for (int k = 0; k < PAIR; k++) {
        fe y11, y1, y21, y2, gx2, t, x1n, zero;
        fe_small(&zero, 0);
        fe_mul(&y11, &power[k], &tv3[k]);
        fe_mul(&y1, &y11, &c3);
        fe_sqr(&t, &y11);
        fe_mul(&t, &t, &gxd[k]);
        fe_select(&y1, fe_if_equal(&t, &gx1[k]), &y11, &y1);
        fe_mul(&y21, &y11, &u[k]);
        fe_mul(&y21, &y21, &c2);
        fe_mul(&y2, &y21, &c3);
        fe_mul(&gx2, &gx1[k], &tv1[k]);
        fe_sqr(&t, &y21);
        fe_mul(&t, &t, &gxd[k]);
        fe_select(&y2, fe_if_equal(&t, &gx2), &y21, &y2);
        fe_sqr(&t, &y1);
        fe_mul(&t, &t, &gxd[k]);
        vmask first = fe_if_equal(&t, &gx1[k]); /* x1 gives a point; otherwise x2 = tv1 * x1 does */
        fe_small(&x1n, J);
        fe_sub(&x1n, &zero, &x1n);
        fe_carry(&x1n, &x1n);
        fe_mul(&t, &x1n, &tv1[k]);
        fe_select(&to[k].xn, first, &x1n, &t);
        fe_select(&y1, first, &y1, &y2);
        fe_sub(&t, &zero, &y1);
        fe_carry(&t, &t);
        fe_select(&to[k].y, first ^ fe_if_odd(&y1), &t, &y1);
    }
}

/* (X, Z) = 8 (Q0 + Q1) with y dropped: the addition and clear_cofactor of RFC 9380 section 3, h_eff = 8.
 *
 * Let dx / D be the difference of the x-coordinates, dy that of the y-coordinates, and S / D the sum of the
 * x-coordinates. Then the slope is dy D / dx, and the x-coordinate of Q0 + Q1 is slope^2 - J - S / D. Equal
 * x-coordinates or a neutral result give Z = 0, and doubling keeps Z = 0.
 */
static void add_and_clear_cofactor(fe *X, fe *Z, const mapped *q) {
    fe x0, x1, sum, dx, dy, D, dx2, t, v;
    fe_mul(&x0, &q[0].xn, &q[1].xd);
    fe_mul(&x1, &q[1].xn, &q[0].xd);
    fe_mul(&D, &q[0].xd, &q[1].xd);
    fe_sub(&dx, &x1, &x0);
    fe_add(&sum, &x0, &x1);
    fe_sub(&dy, &q[1].y, &q[0].y);
    fe_sqr(&dx2, &dx);
    fe_mul(Z, &D, &dx2);
    fe_mul(&t, &dy, &D);
    fe_sqr(&t, &t);
    fe_mul(&t, &t, &D); /* dy^2 D^3 */
    fe_mul_small(&v, &D, J);
    fe_carry(&sum, &sum);
    fe_add(&v, &v, &sum);
    fe_mul(&v, &v, &dx2);
    fe_sub(X, &t, &v);
    fe_carry(X, X);
    for (int i = 0; i < 3; i++)
        point_double(X, Z, 1);
}

/* g = u^3 + J u^2 + u */
static void right_side(fe *g, const fe *u) {
    fe t, v, one;
    fe_small(&one, 1);
    fe_sqr(&t, u);
    fe_mul_small(&v, u, J);
    fe_add(&t, &t, &v);
    fe_carry(&t, &t);
    fe_add(&t, &t, &one);
    fe_mul(g, &t, u);
}

/* Return the mask of the lanes whose u is on the curve, not on its twist: those where u^3 + J u^2 + u is a square. */
static vmask if_on_curve(const fe *u) {
    fe t, v, g, one;
    fe_small(&one, 1);
    right_side(&g, u);
    fe_pow_p58(&t, &g, 1);
    fe_sqr_times(&t, &t, 2);
    fe_sqr(&v, &g);
    fe_mul(&t, &t, &v); /* Euler's criterion: 4 (p - 5) / 8 + 2 = (p - 1) / 2 */
    return fe_if_equal(&t, &one) | fe_if_zero(&g);
}

/* (X, Z) = the sum or the difference of the points with the u-coordinates p and c, which the mask `odd` chooses: the
 * even or the odd root of the product of both right sides. `right` is the right side at c. Return the mask of the lanes
 * where this root exists; Z is zero where p = c.
 *
 * The slope of the line through both points is (v_p -+ v_c) / (p - c), and u = slope^2 - J - p - c. With v^2 replaced
 * by the right sides, this is ((p c + 1) (p + c) + 2 J p c -+ 2 v_p v_c) / (p - c)^2. */
static vmask add_or_subtract(fe *X, fe *Z, const fe *p, const fe *c, const fe *right, vmask odd) {
    fe square, root, t, v, pc, zero, one;
    fe_small(&zero, 0);
    fe_small(&one, 1);
    right_side(&square, p);
    fe_mul(&square, &square, right);
    fe_pow_p58(&root, &square, 1);
    fe_mul(&root, &root, &square); /* the root times 1, or times one of -1 */
    fe_constant(&t, C3);
    fe_mul(&v, &root, &t);
    fe_sqr(&t, &root);
    fe_select(&root, fe_if_equal(&t, &square), &root, &v);
    fe_sqr(&t, &root);
    vmask exists = fe_if_equal(&t, &square);
    fe_sub(&t, &zero, &root);
    fe_carry(&t, &t);
    fe_select(&root, fe_if_odd(&root) ^ odd, &t, &root);
    fe_mul(&pc, p, c);
    fe_add(&t, &pc, &one);
    fe_add(&v, p, c);
    fe_mul(X, &t, &v);
    fe_mul_small(&t, &pc, J);
    fe_add(&t, &t, &root);
    fe_mul_small(&t, &t, 2);
    fe_add(X, X, &t);
    fe_carry(X, X);
    fe_sub(&t, p, c);
    fe_sqr(Z, &t);
    return exists;
}

#endif
