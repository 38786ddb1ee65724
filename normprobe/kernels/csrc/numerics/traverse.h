/* One pass over a strided tensor (outer, inner, features), or a part of it, block by block.
 *
 * Nothing here touches Python: `run_job` in accumulator.h releases the interpreter's lock around it.
 */
#ifndef NORMPROBE_TRAVERSE_H
#define NORMPROBE_TRAVERSE_H

#include <float.h>
#include <stddef.h>
#include <stdlib.h>

#include "numerics/half_types.h"
#include "numerics/loop_macros.h"
#include "numerics/moments.h"

/* A tile and eight rows of it fit into 48 KiB; its arrays lie a little more than a power of two apart, or they would
 * share the same few sets of the cache. A block has at most ROWS rows; its sums are flushed to double every FLUSHED
 * rows, which is also how many a block has whose rows are widened first, for these are to stay in the cache, too. Of
 * a plane, PIECE numbers at most are summed at once: so many zeros float counts exactly. */
enum { ROWS = 256, FLUSHED = 64, TILE = 512, ROOM = TILE + 16, CHUNK = 512, LANES = 16, PLANE = 64, PIECE = 1 << 22, MAX_PARTS = 64 };
enum { GOOD, OFF_CENTRE, EXTREME };
/* What a mask says of a row: it is left out, it counts, or it is of another group and is not even looked at. */
enum { PADDING, COUNTS, NOT_ASKED };

/* How many features each tile of a row has, but for the last: equal shares, of whole cache lines. */
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
#include "numerics/row_loops.h"
#include "numerics/column_loops.h"
#include "numerics/plane_loops.h"
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
#include "numerics/row_loops.h"
#include "numerics/column_loops.h"
#include "numerics/plane_loops.h"

/* What is measured, from the tensor's own shape and strides (in elements). A sample is an outer index where samples
 * have rows of their own, and a row (outer * inner + inner index) otherwise. */
typedef struct {
    const char *data;
    int type, size, by_outer;
    int64_t outer, inner, features, stride_outer, stride_inner, stride_feature;
    const unsigned char *real; /* per row what the mask says, or NULL: all count */
    int whole;                 /* whether it says the same of all rows of a sample, and of none that it is padding */
    const int64_t *keep;       /* samples whose own moments are wanted, ascending */
    const int64_t *slots;      /* where those go, or NULL: one after the other */
    int64_t kept;
    const double *prior_mean; /* means of the features in the accumulator, or NULL: near them pivots lose no digits */
    double prior_count;       /* of how many numbers those are at least */
    int64_t joined;           /* how many rows are read as one; `features` are those of all of them */
} Job;

/* What jobs yield: each adds to what earlier ones left there. */
typedef struct {
    Columns columns;
    Holder minimum, maximum;
    double within_sum, within_count, nonfinite_masked;
    Moments *kept;
} JobResult;

/* A part of the rows: outer indices [outer, outer_end) and of each the inner ones [inner, inner_end). */
typedef struct {
    int64_t outer, outer_end, inner, inner_end, feature, feature_end;
    int rows; /* of a block, at most */
    Columns columns;
    const double *prior_mean;
    Holder minimum, maximum;
    double within_sum, within_count, nonfinite_masked;
    Moments *samples; /* of each outer index, where those are the samples */
    void *workspace;
    char *wide;
} Part;

typedef struct {
    union {
        Tile_f32 f32;
        Tile_f64 f64;
    } tile;
    double sums[ROWS];
    int64_t index[ROWS];
    const void *rows[ROWS];
    int64_t next; /* the first kept sample that is still to come */
} Workspace;

static const char *row_at(const Job *job, int64_t outer, int64_t inner) {
    return job->data + (outer * job->stride_outer + inner * job->stride_inner) * job->size;
}

static double number_at(const Job *job, const char *row, int64_t feature) {
    const char *at = row + feature * job->stride_feature * job->size;
    switch (job->type) {
    case FLOAT32:
        return *(const float *)(const void *)at;
    case FLOAT64:
        return *(const double *)(const void *)at;
    case FLOAT16:
        return half_to_float(*(const uint16_t *)(const void *)at);
    default:
        return bfloat_to_float(*(const uint16_t *)(const void *)at);
    }
}

#include "numerics/gather.h"

/* Moments of a contiguous row of the type it is added up in. */
static Moments row_moments(const Job *job, const void *row, double prior_mean) {
    return job->type == FLOAT64 ? row_moments_f64(row, job->features, prior_mean)
                                : row_moments_f32(row, job->features, prior_mean);
}

