/* AccumulatorState: what one site holds so far, the moments of its features, its kept samples, its raw rows; and the
 * queue of single rows, which are merged later.
 *
 * Only who holds the interpreter's lock touches one, but for the columns while `run_job` adds to them without it: that
 * a site is then measured by one thread alone is what the probe's Lock is for (hooks/current_forward.h).
 *
 * Extremes: `minimum` and `maximum` here are only what a tensor's are compared with. Which sample and feature has one
 * goes to Python once, when it is new, and `normprobe.capture.states.site_state.SiteState` owns it from then on.
 */
#ifndef NORMPROBE_ACCUMULATOR_STATE_H
#define NORMPROBE_ACCUMULATOR_STATE_H

#include "numerics/axis_roles.h"
#include "numerics/batch_moments.h"
#include "tensor_info.h"

/* Of at most FEW_ROWS rows (decoding token by token) it is cheaper to queue them and merge QUEUE_ROWS at once. */
enum { FEW_ROWS = 4, QUEUE_ROWS = 16, UNREADABLE = -2 };
/* Whether other accumulators read the tensors that this one reads. */
enum { READERS_UNKNOWN, ONE_READER, SEVERAL_READERS };

typedef struct {
    PyObject_HEAD
    int64_t features;
    AxisRoles roles;
    int readers;
    int holds_nonfinite; /* whether a real row had NaN or Inf */
    double *storage; /* of the columns */
    Columns columns; /* without the rows in the queue; extremes, sums and kept samples below are with them */
    double within_sum, within_count, nonfinite_masked, minimum, maximum;
    int64_t slots, raw_slots; /* for how many there is room in `kept` and `raw` */
    Moments *kept;
    int raw_double; /* whether raw rows are double; float while every tensor fits into it */
    char *raw;
    int queued, queued_double; /* how many rows are in the queue, and of which type */
    char *queue;
} AccumulatorState;

static void accumulator_free(PyObject *object) {
    AccumulatorState *state = (AccumulatorState *)object;
    PyTypeObject *type = Py_TYPE(object);
    free(state->storage);
    free(state->kept);
    free(state->raw);
    free(state->queue);
    PyObject_Free(object);
    Py_DECREF(type);
}

/* AccumulatorState(features, axis, trailing, unbatched, by_outer) */
static PyObject *accumulator_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    long long features;
    AxisRoles roles;
    if (!PyArg_ParseTuple(args, "Liiip", &features, &roles.axis, &roles.trailing, &roles.unbatched, &roles.by_outer))
        return NULL;
    if (features < 0 || features > 1LL << 40 || roles.trailing < 1) {
        PyErr_SetString(PyExc_ValueError, "a state needs a number of features");
        return NULL;
    }
    AccumulatorState *state = (AccumulatorState *)PyType_GenericAlloc(type, 0);
    if (state == NULL) return NULL;
    state->features = features;
    state->roles = roles;
    state->minimum = INFINITY;
    state->maximum = -INFINITY;
    state->storage = malloc(FIELDS * (size_t)features * sizeof(double) + 1);
    if (state->storage == NULL) {
        Py_DECREF(state);
        return PyErr_NoMemory();
    }
    state->columns = columns_at(state->storage, features);
    clear_columns(&state->columns, features);
    return (PyObject *)state;
}

