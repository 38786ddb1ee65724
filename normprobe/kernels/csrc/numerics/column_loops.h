/* Moments of columns over blocks of rows, of one number type: traverse.h includes this file once for float and once for
 * double, behind row_loops.h.
 *
 * Define T, STRIP (how many columns are summed side by side), NAME(x), ABS, HUGE_SQUARE and TINY_SQUARE first. A block
 * is taken in tiles of columns. Each tile is summed about a pivot per column in T (`sum_rows`), checked (`check_sums`),
 * and merged into the columns (`merge_tile`), or else summed again about its own means, or in double
 * (`tile_in_double`).
 */

/* Sums over the rows of a block, of the columns of one tile; `sum` and `square` are of differences from the pivot. The
 * arrays of T hold the last rows only (extremes and zeros aside), until `flush_sums` adds them to the totals in double.
 */
typedef struct {
    T pivot[ROOM], sum[ROOM], square[ROOM], abs_sum[ROOM], minimum[ROOM], maximum[ROOM], zeros[ROOM];
    double sums[ROOM], squares[ROOM], abs_sums[ROOM];
} NAME(Tile);

/* Add a whole number of strips of eight rows to a tile, from its column `from` on, and, if `by_row`, each row onto
 * `sums`. Returns whether a number is zero.
 *
 * Eight rows at once, for the sums of a column are then loaded and stored once for eight numbers; each lane of a row
 * has a sum of its own. Those `lead` numbers further on are prefetched, for reading memory is what takes longest. */
INLINE static int NAME(strips)(const T *const *eight, int width, int64_t lead, NAME(Tile) *RESTRICT tile, int64_t from,
                               int by_row, double *sums) {
    EIGHT(ROW)
    EIGHT(NO_LANES)
    T least[STRIP];
    for (int j = 0; j < STRIP; j++) least[j] = 1;
    for (int64_t at = 0; at < width; at += STRIP) {
        const int64_t next = at + lead;
        EIGHT(PREFETCH_ROW)
#pragma omp simd
        for (int64_t j = 0; j < STRIP; j++) {
            const int64_t c = from + at + j;
            EIGHT(READ)
            const T a = LOW(x0, x1), b = LOW(x2, x3), e = LOW(x4, x5), f = LOW(x6, x7);
            const T g = LOW(a, b), h = LOW(e, f), i = LOW(g, h);
            tile->minimum[c] = LOW(i, tile->minimum[c]);
            const T k = HIGH(x0, x1), l = HIGH(x2, x3), m = HIGH(x4, x5), n = HIGH(x6, x7);
            const T o = HIGH(k, l), q = HIGH(m, n), s = HIGH(o, q);
            tile->maximum[c] = HIGH(s, tile->maximum[c]);
            const T p = tile->pivot[c];
            EIGHT(LANE)
            tile->sum[c] += PAIRS(DIFFERENCE);
            tile->square[c] += PAIRS(SQUARE);
            tile->abs_sum[c] += PAIRS(MAGNITUDE);
            const T t = LOW(m0, m1), u = LOW(m2, m3), v = LOW(m4, m5), w = LOW(m6, m7);
            const T x = LOW(t, u), y = LOW(v, w), z = LOW(x, y);
            least[j] = LOW(z, least[j]);
        }
    }
    T smallest = 1;
#pragma omp simd reduction(min : smallest)
    for (int j = 0; j < STRIP; j++) smallest = LOW(least[j], smallest);
    if (!by_row) return smallest == 0;
    T s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3, s4, s5, s6, s7)
    for (int j = 0; j < STRIP; j++) {
        EIGHT(LANES_OF)
    }
    const T s[8] = {s0, s1, s2, s3, s4, s5, s6, s7};
    for (int k = 0; k < 8; k++) sums[k] += s[k];
    return smallest == 0;
}

CLONES static int NAME(add_strips)(const T *const *eight, int width, int64_t lead, NAME(Tile) *tile, int64_t from,
                                   double *sums) {
    return NAME(strips)(eight, width, lead, tile, from, 1, sums);
}

