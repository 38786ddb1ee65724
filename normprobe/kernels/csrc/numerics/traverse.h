/* One pass over a strided tensor (outer, inner, features): block by block, in parts that threads share. */
#ifndef NORMPROBE_TRAVERSE_H
#define NORMPROBE_TRAVERSE_H

#include <float.h>
#include <stdlib.h>

#include "numerics/moments.h"

/* A tile and eight rows of it fit into 48 KiB; its arrays lie a little more than a power of two apart, or they would
 * share the same few places of the cache. What a block adds up is carried over to double every so many rows; rows that
 * are widened first make smaller blocks, for these are to stay in the cache, too. */
enum { ROWS = 256, CARRIED = 64, TILE = 512, ROOM = TILE + 16, CHUNK = 512, LANES = 16, PLANE = 128, MOST_PARTS = 64 };
enum { GOOD, OFF_CENTRE, EXTREME };

/* Of how many features each tile of a row is, the last one aside: equal ones, of whole cache lines. */
static int64_t tile_width(int64_t features) {
    const int64_t tiles = (features + TILE - 1) / TILE;
    return tiles < 2 ? TILE : ((features + tiles - 1) / tiles + 15) / 16 * 16;
}

#define T float
#define STRIP 16
#define NAME(x) x##_f32
#define ABS fabsf
#define MOST FLT_MAX
#define HUGE_SQUARE 1e32f
#define TINY_SQUARE 1e-26f
#include "numerics/inner_loops.h"
#undef T
#undef STRIP
#undef NAME
#undef ABS
#undef MOST
#undef HUGE_SQUARE
#undef TINY_SQUARE
#define T double
#define STRIP 8
#define NAME(x) x##_f64
#define ABS fabs
#define MOST DBL_MAX
#define HUGE_SQUARE 1e290
#define TINY_SQUARE 1e-280
#include "numerics/inner_loops.h"

/* What is measured, from the tensor's own shape and strides (in elements). A sample is an outer index where samples
 * have rows of their own, and a row (outer * inner + inner index) otherwise. */
typedef struct {
    const char *data;
    int type, size, by_outer;
    int64_t outer, inner, features, stride_outer, stride_inner, stride_feature;
    const unsigned char *real; /* per row, or NULL: all of them */
    const int64_t *keep;       /* samples whose own moments are wanted, ascending */
    const int64_t *slots;      /* where those go, or NULL: one after the other */
    int64_t kept;
    const double *near;        /* what the features' means may be near, or NULL */
    double met;                /* of how many numbers those are, among which these will be counted */
} Job;

/* What a job yields, added to what is there: nothing, or what earlier jobs yielded. */
typedef struct {
    Columns columns;
    Holder low, high;
    double within_sum, within_count, hidden;
    Moments *kept;
} Found;

/* A part of the rows: outer indices [outer, outer_end) and of each the inner ones [inner, inner_end). */
typedef struct {
    int64_t outer, outer_end, inner, inner_end, feature, feature_end;
    int rows; /* of a block, at most */
    Columns columns;
    const double *near;
    Holder low, high;
    double within_sum, within_count, hidden;
    Moments *samples; /* of each outer index, where those are the samples */
    void *work;
    char *wide;
} Part;

typedef struct {
    union { Tile_f32 f32; Tile_f64 f64; } tile;
    double sums[ROWS];
    int64_t index[ROWS];
    const void *rows[ROWS];
    int64_t next; /* of the kept samples, the first not yet met */
} Work;

static float half_to_float(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, fraction = h & 1023u;
    union { uint32_t u; float f; } bits;
    if (exponent == 31) bits.u = sign | 0x7F800000u | (fraction << 13);
    else if (exponent) bits.u = sign | ((exponent + 112u) << 23) | (fraction << 13);
    else {
        bits.f = (float)fraction * 5.9604644775390625e-8f;
        bits.u |= sign;
    }
    return bits.f;
}

static float bfloat_to_float(uint16_t b) {
    const union { uint32_t u; float f; } bits = {(uint32_t)b << 16};
    return bits.f;
}

