/* Central sums of contiguous numbers and of columns, of one type: distribution.h includes this file once for float and
 * once for double.
 *
 * Define T, NAME(x), MOST (the largest number) and TINY_FOURTH first. Each block is read twice, for its mean and then
 * about it: fourth powers about anything else lose their digits. Sums that leave the range of T are done in double.
 */

/* Central sums by two passes in double, leaving out what is not finite. */
static Central NAME(central_in_double)(const T *x, int64_t n) {
    Central own = {0};
    double rest = 0;
    for (int64_t i = 0; i < n; i++) own.count += isfinite((double)x[i]) ? 1 : 0;
    for (int64_t i = 0; i < n; i++)
        if (isfinite((double)x[i])) own.mean += (double)x[i] / own.count;
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)x[i] - own.mean;
        if (isfinite((double)x[i])) {
            rest += d;
            own.m2 += d * d;
            own.m3 += d * d * d;
            own.m4 += d * d * d * d;
        }
    }
    /* What the rounded mean leaves over; its square is beyond the digits of the others. */
    if (own.count > 0 && own.m4 < INFINITY) {
        const double shift = rest / own.count;
        own.m4 -= 4 * shift * own.m3;
        own.m3 -= 3 * shift * own.m2;
        own.m2 -= shift * rest;
        own.mean += shift;
        if (own.m2 < 0) own.m2 = own.m3 = own.m4 = 0;
    }
    return own;
}

/* Turn sums of powers about a pivot into central ones. */
INLINE static Central NAME(center_powers)(double n, double pivot, double s1, double s2, double s3, double s4) {
    const double shift = s1 / n, m2 = s2 - s1 * shift;
    const double m3 = s3 - shift * (3 * s2 - 2 * s1 * shift);
    const double m4 = s4 - shift * (4 * s3 - shift * (6 * s2 - 3 * s1 * shift));
    return (Central){.count = n, .mean = pivot + shift, .m2 = m2 > 0 ? m2 : 0, .m3 = m3, .m4 = m4 > 0 ? m4 : 0};
}

/* Whether sums of powers left the range of T: too large, or so small that digits went missing. Equal numbers, all of
 * whose sums are 0, look as the smallest do. */
INLINE static int NAME(beyond_range)(double s1, double s2, double s4) {
    const int finite = s4 <= (double)MOST;
    return (!finite) | ((s4 < (double)TINY_FOURTH) & ((s1 != 0) | (s2 != 0)));
}

CLONES static double NAME(sum_run)(const T *restrict x, int n) {
    T sums[LANES] = {0};
    int i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        const T *restrict from = x + i;
#pragma omp simd
        for (int j = 0; j < LANES; j++)
            sums[j] += (from[j] + from[LANES + j]) + (from[2 * LANES + j] + from[3 * LANES + j]);
    }
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int j = 0; j < LANES; j++) sum += (double)sums[j];
    for (; i < n; i++) sum += (double)x[i];
    return sum;
}

/* Sums of the first four powers of at most RUN numbers, less a pivot. */
CLONES static void NAME(power_run)(const T *restrict x, int n, T pivot, double *to) {
    T s1[LANES] = {0}, s2[LANES] = {0}, s3[LANES] = {0}, s4[LANES] = {0};
    int i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        const T *restrict from = x + i;
#pragma omp simd
        for (int j = 0; j < LANES; j++) {
            FOUR(NUMBER)
            FOUR(SQUARED)
            s1[j] += FOURFOLD(DIFFERENCE);
            s2[j] += FOURFOLD(ITS_SQUARE);
            s3[j] += FOURFOLD(CUBE);
            s4[j] += FOURFOLD(FOURTH);
        }
    }
    for (; i < n; i += LANES) {
        const int width = n - i < LANES ? n - i : LANES;
        const T *restrict from = x + i;
#pragma omp simd
        for (int j = 0; j < width; j++) {
            NUMBER(0)
            SQUARED(0)
            s1[j] += d0;
            s2[j] += q0;
            s3[j] += CUBE(0);
            s4[j] += FOURTH(0);
        }
    }
    double all1 = 0, all2 = 0, all3 = 0, all4 = 0;
#pragma omp simd reduction(+ : all1, all2, all3, all4)
    for (int j = 0; j < LANES; j++) {
        all1 += (double)s1[j];
        all2 += (double)s2[j];
        all3 += (double)s3[j];
        all4 += (double)s4[j];
    }
    to[0] = all1;
    to[1] = all2;
    to[2] = all3;
    to[3] = all4;
}

/* Whether at most RUN numbers are all the same. */
static int NAME(is_constant)(const T *x, int n) {
    int differ = 0;
    for (int i = 1; i < n; i++) differ |= x[i] != x[0];
    return !differ;
}

/* Central sums of a run of contiguous numbers. */
static Central NAME(central_run)(const T *x, int64_t n) {
    Central all = {0};
    for (int64_t at = 0; at < n; at += RUN) {
        const int width = (int)(n - at < RUN ? n - at : RUN);
        const double mean = NAME(sum_run)(x + at, width) / width;
        const T pivot = isfinite(mean) ? (T)mean : 0;
        double s[4];
        NAME(power_run)(x + at, width, pivot, s);
        const int alike = s[0] == 0 && s[1] == 0;
        const Central own = NAME(beyond_range)(s[0], s[1], s[3]) || (alike && !NAME(is_constant)(x + at, width))
                                ? NAME(central_in_double)(x + at, width)
                                : NAME(center_powers)(width, (double)pivot, s[0], s[1], s[2], s[3]);
        merge_central(&all, &own);
    }
    return all;
}

