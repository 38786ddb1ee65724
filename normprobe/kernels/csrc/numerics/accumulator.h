/* A AccumulatorState: what one site has met; it reads tensors by its own rule and from their own shape and strides. */
#ifndef NORMPROBE_ACCUMULATOR_H
#define NORMPROBE_ACCUMULATOR_H

#include "numerics/batch_moments.h"
#include "tensor_info.h"

enum { SAMPLE_FIELDS = 5, FEW = 4, QUEUE = 16, UNREADABLE = -2 };
/* Whether other states read the tensors that this one reads. */
enum { NOT_KNOWN, ALONE, SHARED };

typedef struct {
    PyObject_HEAD
    int64_t features;
    int axis, trailing, unbatched, by_outer, readers;
    double *recent; /* the columns */
    Columns columns;
    double within_sum, within_count, hidden, low, high;
    int64_t slots, raw_slots;
    Moments *kept;
    int raw_double;
    char *raw;
    int waiting, waiting_double; /* rows not yet merged */
    char *queue;
} AccumulatorState;

static void state_free(PyObject *object) {
    AccumulatorState *state = (AccumulatorState *)object;
    PyTypeObject *type = Py_TYPE(object);
    free(state->recent);
    free(state->kept);
    free(state->raw);
    free(state->queue);
    PyObject_Free(object);
    Py_DECREF(type);
}

/* State(features, axis, trailing, unbatched, by_outer) */
static PyObject *state_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    long long features;
    int axis, trailing, unbatched, by_outer;
    if (!PyArg_ParseTuple(args, "Liiip", &features, &axis, &trailing, &unbatched, &by_outer)) return NULL;
    if (features < 0 || features > 1LL << 40 || trailing < 1) {
        PyErr_SetString(PyExc_ValueError, "a state needs a number of features");
        return NULL;
    }
    AccumulatorState *state = (AccumulatorState *)PyType_GenericAlloc(type, 0);
    if (state == NULL) return NULL;
    state->features = features;
    state->axis = axis;
    state->trailing = trailing;
    state->unbatched = unbatched;
    state->by_outer = by_outer;
    state->low = INFINITY;
    state->high = -INFINITY;
    state->recent = malloc(FIELDS * (size_t)features * sizeof(double) + 1);
    if (state->recent == NULL) {
        Py_DECREF(state);
        return PyErr_NoMemory();
    }
    state->columns = columns_at(state->recent, features);
    clear(&state->columns, features);
    return (PyObject *)state;
}

typedef struct {
    int64_t size, stride;
} Axis;

/* Append an axis to a list, joined with the last one where the two lie as one. */
static int join(Axis *list, int count, Axis next) {
    if (next.size == 1) return count;
    if (count > 0 && list[count - 1].stride == next.stride * next.size) {
        list[count - 1].size *= next.size;
        list[count - 1].stride = next.stride;
        return count;
    }
    list[count] = next;
    return count + 1;
}