CLONES static void widen_bfloat16(const uint16_t *restrict from, float *restrict to, int64_t n) {
    uint32_t *restrict bits = (uint32_t *)(void *)to;
    for (int64_t i = 0; i < n; i++) bits[i] = (uint32_t)from[i] << 16;
}

/* Without branches, so that it vectorises: the exponent is re-biased by a multiplication. */
CLONES static void widen_float16(const uint16_t *restrict from, float *restrict to, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const uint32_t h = from[i], magnitude = (h & 0x7FFFu) << 13;
        union { uint32_t u; float f; } v, scale;
        v.u = magnitude;
        scale.u = 0x77800000u; /* 2**112 */
        v.f *= scale.f;
        v.u |= (magnitude >= 0x0F800000u) ? 0x7F800000u : 0u;
        v.u |= (h & 0x8000u) << 16;
        to[i] = v.f;
    }
}

static const char *row_at(const Job *job, int64_t outer, int64_t inner) {
    return job->data + (outer * job->stride_outer + inner * job->stride_inner) * job->size;
}

static double number_at(const Job *job, const char *row, int64_t feature) {
    const char *at = row + feature * job->stride_feature * job->size;
    switch (job->type) {
    case FLOAT32: return *(const float *)(const void *)at;
    case FLOAT64: return *(const double *)(const void *)at;
    case FLOAT16: return half_to_float(*(const uint16_t *)(const void *)at);
    default: return bfloat_to_float(*(const uint16_t *)(const void *)at);
    }
}

/* Numbers from one widened row to the next: not a power of two, which would put every row into the same cache set. */
static int64_t wide_row(const Job *job) { return job->features + 16; }

/* Copy rows of strided features side by side; a few features at a time, whose cache lines the next rows share. */
#define GATHER(TYPE, TO, CONVERT)                                                                                      \
    for (int64_t first = 0; first < job->features; first += 16) {                                                     \
        const int64_t last = first + 16 < job->features ? first + 16 : job->features;                                 \
        for (int r = 0; r < n; r++) {                                                                                  \
            const TYPE *from = (const TYPE *)work->rows[r];                                                            \
            TO *to = (TO *)(void *)wide + r * wide_row(job);                                                           \
            for (int64_t c = first; c < last; c++) to[c] = CONVERT(from[c * job->stride_feature]);                     \
        }                                                                                                              \
    }
#define SAME(x) (x)

/* Make the block's rows contiguous numbers of the type they are added up in. */
static void gather(const Job *job, Work *work, char *wide, int n) {
    const size_t each = job->type == FLOAT64 ? sizeof(double) : sizeof(float);
    if (job->stride_feature == 1 || job->features == 1) {
        if (job->type == FLOAT32 || job->type == FLOAT64) return;
        for (int r = 0; r < n; r++) {
            float *to = (float *)(void *)wide + r * wide_row(job);
            if (job->type == BFLOAT16) widen_bfloat16(work->rows[r], to, job->features);
            else widen_float16(work->rows[r], to, job->features);
        }
    } else if (job->type == FLOAT32) {
        GATHER(float, float, SAME)
    } else if (job->type == FLOAT64) {
        GATHER(double, double, SAME)
    } else if (job->type == BFLOAT16) {
        GATHER(uint16_t, float, bfloat_to_float)
    } else {
        GATHER(uint16_t, float, half_to_float)
    }
    for (int r = 0; r < n; r++) work->rows[r] = wide + (size_t)r * each * (size_t)wide_row(job);
}

static Moments row_moments(const Job *job, const void *row, double near) {
    return job->type == FLOAT64 ? row_f64(row, job->features, near) : row_f32(row, job->features, near);
}

/* The first feature of a contiguous row that has a value, among the first so many; that many: none. */
static int64_t place_of(const Job *job, const void *row, int64_t features, double value) {
    return job->type == FLOAT64 ? place_f64(row, features, value) : place_f32(row, features, (float)value);
}

static int64_t slot_of(const Job *job, int64_t kept) { return job->slots == NULL ? kept : job->slots[kept]; }

