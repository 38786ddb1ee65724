/* The hot loops for one number type: define T (float or double), NAME(x), ABS, HUGE_SQUARE and TINY_SQUARE first. */

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

CLONES static double NAME(begin)(NAME(Tile) *restrict tile, int width) {
    double pivots = 0;
#pragma omp simd reduction(+ : pivots)
    for (int c = 0; c < width; c++) {
        tile->sum[c] = tile->square[c] = tile->zeros[c] = tile->absolute[c] = 0;
        tile->low[c] = INFINITY;
        tile->high[c] = -INFINITY;
        pivots += tile->pivot[c];
    }
    return pivots;
}

/* Add up all rows of a block about the tile's pivot; returns the sum of the pivots. */
static double NAME(sweep)(const T *const *rows, int n, int width, NAME(Tile) *tile, double *sums) {
    const double pivots = NAME(begin)(tile, width);
    int r = 0;
    for (; r + 8 <= n; r += 8) NAME(eight)(rows + r, width, tile, sums + r);
    for (; r < n; r++) NAME(one)(rows[r], width, tile, sums + r);
    for (r = 0; r < n; r++) sums[r] += pivots;
    return pivots;
}

/* The block's own mean as pivot, summed in double. */
CLONES static void NAME(centre)(const T *const *rows, int n, int width, NAME(Tile) *tile) {
    double sum[TILE];
    for (int c = 0; c < width; c++) sum[c] = 0;
    for (int r = 0; r < n; r++) {
        const T *restrict row = rows[r];
        for (int c = 0; c < width; c++) sum[c] += row[c];
    }
    for (int c = 0; c < width; c++) {
        const double mean = sum[c] / n;
        tile->pivot[c] = isfinite(mean) ? (T)mean : 0;
    }
}

/* Whether the sums of a block can be trusted: finite, not under- or overflowed, the pivot near the mean. */
CLONES static int NAME(judge)(const NAME(Tile) *restrict tile, int n, int width) {
    int extreme = 0, off = 0;
    const T many = (T)n, part = (T)1 / (T)n;
#pragma omp simd reduction(| : extreme, off)
    for (int c = 0; c < width; c++) {
        const T sum = tile->sum[c], square = tile->square[c], shift = sum * part, m2 = square - sum * shift;
        const int varies = tile->low[c] < tile->high[c];
        extreme |= !(square < HUGE_SQUARE);
        extreme |= varies & (square < TINY_SQUARE);
        off |= varies & (shift * shift * many > 2 * m2);
        off |= !varies & (sum != 0);
    }
    return extreme ? EXTREME : off ? OFF_CENTRE : GOOD;
}

/* Merge a trusted block into the columns' moments; returns the moments of all its numbers together. */
CLONES static Moments NAME(merge_tile)(const NAME(Tile) *restrict tile, int n, int width, const Columns *to,
                                       int64_t at, double pivots) {
    double *restrict count = to->count + at, *restrict mean = to->mean + at, *restrict m2 = to->m2 + at;
    double *restrict low = to->low + at, *restrict high = to->high + at;
    double *restrict absolute = to->absolute + at, *restrict zeros = to->zeros + at;
    const double many = n, one_part = 1.0 / n, centre = pivots / width;
    double sums = 0, squares = 0;
    T least = INFINITY, most = -INFINITY;
#pragma omp simd reduction(+ : sums, squares) reduction(min : least) reduction(max : most)
    for (int c = 0; c < width; c++) {
        const double sum = tile->sum[c], square = tile->square[c], shift = sum * one_part, pivot = tile->pivot[c];
        const double own = square - sum * shift, off = pivot - centre;
        const double total = count[c] + many, share = many / total, delta = pivot + shift - mean[c];
        mean[c] = mean[c] + delta * share;
        const double weight = count[c] * share;
        m2[c] = m2[c] + (own > 0 ? own : 0) + (weight > 0 ? delta * delta * weight : 0);
        count[c] = total;
        low[c] = tile->low[c] < low[c] ? tile->low[c] : low[c];
        high[c] = tile->high[c] > high[c] ? tile->high[c] : high[c];
        absolute[c] += tile->absolute[c];
        zeros[c] += tile->zeros[c];
        sums += sum + many * off;
        squares += square + off * (2 * sum + many * off);
        least = tile->low[c] < least ? tile->low[c] : least;
        most = tile->high[c] > most ? tile->high[c] : most;
    }
    const double numbers = many * width, shift = sums / numbers, around = squares - sums * shift;
    const Moments all = {numbers, centre + shift, around > 0 ? around : 0, least, most, 0, 0, 0};
    return all;
}

