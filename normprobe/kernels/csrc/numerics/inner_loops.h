/* The hot loops for one number type: define T (float or double), NAME(x), ABS, MOST (its largest
 * number), HUGE_SQUARE and TINY_SQUARE first. */

/* What a block of rows and a tile of columns add up to, relative to a pivot per column. The first fields are those of
 * the block's last rows, extremes and zeros aside; the totals are carried in double. */
typedef struct {
    T pivot[ROOM], sum[ROOM], square[ROOM], absolute[ROOM], low[ROOM], high[ROOM], zeros[ROOM];
    double sums[ROOM], squares[ROOM], absolutes[ROOM];
} NAME(Tile);

#define LOW(a, b) ((a) < (b) ? (a) : (b))
#define HIGH(a, b) ((a) > (b) ? (a) : (b))
#define EIGHT(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7)
#define PAIRS(f) ((f(0) + f(1)) + (f(2) + f(3))) + ((f(4) + f(5)) + (f(6) + f(7)))
#define ITSELF(k) x##k
#define DIFFERENCE(k) d##k
#define SQUARE(k) d##k * d##k
#define ABSOLUTE(k) ABS(x##k)
#define ZERO(k) (x##k == (T)0 ? (T)1 : (T)0)

#define ROW(k) const T *APART r##k = eight[k];
#define VALUE(k) const T x##k = r##k[c];
#define NO_LANES(k) T t##k[STRIP] = {0};
#define AHEAD(k) PREFETCH(r##k + next);
#define READ(k) const T x##k = r##k[at + j];
#define LANE(k) const T d##k = x##k - p, m##k = ABS(x##k); t##k[j] += d##k;
#define MAGNITUDE(k) m##k
#define LANES_OF(k) s##k += t##k[j];

/* Add up a whole number of strips of eight rows: accumulators of a column are loaded and stored once for eight numbers,
 * each lane of a row has its own sum. The numbers that lie so far ahead of these are fetched meanwhile, for reading them
 * is what takes longest. Whether one of them is zero. */
CLONES static int NAME(strips)(const T *const *eight, int width, int64_t ahead, NAME(Tile) *APART tile,
                               int64_t from, double *sums) {
    EIGHT(ROW)
    EIGHT(NO_LANES)
    T least[STRIP];
    for (int j = 0; j < STRIP; j++) least[j] = 1;
    for (int64_t at = 0; at < width; at += STRIP) {
        const int64_t next = at + ahead;
        EIGHT(AHEAD)
#pragma omp simd
        for (int64_t j = 0; j < STRIP; j++) {
            const int64_t c = from + at + j;
            EIGHT(READ)
            const T a = LOW(x0, x1), b = LOW(x2, x3), e = LOW(x4, x5), f = LOW(x6, x7);
            const T g = LOW(a, b), h = LOW(e, f), i = LOW(g, h);
            tile->low[c] = LOW(i, tile->low[c]);
            const T k = HIGH(x0, x1), l = HIGH(x2, x3), m = HIGH(x4, x5), n = HIGH(x6, x7);
            const T o = HIGH(k, l), q = HIGH(m, n), s = HIGH(o, q);
            tile->high[c] = HIGH(s, tile->high[c]);
            const T p = tile->pivot[c];
            EIGHT(LANE)
            tile->sum[c] += PAIRS(DIFFERENCE);
            tile->square[c] += PAIRS(SQUARE);
            tile->absolute[c] += PAIRS(MAGNITUDE);
            const T t = LOW(m0, m1), u = LOW(m2, m3), v = LOW(m4, m5), w = LOW(m6, m7);
            const T x = LOW(t, u), y = LOW(v, w), z = LOW(x, y);
            least[j] = LOW(z, least[j]);
        }
    }
    T s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0, smallest = 1;
#pragma omp simd reduction(+ : s0, s1, s2, s3, s4, s5, s6, s7) reduction(min : smallest)
    for (int j = 0; j < STRIP; j++) {
        EIGHT(LANES_OF)
        smallest = LOW(least[j], smallest);
    }
    const T s[8] = {s0, s1, s2, s3, s4, s5, s6, s7};
    for (int k = 0; k < 8; k++) sums[k] += s[k];
    return smallest == 0;
}