/* Read shape and strides by the state's rule. Returns 0, or the reason why the tensor cannot be read as it lies. */
static const char *fold(const AccumulatorState *state, const Axis *given, int count, Job *job) {
    Axis axes[MOST_AXES + 1], rest[MOST_AXES + 1], features[MOST_AXES + 1];
    int shift = 0, all = 0, wide = 0;
    if (state->unbatched == count) {
        const Axis one = {1, 0};
        axes[0] = one;
        shift = 1;
    }
    for (int i = 0; i < count; i++) axes[i + shift] = given[i];
    count += shift;
    const int axis = state->axis < 0 ? count + state->axis : state->axis;
    if (axis < 0 || axis >= count || count < state->trailing) return "the tensor has too few axes";
    const int first = state->trailing > 1 ? count - state->trailing : axis;
    const int last = state->trailing > 1 ? count - 1 : axis;
    const Axis batch = first > 0 ? axes[0] : (Axis){last + 1 < count ? axes[last + 1].size : 1,
                                                    last + 1 < count ? axes[last + 1].stride : 0};
    const int batch_at = first > 0 ? 0 : last + 1;
    job->features = 1;
    for (int i = first; i <= last; i++) {
        job->features *= axes[i].size;
        wide = join(features, wide, axes[i]);
    }
    if (wide > 1) return "its features do not lie in one line";
    job->stride_feature = wide == 1 ? features[0].stride : 1;
    int64_t rows = 1;
    for (int i = 0; i < count; i++) {
        if (i >= first && i <= last) continue;
        if (state->by_outer && i == batch_at) continue;
        rows *= axes[i].size;
        all = join(rest, all, axes[i]);
    }
    if (state->by_outer) {
        if (all > 1) return "its rows do not lie in one line";
        job->outer = batch.size;
        job->stride_outer = batch.stride;
        job->inner = rows;
        job->stride_inner = all == 1 ? rest[0].stride : 1;
    } else {
        if (all > 2) return "its rows do not lie in two lines";
        job->outer = all == 2 ? rest[0].size : 1;
        job->stride_outer = all == 2 ? rest[0].stride : 0;
        job->inner = all == 0 ? rows : rest[all - 1].size;
        job->stride_inner = all == 0 ? 0 : rest[all - 1].stride;
    }
    return NULL;
}

/* Fill a job from a tensor that was looked at. 1: done; 0: it cannot be read as it lies; -1: an error. */
static int read_tensor(const AccumulatorState *state, const CompiledChoice *choice, const TensorInfo *seen, Job *job) {
    Axis axes[MOST_AXES];
    int64_t numbers = 1;
    for (int i = 0; i < seen->count; i++) {
        const Axis axis = {seen->shape[i], seen->strides[i]};
        axes[i] = axis;
        numbers *= axis.size;
        if (axis.stride < 0) return 0;
    }
    job->type = seen->type;
    job->size = job->type == FLOAT32 ? 4 : job->type == FLOAT64 ? 8 : 2;
    if (fold(state, axes, seen->count, job) != NULL) return 0;
    if (job->features != state->features || job->outer * job->inner != choice->outer * choice->inner ||
        (state->by_outer && job->outer != choice->outer)) {
        PyErr_SetString(PyExc_ValueError, "the tensor does not have the rows and features of the choice and the state");
        return -1;
    }
    job->data = seen->data;
    if (job->data == NULL && numbers > 0) return 0;
    job->by_outer = state->by_outer && job->inner != 1;
    job->real = choice->real;
    job->keep = choice->keep;
    job->kept = choice->kept;
    job->near = state->features > 0 && state->columns.count[0] > 0 ? state->columns.mean : NULL;
    return 1;
}

