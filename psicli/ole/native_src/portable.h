/* AES-128, products in GF(2^128) and sums of chosen blocks in constant time with plain 64-bit words.
 *
 * The cipher works on four blocks at a time, bit by bit: plane b holds bit b of each of their 64 bytes. The S-box is
 * computed: inversion in GF(2^8) as the power 254, then the affine map of FIPS 197, section 5.1.1.
 */
#define PLANES 8
#define BATCH 4 /* blocks */
#define ROUNDS 10

typedef struct {
    uint64_t bit[PLANES];
} planes;

typedef struct {
    planes round[ROUNDS + 1];
} aes_key;

/* Transpose the 8 x 8 bits of a word: bit i of byte j becomes bit j of byte i. */
static uint64_t transposed_bits(uint64_t x) {
    uint64_t t = (x ^ (x >> 7)) & 0x00AA00AA00AA00AA;
    x ^= t ^ (t << 7);
    t = (x ^ (x >> 14)) & 0x0000CCCC0000CCCC;
    x ^= t ^ (t << 14);
    t = (x ^ (x >> 28)) & 0x00000000F0F0F0F0;
    return x ^ t ^ (t << 28);
}

static planes to_planes(const block in[BATCH]) {
    planes p = {{0}};
    for (int j = 0; j < 2 * BATCH; j++) {
        uint64_t bits = transposed_bits(j % 2 ? in[j / 2].high : in[j / 2].low);
        for (int b = 0; b < PLANES; b++)
            p.bit[b] |= (bits >> (8 * b) & 0xFF) << (8 * j);
    }
    return p;
}

static void from_planes(block out[BATCH], const planes *p) {
    for (int j = 0; j < 2 * BATCH; j++) {
        uint64_t bits = 0;
        for (int b = 0; b < PLANES; b++)
            bits |= (p->bit[b] >> (8 * j) & 0xFF) << (8 * b);
        bits = transposed_bits(bits);
        if (j % 2)
            out[j / 2].high = bits;
        else
            out[j / 2].low = bits;
    }
}

/* Multiply by x modulo x^8 + x^4 + x^3 + x + 1. */
static planes times_x(const planes *a) {
    uint64_t top = a->bit[7];
    return (planes){{top, a->bit[0] ^ top, a->bit[1], a->bit[2] ^ top, a->bit[3] ^ top, a->bit[4], a->bit[5],
                     a->bit[6]}};
}

static planes product(const planes *a, const planes *b) {
    planes sum = {{0}}, power = *a;
    for (int i = 0; i < PLANES; i++) {
        for (int j = 0; j < PLANES; j++)
            sum.bit[j] ^= power.bit[j] & b->bit[i];
        power = times_x(&power);
    }
    return sum;
}

/* Square `times` times; squaring is linear: bit i goes to x^2i. */
static planes squared(planes a, int times) {
    while (times--) {
        uint64_t *x = a.bit;
        a = (planes){{x[0] ^ x[4] ^ x[6], x[4] ^ x[6] ^ x[7], x[1] ^ x[5], x[4] ^ x[5] ^ x[6] ^ x[7],
                      x[2] ^ x[4] ^ x[7], x[5] ^ x[6], x[3] ^ x[5], x[6] ^ x[7]}};
    }
    return a;
}

static void substitute(planes *a) {
    planes x2 = squared(*a, 1), x3 = product(&x2, a), x12 = squared(x3, 2), x15 = product(&x12, &x3);
    planes x240 = squared(x15, 4), x252 = product(&x240, &x12), y = product(&x252, &x2);
    for (int b = 0; b < PLANES; b++) {
        a->bit[b] = y.bit[b] ^ y.bit[(b + 4) % 8] ^ y.bit[(b + 5) % 8] ^ y.bit[(b + 6) % 8] ^ y.bit[(b + 7) % 8];
        /* The constant 0x63. */
        if (0x63 >> b & 1)
            a->bit[b] = ~a->bit[b];
    }
}

/* Byte 4c + r of a block is row r of column c. */
static void shift_rows(planes *a) {
    static const uint64_t ROW = 0x1111111111111111;
    for (int b = 0; b < PLANES; b++) {
        uint64_t x = a->bit[b], y = x & ROW;
        for (int r = 1; r < 4; r++) {
            uint64_t row = x & (ROW << r), low = ((uint64_t)1 << (16 - 4 * r)) - 1;
            uint64_t lanes = low * 0x0001000100010001;
            y |= ((row >> (4 * r)) & lanes) | ((row << (16 - 4 * r)) & ~lanes);
        }
        a->bit[b] = y;
    }
}