/* Few numbers are zero, and looking whether there is one costs a third of counting them. */
CLONES static void NAME(count_zeros)(const T *const *eight, int width, T *restrict zeros) {
    EIGHT(ROW)
#pragma omp simd
    for (int c = 0; c < width; c++) {
        EIGHT(VALUE)
        zeros[c] += PAIRS(ZERO);
    }
}

/* Eight rows at a time; the last strip, if it is not whole, with ones about a pivot of one behind it. */
static void NAME(eight)(const T *const *rows, int width, int64_t ahead, NAME(Tile) *tile, double *sums) {
    const int rest = width % STRIP, whole = width - rest;
    int zeros = whole > 0 && NAME(strips)(rows, whole, ahead, tile, 0, sums);
    if (rest > 0) {
        T last[8][STRIP];
        const T *filled[8];
        for (int k = 0; k < 8; k++) {
            for (int j = rest; j < STRIP; j++) last[k][j] = 1;
            for (int j = 0; j < rest; j++) last[k][j] = rows[k][whole + j];
            filled[k] = last[k];
        }
        zeros |= NAME(strips)(filled, STRIP, 0, tile, whole, sums);
    }
    if (zeros) NAME(count_zeros)(rows, width, tile->zeros);
}

CLONES static void NAME(one)(const T *restrict r0, int width, NAME(Tile) *restrict tile, double *sums) {
    T t0 = 0;
#pragma omp simd reduction(+ : t0)
    for (int c = 0; c < width; c++) {
        const T x0 = r0[c], d0 = x0 - tile->pivot[c];
        t0 += d0;
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
        tile->sum[c] = tile->square[c] = tile->absolute[c] = tile->zeros[c] = 0;
        tile->sums[c] = tile->squares[c] = tile->absolutes[c] = 0;
        tile->low[c] = INFINITY;
        tile->high[c] = -INFINITY;
        pivots += tile->pivot[c];
    }
    for (int c = width; c < width + STRIP; c++) tile->pivot[c] = 1;
    return pivots;
}

/* Carry what was added up in the numbers' own type over to the totals, before too much of it is rounded. */
CLONES static void NAME(carry)(NAME(Tile) *restrict tile, int width) {
#pragma omp simd
    for (int c = 0; c < width; c++) {
        tile->sums[c] += tile->sum[c];
        tile->squares[c] += tile->square[c];
        tile->absolutes[c] += tile->absolute[c];
        tile->sum[c] = tile->square[c] = tile->absolute[c] = 0;
    }
}

/* Add up all rows of a block about the tile's pivot; returns the sum of the pivots. `then` will be read next. */
static double NAME(sweep)(const T *const *rows, int n, int width, const T *then, NAME(Tile) *tile, double *sums) {
    const double pivots = NAME(begin)(tile, width);
    for (int from = 0; from < n; from += CARRIED) {
        const int until = from + CARRIED < n ? from + CARRIED : n;
        int r = from;
        for (; r + 8 <= until; r += 8)
            NAME(eight)(rows + r, width, (r + 16 <= n ? rows[r + 8] : then) - rows[r], tile, sums + r);
        for (; r < until; r++) NAME(one)(rows[r], width, tile, sums + r);
        NAME(carry)(tile, width);
    }
    for (int r = 0; r < n; r++) sums[r] += pivots;
    return pivots;
}

/* Numbers near the means as pivot. */
CLONES static void NAME(aim)(const double *restrict near, int width, NAME(Tile) *restrict tile) {
    for (int c = 0; c < width; c++) tile->pivot[c] = (T)near[c];
}

/* The block's own mean as pivot. */
CLONES static void NAME(centre)(const T *const *rows, int n, int width, NAME(Tile) *tile) {
    double sum[TILE] = {0};
    int r = 0;
    for (; r + 8 <= n; r += 8) {
        const T *const *eight = rows + r;
        EIGHT(ROW)
        for (int c = 0; c < width; c++) {
            EIGHT(VALUE)
            sum[c] += PAIRS(ITSELF);
        }
    }
    for (; r < n; r++)
        for (int c = 0; c < width; c++) sum[c] += rows[r][c];
    for (int c = 0; c < width; c++) {
        const double mean = sum[c] / n;
        tile->pivot[c] = isfinite(mean) ? (T)mean : 0;
    }
}

/* The moments of all numbers of a tile together, absolute values and zeros aside, the mean of whose pivots is known.
 * raw receives the sum of the squares about the pivots. */
