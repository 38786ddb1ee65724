/* Moments of contiguous numbers, of one type: traverse.h includes this file once for float and once for double.
 *
 * Define T, NAME(x), ABS, MOST (the largest number), HUGE_SQUARE and TINY_SQUARE first. Numbers are summed about a
 * pivot in T, in lanes, and the sums checked (`center_sums`); where they cannot be trusted, `row_in_double` takes over.
 */

/* Moments of contiguous numbers by two passes in double, leaving out and counting what is not finite. */
static Moments NAME(row_in_double)(const T *x, int64_t n) {
    Moments own = EMPTY;
    double rest = 0;
    for (int64_t i = 0; i < n; i++) {
        const double v = x[i];
        if (!isfinite(v)) {
            own.nonfinite++;
            continue;
        }
        own.count++;
        own.minimum = v < own.minimum ? v : own.minimum;
        own.maximum = v > own.maximum ? v : own.maximum;
        own.abs_sum += fabs(v);
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

/* Sums of contiguous numbers about a pivot, in `mean` (of differences) and `m2` (of their squares), and extremes, without
 * zeros and sum of absolute values. Lanes add four numbers at a time, so that few roundings follow one another:
 * those of equal numbers all go one way. */
CLONES static void NAME(sum_chunk)(const T *restrict x, int n, T pivot, Moments *own) {
    T sums[LANES], squares[LANES], minima[LANES], maxima[LANES];
    for (int j = 0; j < LANES; j++) {
        sums[j] = squares[j] = 0;
        minima[j] = INFINITY;
        maxima[j] = -INFINITY;
    }
    int i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        const T *restrict from = x + i;
#pragma omp simd
        for (int j = 0; j < LANES; j++) {
            FOUR(NUMBER)
            sums[j] += FOURFOLD(DIFFERENCE);
            squares[j] += FOURFOLD(SQUARE);
            const T a = LOW(x0, x1), b = LOW(x2, x3), e = LOW(a, b), f = HIGH(x0, x1), g = HIGH(x2, x3), h = HIGH(f, g);
            minima[j] = LOW(e, minima[j]);
            maxima[j] = HIGH(h, maxima[j]);
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
            minima[j] = LOW(x0, minima[j]);
            maxima[j] = HIGH(x0, maxima[j]);
        }
    }
    double sum = 0, square = 0;
    T minimum = INFINITY, maximum = -INFINITY;
#pragma omp simd reduction(+ : sum, square) reduction(min : minimum) reduction(max : maximum)
    for (int j = 0; j < LANES; j++) {
        sum += sums[j];
        square += squares[j];
        minimum = LOW(minima[j], minimum);
        maximum = HIGH(maxima[j], maximum);
    }
    *own = (Moments){.count = n,
                     .mean = sum,
                     .m2 = square,
                     .minimum = minimum,
                     .maximum = maximum};
}

/* The same of a whole row, chunk by chunk. */
static void NAME(sum_row)(const T *x, int64_t n, T pivot, Moments *own) {
    Moments all = EMPTY, part;
    for (int64_t at = 0; at < n; at += CHUNK) {
        NAME(sum_chunk)(x + at, (int)(n - at < CHUNK ? n - at : CHUNK), pivot, &part);
        all.mean += part.mean;
        all.m2 += part.m2;
        all.minimum = LOW(part.minimum, all.minimum);
        all.maximum = HIGH(part.maximum, all.maximum);
    }
    all.count = (double)n;
    *own = all;
}

/* Turn sums about a pivot into moments, if they can be trusted; see `check_sums`. `prior_count`: of how many numbers of
 * the same set the pivot is the mean, or 0. */
INLINE static int NAME(center_sums)(Moments *own, double pivot, double prior_count) {
    const double sum = own->mean, square = own->m2, shift = sum / own->count, m2 = square - sum * shift;
    const int varies = own->minimum < own->maximum;
    if (!(square < HUGE_SQUARE) || (varies && square < TINY_SQUARE)) return EXTREME;
    const int first = prior_count < own->count;
    if (first && (varies ? shift * shift * own->count > 2 * m2 : sum != 0)) return OFF_CENTRE;
    if (!varies && sum != 0 && square < TINY_SQUARE) return EXTREME;
    own->mean = pivot + shift;
    own->m2 = m2 > 0 ? m2 : 0;
    return GOOD;
}

/* Moments of at most CHUNK contiguous numbers, summed about a pivot where that can be trusted: the mean of
 * `prior_count` numbers of the same set, or, of none, a guess. */
static Moments NAME(chunk_moments)(const T *x, int n, double prior_mean, double prior_count) {
    Moments own = EMPTY;
    T pivot = (T)prior_mean;
    for (int again = 0; again < 2; again++) {
        NAME(sum_chunk)(x, n, pivot, &own);
        const int quality = NAME(center_sums)(&own, pivot, prior_count);
        if (quality == GOOD) return own;
        if (quality == EXTREME) break;
        double total = 0;
        for (int i = 0; i < n; i++) total += x[i];
        pivot = (T)(total / n);
    }
    return NAME(row_in_double)(x, n);
}

/* Moments of a row, with a guess at its mean; zeros and sum of absolute values are not always among them. */
static Moments NAME(row_moments)(const T *x, int64_t n, double prior_mean) {
    Moments own;
    T pivot = (T)prior_mean;
    for (int again = 0; n > 0 && again < 2; again++) {
        NAME(sum_row)(x, n, pivot, &own);
        const T closer = (T)(pivot + own.mean / own.count);
        const int quality = NAME(center_sums)(&own, pivot, 0);
        if (quality == GOOD) return own;
        if (quality == EXTREME) break;
        pivot = closer;
    }
    own = EMPTY;
    for (int64_t at = 0; at < n; at += CHUNK) {
        const double about = own.count > 0 ? own.mean : prior_mean;
        const Moments part = NAME(chunk_moments)(x + at, (int)(n - at < CHUNK ? n - at : CHUNK), about, own.count);
        merge_moments(&own, &part);
    }
    return own;
}

/* Index of the first number that equals a value; n: none does. */
CLONES static int64_t NAME(first_index)(const T *restrict x, int64_t n, T value) {
    for (int64_t at = 0; at < n; at += CHUNK) {
        const int width = (int)(n - at < CHUNK ? n - at : CHUNK);
        int inside = 0;
#pragma omp simd reduction(| : inside)
        for (int c = 0; c < width; c++) inside |= x[at + c] == value;
        for (int c = 0; inside && c < width; c++)
            if (x[at + c] == value) return at + c;
    }
    return n;
}

/* How many numbers are not finite: NaN, or beyond the largest number. */
CLONES static double NAME(count_nonfinite)(const T *restrict x, int64_t n) {
    double nonfinite = 0;
    for (int64_t at = 0; at < n; at += CHUNK) {
        const int width = (int)(n - at < CHUNK ? n - at : CHUNK);
        int some = 0;
#pragma omp simd reduction(+ : some)
        for (int c = 0; c < width; c++) some += !(ABS(x[at + c]) <= MOST);
        nonfinite += some;
    }
    return nonfinite;
}
