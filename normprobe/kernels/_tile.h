/* The hot loops for one number type: define T (float or double), NAME(x) and HUGE_SQUARE before including. */

/* What a block of rows and a tile of columns add up to, relative to a pivot per column. */
typedef struct {
    T pivot[TILE], sum[TILE], square[TILE], low[TILE], high[TILE], zeros[TILE], absolute[TILE];
} NAME(Tile);

#define ONE(k) \
    T x##k = r##k[c], d##k = x##k - p; \
    t##k += d##k;
#define LOW(a, b) ((a) < (b) ? (a) : (b))
#define HIGH(a, b) ((a) > (b) ? (a) : (b))
#define EIGHT(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7)
#define PAIRS(f) ((f(0) + f(1)) + (f(2) + f(3))) + ((f(4) + f(5)) + (f(6) + f(7)))
#define DIFFERENCE(k) d##k
#define SQUARE(k) d##k * d##k
#define ABSOLUTE(k) ABS(x##k)
#define ZERO(k) (x##k == (T)0 ? (T)1 : (T)0)

/* Eight rows at a time: accumulators of a column are loaded and stored once for eight numbers. */
CLONES static void NAME(eight)(const T *const *rows, int width, NAME(Tile) *restrict tile, double *sums) {
    const T *restrict r0 = rows[0], *restrict r1 = rows[1], *restrict r2 = rows[2], *restrict r3 = rows[3];
    const T *restrict r4 = rows[4], *restrict r5 = rows[5], *restrict r6 = rows[6], *restrict r7 = rows[7];
    T t0 = 0, t1 = 0, t2 = 0, t3 = 0, t4 = 0, t5 = 0, t6 = 0, t7 = 0;
#pragma omp simd reduction(+ : t0, t1, t2, t3, t4, t5, t6, t7)
    for (int c = 0; c < width; c++) {
        const T p = tile->pivot[c];
        EIGHT(ONE)
        tile->sum[c] += PAIRS(DIFFERENCE);
        tile->square[c] += PAIRS(SQUARE);
        tile->absolute[c] += PAIRS(ABSOLUTE);
        tile->zeros[c] += PAIRS(ZERO);
        const T a = LOW(x0, x1), b = LOW(x2, x3), e = LOW(x4, x5), f = LOW(x6, x7);
        const T g = LOW(a, b), h = LOW(e, f), i = LOW(g, h);
        tile->low[c] = LOW(i, tile->low[c]);
        const T j = HIGH(x0, x1), k = HIGH(x2, x3), l = HIGH(x4, x5), m = HIGH(x6, x7);
        const T n = HIGH(j, k), o = HIGH(l, m), q = HIGH(n, o);
        tile->high[c] = HIGH(q, tile->high[c]);
    }
    const T t[8] = {t0, t1, t2, t3, t4, t5, t6, t7};
    for (int k = 0; k < 8; k++) sums[k] += t[k];
}

CLONES static void NAME(one)(const T *restrict r0, int width, NAME(Tile) *restrict tile, double *sums) {
    T t0 = 0;
#pragma omp simd reduction(+ : t0)
    for (int c = 0; c < width; c++) {
        const T p = tile->pivot[c];
        ONE(0)
        tile->sum[c] += d0;
        tile->square[c] += d0 * d0;
        tile->absolute[c] += ABS(x0);
        tile->zeros[c] += ZERO(0);
        tile->low[c] = LOW(x0, tile->low[c]);
        tile->high[c] = HIGH(x0, tile->high[c]);
    }
    sums[0] += t0;
}

/* Add up all rows of a block about the tile's pivot. */
static void NAME(sweep)(const T *const *rows, int n, int width, NAME(Tile) *tile, double *sums) {
    for (int c = 0; c < width; c++) {
        tile->sum[c] = tile->square[c] = tile->zeros[c] = tile->absolute[c] = 0;
        tile->low[c] = INFINITY;
        tile->high[c] = -INFINITY;
    }
    double pivots = 0;
    for (int c = 0; c < width; c++) pivots += tile->pivot[c];
    int r = 0;
    for (; r + 8 <= n; r += 8) NAME(eight)(rows + r, width, tile, sums + r);
    for (; r < n; r++) NAME(one)(rows[r], width, tile, sums + r);
    for (r = 0; r < n; r++) sums[r] += pivots;
}