CLONES static Moments NAME(together)(const NAME(Tile) *restrict tile, int n, int width, double pivots, double *raw) {
    const double many = n, numbers = many * width, centre = pivots / width;
    double sums = 0, squares = 0, given = 0;
    T least = INFINITY, most = -INFINITY;
#pragma omp simd reduction(+ : sums, squares, given) reduction(min : least) reduction(max : most)
    for (int c = 0; c < width; c++) {
        const double sum = tile->sums[c], square = tile->squares[c], off = tile->pivot[c] - centre;
        sums += sum + many * off;
        squares += square + off * (2 * sum + many * off);
        given += square;
        least = LOW(tile->low[c], least);
        most = HIGH(tile->high[c], most);
    }
    const double shift = sums / numbers, around = squares - sums * shift;
    const Moments all = {numbers, centre + shift, around > 0 ? around : 0, least, most, 0, 0, 0};
    *raw = given;
    return all;
}

/* Whether the sums of a block can be trusted: finite, not under- or overflowed, and the pivots near the means. They
 * need not be where the pivot is the mean of at least as many numbers, counted before or, of none, met elsewhere: what it
 * is off by then is part of the variance. */
CLONES static int NAME(judge)(const NAME(Tile) *restrict tile, int n, int width, const double *restrict count,
                              double met) {
    int extreme = 0, off = 0;
    const double part = 1.0 / n;
#pragma omp simd reduction(| : extreme, off)
    for (int c = 0; c < width; c++) {
        const double sum = tile->sums[c], square = tile->squares[c], shift = sum * part, m2 = square - sum * shift;
        const int varies = tile->low[c] < tile->high[c], first = (count[c] > 0 ? count[c] : met) < n;
        extreme |= !(square < HUGE_SQUARE);
        extreme |= (varies | (!first & (sum != 0))) & (square < TINY_SQUARE);
        off |= first & varies & (sum * shift > 2 * m2);
        off |= first & !varies & (sum != 0);
    }
    return extreme ? EXTREME : off ? OFF_CENTRE : GOOD;
}

