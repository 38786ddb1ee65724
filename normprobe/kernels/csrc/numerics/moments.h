/* The fields of moments, listed once, and their merging by the update of Chan, Golub and LeVeque (1979).
 *
 * Twin of `normprobe.kernels.moments`: the same fields under the same names in the same order, which a test compares.
 * A new field is an entry in a list below, a line in `merge_moments` and in `merge_columns` (none if it is a sum), and
 * its sum over numbers in row_loops.h and column_loops.h.
 */
#ifndef NORMPROBE_MOMENTS_H
#define NORMPROBE_MOMENTS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* X(name, value of an empty set) of each field: those that samples have, too, then those that merge by adding, which
 * stay last and together. */
#define SAMPLE_MOMENTS(X) X(count, 0) X(mean, 0) X(m2, 0) X(minimum, INFINITY) X(maximum, -INFINITY)
#define MOMENT_SUMS(X) X(abs_sum, 0) X(zeros, 0) X(nonfinite, 0)
#define MOMENT_FIELDS(X)                                                                                               \
    SAMPLE_MOMENTS(X)                                                                                                  \
    MOMENT_SUMS(X)

#define ONE_MORE(name, empty) +1
enum {
    FIELDS = 0 MOMENT_FIELDS(ONE_MORE),
    SAMPLE_FIELDS = 0 SAMPLE_MOMENTS(ONE_MORE),
    SUM_FIELDS = 0 MOMENT_SUMS(ONE_MORE)
};
enum { FLOAT32, FLOAT64, BFLOAT16, FLOAT16, TYPES };

/* The copy that fits the processor is chosen as the extension is loaded, by glibc; musl cannot. */
#if defined(__GLIBC__) && defined(__x86_64__) && !defined(__clang__) && __GNUC__ >= 12 && !defined(NO_CLONES)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

/* `restrict` but for gcc, which then reads numbers again and again instead of keeping them in registers. */
#if defined(__GNUC__) && !defined(__clang__)
#define RESTRICT
#else
#define RESTRICT restrict
#endif

#if defined(__GNUC__)
#define INLINE __attribute__((always_inline)) inline
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define INLINE inline
#define PREFETCH(address) ((void)0)
#endif

/* Of one set of numbers. */
#define NUMBER_OF(name, empty) double name;
typedef struct {
    MOMENT_FIELDS(NUMBER_OF)
} Moments;

#define EMPTY_FIELD(name, empty) .name = empty,
static const Moments EMPTY = {MOMENT_FIELDS(EMPTY_FIELD)};

/* Of many columns of numbers: an array per field, one behind the other in the order of the fields. */
#define ARRAY_OF(name, empty) double *name;
typedef struct {
    MOMENT_FIELDS(ARRAY_OF)
    double *end;
} Columns;

/* Which sample and feature has an extreme; sample -1: none yet. */
typedef struct {
    double value;
    int64_t sample, feature;
} Holder;

static const Holder NO_MINIMUM = {INFINITY, -1, 0}, NO_MAXIMUM = {-INFINITY, -1, 0};

/* Whether one holder of a value comes before another of the same value. */
static int precedes(const Holder *a, const Holder *b) {
    return a->sample < b->sample || (a->sample == b->sample && a->feature < b->feature);
}

/* Take another holder of the smallest (sign -1) or largest value if it is more extreme, or first at a tie. */
static void merge_holder(Holder *all, const Holder *own, int sign) {
    const double gain = sign * (own->value - all->value);
    if (own->sample >= 0 && (gain > 0 || (own->value == all->value && precedes(own, all)))) *all = *own;
}

static Columns columns_at(double *storage, int64_t features) {
    Columns columns;
#define PLACE_ARRAY(name, empty) columns.name = storage, storage += features;
    MOMENT_FIELDS(PLACE_ARRAY)
#undef PLACE_ARRAY
    columns.end = storage;
    return columns;
}

static void clear_columns(const Columns *columns, int64_t features) {
#define CLEAR_ARRAY(name, empty)                                                                                       \
    for (int64_t i = 0; i < features; i++) columns->name[i] = empty;
    MOMENT_FIELDS(CLEAR_ARRAY)
#undef CLEAR_ARRAY
}

/* Add the numbers of another set to those of `a`. */
static void merge_moments(Moments *a, const Moments *b) {
    if (a->count == 0) { /* beside an empty set the square of a huge difference may overflow */
        Moments all = *b;
#define ADD_TO_ALL(name, empty) all.name += a->name;
        MOMENT_SUMS(ADD_TO_ALL)
#undef ADD_TO_ALL
        *a = all;
        return;
    }
#define ADD(name, empty) a->name += b->name;
    MOMENT_SUMS(ADD)
#undef ADD
    if (b->count == 0) return;
    const double total = a->count + b->count, share = b->count / total, delta = b->mean - a->mean;
    a->m2 += b->m2 + delta * delta * (a->count * share);
    a->mean = share > 0.5 ? b->mean - delta * (1 - share) : a->mean + delta * share;
    a->count = total;
    a->minimum = b->minimum < a->minimum ? b->minimum : a->minimum;
    a->maximum = b->maximum > a->maximum ? b->maximum : a->maximum;
}

static void merge_into_column(const Columns *columns, int64_t i, const Moments *own) {
#define FROM_COLUMN(name, empty) .name = columns->name[i],
#define TO_COLUMN(name, empty) columns->name[i] = all.name;
    Moments all = {MOMENT_FIELDS(FROM_COLUMN)};
    merge_moments(&all, own);
    MOMENT_FIELDS(TO_COLUMN)
#undef FROM_COLUMN
#undef TO_COLUMN
}

/* The same for many columns at once, without a branch, so that it vectorises. */
CLONES static void merge_columns(const Columns *into, const Columns *from, int64_t features) {
    double *restrict count = into->count, *restrict mean = into->mean, *restrict m2 = into->m2;
    double *restrict minimum = into->minimum, *restrict maximum = into->maximum;
    const double *restrict own_count = from->count, *restrict own_mean = from->mean, *restrict own_m2 = from->m2;
    const double *restrict own_minimum = from->minimum, *restrict own_maximum = from->maximum;
#pragma omp simd
    for (int64_t i = 0; i < features; i++) {
        const double total = count[i] + own_count[i];
        const double share = own_count[i] / (total > 1 ? total : 1);
        const double delta = own_mean[i] - mean[i], weight = count[i] * share;
        /* Beside an empty set a huge difference says nothing, and its square may overflow. */
        m2[i] = m2[i] + own_m2[i] + (weight > 0 ? delta * delta * weight : 0);
        mean[i] = share > 0.5 ? own_mean[i] - delta * (1 - share) : mean[i] + delta * share;
        count[i] = total;
        minimum[i] = own_minimum[i] < minimum[i] ? own_minimum[i] : minimum[i];
        maximum[i] = own_maximum[i] > maximum[i] ? own_maximum[i] : maximum[i];
    }
    /* The fields that are sums lie one behind the other at the end. */
    double *restrict sums = into->end - SUM_FIELDS * features;
    const double *restrict own_sums = from->end - SUM_FIELDS * features;
#pragma omp simd
    for (int64_t i = 0; i < SUM_FIELDS * features; i++) sums[i] += own_sums[i];
}

#endif