/* The block's own mean as pivot, summed in double. */
static void NAME(centre)(const T *const *rows, int n, int width, NAME(Tile) *tile) {
    double sum[TILE];
    for (int c = 0; c < width; c++) sum[c] = 0;
    for (int r = 0; r < n; r++)
        for (int c = 0; c < width; c++) sum[c] += rows[r][c];
    for (int c = 0; c < width; c++) {
        const double mean = sum[c] / n;
        tile->pivot[c] = isfinite(mean) ? (T)mean : 0;
    }
}

/* Whether the sums of a block can be trusted: finite, not under- or overflowed, the pivot near the mean. */
CLONES static int NAME(judge)(const NAME(Tile) *tile, int n, int width) {
    int extreme = 0, off = 0;
    for (int c = 0; c < width; c++) {
        const T shift = tile->sum[c] / n, m2 = tile->square[c] - tile->sum[c] * shift;
        extreme |= !(tile->square[c] < HUGE_SQUARE);
        extreme |= (tile->low[c] < tile->high[c]) & (tile->square[c] < TINY_SQUARE);
        off |= shift * shift * n > 2 * m2 && tile->low[c] < tile->high[c];
        off |= !(tile->low[c] < tile->high[c]) && tile->sum[c] != 0;
    }
    return extreme ? EXTREME : off ? OFF_CENTRE : GOOD;
}

/* Merge a trusted block into the columns' moments (Chan, Golub, LeVeque 1979). */
CLONES static void NAME(merge_tile)(const NAME(Tile) *restrict tile, int n, int width, const Columns *to, int64_t at) {
    double *restrict count = to->count + at, *restrict mean = to->mean + at, *restrict m2 = to->m2 + at;
    double *restrict low = to->low + at, *restrict high = to->high + at;
    double *restrict absolute = to->absolute + at, *restrict zeros = to->zeros + at;
#pragma omp simd
    for (int c = 0; c < width; c++) {
        const double sum = tile->sum[c], shift = sum / n;
        const double own_mean = tile->pivot[c] + shift, own = tile->square[c] - sum * shift;
        const double total = count[c] + n, share = n / total, delta = own_mean - mean[c];
        mean[c] = mean[c] + delta * share;
        m2[c] = m2[c] + (own > 0 ? own : 0) + delta * delta * (count[c] * share);
        count[c] = total;
        low[c] = tile->low[c] < low[c] ? tile->low[c] : low[c];
        high[c] = tile->high[c] > high[c] ? tile->high[c] : high[c];
        absolute[c] += tile->absolute[c];
        zeros[c] += tile->zeros[c];
    }
}

/* Two passes in double over one tile, skipping and counting what is not finite. */
static void NAME(careful)(const T *const *rows, int n, int width, const Columns *to, int64_t at, double *sums) {
    for (int r = 0; r < n; r++)
        for (int c = 0; c < width; c++) sums[r] += rows[r][c];
    for (int c = 0; c < width; c++) {
        Moments own = {0, 0, 0, INFINITY, -INFINITY, 0, 0, 0};
        double rest = 0;
        for (int r = 0; r < n; r++) {
            const double x = rows[r][c];
            if (!isfinite(x)) { own.nonfinite++; continue; }
            own.count++;
            own.low = x < own.low ? x : own.low;
            own.high = x > own.high ? x : own.high;
            own.absolute += fabs(x);
            own.zeros += x == 0;
        }
        for (int r = 0; r < n; r++)
            if (isfinite((double)rows[r][c])) own.mean += (double)rows[r][c] / own.count;
        for (int r = 0; r < n; r++) {
            const double d = (double)rows[r][c] - own.mean;
            if (isfinite((double)rows[r][c])) { rest += d; own.m2 += d * d; }
        }
        if (own.count > 0 && own.m2 < INFINITY) {
            own.m2 -= rest * (rest / own.count);
            own.mean += rest / own.count;
            if (own.m2 < 0) own.m2 = 0;
        }
        merge_one(to, at + c, &own);
    }
}