/* Describe the reading of a tensor as a job. 1: done; 0: it cannot be read as it lies; -1: an error. */
static int describe_job(const AxisRoles *roles, int64_t features, const CompiledChoice *choice, const TensorInfo *info,
                        Job *job) {
    Axis axes[MAX_AXES];
    int64_t numbers = 1;
    for (int i = 0; i < info->count; i++) {
        const Axis axis = {info->shape[i], info->strides[i]};
        axes[i] = axis;
        numbers *= axis.size;
        if (axis.stride < 0) return 0;
    }
    job->type = info->type;
    job->size = job->type == FLOAT32 ? 4 : job->type == FLOAT64 ? 8 : 2;
    if (!fold_axes(roles, axes, info->count, job)) return 0;
    if (job->features != features || job->outer * job->inner != choice->outer * choice->inner ||
        (roles->by_outer && job->outer != choice->outer)) {
        PyErr_SetString(PyExc_ValueError, "the tensor does not have the rows and features of the choice and the state");
        return -1;
    }
    job->data = info->data;
    if (job->data == NULL && numbers > 0) return 0;
    job->by_outer = roles->by_outer && job->inner != 1;
    job->real = choice->real;
    job->whole = choice->whole;
    job->keep = choice->keep;
    job->kept = choice->kept;
    return 1;
}

/* The same of a tensor that an accumulator measures. */
static int fill_job(const AccumulatorState *state, const CompiledChoice *choice, const TensorInfo *info, Job *job) {
    const int described = describe_job(&state->roles, state->features, choice, info, job);
    if (described > 0)
        job->prior_mean = state->features > 0 && state->columns.count[0] > 0 ? state->columns.mean : NULL;
    return described;
}

/* Make room for a slot in an array whose entries have `each` bytes; 0 where memory runs out. */
static int reserve_slot(void **array, int64_t *slots, int64_t slot, size_t each) {
    if (slot < *slots) return 1;
    int64_t size = *slots < 8 ? 8 : *slots;
    while (size <= slot) size *= 2;
    void *larger = realloc(*array, (size_t)size * each);
    if (larger == NULL) return 0;
    memset((char *)larger + (size_t)*slots * each, 0, (size_t)(size - *slots) * each);
    *array = larger;
    *slots = size;
    return 1;
}

/* Make room for all samples that a choice keeps; 0 where memory runs out. */
static int reserve_kept(AccumulatorState *state, const CompiledChoice *choice) {
    int64_t largest = -1;
    for (int64_t i = 0; i < choice->kept; i++) largest = choice->slots[i] > largest ? choice->slots[i] : largest;
    return largest < 0 || reserve_slot((void **)&state->kept, &state->slots, largest, sizeof(Moments));
}

/* Merge the queued rows into the columns. One workspace serves all, for only who holds the interpreter's lock comes
 * here. */
static void merge_queue(AccumulatorState *state) {
    static Workspace workspace;
    const size_t each = (state->queued_double ? sizeof(double) : sizeof(float)) * (size_t)state->features;
    for (int r = 0; r < state->queued; r++) workspace.rows[r] = state->queue + each * (size_t)r;
    if (state->queued == 0) return;
    if (state->queued_double)
        block_moments_f64((const double *const *)workspace.rows, state->queued, state->features, &state->columns, NULL,
                          0, &workspace.tile.f64, workspace.sums);
    else
        block_moments_f32((const float *const *)workspace.rows, state->queued, state->features, &state->columns, NULL,
                          0, &workspace.tile.f32, workspace.sums);
    state->queued = 0;
}

/* Make room in the queue for some rows of double (`wide`) or float; 0 where memory runs out. */
static int reserve_queue(AccumulatorState *state, int64_t rows, int wide) {
    if (state->queued_double != wide || state->queued + rows > QUEUE_ROWS) merge_queue(state);
    if (state->queue != NULL && state->queued_double == wide) return 1;
    char *fresh = realloc(state->queue, (wide ? sizeof(double) : sizeof(float)) * (size_t)state->features * QUEUE_ROWS);
    if (fresh == NULL) return 0;
    state->queue = fresh;
    state->queued_double = wide;
    return 1;
}

/* Copy a row that may have any strides and type. */
static void copy_row(const Job *job, const char *from, char *to, int wide) {
    if (job->stride_feature == 1 && job->type == (wide ? FLOAT64 : FLOAT32)) {
        memcpy(to, from, (size_t)job->size * (size_t)job->features);
        return;
    }
    for (int64_t c = 0; c < job->features; c++) {
        const double x = number_at(job, from, c);
        if (wide) ((double *)(void *)to)[c] = x;
        else ((float *)(void *)to)[c] = (float)x;
    }
}