/* Sums of powers over the rows of a block, of the columns of one tile, less a pivot each. */
typedef struct {
    T pivot[ROOM], s1[ROOM], s2[ROOM], s3[ROOM], s4[ROOM];
} NAME(Powers);

/* Take the mean of each column over at most FLUSHED rows as its pivot, and empty the sums. */
CLONES static void NAME(set_block_means)(const T *const *rows, int n, int width, NAME(Powers) *restrict tile) {
    T *restrict pivot = tile->pivot;
    for (int c = 0; c < width; c++) pivot[c] = tile->s1[c] = tile->s2[c] = tile->s3[c] = tile->s4[c] = 0;
    int r = 0;
    for (; r + 8 <= n; r += 8) {
        const T *const *eight = rows + r;
        EIGHT(ROW)
#pragma omp simd
        for (int c = 0; c < width; c++) {
            EIGHT(VALUE)
            pivot[c] += PAIRS(ITSELF);
        }
    }
    for (; r < n; r++) {
        const T *RESTRICT row = rows[r];
#pragma omp simd
        for (int c = 0; c < width; c++) pivot[c] += row[c];
    }
    const T part = (T)1 / (T)n;
#pragma omp simd
    for (int c = 0; c < width; c++) {
        const T mean = pivot[c] * part;
        pivot[c] = mean <= MOST && mean >= -MOST ? mean : 0;
    }
}

CLONES static void NAME(add_powers)(const T *const *rows, int n, int width, NAME(Powers) *restrict tile) {
    int r = 0;
    for (; r + 8 <= n; r += 8) {
        const T *const *eight = rows + r;
        EIGHT(ROW)
#pragma omp simd
        for (int c = 0; c < width; c++) {
            const T pivot = tile->pivot[c];
            EIGHT(VALUE)
            EIGHT(OFF)
            tile->s1[c] += PAIRS(DIFFERENCE);
            tile->s2[c] += PAIRS(ITS_SQUARE);
            tile->s3[c] += PAIRS(CUBE);
            tile->s4[c] += PAIRS(FOURTH);
        }
    }
    for (; r < n; r++) {
        const T *RESTRICT row = rows[r];
#pragma omp simd
        for (int c = 0; c < width; c++) {
            const T d0 = row[c] - tile->pivot[c], q0 = d0 * d0;
            tile->s1[c] += d0;
            tile->s2[c] += q0;
            tile->s3[c] += CUBE(0);
            tile->s4[c] += FOURTH(0);
        }
    }
}

/* The central sums of each column of a tile; returns whether some left the range of T (1), or look constant (2). */
CLONES static int NAME(center_tile)(const NAME(Powers) *restrict tile, int n, int width, const CentralColumns *to) {
    double *restrict count = to->count, *restrict mean = to->mean, *restrict m2 = to->m2;
    double *restrict m3 = to->m3, *restrict m4 = to->m4;
    int beyond = 0, alike = 0;
    const double many = n;
#pragma omp simd reduction(| : beyond, alike)
    for (int c = 0; c < width; c++) {
        const double s1 = (double)tile->s1[c], s2 = (double)tile->s2[c], s4 = (double)tile->s4[c];
        const Central own = NAME(center_powers)(many, (double)tile->pivot[c], s1, s2, (double)tile->s3[c], s4);
        count[c] = own.count;
        mean[c] = own.mean;
        m2[c] = own.m2;
        m3[c] = own.m3;
        m4[c] = own.m4;
        beyond |= NAME(beyond_range)(s1, s2, s4);
        alike |= (s1 == 0) & (s2 == 0);
    }
    return beyond + 2 * alike;
}

/* Whether every column whose sums are all 0 has one number throughout. */
CLONES static int NAME(are_constant)(const T *const *rows, int n, int width, const NAME(Powers) *restrict tile) {
    int differ = 0;
    for (int r = 1; r < n; r++) {
        const T *RESTRICT row = rows[r], *RESTRICT first = rows[0];
#pragma omp simd reduction(| : differ)
        for (int c = 0; c < width; c++) differ |= (row[c] != first[c]) & (tile->s1[c] == 0) & (tile->s2[c] == 0);
    }
    return !differ;
}

/* The central sums of each column of at most FLUSHED rows and TILE columns. */
static void NAME(central_tile)(const T *const *rows, int n, int width, NAME(Powers) *tile, const CentralColumns *to) {
    NAME(set_block_means)(rows, n, width, tile);
    NAME(add_powers)(rows, n, width, tile);
    const int state = NAME(center_tile)(tile, n, width, to);
    if (state == 0 || (state == 2 && NAME(are_constant)(rows, n, width, tile))) return;
    T column[FLUSHED];
    for (int c = 0; c < width; c++) {
        for (int r = 0; r < n; r++) column[r] = rows[r][c];
        const Central own = NAME(central_in_double)(column, n);
#define TO_CENTRAL(name) to->name[c] = own.name;
        CENTRAL_FIELDS_OF(TO_CENTRAL)
#undef TO_CENTRAL
    }
}