/* The first sample that holds a value of the tile, and of that sample the first feature. */
static Holder NAME(find)(const T *const *rows, const int64_t *index, int n, int width, int64_t at, Holder best) {
    for (int r = 0; r < n && index[r] <= best.sample; r++)
        for (int c = 0; c < width; c++)
            if ((double)rows[r][c] == best.value) {
                const Holder here = {best.value, index[r], at + c};
                if (before(&here, &best)) best = here;
                break;
            }
    return best;
}

/* Let the holders of the tile's extremes replace those so far, if they beat them or come before them. */
static void NAME(hold)(const T *const *rows, const int64_t *index, int n, int width, int64_t at, const NAME(Tile) *tile,
                       Holder *low, Holder *high, int careful) {
    T least = INFINITY, most = -INFINITY;
    if (!careful) {
        for (int c = 0; c < width; c++) {
            least = LOW(tile->low[c], least);
            most = HIGH(tile->high[c], most);
        }
    } else {
        for (int r = 0; r < n; r++)
            for (int c = 0; c < width; c++)
                if (isfinite((double)rows[r][c])) {
                    least = LOW(rows[r][c], least);
                    most = HIGH(rows[r][c], most);
                }
    }
    const Holder found_low = {least, INT64_MAX, 0}, found_high = {most, INT64_MAX, 0};
    Holder best;
    if (isfinite((double)least) && (least < low->value || (least == low->value && low->sample >= index[0]))) {
        best = NAME(find)(rows, index, n, width, at, found_low);
        if (least < low->value || before(&best, low)) *low = best;
    }
    if (isfinite((double)most) && (most > high->value || (most == high->value && high->sample >= index[0]))) {
        best = NAME(find)(rows, index, n, width, at, found_high);
        if (most > high->value || before(&best, high)) *high = best;
    }
}

/* Measure one block of rows (at most ROWS) of contiguous columns into the columns' moments.
 * sums receives the sum of each row. */
static void NAME(block)(const T *const *rows, const int64_t *index, int n, int64_t features, const Columns *to,
                        NAME(Tile) *tile, double *sums, Holder *low, Holder *high) {
    const T *shifted[ROWS];
    for (int r = 0; r < n; r++) sums[r] = 0;
    for (int64_t at = 0; at < features; at += TILE) {
        const int width = (int)(features - at < TILE ? features - at : TILE);
        double earlier[ROWS];
        for (int r = 0; r < n; r++) { shifted[r] = rows[r] + at; earlier[r] = sums[r]; }
        const int fresh = to->count[at] == 0;
        if (fresh) NAME(centre)(shifted, n, width, tile);
        else for (int c = 0; c < width; c++) tile->pivot[c] = (T)to->mean[at + c];
        NAME(sweep)(shifted, n, width, tile, sums);
        int verdict = NAME(judge)(tile, n, width);
        if (verdict == OFF_CENTRE && !fresh) {
            for (int r = 0; r < n; r++) sums[r] = earlier[r];
            NAME(centre)(shifted, n, width, tile);
            NAME(sweep)(shifted, n, width, tile, sums);
            verdict = NAME(judge)(tile, n, width);
        }
        if (verdict == EXTREME) {
            for (int r = 0; r < n; r++) sums[r] = earlier[r];
            NAME(careful)(shifted, n, width, to, at, sums);
        } else {
            NAME(merge_tile)(tile, n, width, to, at);
        }
        NAME(hold)(shifted, index, n, width, at, tile, low, high, verdict == EXTREME);
    }
}

#undef ONE
#undef LOW
#undef HIGH
#undef EIGHT
#undef PAIRS
#undef DIFFERENCE
#undef SQUARE
#undef ABSOLUTE
#undef ZERO