/* Room for a slot in an array whose entries have `each` bytes; 0 where memory runs out. */
static int make_room(void **array, int64_t *slots, int64_t slot, size_t each) {
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

/* Room for all samples that a plan keeps; 0 where memory runs out. */
static int make_room_for(AccumulatorState *state, const CompiledChoice *choice) {
    int64_t largest = -1;
    for (int64_t i = 0; i < choice->kept; i++) largest = choice->slots[i] > largest ? choice->slots[i] : largest;
    return largest < 0 || make_room((void **)&state->kept, &state->slots, largest, sizeof(Moments));
}

/* Merge the rows that wait. The work space is shared: only who holds the interpreter's lock comes here. */
static void settle_queue(AccumulatorState *state) {
    static Work work;
    const size_t each = (state->waiting_double ? sizeof(double) : sizeof(float)) * (size_t)state->features;
    for (int r = 0; r < state->waiting; r++) work.rows[r] = state->queue + each * (size_t)r;
    if (state->waiting == 0) return;
    if (state->waiting_double)
        block_f64((const double *const *)work.rows, state->waiting, state->features, &state->columns,
                  NULL, 0, &work.tile.f64, work.sums);
    else
        block_f32((const float *const *)work.rows, state->waiting, state->features, &state->columns,
                  NULL, 0, &work.tile.f32, work.sums);
    state->waiting = 0;
}

/* Room for a few rows more to wait until there are enough to merge at once; 0 where memory runs out. */
static int make_queue(AccumulatorState *state, int64_t rows, int wide) {
    if (state->waiting_double != wide || state->waiting + rows > QUEUE) settle_queue(state);
    if (state->queue != NULL && state->waiting_double == wide) return 1;
    char *fresh = realloc(state->queue, (wide ? sizeof(double) : sizeof(float)) * (size_t)state->features * QUEUE);
    if (fresh == NULL) return 0;
    state->queue = fresh;
    state->waiting_double = wide;
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

/* Take a few rows (decoding token by token) as they are, to be merged later, with their own moments. What `added`
 * gives. */
static int take_few(AccumulatorState *state, const Job *job, const CompiledChoice *choice, Holder *low, Holder *high) {
    const int wide = job->type == FLOAT64;
    const int64_t rows = job->outer * job->inner, features = job->features;
    const size_t each = (wide ? sizeof(double) : sizeof(float)) * (size_t)features;
    if (!make_room_for(state, choice) || !make_queue(state, rows, wide)) {
        PyErr_NoMemory();
        return -1;
    }
    int changed = 0;
    for (int64_t i = 0; i < choice->kept; i++) state->kept[choice->slots[i]] = EMPTY;
    for (int64_t row = 0, next = 0; row < rows; row++) {
        const char *from = row_at(job, row / job->inner, row % job->inner);
        if (job->real != NULL && !job->real[row]) {
            state->hidden += count_hidden(job, from);
            continue;
        }
        char *to = state->queue + each * (size_t)state->waiting++;
        copy_row(job, from, to, wide);
        const Moments own = row_moments(job, to, wide ? *(double *)(void *)to : *(float *)(void *)to);
        if (own.count > 0) {
            state->within_sum += variance(&own);
            state->within_count++;
        }
        if (own.low < state->low) {
            *low = (Holder){own.low, row, place_of(job, to, features, own.low)};
            state->low = own.low;
            changed |= 1;
        }
        if (own.high > state->high) {
            *high = (Holder){own.high, row, place_of(job, to, features, own.high)};
            state->high = own.high;
            changed |= 2;
        }
        if (next < choice->kept && choice->keep[next] == row) state->kept[choice->slots[next++]] = own;
    }
    return changed;
}

/* How many numbers of each feature were met, at least. */
CLONES static double least_met(const AccumulatorState *state) {
    const double *restrict count = state->columns.count;
    double least = state->features > 0 ? count[0] : 0;
#pragma omp simd reduction(min : least)
    for (int64_t i = 0; i < state->features; i++) least = count[i] < least ? count[i] : least;
    return least;
}

/* Run a job; 0 with an error where memory runs out. */
static int run(const Job *job, int threads, long long small, Found *found) {
    const int64_t rows = job->outer * job->inner;
    if (rows == 0 || job->features == 0) return 1;
    const int parts = threads < 1 || rows * job->features < small ? 1 : threads > MOST_PARTS ? MOST_PARTS : threads;
    int done;
    Py_BEGIN_ALLOW_THREADS
    done = walk(job, parts, found);
    Py_END_ALLOW_THREADS
    if (!done) PyErr_NoMemory();
    return done;
}

/* What a tensor holds; NULL with an error where memory runs out. */
static BatchMoments *measured(const Job *job, int threads, long long small) {
    BatchMoments *delta = batch_moments_of(job->features, job->kept);
    if (delta == NULL) return NULL;
    delta->met = job->met;
    if (run(job, threads, small, &delta->found)) return delta;
    Py_DECREF(delta);
    return NULL;
}

/* Add what was found beside columns and samples. 1 if that has a new smallest value, + 2 if a new largest. */
static int add_totals(AccumulatorState *state, const Found *found) {
    state->within_sum += found->within_sum;
    state->within_count += found->within_count;
    state->hidden += found->hidden;
    const int low = found->low.value < state->low, high = found->high.value > state->high;
    if (low) state->low = found->low.value;
    if (high) state->high = found->high.value;
    return low + 2 * high;
}

/* Add what a tensor holds straight to the state. What `added` gives. */
static int measure_into(AccumulatorState *state, Job *job, const CompiledChoice *choice, int threads, long long small, Holder *low,
                        Holder *high) {
    if (!make_room_for(state, choice)) {
        PyErr_NoMemory();
        return -1;
    }
    for (int64_t i = 0; i < choice->kept; i++) state->kept[choice->slots[i]] = EMPTY;
    Found found = {.columns = state->columns, .low = {state->low, -1, 0}, .high = {state->high, -1, 0}};
    found.kept = state->kept;
    job->slots = choice->slots;
    if (!run(job, threads, small, &found)) return -1;
    *low = found.low;
    *high = found.high;
    return add_totals(state, &found);
}

/* measure(tensor, plan, threads, small) -> BatchMoments, or None where the tensor cannot be read as it lies; below `small`
 * numbers on one thread */
static PyObject *state_measure(PyObject *object, PyObject *args) {
    PyObject *tensor, *choice;
    int threads;
    long long small;
    if (!PyArg_ParseTuple(args, "OOiL", &tensor, &choice, &threads, &small) || !checked(choice, choice_type, "CompiledChoice"))
        return NULL;
    TensorInfo seen;
    Job job = {0};
    int readable = read_info(tensor, &seen);
    if (readable > 0) readable = read_tensor((const AccumulatorState *)object, (const CompiledChoice *)choice, &seen, &job);
    if (readable == 0) Py_RETURN_NONE;
    return readable < 0 ? NULL : (PyObject *)measured(&job, threads, small);
}

/* Add what a tensor held. 1 if that has a new smallest value, + 2 if a new largest; -1 with an error. */
static int added(AccumulatorState *state, const BatchMoments *delta, const CompiledChoice *choice) {
    if (delta->features != state->features || delta->kept != choice->kept) {
        PyErr_SetString(PyExc_ValueError, "the delta is of another choice or width");
        return -1;
    }
    if (!make_room_for(state, choice)) {
        PyErr_NoMemory();
        return -1;
    }
    for (int64_t i = 0; i < choice->kept; i++) state->kept[choice->slots[i]] = delta->found.kept[i];
    merge_columns(&state->columns, &delta->found.columns, state->features);
    return add_totals(state, &delta->found);
}

/* add(delta, plan) -> who holds new extremes */
static PyObject *state_add(PyObject *object, PyObject *args) {
    PyObject *delta, *choice;
    if (!PyArg_ParseTuple(args, "OO", &delta, &choice) || !checked(delta, batch_moments_type, "BatchMoments") ||
        !checked(choice, choice_type, "CompiledChoice"))
        return NULL;
    const Found *found = &((const BatchMoments *)delta)->found;
    return news(added((AccumulatorState *)object, (const BatchMoments *)delta, (const CompiledChoice *)choice), &found->low, &found->high);
}

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

/* Copy the plan's raw rows; 0 with an error. */
static int kept_rows(AccumulatorState *state, const Job *job, const CompiledChoice *choice) {
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
        if (!make_room((void **)&state->raw, &state->raw_slots, choice->raw_slots[i], each)) {
            PyErr_NoMemory();
            return 0;
        }
        const int64_t row = choice->raw_rows[i];
        const char *from = row_at(job, row / job->inner, row % job->inner);
        copy_row(job, from, state->raw + (size_t)choice->raw_slots[i] * each, state->raw_double);
    }
    return 1;
}

/* keep(tensor, plan) -> whether the plan's raw rows could be copied from the tensor as it lies */
static PyObject *state_keep(PyObject *object, PyObject *args) {
    PyObject *tensor, *choice;
    if (!PyArg_ParseTuple(args, "OO", &tensor, &choice) || !checked(choice, choice_type, "CompiledChoice")) return NULL;
    TensorInfo seen;
    Job job = {0};
    int readable = read_info(tensor, &seen);
    if (readable > 0) readable = read_tensor((AccumulatorState *)object, (const CompiledChoice *)choice, &seen, &job);
    if (readable < 0 || (readable > 0 && !kept_rows((AccumulatorState *)object, &job, (const CompiledChoice *)choice))) return NULL;
    return PyBool_FromLong(readable);
}

/* The version of a tensor, which every write raises; -1: one made in inference mode has none; -2: an error. */
static long long version_of(PyObject *tensor) {
    const int timeless = is_true(tensor, names.is_inference, 1);
    if (timeless != 0) return timeless < 0 ? -2 : -1;
    PyObject *version = PyObject_GetAttr(tensor, names._version);
    if (version == NULL) return -2;
    const long long number = PyLong_AsLongLong(version);
    Py_DECREF(version);
    return number == -1 && PyErr_Occurred() ? -2 : number;
}

/* What a tensor of some version holds, as another state that read it found, or as this one finds; a new reference. Who
 * met no other reader at the first tensor looks for none from then on, nor measures apart what the others may use: were
 * one to come later, it would measure for itself. */
static BatchMoments *observed(AccumulatorState *state, const Job *job, PyObject *tensor, long long version, CompiledChoice *choice, RecentMoments *recent,
                    int threads, long long small) {
    const Entry *known = recall(recent, tensor, version, choice);
    if (known != NULL && known->delta->met <= job->met) {
        state->readers = ((AccumulatorState *)known->state)->readers = SHARED;
        return (BatchMoments *)Py_NewRef((PyObject *)known->delta);
    }
    BatchMoments *delta = measured(job, threads, small);
    if (delta != NULL && !remember(recent, tensor, version, choice, delta, (PyObject *)state)) Py_CLEAR(delta);
    if (state->readers == NOT_KNOWN) state->readers = ALONE;
    return delta;
}

/* Measure a tensor that was looked at, unless it was just measured, and add what it held. What `added` gives;
 * UNREADABLE: it cannot be read as it lies. */
static int observe(AccumulatorState *state, PyObject *tensor, const TensorInfo *seen, CompiledChoice *choice, const CompiledChoice *raw, RecentMoments *recent,
                int threads, long long small, Holder *low, Holder *high) {
    Job job = {0};
    const int readable = read_tensor(state, choice, seen, &job);
    if (readable <= 0) return readable < 0 ? -1 : UNREADABLE;
    const int64_t rows = job.outer * job.inner;
    if (raw != NULL && !kept_rows(state, &job, raw)) return -1;
    if (rows > 0 && rows <= FEW && job.features > 0 && !job.by_outer) return take_few(state, &job, choice, low, high);
    job.met = least_met(state);
    const long long version = state->readers == ALONE ? -1 : version_of(tensor);
    if (version == -2) return -1;
    if (version == -1) return measure_into(state, &job, choice, threads, small, low, high);
    BatchMoments *delta = observed(state, &job, tensor, version, choice, recent, threads, small);
    if (delta == NULL) return -1;
    *low = delta->found.low;
    *high = delta->found.high;
    const int changed = added(state, delta, choice);
    Py_DECREF(delta);
    return changed;
}

/* hear(tensor, plan, raw plan or None, memory, threads, small) -> what `add` gives; False: the tensor cannot be read
 * as it lies */
static PyObject *state_observe(PyObject *object, PyObject *args) {
    PyObject *tensor, *choice, *raw, *recent;
    int threads;
    long long small;
    if (!PyArg_ParseTuple(args, "OOOOiL", &tensor, &choice, &raw, &recent, &threads, &small)) return NULL;
    if (!checked(choice, choice_type, "CompiledChoice") || !checked(recent, recent_moments_type, "RecentMoments") ||
        (raw != Py_None && !checked(raw, choice_type, "CompiledChoice")))
        return NULL;
    TensorInfo seen;
    Holder low, high;
    const int readable = read_info(tensor, &seen);
    if (readable == 0) Py_RETURN_FALSE;
    if (readable < 0) return NULL;
    const int changed = observe((AccumulatorState *)object, tensor, &seen, (CompiledChoice *)choice, raw == Py_None ? NULL : (CompiledChoice *)raw,
                             (RecentMoments *)recent, threads, small, &low, &high);
    if (changed == UNREADABLE) Py_RETURN_FALSE;
    return news(changed, &low, &high);
}

static PyObject *bytes_of(const double *numbers, int64_t count) {
    return PyBytes_FromStringAndSize((const char *)numbers, (Py_ssize_t)(count * (int64_t)sizeof(double)));
}

static PyObject *kept_bytes(const Moments *kept, int64_t count) {
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(count * SAMPLE_FIELDS * (int64_t)sizeof(double)));
    if (bytes == NULL) return NULL;
    double *to = (double *)(void *)PyBytes_AsString(bytes);
    for (int64_t i = 0; i < count; i++) {
        const double fields[SAMPLE_FIELDS] = {kept[i].count, kept[i].mean, kept[i].m2, kept[i].low, kept[i].high};
        memcpy(to + i * SAMPLE_FIELDS, fields, sizeof fields);
    }
    return bytes;
}