static double variance(const Moments *m) { return m->count > 0 ? m->m2 / m->count : 0; }

/* The sum of the squares by which the means of rows are off from a mean. */
CLONES static double between_rows(const double *restrict sums, int n, double features, double mean) {
    double between = 0;
#pragma omp simd reduction(+ : between)
    for (int r = 0; r < n; r++) {
        const double off = sums[r] / features - mean;
        between += off * off;
    }
    return between;
}

/* Where every row is a sample: the sum of their variances, and the moments of those kept. */
static void settle_rows(const Job *job, Part *part, const Moments *block, int n, Found *found) {
    Work *work = part->work;
    const double between = between_rows(work->sums, n, (double)job->features, block->mean);
    /* What the numbers hold beyond the rows' means, unless nearly all lies between rows: too few digits left. */
    const double within = job->features == 1 ? 0 : block->m2 - between * (double)job->features;
    const int trusted = block->nonfinite == 0 && (job->features == 1 || within >= 0.1 * block->m2) && isfinite(within);
    if (trusted) {
        part->within_sum += within / (double)job->features;
        part->within_count += n;
    }
    while (work->next < job->kept && job->keep[work->next] < work->index[0]) work->next++;
    if (trusted && (work->next == job->kept || job->keep[work->next] > work->index[n - 1])) return;
    for (int r = 0; r < n; r++) {
        const int64_t sample = work->index[r];
        while (work->next < job->kept && job->keep[work->next] < sample) work->next++;
        const int kept = work->next < job->kept && job->keep[work->next] == sample;
        if (trusted && !kept) continue;
        const Moments own = row_moments(job, work->rows[r], work->sums[r] / (double)job->features);
        if (!trusted && own.count > 0) {
            part->within_sum += variance(&own);
            part->within_count++;
        }
        if (kept) found->kept[slot_of(job, work->next)] = own;
    }
}

/* Where a walk over the rows of a part stands. */
typedef struct {
    int64_t outer, inner;
} Position;

/* The rows of the block that begins at a position, which moves behind it; those of padding are left out. */
static int collect(const Job *job, const Part *part, Position *at, Work *work) {
    int n = 0;
    while (at->outer < part->outer_end && n < part->rows) {
        int64_t inner = at->inner;
        for (; inner < part->inner_end && n < part->rows; inner++) {
            const int64_t row = at->outer * job->inner + inner;
            if (job->real != NULL && !job->real[row]) continue;
            work->rows[n] = row_at(job, at->outer, inner);
            work->index[n++] = job->by_outer ? at->outer : row;
        }
        at->inner = inner;
        if (inner < part->inner_end) break;
        at->inner = part->inner;
        at->outer++;
        if (job->by_outer && n > 0) break;
    }
    return n;
}

/* The first sample that holds a value met in the block that begins at a position, and of that sample the first feature.
 */
static Holder holder_at(const Job *job, const Part *part, Position at, double value) {
    Work *work = part->work;
    Holder held = {value, -1, job->features};
    const int64_t outer = at.outer;
    if (job->by_outer) at.inner = part->inner;
    do {
        const int n = collect(job, part, &at, work);
        if (n == 0 || (job->by_outer && work->index[0] != outer)) break;
        gather(job, work, part->wide, n);
        for (int r = 0; r < n && (job->by_outer || held.sample < 0); r++) {
            const int64_t feature = place_of(job, work->rows[r], held.feature, value);
            if (feature == held.feature) continue;
            held.sample = work->index[r];
            held.feature = feature;
        }
    } while (job->by_outer);
    return held;
}

static Moments measure_block(const Job *job, const Part *part, int n) {
    Work *work = part->work;
    gather(job, work, part->wide, n);
    return job->type == FLOAT64 ? block_f64((const double *const *)work->rows, n, job->features, &part->columns,
                                            part->near, job->met, &work->tile.f64, work->sums)
                                : block_f32((const float *const *)work->rows, n, job->features, &part->columns,
                                            part->near, job->met, &work->tile.f32, work->sums);
}

