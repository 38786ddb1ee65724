/* One more pass over a strided tensor, where it is asked for: central sums of its features and kept samples, and counts
 * of all its numbers in bins. Threads share it in parts on memory of their own, merged in order.
 *
 * Nothing here touches Python: `measure_distribution` in distribution.h releases the interpreter's lock around it.
 */
#ifndef NORMPROBE_TRAVERSE_DISTRIBUTION_H
#define NORMPROBE_TRAVERSE_DISTRIBUTION_H

#include "distributions/bins.h"
#include "distributions/central_moments.h"
#include "numerics/thread_parts.h"

/* Of so many contiguous numbers the powers are summed at once: they are read twice, and stay in the cache. */
enum { RUN = 4096 };

#define SQUARED(k) const T q##k = d##k * d##k;
#define OFF(k) const T d##k = x##k - pivot, q##k = d##k * d##k;
#define ITS_SQUARE(k) q##k
#define CUBE(k) d##k *q##k
#define FOURTH(k) q##k *q##k
/* Those of traverse.h. */
#undef T
#undef NAME
#undef MOST
#define T float
#define NAME(x) x##_f32
#define MOST FLT_MAX
#define TINY_FOURTH 1e-28f
#include "distributions/power_loops.h"
#undef T
#undef NAME
#undef MOST
#undef TINY_FOURTH
#define T double
#define NAME(x) x##_f64
#define MOST DBL_MAX
#define TINY_FOURTH 1e-280
#include "distributions/power_loops.h"

/* What a pass adds to; `columns` and `kept` (in the order of the choice) are of no use without `kurtosis`, and `counts`
 * is NULL where none are wanted. */
typedef struct {
    int kurtosis;
    CentralColumns columns;
    Central *kept;
    int64_t *counts;
} DistributionResult;

/* What one thread works with; `range` says which rows are its own. */
typedef struct {
    Workspace rows;
    Part range;
    DistributionResult result;
    union {
        Powers_f32 f32;
        Powers_f64 f64;
    } tile;
    double block[CENTRAL_FIELDS * ROOM]; /* the columns of one block */
    BinTables bins;
} DistributionPart;

static Central central_run(const Job *job, const void *numbers, int64_t n) {
    return job->type == FLOAT64 ? central_run_f64(numbers, n) : central_run_f32(numbers, n);
}

/* Add the columns of a block of gathered rows; and all of its numbers to a kept sample, if it is of one. */
static void add_block_powers(const Job *job, DistributionPart *part, int n, Central *sample) {
    const CentralColumns block = central_at(part->block, ROOM);
    for (int64_t at = 0; at < job->features; at += TILE) {
        const int width = (int)(job->features - at < TILE ? job->features - at : TILE);
        const void *shifted[FLUSHED];
        const size_t each = job->type == FLOAT64 ? sizeof(double) : sizeof(float);
        for (int r = 0; r < n; r++) shifted[r] = (const char *)part->rows.rows[r] + each * (size_t)at;
        if (job->type == FLOAT64) central_tile_f64((const double *const *)shifted, n, width, &part->tile.f64, &block);
        else central_tile_f32((const float *const *)shifted, n, width, &part->tile.f32, &block);
        const CentralColumns into = central_from(&part->result.columns, at);
        merge_central_columns(&into, &block, width);
        if (sample == NULL) continue;
        const Central all = pool_central(&block, width);
        merge_central(sample, &all);
    }
}

/* Where in the choice the first kept sample from the last one on is that is not before this one. */
static int64_t next_kept(const Job *job, Workspace *workspace, int64_t sample) {
    while (workspace->next < job->kept && job->keep[workspace->next] < sample) workspace->next++;
    return workspace->next;
}

static int is_kept(const Job *job, Workspace *workspace, int64_t sample) {
    const int64_t next = next_kept(job, workspace, sample);
    return next < job->kept && job->keep[next] == sample;
}

/* Count a block of gathered rows, those that follow one another in memory as one run. */
static void count_rows(const Job *job, DistributionPart *part, int n) {
    const size_t each = (job->type == FLOAT64 ? sizeof(double) : sizeof(float)) * (size_t)job->features;
    const char *const *rows = (const char *const *)part->rows.rows;
    for (int r = 0, next; r < n; r = next) {
        for (next = r + 1; next < n && rows[next] == rows[next - 1] + each;) next++;
        count_run(rows[r], job->type == FLOAT64, (next - r) * job->features, &part->bins, part->result.counts);
    }
}

static void add_rows(const Job *job, DistributionPart *part, int n) {
    Workspace *workspace = &part->rows;
    gather(job, workspace, part->range.wide, n);
    if (part->result.counts != NULL) count_rows(job, part, n);
    if (!part->result.kurtosis) return;
    Central *sample = NULL;
    if (job->by_outer && is_kept(job, workspace, workspace->index[0])) sample = &part->result.kept[workspace->next];
    add_block_powers(job, part, n, sample);
    for (int r = 0; r < n && !job->by_outer; r++)
        if (is_kept(job, workspace, workspace->index[r]))
            part->result.kept[workspace->next] = central_run(job, workspace->rows[r], job->features);
}

/* Add numbers that lie side by side, all of one feature and sample, in the type they are added up in. */
static void add_run(const Job *job, DistributionPart *part, const void *numbers, int64_t n, int64_t feature,
                    Central *sample) {
    if (part->result.counts != NULL) count_run(numbers, job->type == FLOAT64, n, &part->bins, part->result.counts);
    if (!part->result.kurtosis) return;
    const CentralColumns into = central_from(&part->result.columns, feature);
    const CentralColumns one = central_at(part->block, 1);
    const Central own = central_run(job, numbers, n);
#define TO_ONE(name) *one.name = own.name;
    CENTRAL_FIELDS_OF(TO_ONE)
#undef TO_ONE
    merge_central_columns(&into, &one, 1);
    if (sample != NULL) merge_central(sample, &own);
}