/* Every byte becomes that of the next row of its column. */
static planes next_row(const planes *a) {
    planes n;
    for (int b = 0; b < PLANES; b++)
        n.bit[b] = ((a->bit[b] >> 1) & 0x7777777777777777) | ((a->bit[b] << 3) & 0x8888888888888888);
    return n;
}

static void mix_columns(planes *a) {
    planes one = next_row(a), two = next_row(&one), three = next_row(&two), both;
    for (int b = 0; b < PLANES; b++)
        both.bit[b] = a->bit[b] ^ one.bit[b];
    both = times_x(&both);
    for (int b = 0; b < PLANES; b++)
        a->bit[b] = both.bit[b] ^ one.bit[b] ^ two.bit[b] ^ three.bit[b];
}

static void add_key(planes *a, const planes *key) {
    for (int b = 0; b < PLANES; b++)
        a->bit[b] ^= key->bit[b];
}

static aes_key aes_expand(const uint8_t octets[16]) {
    aes_key key;
    uint32_t words[4], constant = 1;
    memcpy(words, octets, 16);
    for (int round = 0;; round++) {
        block four[BATCH];
        for (int i = 0; i < BATCH; i++)
            memcpy(&four[i], words, 16);
        key.round[round] = to_planes(four);
        if (round == ROUNDS)
            return key;
        planes p = key.round[round];
        substitute(&p);
        from_planes(four, &p);
        uint32_t last = (uint32_t)(four[0].high >> 32);
        words[0] ^= (last >> 8 | last << 24) ^ constant;
        for (int i = 1; i < 4; i++)
            words[i] ^= words[i - 1];
        constant = constant << 1 ^ (constant >> 7) * 0x11B;
    }
}

static void encrypt_batch(const aes_key *key, block blocks[BATCH]) {
    planes p = to_planes(blocks);
    add_key(&p, &key->round[0]);
    for (int round = 1; round <= ROUNDS; round++) {
        substitute(&p);
        shift_rows(&p);
        if (round < ROUNDS)
            mix_columns(&p);
        add_key(&p, &key->round[round]);
    }
    from_planes(blocks, &p);
}

static void aes_blocks(const aes_key *key, block *out, const block *in, size_t n) {
    for (size_t i = 0; i < n; i += BATCH) {
        size_t count = n - i < BATCH ? n - i : BATCH;
        block batch[BATCH] = {{0, 0}};
        memcpy(batch, in + i, count * sizeof *in);
        encrypt_batch(key, batch);
        memcpy(out + i, batch, count * sizeof *in);
    }
}

/* The 128 bits of the product of two polynomials of 64 bits. */
static block wide_product(uint64_t a, uint64_t b) {
    block sum = {0, 0};
    for (int i = 0; i < 64; i++) {
        uint64_t chosen = -(b >> i & 1) & a;
        sum.low ^= chosen << i;
        /* Two shifts, because one by 64 is undefined. */
        sum.high ^= chosen >> 1 >> (63 - i);
    }
    return sum;
}

static block gf_product(block a, block b) {
    block low = wide_product(a.low, b.low), high = wide_product(a.high, b.high);
    block middle = wide_product(a.low ^ a.high, b.low ^ b.high);
    middle.low ^= low.low ^ high.low;
    middle.high ^= low.high ^ high.high;
    return gf_reduced((uint64_t[4]){low.low, low.high ^ middle.low, high.low ^ middle.high, high.high});
}

/* The sum of the positions of a band, without branches: two bits choose one of four masks. */
static inline block sum_of(const block *at, const uint64_t band[OLE_BAND_WORDS]) {
    block sums[2] = {{0, 0}, {0, 0}};
    for (int w = 0; w < OLE_BAND_WORDS; w++) {
        uint64_t bits = band[w];
        for (int i = 0; i < 64; i += 2, at += 2, bits >>= 2) {
            uint64_t even = -(bits & 1), odd = -(bits >> 1 & 1);
            sums[0].low ^= at[0].low & even;
            sums[0].high ^= at[0].high & even;
            sums[1].low ^= at[1].low & odd;
            sums[1].high ^= at[1].high & odd;
        }
    }
    return add(sums[0], sums[1]);
}

/* Add those of the TAPS elements before an element that the bits of the mask choose. */
static inline void add_taps(block *element, uint32_t mask, unsigned width) {
    for (unsigned w = 0; w < width; w++, element++) {
        block sum = *element;
        for (int tap = 0; tap < TAPS; tap++) {
            const block *there = element - width * (unsigned)(tap + 1);
            uint64_t chosen = -(uint64_t)(mask >> tap & 1);
            sum.low ^= there->low & chosen;
            sum.high ^= there->high & chosen;
        }
        *element = sum;
    }
}