/* The same without the sums of rows. */
CLONES static int NAME(add_columns)(const T *const *eight, int width, int64_t lead, NAME(Tile) *tile, int64_t from) {
    return NAME(strips)(eight, width, lead, tile, from, 0, NULL);
}

/* Count the zeros of eight rows. Apart, for few tensors have any: to find out costs a third of counting. */
CLONES static void NAME(count_zeros)(const T *const *eight, int width, T *restrict zeros) {
    EIGHT(ROW)
#pragma omp simd
    for (int c = 0; c < width; c++) {
        EIGHT(VALUE)
        zeros[c] += PAIRS(ZERO);
    }
}

/* Add eight rows to a tile; `sums`: of each row, or NULL. A last strip that is not whole is filled up with ones, whose pivot is one (`reset_tile`):
 * they add nothing to any sum. */
static void NAME(add_eight_rows)(const T *const *rows, int width, int64_t lead, NAME(Tile) *tile, double *sums) {
    const int rest = width % STRIP, whole = width - rest;
    int zeros = 0;
    if (whole > 0)
        zeros = sums == NULL ? NAME(add_columns)(rows, whole, lead, tile, 0)
                             : NAME(add_strips)(rows, whole, lead, tile, 0, sums);
    if (rest > 0) {
        T last[8][STRIP];
        const T *filled[8];
        for (int k = 0; k < 8; k++) {
            for (int j = rest; j < STRIP; j++) last[k][j] = 1;
            for (int j = 0; j < rest; j++) last[k][j] = rows[k][whole + j];
            filled[k] = last[k];
        }
        zeros |= sums == NULL ? NAME(add_columns)(filled, STRIP, 0, tile, whole)
                              : NAME(add_strips)(filled, STRIP, 0, tile, whole, sums);
    }
    if (zeros) NAME(count_zeros)(rows, width, tile->zeros);
}

/* Add one row to a tile; returns its sum about the pivots. */
CLONES static double NAME(add_row)(const T *restrict r0, int width, NAME(Tile) *restrict tile) {
    T t0 = 0;
#pragma omp simd reduction(+ : t0)
    for (int c = 0; c < width; c++) {
        const T x0 = r0[c], d0 = x0 - tile->pivot[c];
        t0 += d0;
        tile->sum[c] += d0;
        tile->square[c] += d0 * d0;
        tile->abs_sum[c] += ABS(x0);
        tile->zeros[c] += ZERO(0);
        tile->minimum[c] = LOW(x0, tile->minimum[c]);
        tile->maximum[c] = HIGH(x0, tile->maximum[c]);
    }
    return t0;
}

/* Empty a tile but for its pivots; returns their sum. */
CLONES static double NAME(reset_tile)(NAME(Tile) *restrict tile, int width) {
    double pivots = 0;
#pragma omp simd reduction(+ : pivots)
    for (int c = 0; c < width; c++) {
        tile->sum[c] = tile->square[c] = tile->abs_sum[c] = tile->zeros[c] = 0;
        tile->sums[c] = tile->squares[c] = tile->abs_sums[c] = 0;
        tile->minimum[c] = INFINITY;
        tile->maximum[c] = -INFINITY;
        pivots += tile->pivot[c];
    }
    for (int c = width; c < width + STRIP; c++) tile->pivot[c] = 1;
    return pivots;
}

/* Add the sums in T to the totals in double, before too much of them is rounded. */
CLONES static void NAME(flush_sums)(NAME(Tile) *restrict tile, int width) {
#pragma omp simd
    for (int c = 0; c < width; c++) {
        tile->sums[c] += tile->sum[c];
        tile->squares[c] += tile->square[c];
        tile->abs_sums[c] += tile->abs_sum[c];
        tile->sum[c] = tile->square[c] = tile->abs_sum[c] = 0;
    }
}

/* Sum all rows of a block about a tile's pivots, and each row onto `sums`, if not NULL; returns the sum of the pivots. `then` is
 * where reading goes on afterwards, for the prefetch. */