/* Merge a trusted block into the columns' moments. */
CLONES static void NAME(merge_tile)(const NAME(Tile) *restrict tile, int n, int width, const Columns *to, int64_t at) {
    double *restrict count = to->count + at, *restrict mean = to->mean + at, *restrict m2 = to->m2 + at;
    double *restrict low = to->low + at, *restrict high = to->high + at;
    double *restrict absolute = to->absolute + at, *restrict zeros = to->zeros + at;
    const double many = n, one_part = 1.0 / n;
#pragma omp simd
    for (int c = 0; c < width; c++) {
        const double sum = tile->sums[c], square = tile->squares[c], shift = sum * one_part, pivot = tile->pivot[c];
        const double own = square - sum * shift;
        const double total = count[c] + many, share = many / total, delta = pivot + shift - mean[c];
        mean[c] = mean[c] + delta * share;
        const double weight = count[c] * share;
        m2[c] = m2[c] + (own > 0 ? own : 0) + (weight > 0 ? delta * delta * weight : 0);
        count[c] = total;
        low[c] = tile->low[c] < low[c] ? tile->low[c] : low[c];
        high[c] = tile->high[c] > high[c] ? tile->high[c] : high[c];
        absolute[c] += tile->absolutes[c];
        zeros[c] += tile->zeros[c];
    }
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

/* Add up a tile about its pivots, onto row sums of which `earlier` are those before. */
static int NAME(tried)(const T *const *rows, int n, int width, const T *then, const double *count, double met,
                       NAME(Tile) *tile, double *sums, const double *earlier, Moments *all) {
    for (int r = 0; r < n; r++) sums[r] = earlier[r];
    const double pivots = NAME(sweep)(rows, n, width, then, tile, sums);
    double raw;
    *all = NAME(together)(tile, n, width, pivots, &raw);
    const int verdict = NAME(judge)(tile, n, width, count, met);
    /* What was added up in low precision must not be much more than what it is to yield. */
    return verdict == GOOD && raw > 4 * all->m2 ? OFF_CENTRE : verdict;
}

/* Measure one block of rows (at most ROWS) of contiguous columns into the columns' moments; returns those of all its
 * numbers. `near` are means of so many numbers met elsewhere; sums receives the sum of each row. */
static Moments NAME(block)(const T *const *rows, int n, int64_t features, const Columns *to, const double *near,
                           double met, NAME(Tile) *tile, double *sums) {
    const T *shifted[ROWS];
    Moments block = EMPTY;
    double earlier[ROWS] = {0};
    const int64_t most = tile_width(features);
    for (int64_t at = 0; at < features; at += most) {
        const int width = (int)(features - at < most ? features - at : most);
        for (int r = 0; r < n; r++) shifted[r] = rows[r] + at;
        const T *const then = at + width < features ? shifted[0] + width : shifted[n - 1] + width;
        if (to->count[at] > 0) NAME(aim)(to->mean + at, width, tile);
        else if (near != NULL) NAME(aim)(near + at, width, tile);
        else NAME(centre)(shifted, n, width, tile);
        Moments all;
        int verdict = NAME(tried)(shifted, n, width, then, to->count + at, met, tile, sums, earlier, &all);
        if (verdict == OFF_CENTRE) {
            NAME(centre)(shifted, n, width, tile);
            verdict = NAME(tried)(shifted, n, width, then, to->count + at, met, tile, sums, earlier, &all);
        }
        if (verdict == EXTREME) {
            for (int r = 0; r < n; r++) sums[r] = earlier[r];
            all = NAME(careful)(shifted, n, width, to, at, sums);
        } else {
            NAME(merge_tile)(tile, n, width, to, at);
        }
        merge_moments(&block, &all);
        for (int r = 0; r < n; r++) earlier[r] = sums[r];
    }
    return block;
}

/* Contiguous numbers about a pivot: their sum, squares and extremes, and, if `all`, zeros and sum of absolute values.
 * Lanes add up four numbers at a time: few roundings follow one another, for of equal numbers they all go one way. */
#define FOUR(f) f(0) f(1) f(2) f(3)
#define FOURFOLD(f) ((f(0) + f(1)) + (f(2) + f(3)))
#define NUMBER(k) const T x##k = from[k * LANES + j], d##k = x##k - pivot;
INLINE static void NAME(add_up)(const T *restrict x, int n, T pivot, int all, Moments *own) {
    T sums[LANES], squares[LANES], absolutes[LANES], nones[LANES], lows[LANES], highs[LANES];
    for (int j = 0; j < LANES; j++) {
        sums[j] = squares[j] = absolutes[j] = nones[j] = 0;
        lows[j] = INFINITY;
        highs[j] = -INFINITY;
    }
    int i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        const T *restrict from = x + i;
#pragma omp simd
        for (int j = 0; j < LANES; j++) {
            FOUR(NUMBER)
            sums[j] += FOURFOLD(DIFFERENCE);
            squares[j] += FOURFOLD(SQUARE);
            if (all) absolutes[j] += FOURFOLD(ABSOLUTE);
            if (all) nones[j] += FOURFOLD(ZERO);
            const T a = LOW(x0, x1), b = LOW(x2, x3), e = LOW(a, b), f = HIGH(x0, x1), g = HIGH(x2, x3), h = HIGH(f, g);
            lows[j] = LOW(e, lows[j]);
            highs[j] = HIGH(h, highs[j]);
        }
    }
    for (; i < n; i += LANES) {
        const int width = n - i < LANES ? n - i : LANES;
        const T *restrict from = x + i;
#pragma omp simd
        for (int j = 0; j < width; j++) {
            NUMBER(0)
            sums[j] += d0;
            squares[j] += SQUARE(0);
            if (all) absolutes[j] += ABSOLUTE(0);
            if (all) nones[j] += ZERO(0);
            lows[j] = LOW(x0, lows[j]);
            highs[j] = HIGH(x0, highs[j]);
        }
    }
    double sum = 0, square = 0, absolute = 0, zeros = 0;
    T low = INFINITY, high = -INFINITY;
#pragma omp simd reduction(+ : sum, square, absolute, zeros) reduction(min : low) reduction(max : high)
    for (int j = 0; j < LANES; j++) {
        sum += sums[j];
        square += squares[j];
        if (all) absolute += absolutes[j];
        if (all) zeros += nones[j];
        low = LOW(lows[j], low);
        high = HIGH(highs[j], high);
    }
    const Moments found = {n, sum, square, low, high, absolute, zeros, 0};
    *own = found;
}
#undef FOUR
#undef FOURFOLD
#undef NUMBER

CLONES static void NAME(line)(const T *x, int n, T pivot, Moments *own) { NAME(add_up)(x, n, pivot, 1, own); }

