/* A job in parts that threads share, on memory of their own, merged in order: the result depends on the number of
 * parts, never on which thread did what.
 */
#ifndef NORMPROBE_PARTS_H
#define NORMPROBE_PARTS_H

#include "numerics/traverse.h"

/* Bounds of the p-th of equal parts. */
static void split_range(int64_t size, int p, int parts, int64_t *from, int64_t *until) {
    const int64_t each = size / parts, rest = size % parts;
    *from = each * p + (p < rest ? p : rest);
    *until = *from + each + (p < rest);
}

/* Read narrow rows that lie side by side as fewer wide ones, where nobody asks for single rows: most of the work on a row
 * narrower than a tile is not for its numbers. */
static Job join_rows(const Job *job) {
    Job wide = *job;
    wide.joined = 1;
    if (!job->by_outer || job->real != NULL || job->stride_feature != 1 || job->stride_inner != job->features) return wide;
    for (int64_t joined = TILE / job->features; joined > 1; joined--)
        if (job->inner % joined == 0 && job->inner / joined >= ROWS) {
            wide.joined = joined;
            wide.features *= joined;
            wide.stride_inner *= joined;
            wide.inner /= joined;
            return wide;
        }
    return wide;
}

/* Add the columns of joined rows to those of single ones. */
static void merge_joined(const Columns *into, const Columns *wide, const Job *job) {
    double storage[FIELDS * TILE / 2];
    const int64_t features = job->features / job->joined;
    const Columns one = columns_at(storage, features);
    for (int64_t i = 0; i < job->joined; i++) {
#define COPY_OF_ONE(name, empty) memcpy(one.name, wide->name + i * features, sizeof(double) * (size_t)features);
        MOMENT_FIELDS(COPY_OF_ONE)
#undef COPY_OF_ONE
        merge_columns(into, &one, features);
    }
}

/* Give a part its share: of the channels of planes, else of the outer indices, else of the inner ones. */
static void split_job(const Job *job, Part *part, int p, int parts, int planes) {
    part->outer = part->inner = part->feature = 0;
    part->outer_end = job->outer;
    part->inner_end = job->inner;
    part->feature_end = job->features;
    if (planes) split_range(job->features, p, parts, &part->feature, &part->feature_end);
    else if (job->outer >= parts) split_range(job->outer, p, parts, &part->outer, &part->outer_end);
    else split_range(job->inner, p, parts, &part->inner, &part->inner_end);
}

/* Where samples have several rows: add their variances, and store the moments of those kept. */
static void finish_samples(const Job *job, Part *parts, int n, JobResult *result) {
    int64_t next = 0;
    for (int64_t sample = 0; sample < job->outer; sample++) {
        Moments own = EMPTY;
        for (int p = 0; p < n; p++) merge_moments(&own, &parts[p].samples[sample]);
        if (own.count > 0) {
            result->within_sum += variance(&own);
            result->within_count++;
        }
        if (next < job->kept && job->keep[next] == sample) result->kept[slot_of(job, next++)] = own;
    }
}

/* Memory of a run in parts, each on cache lines of its own: its workspace, columns (of the first part, which adds
 * straight to the result unless rows are joined, none), samples and widened rows; behind all parts a copy of the prior means. */
typedef struct {
    char *memory, *first;
    size_t columns, samples, widened, each;
    double *prior_mean;
} PartMemory;

/* Returns 0 where memory runs out. */
static int allocate_parts(const Job *job, int parts, int planes, PartMemory *to) {
    const size_t features = (size_t)job->features, number = job->type == FLOAT64 ? sizeof(double) : sizeof(float);
    const int gathered = job->type >= BFLOAT16 || (job->stride_feature != 1 && job->features != 1);
    to->columns = parts > 1 || job->joined > 1 ? sizeof(double) * FIELDS * features : 0;
    to->samples = job->by_outer ? sizeof(Moments) * (size_t)job->outer : 0;
    to->widened = planes ? number * CHUNK : gathered ? number * FLUSHED * (size_t)widened_row(job) : 0;
    to->each = ((sizeof(Workspace) + to->columns + to->widened + to->samples + 255) / 256) * 256;
    to->memory = malloc(to->each * (size_t)parts + 256 + sizeof(double) * features);
    if (to->memory == NULL) return 0;
    to->first = to->memory + (256 - (uintptr_t)to->memory % 256);
    to->prior_mean = NULL;
    if (job->prior_mean != NULL) {
        /* A copy, for the first part writes to the columns that the job's means lie in. */
        to->prior_mean = (double *)(void *)(to->first + to->each * (size_t)parts);
        const size_t each = features / (size_t)job->joined;
        for (size_t at = 0; at < features; at += each)
            memcpy(to->prior_mean + at, job->prior_mean, sizeof(double) * each);
    }
    return 1;
}

/* The p-th part, empty. It looks for extremes beyond those of the result only. */
static Part begin_part(const Job *job, int p, const PartMemory *memory, const JobResult *result) {
    char *own = memory->first + memory->each * (size_t)p;
    Part part = {.minimum = {result->minimum.value, -1, 0},
                 .maximum = {result->maximum.value, -1, 0},
                 .prior_mean = memory->prior_mean,
                 .rows = memory->widened > 0 ? FLUSHED : ROWS,
                 .columns = result->columns,
                 .workspace = own};
    own += sizeof(Workspace);
    if (p > 0 || job->joined > 1) {
        part.columns = columns_at((double *)(void *)own, job->features);
        clear_columns(&part.columns, job->features);
    }
    part.samples = (Moments *)(void *)(own + memory->columns);
    part.wide = own + memory->columns + memory->samples;
    ((Workspace *)part.workspace)->next = 0;
    for (int64_t i = 0; job->by_outer && i < job->outer; i++) part.samples[i] = EMPTY;
    return part;
}

/* Run a job in parts. Returns 0 where memory runs out. */
static int run_parts(const Job *given, int parts, JobResult *result) {
    const Job wide = join_rows(given), *const job = &wide;
    const int planes = job->by_outer && (job->real == NULL || job->whole) && job->stride_inner == 1 &&
                       job->inner >= PLANE && job->stride_feature != 1;
    const int64_t most = planes ? job->features : job->outer >= parts ? job->outer : job->inner;
    if (parts > most) parts = most > 0 ? (int)most : 1;
    PartMemory memory;
    if (!allocate_parts(job, parts, planes, &memory)) return 0;
    Part part[MAX_PARTS];
#pragma omp parallel for num_threads(parts) schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        Part own = begin_part(job, p, &memory, result);
        split_job(job, &own, p, parts, planes);
        if (planes) traverse_planes(job, &own);
        else traverse_rows(job, &own, result);
        part[p] = own;
    }
    for (int p = 0; p < parts; p++) {
        if (job->joined > 1) merge_joined(&result->columns, &part[p].columns, job);
        else if (p > 0) merge_columns(&result->columns, &part[p].columns, job->features);
        result->within_sum += part[p].within_sum;
        result->within_count += part[p].within_count;
        result->nonfinite_masked += part[p].nonfinite_masked;
        merge_holder(&result->minimum, &part[p].minimum, -1);
        merge_holder(&result->maximum, &part[p].maximum, 1);
    }
    if (job->by_outer) finish_samples(job, part, parts, result);
    free(memory.memory);
    return 1;
}

#endif