/* The first feature of a contiguous row that has a value, among the first so many; that many: none. */
static int64_t first_index(const Job *job, const void *row, int64_t features, double value) {
    return job->type == FLOAT64 ? first_index_f64(row, features, value) : first_index_f32(row, features, (float)value);
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

/* Where every row is a sample: add the variances of a block's rows, and store the moments of those kept. */
static void finish_rows(const Job *job, Part *part, const Moments *block, int n, JobResult *result) {
    Workspace *workspace = part->workspace;
    const double between = between_rows(workspace->sums, n, (double)job->features, block->mean);
    /* The squares within rows are all squares less those between the rows' means; where nearly all lie between, too few
     * digits are left of the difference. */
    const double within = job->features == 1 ? 0 : block->m2 - between * (double)job->features;
    const int trusted = block->nonfinite == 0 && (job->features == 1 || within >= 0.1 * block->m2) && isfinite(within);
    if (trusted) {
        part->within_sum += within / (double)job->features;
        part->within_count += n;
    }
    while (workspace->next < job->kept && job->keep[workspace->next] < workspace->index[0]) workspace->next++;
    if (trusted && (workspace->next == job->kept || job->keep[workspace->next] > workspace->index[n - 1])) return;
    for (int r = 0; r < n; r++) {
        const int64_t sample = workspace->index[r];
        while (workspace->next < job->kept && job->keep[workspace->next] < sample) workspace->next++;
        const int kept = workspace->next < job->kept && job->keep[workspace->next] == sample;
        if (trusted && !kept) continue;
        const Moments own = row_moments(job, workspace->rows[r], workspace->sums[r] / (double)job->features);
        if (!trusted && own.count > 0) {
            part->within_sum += variance(&own);
            part->within_count++;
        }
        if (kept) result->kept[slot_of(job, workspace->next)] = own;
    }
}

/* The next row of a part to be read. */
typedef struct {
    int64_t outer, inner;
} Position;

/* Point the workspace at the rows of the block that begins at a position, without those of padding, and move the
 * position behind it; returns how many. Where samples have several rows, a block holds rows of one sample only. */
static int collect_rows(const Job *job, const Part *part, Position *at, Workspace *workspace) {
    int n = 0;
    while (at->outer < part->outer_end && n < part->rows) {
        int64_t inner = at->inner;
        for (; inner < part->inner_end && n < part->rows; inner++) {
            const int64_t row = at->outer * job->inner + inner;
            if (job->real != NULL && job->real[row] != COUNTS) continue;
            workspace->rows[n] = row_at(job, at->outer, inner);
            workspace->index[n++] = job->by_outer ? at->outer : row;
        }
        at->inner = inner;
        if (inner < part->inner_end) break;
        at->inner = part->inner;
        at->outer++;
        if (job->by_outer && n > 0) break;
    }
    return n;
}

/* The first sample, of the block that begins at a position, with a value that the block has, and that sample's first
 * feature. */
static Holder find_holder(const Job *job, const Part *part, Position at, double value) {
    Workspace *workspace = part->workspace;
    const int64_t features = job->features / job->joined;
    const size_t each = (job->type == FLOAT64 ? sizeof(double) : sizeof(float)) * (size_t)features;
    Holder held = {value, -1, features};
    const int64_t outer = at.outer;
    if (job->by_outer) at.inner = part->inner;
    do {
        const int n = collect_rows(job, part, &at, workspace);
        if (n == 0 || (job->by_outer && workspace->index[0] != outer)) break;
        gather(job, workspace, part->wide, n);
        for (int r = 0; r < n && (job->by_outer || held.sample < 0); r++) {
            for (int64_t i = 0; i < job->joined; i++) {
                const char *row = (const char *)workspace->rows[r] + (size_t)i * each;
                const int64_t feature = first_index(job, row, held.feature, value);
                if (feature == held.feature) continue;
                held.sample = workspace->index[r];
                held.feature = feature;
            }
        }
    } while (job->by_outer);
    return held;
}

/* Merge a block into the part's columns; returns the moments of all its numbers. */
static Moments measure_block(const Job *job, const Part *part, int n) {
    Workspace *workspace = part->workspace;
    /* Of rows only where they are the samples. */
    double *const sums = job->by_outer ? NULL : workspace->sums;
    gather(job, workspace, part->wide, n);
    return job->type == FLOAT64
               ? block_moments_f64((const double *const *)workspace->rows, n, job->features, &part->columns,
                                   part->prior_mean, job->prior_count, &workspace->tile.f64, sums)
               : block_moments_f32((const float *const *)workspace->rows, n, job->features, &part->columns,
                                   part->prior_mean, job->prior_count, &workspace->tile.f32, sums);
}

/* How many numbers of a row are not finite. */
static double count_nonfinite(const Job *job, const char *row) {
    const void *numbers = row;
    if (job->stride_feature == 1 && job->type == FLOAT32) return count_nonfinite_f32(numbers, job->features);
    if (job->stride_feature == 1 && job->type == FLOAT64) return count_nonfinite_f64(numbers, job->features);
    double nonfinite_masked = 0;
    for (int64_t c = 0; c < job->features; c++) nonfinite_masked += !isfinite(number_at(job, row, c));
    return nonfinite_masked;
}

/* Who holds the first number of a real row that is not finite; sample -1 where there is none. */
static Holder first_nonfinite(const Job *job) {
    for (int64_t outer = 0; outer < job->outer; outer++)
        for (int64_t inner = 0; inner < job->inner; inner++) {
            const int64_t row = outer * job->inner + inner;
            const char *numbers = row_at(job, outer, inner);
            if (job->real != NULL && job->real[row] != COUNTS) continue;
            for (int64_t c = 0; c < job->features; c++)
                if (!isfinite(number_at(job, numbers, c)))
                    return (Holder){number_at(job, numbers, c), job->by_outer ? outer : row, c};
        }
    return (Holder){NAN, -1, 0};
}

/* Measure rows of features, whatever their strides. */
static void traverse_rows(const Job *job, Part *part, JobResult *result) {
    Workspace *workspace = part->workspace;
    Position at = {part->outer, part->inner}, minimum = {-1, 0}, maximum = {-1, 0};
    for (;;) {
        Position start = at;
        const int n = collect_rows(job, part, &at, workspace);
        if (n == 0) break;
        if (job->by_outer) start.outer = workspace->index[0];
        const Moments block = measure_block(job, part, n);
        if (block.minimum < part->minimum.value) {
            part->minimum.value = block.minimum;
            minimum = start;
        }
        if (block.maximum > part->maximum.value) {
            part->maximum.value = block.maximum;
            maximum = start;
        }
        if (job->by_outer) merge_moments(&part->samples[workspace->index[0]], &block);
        else finish_rows(job, part, &block, n, result);
    }
    if (minimum.outer >= 0) part->minimum = find_holder(job, part, minimum, part->minimum.value);
    if (maximum.outer >= 0) part->maximum = find_holder(job, part, maximum, part->maximum.value);
    for (int64_t outer = part->outer; job->real != NULL && outer < part->outer_end; outer++)
        for (int64_t inner = part->inner; inner < part->inner_end; inner++)
            if (job->real[outer * job->inner + inner] == PADDING)
                part->nonfinite_masked += count_nonfinite(job, row_at(job, outer, inner));
}

/* The first column with a value, among columns of T. */
#define FIND_COLUMN(array)                                                                                             \
    while (c < width - 1 && (double)(array)[c] != value) c++;

/* Which plane of a tile, whose first is of this feature, has a value. */
static Holder plane_with(const Job *job, const Workspace *workspace, int largest, int width, double value,
                         int64_t outer, int64_t feature) {
    int c = 0;
    if (job->type == FLOAT64) {
        FIND_COLUMN(largest ? workspace->tile.f64.maximum : workspace->tile.f64.minimum)
    } else {
        FIND_COLUMN(largest ? workspace->tile.f32.maximum : workspace->tile.f32.minimum)
    }
    return (Holder){value, outer, feature + c};
}

/* Merge n numbers of each of some planes into the part's columns, from their feature on. */
static void measure_planes(const Job *job, Part *part, int64_t outer, int64_t feature, int width, int64_t at,
                           int64_t n) {
    Workspace *workspace = part->workspace;
    const char *first =
        job->data + (outer * job->stride_outer + feature * job->stride_feature + at) * job->size;
    const int64_t apart = job->stride_feature * job->size;
    const Planes_f32 singles = {first, apart, n, job->type, width, (float *)(void *)part->wide};
    const Planes_f64 doubles = {first, apart, n, job->type, width, NULL};
    const Moments all = job->type == FLOAT64
                            ? plane_moments_f64(&doubles, &part->columns, feature, part->prior_mean, job->prior_count,
                                                &workspace->tile.f64)
                            : plane_moments_f32(&singles, &part->columns, feature, part->prior_mean, job->prior_count,
                                                &workspace->tile.f32);
    if (all.minimum <= part->minimum.value) {
        const Holder own = plane_with(job, workspace, 0, width, all.minimum, outer, feature);
        merge_holder(&part->minimum, &own, -1);
    }
    if (all.maximum >= part->maximum.value) {
        const Holder own = plane_with(job, workspace, 1, width, all.maximum, outer, feature);
        merge_holder(&part->maximum, &own, 1);
    }
    merge_moments(&part->samples[outer], &all);
}

/* Measure channels whose numbers lie side by side, (outer, features, inner): some planes at a time. */
static void traverse_planes(const Job *job, Part *part) {
    for (int64_t outer = part->outer; outer < part->outer_end; outer++) {
        if (job->real != NULL && job->real[outer * job->inner] != COUNTS) continue;
        for (int64_t c = part->feature; c < part->feature_end; c += TILE) {
            const int width = (int)(part->feature_end - c < TILE ? part->feature_end - c : TILE);
            for (int64_t at = 0; at < job->inner; at += PIECE)
                measure_planes(job, part, outer, c, width, at, job->inner - at < PIECE ? job->inner - at : PIECE);
        }
    }
}

#endif