/* How many numbers of a row are not finite. */
static double count_hidden(const Job *job, const char *row) {
    const void *numbers = row;
    if (job->stride_feature == 1 && job->type == FLOAT32) return hidden_f32(numbers, job->features);
    if (job->stride_feature == 1 && job->type == FLOAT64) return hidden_f64(numbers, job->features);
    double hidden = 0;
    for (int64_t c = 0; c < job->features; c++) hidden += !isfinite(number_at(job, row, c));
    return hidden;
}

/* Rows of features, whatever their strides. */
static void walk_rows(const Job *job, Part *part, Found *found) {
    Work *work = part->work;
    Position at = {part->outer, part->inner}, low = {-1, 0}, high = {-1, 0};
    for (;;) {
        Position start = at;
        const int n = collect(job, part, &at, work);
        if (n == 0) break;
        if (job->by_outer) start.outer = work->index[0];
        const Moments block = measure_block(job, part, n);
        if (block.low < part->low.value) {
            part->low.value = block.low;
            low = start;
        }
        if (block.high > part->high.value) {
            part->high.value = block.high;
            high = start;
        }
        if (job->by_outer) merge_moments(&part->samples[work->index[0]], &block);
        else settle_rows(job, part, &block, n, found);
    }
    if (low.outer >= 0) part->low = holder_at(job, part, low, part->low.value);
    if (high.outer >= 0) part->high = holder_at(job, part, high, part->high.value);
    for (int64_t outer = part->outer; job->real != NULL && outer < part->outer_end; outer++)
        for (int64_t inner = part->inner; inner < part->inner_end; inner++)
            if (!job->real[outer * job->inner + inner]) part->hidden += count_hidden(job, row_at(job, outer, inner));
}

/* Channels whose numbers lie side by side, (outer, features, inner): a plane of each at a time. */
static void walk_planes(const Job *job, Part *part) {
    for (int64_t outer = part->outer; outer < part->outer_end; outer++)
        for (int64_t c = part->feature; c < part->feature_end; c++) {
            const char *plane = job->data + (outer * job->stride_outer + c * job->stride_feature) * job->size;
            Moments own = EMPTY;
            for (int64_t at = 0; at < job->inner; at += CHUNK) {
                const int n = (int)(job->inner - at < CHUNK ? job->inner - at : CHUNK);
                const double near = own.count > 0                ? own.mean
                                    : part->columns.count[c] > 0 ? part->columns.mean[c]
                                    : part->near != NULL         ? part->near[c]
                                                                 : 0;
                const char *from = plane + at * job->size;
                const void *numbers = from;
                if (job->type == BFLOAT16) widen_bfloat16(numbers, (float *)(void *)part->wide, n);
                if (job->type == FLOAT16) widen_float16(numbers, (float *)(void *)part->wide, n);
                if (job->size == 2) numbers = part->wide;
                const Moments chunk = job->type == FLOAT64 ? chunk_f64(numbers, n, near, own.count)
                                                           : chunk_f32(numbers, n, near, own.count);
                merge_moments(&own, &chunk);
            }
            if (own.low < part->low.value) part->low = (Holder){own.low, outer, c};
            if (own.high > part->high.value) part->high = (Holder){own.high, outer, c};
            merge_one(&part->columns, c, &own);
            merge_moments(&part->samples[outer], &own);
        }
}

/* Which of equal parts the p-th is. */
static void share(int64_t size, int p, int parts, int64_t *from, int64_t *until) {
    const int64_t each = size / parts, rest = size % parts;
    *from = each * p + (p < rest ? p : rest);
    *until = *from + each + (p < rest);
}

/* Split the work along the axis that parts best: channels of planes, else rows, else samples. */
static void deal(const Job *job, Part *part, int p, int parts, int planes) {
    part->outer = part->inner = part->feature = 0;
    part->outer_end = job->outer;
    part->inner_end = job->inner;
    part->feature_end = job->features;
    if (planes) share(job->features, p, parts, &part->feature, &part->feature_end);
    else if (job->outer >= parts) share(job->outer, p, parts, &part->outer, &part->outer_end);
    else share(job->inner, p, parts, &part->inner, &part->inner_end);
}