/* Two passes in double over one tile, skipping and counting what is not finite. */
static Moments NAME(careful)(const T *const *rows, int n, int width, const Columns *to, int64_t at, double *sums) {
    Moments all = EMPTY;
    for (int r = 0; r < n; r++)
        for (int c = 0; c < width; c++) sums[r] += rows[r][c];
    for (int c = 0; c < width; c++) {
        Moments own = EMPTY;
        double rest = 0;
        for (int r = 0; r < n; r++) {
            const double x = rows[r][c];
            if (!isfinite(x)) {
                own.nonfinite++;
                continue;
            }
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
            if (isfinite((double)rows[r][c])) {
                rest += d;
                own.m2 += d * d;
            }
        }
        if (own.count > 0 && own.m2 < INFINITY) {
            own.m2 -= rest * (rest / own.count);
            own.mean += rest / own.count;
            if (own.m2 < 0) own.m2 = 0;
        }
        merge_one(to, at + c, &own);
        merge_moments(&all, &own);
    }
    return all;
}

/* The first sample that holds a value of the tile, and of that sample the first feature. */
static Holder NAME(find)(const T *const *rows, const int64_t *index, int n, int width, int64_t at, double value) {
    Holder best = {value, INT64_MAX, 0};
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
static void NAME(hold)(const T *const *rows, const int64_t *index, int n, int width, int64_t at, const Moments *all,
                       Holder *low, Holder *high) {
    if (all->count == 0) return;
    if (all->low < low->value || (all->low == low->value && low->sample >= index[0])) {
        const Holder best = NAME(find)(rows, index, n, width, at, all->low);
        if (all->low < low->value || before(&best, low)) *low = best;
    }
    if (all->high > high->value || (all->high == high->value && high->sample >= index[0])) {
        const Holder best = NAME(find)(rows, index, n, width, at, all->high);
        if (all->high > high->value || before(&best, high)) *high = best;
    }
}

/* Measure one block of rows (at most ROWS) of contiguous columns into the columns' moments; returns those of all its
 * numbers. sums receives the sum of each row; hint, where there is one, is near the columns' means. */
static Moments NAME(block)(const T *const *rows, const int64_t *index, int n, int64_t features, const Columns *to,
                           const double *hint, NAME(Tile) *tile, double *sums, Holder *low, Holder *high) {
    const T *shifted[ROWS];
    Moments block = EMPTY;
    for (int r = 0; r < n; r++) sums[r] = 0;
    for (int64_t at = 0; at < features; at += TILE) {
        const int width = (int)(features - at < TILE ? features - at : TILE);
        double earlier[ROWS];
        for (int r = 0; r < n; r++) {
            shifted[r] = rows[r] + at;
            earlier[r] = sums[r];
        }
        const double *near = to->count[at] > 0 ? to->mean + at : hint != NULL ? hint + at : NULL;
        if (near == NULL) NAME(centre)(shifted, n, width, tile);
        else for (int c = 0; c < width; c++) tile->pivot[c] = (T)near[c];
        double pivots = NAME(sweep)(shifted, n, width, tile, sums);
        int verdict = NAME(judge)(tile, n, width);
        if (verdict == OFF_CENTRE && near != NULL) {
            for (int r = 0; r < n; r++) sums[r] = earlier[r];
            NAME(centre)(shifted, n, width, tile);
            pivots = NAME(sweep)(shifted, n, width, tile, sums);
            verdict = NAME(judge)(tile, n, width);
        }
        Moments all;
        if (verdict == EXTREME) {
            for (int r = 0; r < n; r++) sums[r] = earlier[r];
            all = NAME(careful)(shifted, n, width, to, at, sums);
        } else {
            all = NAME(merge_tile)(tile, n, width, to, at, pivots);
        }
        NAME(hold)(shifted, index, n, width, at, &all, low, high);
        merge_moments(&block, &all);
    }
    return block;
}

/* Contiguous numbers about a pivot: their sum, squares, extremes, zeros and sum of absolute values. Each lane adds few
 * numbers one after the other: of many equal ones the roundings would all go one way. */
CLONES static void NAME(line)(const T *restrict x, int n, T pivot, Moments *own) {
    T sums[LANES], squares[LANES], absolutes[LANES], nones[LANES], lows[LANES], highs[LANES];
    double sum = 0, square = 0, absolute = 0, zeros = 0, low = INFINITY, high = -INFINITY;
    for (int j = 0; j < LANES; j++) {
        sums[j] = squares[j] = absolutes[j] = nones[j] = 0;
        lows[j] = INFINITY;
        highs[j] = -INFINITY;
    }
    for (int i = 0; i < n; i += LANES) {
        const int width = n - i < LANES ? n - i : LANES;
        const T *restrict from = x + i;
#pragma omp simd
        for (int j = 0; j < width; j++) {
            const T d = from[j] - pivot;
            sums[j] += d;
            squares[j] += d * d;
            absolutes[j] += ABS(from[j]);
            nones[j] += from[j] == (T)0 ? (T)1 : (T)0;
            lows[j] = from[j] < lows[j] ? from[j] : lows[j];
            highs[j] = from[j] > highs[j] ? from[j] : highs[j];
        }
    }
#pragma omp simd reduction(+ : sum, square, absolute, zeros) reduction(min : low) reduction(max : high)
    for (int j = 0; j < LANES; j++) {
        sum += sums[j];
        square += squares[j];
        absolute += absolutes[j];
        zeros += nones[j];
        low = lows[j] < low ? lows[j] : low;
        high = highs[j] > high ? highs[j] : high;
    }
    own->count = n;
    own->mean = sum;
    own->m2 = square;
    own->low = low;
    own->high = high;
    own->absolute = absolute;
    own->zeros = zeros;
}

/* Two passes in double over contiguous numbers, skipping and counting what is not finite. */
static Moments NAME(slowly)(const T *x, int64_t n) {
    Moments own = EMPTY;
    double rest = 0;
    for (int64_t i = 0; i < n; i++) {
        const double v = x[i];
        if (!isfinite(v)) {
            own.nonfinite++;
            continue;
        }
        own.count++;
        own.low = v < own.low ? v : own.low;
        own.high = v > own.high ? v : own.high;
        own.absolute += fabs(v);
        own.zeros += v == 0;
    }
    for (int64_t i = 0; i < n; i++)
        if (isfinite((double)x[i])) own.mean += (double)x[i] / own.count;
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)x[i] - own.mean;
        if (isfinite((double)x[i])) {
            rest += d;
            own.m2 += d * d;
        }
    }
    if (own.count > 0 && own.m2 < INFINITY) {
        own.m2 -= rest * (rest / own.count);
        own.mean += rest / own.count;
        if (own.m2 < 0) own.m2 = 0;
    }
    return own;
}

