/* Count, mean and central sums up to the fourth power, merged by the pairwise formulas of Pébay, "Formulas for Robust,
 * One-Pass Parallel Computation of Covariances and Arbitrary-Order Statistical Moments" (2008).
 *
 * Twin of `normprobe.kernels.distributions.central_moments`: the same fields in the same order.
 */
#ifndef NORMPROBE_CENTRAL_MOMENTS_H
#define NORMPROBE_CENTRAL_MOMENTS_H

#include "numerics/moments.h"

/* X(name) of each field, all 0 of an empty set. */
#define CENTRAL_FIELDS_OF(X) X(count) X(mean) X(m2) X(m3) X(m4)
#define ONE_MORE_CENTRAL(name) +1
enum { CENTRAL_FIELDS = 0 CENTRAL_FIELDS_OF(ONE_MORE_CENTRAL) };

/* Of one set of numbers. */
#define CENTRAL_NUMBER(name) double name;
typedef struct {
    CENTRAL_FIELDS_OF(CENTRAL_NUMBER)
} Central;

/* Of many columns of numbers: an array per field, one behind the other. */
#define CENTRAL_ARRAY(name) double *name;
typedef struct {
    CENTRAL_FIELDS_OF(CENTRAL_ARRAY)
} CentralColumns;

static CentralColumns central_at(double *storage, int64_t features) {
    CentralColumns columns;
#define PLACE_CENTRAL(name) columns.name = storage, storage += features;
    CENTRAL_FIELDS_OF(PLACE_CENTRAL)
#undef PLACE_CENTRAL
    return columns;
}

/* The same columns from one on. */
static CentralColumns central_from(const CentralColumns *columns, int64_t at) {
#define CENTRAL_FROM(name) .name = columns->name + at,
    return (CentralColumns){CENTRAL_FIELDS_OF(CENTRAL_FROM)};
#undef CENTRAL_FROM
}

/* Add the numbers of other sets to those of as many columns. */
CLONES static void merge_central_columns(const CentralColumns *into, const CentralColumns *from, int64_t width) {
    double *restrict count = into->count, *restrict mean = into->mean, *restrict m2 = into->m2;
    double *restrict m3 = into->m3, *restrict m4 = into->m4;
    const double *restrict own = from->count, *restrict own_mean = from->mean, *restrict own2 = from->m2;
    const double *restrict own3 = from->m3, *restrict own4 = from->m4;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
        const double a = count[i], b = own[i], total = a + b, part = 1 / (total > 1 ? total : 1);
        const double delta = own_mean[i] - mean[i], share = b * part;
        /* Beside an empty set a huge difference says nothing, and its powers may overflow. */
        const double off = a > 0 && b > 0 ? delta : 0, step = off * part;
        m4[i] += own4[i] + 4 * step * (a * own3[i] - b * m3[i]) + 6 * step * step * (a * a * own2[i] + b * b * m2[i]) +
                 off * step * step * step * a * b * (a * a - a * b + b * b);
        m3[i] += own3[i] + 3 * step * (a * own2[i] - b * m2[i]) + off * step * step * a * b * (a - b);
        m2[i] += own2[i] + off * step * a * b;
        mean[i] = share > 0.5 ? own_mean[i] - delta * (1 - share) : mean[i] + delta * share;
        count[i] = total;
    }
}

/* Add the numbers of another set to those of `a`. */
static void merge_central(Central *a, const Central *b) {
#define CENTRAL_ADDRESS(name) .name = &a->name,
#define CENTRAL_COPY_ADDRESS(name) .name = &other.name,
    Central other = *b;
    const CentralColumns into = {CENTRAL_FIELDS_OF(CENTRAL_ADDRESS)}, from = {CENTRAL_FIELDS_OF(CENTRAL_COPY_ADDRESS)};
    merge_central_columns(&into, &from, 1);
#undef CENTRAL_ADDRESS
#undef CENTRAL_COPY_ADDRESS
}

/* All numbers of some columns as one set: about their common mean, in two passes. */
CLONES static Central pool_central(const CentralColumns *columns, int width) {
    const double *restrict count = columns->count, *restrict mean = columns->mean, *restrict m2 = columns->m2;
    const double *restrict m3 = columns->m3, *restrict m4 = columns->m4;
    double total = 0, centre = 0, all2 = 0, all3 = 0, all4 = 0;
#pragma omp simd reduction(+ : total)
    for (int c = 0; c < width; c++) total += count[c];
#pragma omp simd reduction(+ : centre)
    for (int c = 0; c < width; c++) centre += mean[c] * (count[c] / (total > 1 ? total : 1));
#pragma omp simd reduction(+ : all2, all3, all4)
    for (int c = 0; c < width; c++) {
        const double n = count[c], off = n > 0 ? mean[c] - centre : 0, square = off * off;
        all2 += m2[c] + n * square;
        all3 += m3[c] + off * (3 * m2[c] + n * square);
        all4 += m4[c] + off * (4 * m3[c] + off * (6 * m2[c] + n * square));
    }
    return (Central){.count = total, .mean = centre, .m2 = all2, .m3 = all3, .m4 = all4};
}

#endif