/* Add channels whose numbers lie side by side, those of 16 bits widened a piece at a time. */
static void traverse_channels(const Job *job, DistributionPart *part) {
    const Part *range = &part->range;
    for (int64_t outer = range->outer; outer < range->outer_end; outer++) {
        Central *sample =
            part->result.kurtosis && is_kept(job, &part->rows, outer) ? &part->result.kept[part->rows.next] : NULL;
        for (int64_t feature = range->feature; feature < range->feature_end; feature++) {
            const char *plane = row_at(job, outer, 0) + feature * job->stride_feature * job->size;
            const int64_t piece = job->type >= BFLOAT16 ? RUN : PIECE;
            for (int64_t at = 0; at < job->inner; at += piece) {
                const int64_t n = job->inner - at < piece ? job->inner - at : piece;
                const void *numbers = plane + at * job->size;
                float *wide = (float *)(void *)range->wide;
                if (job->type == BFLOAT16) widen_bfloat16(numbers, wide, n);
                else if (job->type == FLOAT16) widen_float16(numbers, wide, n);
                add_run(job, part, job->type >= BFLOAT16 ? wide : numbers, n, feature, sample);
            }
        }
    }
}

static void traverse_part(const Job *job, DistributionPart *part, int planes) {
    Position at = {part->range.outer, part->range.inner};
    if (planes) {
        traverse_channels(job, part);
        return;
    }
    for (;;) {
        const int n = collect_rows(job, &part->range, &at, &part->rows);
        if (n == 0) break;
        add_rows(job, part, n);
    }
}

/* Sizes of what a part has behind its struct: columns, kept samples, counts, widened rows. */
typedef struct {
    size_t columns, kept, counts, wide, each;
} DistributionSizes;

static DistributionSizes distribution_sizes(const Job *job, const DistributionResult *result, int planes) {
    const size_t features = (size_t)job->features, number = job->type == FLOAT64 ? sizeof(double) : sizeof(float);
    const size_t widened = number * FLUSHED * (size_t)widened_row(job);
    DistributionSizes sizes = {
        .columns = result->kurtosis ? CENTRAL_FIELDS * features * sizeof(double) : 0,
        .kept = result->kurtosis ? (size_t)job->kept * sizeof(Central) : 0,
        .counts = result->counts != NULL ? BINS * sizeof(int64_t) : 0,
        .wide = planes ? number * RUN : widened,
    };
    sizes.each = (sizeof(DistributionPart) + sizes.columns + sizes.kept + sizes.counts + sizes.wide + 255) / 256 * 256;
    return sizes;
}

/* The p-th part, empty. */
static DistributionPart *begin_distribution_part(const Job *job, char *memory, const DistributionSizes *sizes,
                                                 const DistributionResult *result) {
    DistributionPart *part = (DistributionPart *)(void *)memory;
    char *own = memory + sizeof(DistributionPart);
    memset(own, 0, sizes->columns + sizes->kept + sizes->counts);
    part->rows.next = 0;
    part->range = (Part){.rows = FLUSHED};
    part->result.kurtosis = result->kurtosis;
    part->result.columns = central_at((double *)(void *)own, job->features);
    part->result.kept = (Central *)(void *)(own + sizes->columns);
    part->result.counts = sizes->counts ? (int64_t *)(void *)(own + sizes->columns + sizes->kept) : NULL;
    part->range.wide = own + sizes->columns + sizes->kept + sizes->counts;
    return part;
}

/* Add what a part found to the result. */
static void finish_distribution_part(const Job *job, DistributionPart *part, const DistributionResult *result) {
    if (result->kurtosis) merge_central_columns(&result->columns, &part->result.columns, job->features);
    for (int64_t i = 0; result->kurtosis && i < job->kept; i++) merge_central(&result->kept[i], &part->result.kept[i]);
    if (result->counts == NULL) return;
    flush_bins(&part->bins, part->result.counts);
    for (int i = 0; i < BINS; i++) result->counts[i] += part->result.counts[i];
}

/* Add a tensor to a result, in at most so many parts. Returns 0 where memory runs out. */
static int run_distribution(const Job *job, int parts, const DistributionResult *result) {
    const int planes =
        job->by_outer && job->real == NULL && job->stride_inner == 1 && job->inner >= PLANE && job->stride_feature != 1;
    const int64_t most = planes ? job->features : job->outer >= parts ? job->outer : job->inner;
    if (parts > most) parts = most > 0 ? (int)most : 1;
    const DistributionSizes sizes = distribution_sizes(job, result, planes);
    char *memory = malloc(sizes.each * (size_t)parts + 256);
    if (memory == NULL) return 0;
    char *const first = memory + (256 - (uintptr_t)memory % 256);
    const int64_t numbers = job->outer * job->inner * job->features;
#pragma omp parallel for num_threads(parts) schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        DistributionPart *part = begin_distribution_part(job, first + sizes.each * (size_t)p, &sizes, result);
        if (part->result.counts != NULL) clear_bins(&part->bins, numbers / parts);
        split_job(job, &part->range, p, parts, planes);
        traverse_part(job, part, planes);
    }
    for (int p = 0; p < parts; p++)
        finish_distribution_part(job, (DistributionPart *)(void *)(first + sizes.each * (size_t)p), result);
    free(memory);
    return 1;
}

#endif