/* fields(slots, raw slots) -> columns, kept samples, within_sum, within_count, hidden, raw rows, bytes of a number */
static PyObject *state_fields(PyObject *object, PyObject *args) {
    AccumulatorState *state = (AccumulatorState *)object;
    long long slots, raw;
    if (!PyArg_ParseTuple(args, "LL", &slots, &raw)) return NULL;
    if (slots < 0 || raw < 0 || slots > state->slots || raw > state->raw_slots) {
        PyErr_SetString(PyExc_IndexError, "so many slots are not filled");
        return NULL;
    }
    settle_queue(state);
    const Py_ssize_t number = state->raw_double ? sizeof(double) : sizeof(float);
    return Py_BuildValue("NNdddNn", bytes_of(state->recent, FIELDS * state->features), kept_bytes(state->kept, slots),
                         state->within_sum, state->within_count, state->hidden,
                         PyBytes_FromStringAndSize(state->raw, (Py_ssize_t)(raw * state->features) * number), number);
}

/* nbytes() -> how much memory the state takes, itself aside */
static PyObject *state_nbytes(PyObject *object, PyObject *none) {
    (void)none;
    const AccumulatorState *state = (const AccumulatorState *)object;
    const int64_t raw = state->raw_double ? sizeof(double) : sizeof(float);
    const int64_t queue = state->queue == NULL ? 0 : state->waiting_double ? sizeof(double) : sizeof(float);
    return PyLong_FromLongLong((long long)(FIELDS * state->features * (int64_t)sizeof(double) +
                                           state->slots * (int64_t)sizeof(Moments) +
                                           (state->raw_slots * raw + QUEUE * queue) * state->features));
}

static PyMethodDef state_methods[] = {
    {"measure", state_measure, METH_VARARGS, "Measure a tensor."},
    {"add", state_add, METH_VARARGS, "Add what was measured."},
    {"observe", state_observe, METH_VARARGS, "Measure a tensor, unless it was just measured, and add what it held."},
    {"keep", state_keep, METH_VARARGS, "Copy the raw rows that a choice asks for."},
    {"nbytes", state_nbytes, METH_NOARGS, "How much recent it takes."},
    {"fields", state_fields, METH_VARARGS, "Everything met so far."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot state_slots[] = {{Py_tp_new, (void *)state_new},
                                    {Py_tp_dealloc, (void *)state_free},
                                    {Py_tp_methods, state_methods},
                                    {0, NULL}};
static PyType_Spec state_spec = {"normprobe.kernels._cpu.AccumulatorState", sizeof(AccumulatorState), 0, Py_TPFLAGS_DEFAULT, state_slots};

#endif