static double NAME(sum_rows)(const T *const *rows, int n, int width, const T *then, NAME(Tile) *tile, double *sums) {
    const double pivots = NAME(reset_tile)(tile, width);
    for (int from = 0; from < n; from += FLUSHED) {
        const int until = from + FLUSHED < n ? from + FLUSHED : n;
        int r = from;
        for (; r + 8 <= until; r += 8)
            NAME(add_eight_rows)(rows + r, width, (r + 16 <= n ? rows[r + 8] : then) - rows[r], tile,
                                 sums == NULL ? NULL : sums + r);
        for (; r < until; r++) {
            const double sum = NAME(add_row)(rows[r], width, tile);
            if (sums != NULL) sums[r] += sum;
        }
        NAME(flush_sums)(tile, width);
    }
    for (int r = 0; sums != NULL && r < n; r++) sums[r] += pivots;
    return pivots;
}

/* Take these means as pivots. */
CLONES static void NAME(set_pivots)(const double *restrict means, int width, NAME(Tile) *restrict tile) {
    for (int c = 0; c < width; c++) tile->pivot[c] = (T)means[c];
}

/* Take the block's own means as pivots, 0 where they are not finite. */
CLONES static void NAME(set_mean_pivots)(const T *const *rows, int n, int width, NAME(Tile) *tile) {
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

/* Moments of all numbers of a tile together, given the sum of its pivots; without sums of absolute values and zeros.
 * `raw` receives the sum of the squares about the pivots. */
CLONES static Moments NAME(tile_moments)(const NAME(Tile) *restrict tile, int n, int width, double pivots,
                                         double *raw) {
    const double many = n, numbers = many * width, centre = pivots / width;
    double sums = 0, squares = 0, about_pivots = 0;
    T least = INFINITY, most = -INFINITY;
#pragma omp simd reduction(+ : sums, squares, about_pivots) reduction(min : least) reduction(max : most)
    for (int c = 0; c < width; c++) {
        const double sum = tile->sums[c], square = tile->squares[c], off = tile->pivot[c] - centre;
        sums += sum + many * off;
        squares += square + off * (2 * sum + many * off);
        about_pivots += square;
        least = LOW(tile->minimum[c], least);
        most = HIGH(tile->maximum[c], most);
    }
    const double shift = sums / numbers, around = squares - sums * shift;
    const Moments all = {
        .count = numbers, .mean = centre + shift, .m2 = around > 0 ? around : 0, .minimum = least, .maximum = most};
    *raw = about_pivots;
    return all;
}

/* Whether the sums of a tile can be trusted: finite, not under- or overflowed, and the pivots near the means.
 *
 * They need not be near where the pivot is the mean of at least as many numbers, of this column before (`count`) or of
 * another accumulator (`prior_count`): the distance from it is then part of the variance of all numbers together. */
CLONES static int NAME(check_sums)(const NAME(Tile) *restrict tile, int n, int width, const double *restrict count,
                                   double prior_count) {
    int extreme = 0, off = 0;
    const double part = 1.0 / n;
#pragma omp simd reduction(| : extreme, off)
    for (int c = 0; c < width; c++) {
        const double sum = tile->sums[c], square = tile->squares[c], shift = sum * part, m2 = square - sum * shift;
        const int varies = tile->minimum[c] < tile->maximum[c], first = (count[c] > 0 ? count[c] : prior_count) < n;
        extreme |= !(square < HUGE_SQUARE);
        extreme |= (varies | (!first & (sum != 0))) & (square < TINY_SQUARE);
        off |= first & varies & (sum * shift > 2 * m2);
        off |= first & !varies & (sum != 0);
    }
    return extreme ? EXTREME : off ? OFF_CENTRE : GOOD;
}

/* Merge the trusted sums of a tile into the columns from `at` on. */
CLONES static void NAME(merge_tile)(const NAME(Tile) *restrict tile, int n, int width, const Columns *to, int64_t at) {
    double *restrict count = to->count + at, *restrict mean = to->mean + at, *restrict m2 = to->m2 + at;
    double *restrict minimum = to->minimum + at, *restrict maximum = to->maximum + at;
    double *restrict abs_sum = to->abs_sum + at, *restrict zeros = to->zeros + at;
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
        minimum[c] = tile->minimum[c] < minimum[c] ? tile->minimum[c] : minimum[c];
        maximum[c] = tile->maximum[c] > maximum[c] ? tile->maximum[c] : maximum[c];
        abs_sum[c] += tile->abs_sums[c];
        zeros[c] += tile->zeros[c];
    }
}