/* Queue a few rows, to be merged later, and add what else they hold. Returns what `add_batch` does. */
static int queue_rows(AccumulatorState *state, const Job *job, const CompiledChoice *choice, NewHolders *found) {
    const int wide = job->type == FLOAT64;
    const int64_t rows = job->outer * job->inner, features = job->features;
    const size_t each = (wide ? sizeof(double) : sizeof(float)) * (size_t)features;
    if (!reserve_kept(state, choice) || !reserve_queue(state, rows, wide)) {
        PyErr_NoMemory();
        return -1;
    }
    int changed = 0;
    for (int64_t i = 0; i < choice->kept; i++) state->kept[choice->slots[i]] = EMPTY;
    for (int64_t row = 0, next = 0; row < rows; row++) {
        const char *from = row_at(job, row / job->inner, row % job->inner);
        if (job->real != NULL && job->real[row] != COUNTS) {
            if (job->real[row] == PADDING) state->nonfinite_masked += count_nonfinite(job, from);
            continue;
        }
        char *to = state->queue + each * (size_t)state->queued++;
        copy_row(job, from, to, wide);
        const Moments own = row_moments(job, to, wide ? *(double *)(void *)to : *(float *)(void *)to);
        if (own.count > 0) {
            state->within_sum += variance(&own);
            state->within_count++;
        }
        if (own.minimum < state->minimum) {
            found->minimum = (Holder){own.minimum, row, first_index(job, to, features, own.minimum)};
            state->minimum = own.minimum;
            changed |= 1;
        }
        if (own.maximum > state->maximum) {
            found->maximum = (Holder){own.maximum, row, first_index(job, to, features, own.maximum)};
            state->maximum = own.maximum;
            changed |= 2;
        }
        if (own.nonfinite > 0 && !state->holds_nonfinite) {
            found->nonfinite = first_nonfinite(job);
            state->holds_nonfinite = 1;
            changed |= 4;
        }
        if (next < choice->kept && choice->keep[next] == row) state->kept[choice->slots[next++]] = own;
    }
    return changed;
}

/* Hold raw rows as double from now on: a tensor came that float does not hold; 0 where memory runs out. */
static int widen_raw(AccumulatorState *state) {
    const int64_t numbers = state->raw_slots * state->features;
    double *larger = malloc(sizeof(double) * (size_t)numbers + 1);
    if (larger == NULL) return 0;
    for (int64_t i = 0; i < numbers; i++) larger[i] = ((const float *)(void *)state->raw)[i];
    free(state->raw);
    state->raw = (char *)larger;
    state->raw_double = 1;
    return 1;
}

/* Copy the raw rows that a choice keeps; 0 with an error. */
static int copy_raw_rows(AccumulatorState *state, const Job *job, const CompiledChoice *choice) {
    if (job->outer * job->inner != choice->outer * choice->inner) {
        PyErr_SetString(PyExc_ValueError, "the tensor does not have the rows of the choice");
        return 0;
    }
    if (job->type == FLOAT64 && !state->raw_double && !widen_raw(state)) {
        PyErr_NoMemory();
        return 0;
    }
    const size_t number = state->raw_double ? sizeof(double) : sizeof(float), each = number * (size_t)state->features;
    for (int64_t i = 0; i < choice->raw_kept; i++) {
        if (!reserve_slot((void **)&state->raw, &state->raw_slots, choice->raw_slots[i], each)) {
            PyErr_NoMemory();
            return 0;
        }
        const int64_t row = choice->raw_rows[i];
        const char *from = row_at(job, row / job->inner, row % job->inner);
        copy_row(job, from, state->raw + (size_t)choice->raw_slots[i] * each, state->raw_double);
    }
    return 1;
}

#endif