static void hold_first(Holder *all, const Holder *own, int sign) {
    const double gain = sign * (own->value - all->value);
    if (own->sample >= 0 && (gain > 0 || (own->value == all->value && before(own, all)))) *all = *own;
}

/* Where samples have rows of their own: their variances, and the moments of those kept. */
static void settle_samples(const Job *job, Part *parts, int n, Found *found) {
    int64_t next = 0;
    for (int64_t sample = 0; sample < job->outer; sample++) {
        Moments own = EMPTY;
        for (int p = 0; p < n; p++) merge_moments(&own, &parts[p].samples[sample]);
        if (own.count > 0) {
            found->within_sum += variance(&own);
            found->within_count++;
        }
        if (next < job->kept && job->keep[next] == sample) found->kept[slot_of(job, next++)] = own;
    }
}

/* Run a job in parts. Returns 0 where memory runs out. */
static int walk(const Job *job, int parts, Found *found) {
    const int planes = job->by_outer && job->real == NULL && job->stride_inner == 1 && job->inner >= PLANE &&
                       job->stride_feature != 1;
    const int64_t most = planes ? job->features : job->outer >= parts ? job->outer : job->inner;
    if (parts > most) parts = most > 0 ? (int)most : 1;
    const size_t features = (size_t)job->features, columns = sizeof(double) * FIELDS * features;
    const size_t number = job->type == FLOAT64 ? sizeof(double) : sizeof(float);
    const size_t wide = planes ? number * CHUNK
                        : job->type >= BFLOAT16 || (job->stride_feature != 1 && job->features != 1)
                            ? number * CARRIED * (size_t)wide_row(job)
                            : 0;
    const size_t samples = job->by_outer ? sizeof(Moments) * (size_t)job->outer : 0;
    const size_t own_columns = parts > 1 ? columns : 0; /* the first part adds up straight into what is found */
    const size_t each = ((sizeof(Work) + own_columns + wide + samples + 255) / 256) * 256;
    char *recent = malloc(each * (size_t)parts + 256 + sizeof(double) * features);
    if (recent == NULL) return 0;
    char *base = recent + (256 - (uintptr_t)recent % 256);
    double *near = (double *)(void *)(base + each * (size_t)parts); /* a copy: the first part may write the means */
    if (job->near != NULL) memcpy(near, job->near, sizeof(double) * features);
    Part part[MOST_PARTS];
#pragma omp parallel for num_threads(parts) schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        char *mine = base + each * (size_t)p;
        Part own = {.low = {found->low.value, -1, 0}, .high = {found->high.value, -1, 0}, .work = mine};
        own.near = job->near == NULL ? NULL : near;
        own.rows = wide > 0 ? CARRIED : ROWS;
        own.columns = p == 0 ? found->columns : columns_at((double *)(void *)(mine + sizeof(Work)), job->features);
        if (p > 0) clear(&own.columns, job->features);
        own.samples = (Moments *)(void *)(mine + sizeof(Work) + own_columns);
        own.wide = mine + sizeof(Work) + own_columns + samples;
        ((Work *)(void *)mine)->next = 0;
        for (int64_t i = 0; job->by_outer && i < job->outer; i++) own.samples[i] = EMPTY;
        deal(job, &own, p, parts, planes);
        if (planes) walk_planes(job, &own);
        else walk_rows(job, &own, found);
        part[p] = own;
    }
    for (int p = 0; p < parts; p++) {
        if (p > 0) merge_columns(&found->columns, &part[p].columns, job->features);
        found->within_sum += part[p].within_sum;
        found->within_count += part[p].within_count;
        found->hidden += part[p].hidden;
        hold_first(&found->low, &part[p].low, -1);
        hold_first(&found->high, &part[p].high, 1);
    }
    if (job->by_outer) settle_samples(job, part, parts, found);
    free(recent);
    return 1;
}

#endif
