/* How the axes of a tensor read as (outer, inner, features), by its own shape and strides: no number is copied.
 *
 * Twin of `normprobe.kernels.types.AxisRoles`.
 */
#ifndef NORMPROBE_AXIS_ROLES_H
#define NORMPROBE_AXIS_ROLES_H

#include "numerics/thread_parts.h"

enum { MAX_AXES = 64 };

/* `axis`: the one that numbers the features, from the end if negative; `trailing`: how many last axes do, if more than
 * one; `unbatched`: of a tensor with so many axes, the batch is missing; `by_outer`: a sample is an entry of the batch,
 * else a row. */
typedef struct {
    int axis, trailing, unbatched, by_outer;
} AxisRoles;

typedef struct {
    int64_t size, stride;
} Axis;

/* Append an axis to a list, joined with the last one if one stride steps through both. */
static int append_axis(Axis *list, int count, Axis next) {
    if (next.size == 1) return count;
    if (count > 0 && list[count - 1].stride == next.stride * next.size) {
        list[count - 1].size *= next.size;
        list[count - 1].stride = next.stride;
        return count;
    }
    list[count] = next;
    return count + 1;
}

/* Set a job's rows from the axes that number them, the batch aside where its entries are the samples. Returns 0 if they
 * take more strides than a job has. */
static int fold_rows(const AxisRoles *roles, const Axis *rows, int count, int64_t all_rows, Axis batch, Job *job) {
    if (count > (roles->by_outer ? 1 : 2)) return 0;
    if (roles->by_outer) {
        job->outer = batch.size;
        job->stride_outer = batch.stride;
        job->inner = all_rows;
        job->stride_inner = count == 1 ? rows[0].stride : 1;
    } else {
        job->outer = count == 2 ? rows[0].size : 1;
        job->stride_outer = count == 2 ? rows[0].stride : 0;
        job->inner = count == 0 ? all_rows : rows[count - 1].size;
        job->stride_inner = count == 0 ? 0 : rows[count - 1].stride;
    }
    return 1;
}

/* Set a job's sizes and strides from those of a tensor. Returns 0 if no three strides step through it by these roles:
 * then Python arranges a copy. */
static int fold_axes(const AxisRoles *roles, const Axis *given, int count, Job *job) {
    Axis axes[MAX_AXES + 1], rows[MAX_AXES + 1], features[MAX_AXES + 1];
    int shift = 0, row_axes = 0, feature_axes = 0;
    if (roles->unbatched == count) {
        axes[0] = (Axis){1, 0};
        shift = 1;
    }
    for (int i = 0; i < count; i++) axes[i + shift] = given[i];
    count += shift;
    const int axis = roles->axis < 0 ? count + roles->axis : roles->axis;
    if (axis < 0 || axis >= count || count < roles->trailing) return 0;
    const int first = roles->trailing > 1 ? count - roles->trailing : axis;
    const int last = roles->trailing > 1 ? count - 1 : axis;
    /* The batch is the first axis, or, where that numbers the features, the one behind those. */
    const int batch_at = first > 0 ? 0 : last + 1;
    const Axis batch = batch_at < count ? axes[batch_at] : (Axis){1, 0};
    int64_t all_rows = 1;
    job->features = 1;
    for (int i = 0; i < count; i++) {
        if (i >= first && i <= last) {
            job->features *= axes[i].size;
            feature_axes = append_axis(features, feature_axes, axes[i]);
        } else if (!roles->by_outer || i != batch_at) {
            all_rows *= axes[i].size;
            row_axes = append_axis(rows, row_axes, axes[i]);
        }
    }
    job->stride_feature = feature_axes == 1 ? features[0].stride : 1;
    return feature_axes <= 1 && fold_rows(roles, rows, row_axes, all_rows, batch, job);
}

#endif
