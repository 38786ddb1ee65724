/* Moments of sets of numbers, and their merging by the update of Chan, Golub and LeVeque (1979). */
#ifndef NORMPROBE_MOMENTS_H
#define NORMPROBE_MOMENTS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { FIELDS = 8 };
enum { FLOAT32, FLOAT64, BFLOAT16, FLOAT16, TYPES };

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__) && !defined(NO_CLONES)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

/* `restrict` but for gcc, which then reads numbers again and again instead of keeping them in registers. */
#if defined(__GNUC__) && !defined(__clang__)
#define APART
#else
#define APART restrict
#endif

#if defined(__GNUC__)
#define INLINE __attribute__((always_inline)) inline
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define INLINE inline
#define PREFETCH(address) ((void)0)
#endif

typedef struct {
    double count, mean, m2, low, high, absolute, zeros, nonfinite;
} Moments;

static const Moments EMPTY = {0, 0, 0, INFINITY, -INFINITY, 0, 0, 0};

/* The same for many columns, an array per field, one after the other. */
typedef struct {
    double *count, *mean, *m2, *low, *high, *absolute, *zeros, *nonfinite;
} Columns;

/* Who holds an extreme; sample -1: nobody yet. */
typedef struct {
    double value;
    int64_t sample, feature;
} Holder;

static const Holder NO_LOW = {INFINITY, -1, 0}, NO_HIGH = {-INFINITY, -1, 0};

/* Whether one holder of a value comes before another of the same value. */
static int before(const Holder *a, const Holder *b) {
    return a->sample < b->sample || (a->sample == b->sample && a->feature < b->feature);
}

static Columns columns_at(double *recent, int64_t features) {
    const Columns c = {recent,
                       recent + features,
                       recent + 2 * features,
                       recent + 3 * features,
                       recent + 4 * features,
                       recent + 5 * features,
                       recent + 6 * features,
                       recent + 7 * features};
    return c;
}

static void clear(const Columns *c, int64_t features) {
    memset(c->count, 0, sizeof(double) * FIELDS * (size_t)features);
    for (int64_t i = 0; i < features; i++) {
        c->low[i] = INFINITY;
        c->high[i] = -INFINITY;
    }
}

static void merge_moments(Moments *a, const Moments *b) {
    const double total = a->count + b->count;
    a->nonfinite += b->nonfinite;
    if (b->count == 0) return;
    if (a->count == 0) {
        const double nonfinite = a->nonfinite;
        *a = *b;
        a->nonfinite = nonfinite;
        return;
    }
    const double share = b->count / total, delta = b->mean - a->mean;
    a->m2 += b->m2 + delta * delta * (a->count * share);
    a->mean = share > 0.5 ? b->mean - delta * (1 - share) : a->mean + delta * share;
    a->count = total;
    a->low = b->low < a->low ? b->low : a->low;
    a->high = b->high > a->high ? b->high : a->high;
    a->absolute += b->absolute;
    a->zeros += b->zeros;
}

static void merge_one(const Columns *to, int64_t i, const Moments *own) {
    Moments m = {to->count[i], to->mean[i],     to->m2[i],    to->low[i],
                 to->high[i],  to->absolute[i], to->zeros[i], to->nonfinite[i]};
    merge_moments(&m, own);
    to->count[i] = m.count;
    to->mean[i] = m.mean;
    to->m2[i] = m.m2;
    to->low[i] = m.low;
    to->high[i] = m.high;
    to->absolute[i] = m.absolute;
    to->zeros[i] = m.zeros;
    to->nonfinite[i] = m.nonfinite;
}

/* Column by column, without a branch. */
CLONES static void merge_columns(const Columns *into, const Columns *from, int64_t features) {
    double *restrict count = into->count, *restrict mean = into->mean, *restrict m2 = into->m2;
    double *restrict low = into->low, *restrict high = into->high;
    const double *restrict own_count = from->count, *restrict own_mean = from->mean, *restrict own_m2 = from->m2;
    const double *restrict own_low = from->low, *restrict own_high = from->high;
#pragma omp simd
    for (int64_t i = 0; i < features; i++) {
        const double total = count[i] + own_count[i];
        const double share = own_count[i] / (total > 1 ? total : 1);
        const double delta = own_mean[i] - mean[i], weight = count[i] * share;
        /* Beside an empty set a huge difference says nothing, and its square may overflow. */
        m2[i] = m2[i] + own_m2[i] + (weight > 0 ? delta * delta * weight : 0);
        mean[i] = share > 0.5 ? own_mean[i] - delta * (1 - share) : mean[i] + delta * share;
        count[i] = total;
        low[i] = own_low[i] < low[i] ? own_low[i] : low[i];
        high[i] = own_high[i] > high[i] ? own_high[i] : high[i];
    }
    /* The last three fields are sums, and lie one behind the other. */
    double *restrict sums = into->absolute;
    const double *restrict own_sums = from->absolute;
#pragma omp simd
    for (int64_t i = 0; i < 3 * features; i++) sums[i] += own_sums[i];
}

#endif
