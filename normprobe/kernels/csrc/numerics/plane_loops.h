/* Moments of planes (channels whose numbers lie side by side), of one number type: traverse.h includes this file once
 * for float and once for double, behind column_loops.h.
 *
 * A plane is a column of a Tile. It is summed in lanes about its pivot (`add_span`); then the tile is checked and merged
 * as that of a block of rows is, or else summed again about the planes' own means, or in double (`planes_in_double`).
 */

/* The lanes from LANES - n on count: the last n of LANES numbers. */
static const T NAME(last_lanes)[2 * LANES] = {[LANES] = 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

/* Add the numbers from i on to the lanes, LANES at a time; the last time some are there twice, or, of fewer than LANES, in
 * vain. */
INLINE static void NAME(add_rest)(const T *x, int64_t i, int64_t n, T pivot, T *sums, T *squares, T *abs_sums, T *minima,
                                  T *maxima, T *least) {
    T rest[LANES];
    for (; i < n; i += LANES) {
        const int width = n - i < LANES ? (int)(n - i) : LANES;
        const T *from = n < LANES ? rest : x + i + width - LANES, *counts = NAME(last_lanes) + width;
        if (n < LANES)
            for (int j = 0; j < LANES; j++) rest[j] = x[j < LANES - width ? 0 : j - LANES + width];
#pragma omp simd
        for (int j = 0; j < LANES; j++) {
            NUMBER(0)
            const T own = d0 * counts[j], m0 = ABS(x0);
            sums[j] += own;
            squares[j] += own * own;
            abs_sums[j] += m0 * counts[j];
            minima[j] = LOW(x0, minima[j]);
            maxima[j] = HIGH(x0, maxima[j]);
            least[j] = LOW(m0, least[j]);
        }
    }
}

/* Put the upper half of so many lanes on the lower. In halves, for gcc adds those of a reduction this short one by one. */
#define HALVE(half)                                                                                                    \
    _Pragma("omp simd") for (int j = 0; j < half; j++) {                                                               \
        all_sums[j] += all_sums[j + half];                                                                             \
        all_squares[j] += all_squares[j + half];                                                                       \
        all_abs_sums[j] += all_abs_sums[j + half];                                                                     \
        minima[j] = LOW(minima[j], minima[j + half]);                                                                  \
        maxima[j] = HIGH(maxima[j], maxima[j + half]);                                                                 \
        least[j] = LOW(least[j], least[j + half]);                                                                     \
    }

/* Add contiguous numbers to column c of a tile, about its pivot.
 *
 * They are summed in lanes, each of which adds four numbers at a time and goes to double every CHUNK numbers, so that
 * few roundings follow one another: those of equal numbers all go one way. */
CLONES static void NAME(add_span)(const T *restrict x, int64_t n, int c, NAME(Tile) *tile) {
    const T pivot = tile->pivot[c];
    T minima[LANES], maxima[LANES], least[LANES];
    double all_sums[LANES] = {0}, all_squares[LANES] = {0}, all_abs_sums[LANES] = {0};
    for (int j = 0; j < LANES; j++) {
        minima[j] = INFINITY;
        maxima[j] = -INFINITY;
        least[j] = 1;
    }
    int64_t i = 0;
    for (int64_t stop = 0; stop < n;) {
        T sums[LANES], squares[LANES], abs_sums[LANES];
        for (int j = 0; j < LANES; j++) sums[j] = squares[j] = abs_sums[j] = 0;
        stop = stop + CHUNK < n ? stop + CHUNK : n;
        for (; i + 4 * LANES <= stop; i += 4 * LANES) {
            const T *restrict from = x + i;
#pragma omp simd
            for (int j = 0; j < LANES; j++) {
                FOUR(NUMBER)
                sums[j] += FOURFOLD(DIFFERENCE);
                squares[j] += FOURFOLD(SQUARE);
                const T m0 = ABS(x0), m1 = ABS(x1), m2 = ABS(x2), m3 = ABS(x3);
                abs_sums[j] += FOURFOLD(MAGNITUDE);
                const T a = LOW(x0, x1), b = LOW(x2, x3), e = LOW(a, b), f = HIGH(x0, x1), g = HIGH(x2, x3);
                const T h = HIGH(f, g), p = LOW(m0, m1), q = LOW(m2, m3), s = LOW(p, q);
                minima[j] = LOW(e, minima[j]);
                maxima[j] = HIGH(h, maxima[j]);
                least[j] = LOW(s, least[j]);
            }
        }
        if (stop == n && i < n) NAME(add_rest)(x, i, n, pivot, sums, squares, abs_sums, minima, maxima, least);
#pragma omp simd
        for (int j = 0; j < LANES; j++) {
            all_sums[j] += sums[j];
            all_squares[j] += squares[j];
            all_abs_sums[j] += abs_sums[j];
        }
    }
    HALVE(8)
    HALVE(4)
    HALVE(2)
    HALVE(1)
    tile->sums[c] += all_sums[0];
    tile->squares[c] += all_squares[0];
    tile->abs_sums[c] += all_abs_sums[0];
    tile->minimum[c] = LOW(minima[0], tile->minimum[c]);
    tile->maximum[c] = HIGH(maxima[0], tile->maximum[c]);
    if (least[0] != 0) return;
    /* Apart, for few tensors have any zeros. */
    T zeros = 0;
#pragma omp simd reduction(+ : zeros)
    for (int64_t k = 0; k < n; k++) zeros += x[k] == 0 ? (T)1 : (T)0;
    tile->zeros[c] += zeros;
}

/* Numbers of a plane from an index on as T: those of 16 bits are widened into `wide`, CHUNK of them at most. */
static const T *NAME(span_at)(const char *plane, int type, int64_t at, int64_t n, T *wide) {
    const void *numbers = plane;
    if (type != BFLOAT16 && type != FLOAT16) return (const T *)numbers + at;
    if (type == BFLOAT16) widen_bfloat16((const uint16_t *)numbers + at, (float *)(void *)wide, n);
    else widen_float16((const uint16_t *)numbers + at, (float *)(void *)wide, n);
    return wide;
}

/* Planes of n numbers each, `apart` bytes from one to the next. */
typedef struct {
    const char *first;
    int64_t apart, n;
    int type, width; /* of its numbers; how many planes */
    T *wide;
} NAME(Planes);

static int64_t NAME(longest_span)(const NAME(Planes) *planes) {
    return planes->type == BFLOAT16 || planes->type == FLOAT16 ? CHUNK : planes->n;
}

/* Sum a plane about its pivot. */
static void NAME(sum_plane)(const NAME(Planes) *planes, int c, NAME(Tile) *tile) {
    const char *plane = planes->first + c * planes->apart;
    const int64_t most = NAME(longest_span)(planes);
    tile->sums[c] = tile->squares[c] = tile->abs_sums[c] = tile->zeros[c] = 0;
    tile->minimum[c] = INFINITY;
    tile->maximum[c] = -INFINITY;
    for (int64_t at = 0; at < planes->n; at += most) {
        const int64_t n = planes->n - at < most ? planes->n - at : most;
        NAME(add_span)(NAME(span_at)(plane, planes->type, at, n, planes->wide), n, c, tile);
    }
}

/* Take the planes' own means as pivots, 0 where they are not finite. */
static void NAME(set_plane_pivots)(const NAME(Planes) *planes, NAME(Tile) *tile) {
    for (int c = 0; c < planes->width; c++) {
        tile->pivot[c] = 0;
        NAME(sum_plane)(planes, c, tile);
        const double mean = tile->sums[c] / (double)planes->n;
        tile->pivot[c] = isfinite(mean) ? (T)mean : 0;
    }
}

/* Sum planes about the tile's pivots; returns whether that can be trusted, as `sum_tile` does. */
static int NAME(sum_planes)(const NAME(Planes) *planes, const double *count, double prior_count, NAME(Tile) *tile,
                            Moments *all) {
    double pivots = 0, raw;
    for (int c = 0; c < planes->width; c++) {
        NAME(sum_plane)(planes, c, tile);
        pivots += tile->pivot[c];
    }
    *all = NAME(tile_moments)(tile, (int)planes->n, planes->width, pivots, &raw);
    const int quality = NAME(check_sums)(tile, (int)planes->n, planes->width, count, prior_count);
    return quality == GOOD && raw > 4 * all->m2 ? OFF_CENTRE : quality;
}

/* Two passes in double over each plane, merged into the columns from `at` on; returns the moments of all numbers. */
static Moments NAME(planes_in_double)(const NAME(Planes) *planes, const Columns *to, int64_t at, NAME(Tile) *tile) {
    const int64_t most = NAME(longest_span)(planes);
    Moments all = EMPTY;
    for (int c = 0; c < planes->width; c++) {
        Moments plane = EMPTY;
        for (int64_t from = 0; from < planes->n; from += most) {
            const int64_t n = planes->n - from < most ? planes->n - from : most;
            const T *x = NAME(span_at)(planes->first + c * planes->apart, planes->type, from, n, planes->wide);
            const Moments own = NAME(row_in_double)(x, n);
            merge_moments(&plane, &own);
        }
        tile->minimum[c] = (T)plane.minimum;
        tile->maximum[c] = (T)plane.maximum;
        merge_into_column(to, at + c, &plane);
        merge_moments(&all, &plane);
    }
    return all;
}

/* Merge planes into the columns from `at` on; returns the moments of all their numbers. The tile is left with the
 * extremes of each. `prior_mean` and `prior_count` are those of `block_moments`. */
static Moments NAME(plane_moments)(const NAME(Planes) *planes, const Columns *to, int64_t at, const double *prior_mean,
                                   double prior_count, NAME(Tile) *tile) {
    Moments all;
    if (to->count[at] > 0) NAME(set_pivots)(to->mean + at, planes->width, tile);
    else if (prior_mean != NULL) NAME(set_pivots)(prior_mean + at, planes->width, tile);
    else NAME(set_plane_pivots)(planes, tile);
    int quality = NAME(sum_planes)(planes, to->count + at, prior_count, tile, &all);
    if (quality == OFF_CENTRE) {
        NAME(set_plane_pivots)(planes, tile);
        quality = NAME(sum_planes)(planes, to->count + at, prior_count, tile, &all);
    }
    if (quality == EXTREME) return NAME(planes_in_double)(planes, to, at, tile);
    NAME(merge_tile)(tile, (int)planes->n, planes->width, to, at);
    return all;
}
#undef HALVE