/* The same of any number of numbers, chunk by chunk, without zeros and absolute values. */
CLONES static void NAME(lines)(const T *x, int64_t n, T pivot, Moments *own) {
    Moments all = EMPTY, part;
    for (int64_t at = 0; at < n; at += CHUNK) {
        NAME(add_up)(x + at, (int)(n - at < CHUNK ? n - at : CHUNK), pivot, 0, &part);
        all.mean += part.mean;
        all.m2 += part.m2;
        all.low = LOW(part.low, all.low);
        all.high = HIGH(part.high, all.high);
    }
    all.count = (double)n;
    *own = all;
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

/* Make sums about a pivot moments, if they can be trusted. They need not be near the pivot where that is the mean of at
 * least as many numbers of the same set: what it is off by then is part of the variance. */
INLINE static int NAME(centred)(Moments *own, double pivot, double met) {
    const double sum = own->mean, square = own->m2, shift = sum / own->count, m2 = square - sum * shift;
    const int varies = own->low < own->high;
    if (!(square < HUGE_SQUARE) || (varies && square < TINY_SQUARE)) return EXTREME;
    const int first = met < own->count;
    if (first && (varies ? shift * shift * own->count > 2 * m2 : sum != 0)) return OFF_CENTRE;
    if (!varies && sum != 0 && square < TINY_SQUARE) return EXTREME;
    own->mean = pivot + shift;
    own->m2 = m2 > 0 ? m2 : 0;
    return GOOD;
}

/* Moments of at most CHUNK contiguous numbers, summed about a pivot where that can be trusted: the mean of so many met
 * before of the same set, or, of none, a guess. */
static Moments NAME(chunk)(const T *x, int n, double near, double met) {
    Moments own = EMPTY;
    T pivot = (T)near;
    for (int again = 0; again < 2; again++) {
        NAME(line)(x, n, pivot, &own);
        const int verdict = NAME(centred)(&own, pivot, met);
        if (verdict == GOOD) return own;
        if (verdict == EXTREME) break;
        double total = 0;
        for (int i = 0; i < n; i++) total += x[i];
        pivot = (T)(total / n);
    }
    return NAME(slowly)(x, n);
}

/* Moments of a row, whose mean may be about `near`; zeros and absolute values are not always among them. */
static Moments NAME(row)(const T *x, int64_t n, double near) {
    Moments own;
    T pivot = (T)near;
    for (int again = 0; n > 0 && again < 2; again++) {
        NAME(lines)(x, n, pivot, &own);
        const T closer = (T)(pivot + own.mean / own.count);
        const int verdict = NAME(centred)(&own, pivot, 0);
        if (verdict == GOOD) return own;
        if (verdict == EXTREME) break;
        pivot = closer;
    }
    own = EMPTY;
    for (int64_t at = 0; at < n; at += CHUNK) {
        const double about = own.count > 0 ? own.mean : near;
        const Moments part = NAME(chunk)(x + at, (int)(n - at < CHUNK ? n - at : CHUNK), about, own.count);
        merge_moments(&own, &part);
    }
    return own;
}

/* The first place of a value in contiguous numbers; n: nowhere. */
CLONES static int64_t NAME(place)(const T *restrict x, int64_t n, T value) {
    for (int64_t at = 0; at < n; at += CHUNK) {
        const int width = (int)(n - at < CHUNK ? n - at : CHUNK);
        int met = 0;
#pragma omp simd reduction(| : met)
        for (int c = 0; c < width; c++) met |= x[at + c] == value;
        for (int c = 0; met && c < width; c++)
            if (x[at + c] == value) return at + c;
    }
    return n;
}

/* How many numbers are not finite: NaN, or beyond the largest number. */
CLONES static double NAME(hidden)(const T *restrict x, int64_t n) {
    double hidden = 0;
    for (int64_t at = 0; at < n; at += CHUNK) {
        const int width = (int)(n - at < CHUNK ? n - at : CHUNK);
        int some = 0;
#pragma omp simd reduction(+ : some)
        for (int c = 0; c < width; c++) some += !(ABS(x[at + c]) <= MOST);
        hidden += some;
    }
    return hidden;
}

#undef LOW
#undef HIGH
#undef EIGHT
#undef ROW
#undef VALUE
#undef NO_LANES
#undef AHEAD
#undef LANE
#undef MAGNITUDE
#undef LANES_OF
#undef ITSELF
#undef PAIRS
#undef DIFFERENCE
#undef SQUARE
#undef ABSOLUTE
#undef ZERO