/* Two passes in double over a tile, column by column, merged into the columns from `at` on; returns the moments of all
 * its numbers. */
static Moments NAME(tile_in_double)(const T *const *rows, int n, int width, const Columns *to, int64_t at,
                                    double *sums) {
    Moments all = EMPTY;
    T column[ROWS];
    for (int r = 0; sums != NULL && r < n; r++)
        for (int c = 0; c < width; c++) sums[r] += rows[r][c];
    for (int c = 0; c < width; c++) {
        for (int r = 0; r < n; r++) column[r] = rows[r][c];
        const Moments own = NAME(row_in_double)(column, n);
        merge_into_column(to, at + c, &own);
        merge_moments(&all, &own);
    }
    return all;
}

/* Sum a tile about its pivots; returns whether that can be trusted. `earlier` are the sums of each row over the tiles
 * before this one, onto which `sums` go; `all` receives the moments of all numbers of the tile. */
static int NAME(sum_tile)(const T *const *rows, int n, int width, const T *then, const double *count,
                          double prior_count, NAME(Tile) *tile, double *sums, const double *earlier, Moments *all) {
    for (int r = 0; sums != NULL && r < n; r++) sums[r] = earlier[r];
    const double pivots = NAME(sum_rows)(rows, n, width, then, tile, sums);
    double raw;
    *all = NAME(tile_moments)(tile, n, width, pivots, &raw);
    const int quality = NAME(check_sums)(tile, n, width, count, prior_count);
    /* The result is a difference: what was summed in T must not be much larger. */
    return quality == GOOD && raw > 4 * all->m2 ? OFF_CENTRE : quality;
}

/* Merge a block of at most ROWS contiguous rows into the columns; returns the moments of all its numbers. `prior_mean`
 * are means of `prior_count` numbers of each column in another accumulator, or NULL; `sums` receives the sum of each
 * row, if not NULL. */
static Moments NAME(block_moments)(const T *const *rows, int n, int64_t features, const Columns *to,
                                   const double *prior_mean, double prior_count, NAME(Tile) *tile, double *sums) {
    const T *shifted[ROWS];
    Moments block = EMPTY;
    double earlier[ROWS] = {0};
    const int64_t most = tile_width(features);
    for (int64_t at = 0; at < features; at += most) {
        const int width = (int)(features - at < most ? features - at : most);
        for (int r = 0; r < n; r++) shifted[r] = rows[r] + at;
        const T *const then = at + width < features ? shifted[0] + width : shifted[n - 1] + width;
        if (to->count[at] > 0) NAME(set_pivots)(to->mean + at, width, tile);
        else if (prior_mean != NULL) NAME(set_pivots)(prior_mean + at, width, tile);
        else NAME(set_mean_pivots)(shifted, n, width, tile);
        Moments all;
        int quality = NAME(sum_tile)(shifted, n, width, then, to->count + at, prior_count, tile, sums, earlier, &all);
        if (quality == OFF_CENTRE) {
            NAME(set_mean_pivots)(shifted, n, width, tile);
            quality = NAME(sum_tile)(shifted, n, width, then, to->count + at, prior_count, tile, sums, earlier, &all);
        }
        if (quality == EXTREME) {
            for (int r = 0; sums != NULL && r < n; r++) sums[r] = earlier[r];
            all = NAME(tile_in_double)(shifted, n, width, to, at, sums);
        } else {
            NAME(merge_tile)(tile, n, width, to, at);
        }
        merge_moments(&block, &all);
        for (int r = 0; sums != NULL && r < n; r++) earlier[r] = sums[r];
    }
    return block;
}