/* Moments of at most CHUNK contiguous numbers, summed about a pivot where that can be trusted. */
static Moments NAME(chunk)(const T *x, int n, double near) {
    Moments own = EMPTY;
    T pivot = (T)near;
    for (int again = 0; again < 2; again++) {
        NAME(line)(x, n, pivot, &own);
        const double sum = own.mean, square = own.m2, shift = sum / n, m2 = square - sum * shift;
        const int varies = own.low < own.high;
        if (!(square < HUGE_SQUARE) || (varies && square < TINY_SQUARE)) return NAME(slowly)(x, n);
        if (varies ? shift * shift * n <= 2 * m2 : sum == 0) {
            own.mean = pivot + shift;
            own.m2 = m2 > 0 ? m2 : 0;
            return own;
        }
        double all = 0;
        for (int i = 0; i < n; i++) all += x[i];
        pivot = (T)(all / n);
    }
    return NAME(slowly)(x, n);
}

/* Moments of a row, whose mean is about `near`: chunk by chunk. */
static Moments NAME(row)(const T *x, int64_t n, double near) {
    Moments own = EMPTY;
    for (int64_t at = 0; at < n; at += CHUNK) {
        const Moments part = NAME(chunk)(x + at, (int)(n - at < CHUNK ? n - at : CHUNK), near);
        merge_moments(&own, &part);
    }
    return own;
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
