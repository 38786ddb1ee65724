/* Adding tensors to an AccumulatorState, and its methods in Python; twin of kernels/accumulator.py. */
#ifndef NORMPROBE_ACCUMULATOR_H
#define NORMPROBE_ACCUMULATOR_H

#include "numerics/accumulator_state.h"

/* How many numbers every feature has at least. */
CLONES static double smallest_count(const AccumulatorState *state) {
    const double *restrict count = state->columns.count;
    double least = state->features > 0 ? count[0] : 0;
#pragma omp simd reduction(min : least)
    for (int64_t i = 0; i < state->features; i++) least = count[i] < least ? count[i] : least;
    return least;
}

/* Whether some feature has NaN or Inf. */
CLONES static int any_nonfinite(const Columns *columns, int64_t features) {
    const double *restrict nonfinite = columns->nonfinite;
    double most = 0;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < features; i++) most = nonfinite[i] > most ? nonfinite[i] : most;
    return most > 0;
}

/* Run a job, with fewer than `small` numbers in one part; 0 with an error where memory runs out. */
static int run_job(const Job *job, int threads, long long small, JobResult *result) {
    const int64_t rows = job->outer * job->inner;
    if (rows == 0 || job->features == 0) return 1;
    const int parts = threads < 1 || rows * job->features < small ? 1 : threads > MAX_PARTS ? MAX_PARTS : threads;
    int done;
    Py_BEGIN_ALLOW_THREADS
    done = run_parts(job, parts, result);
    Py_END_ALLOW_THREADS
    if (!done) PyErr_NoMemory();
    return done;
}

/* Moments of one tensor on its own; NULL with an error where memory runs out. */
static BatchMoments *measure_batch(const Job *job, int threads, long long small) {
    BatchMoments *batch = batch_moments_of(job->features, job->kept);
    if (batch == NULL) return NULL;
    batch->prior_count = job->prior_count;
    if (run_job(job, threads, small, &batch->result)) return batch;
    Py_DECREF(batch);
    return NULL;
}

/* Add what a job yields beside columns and samples, once its columns are added. 1 if that has a new smallest value, + 2
 * if a new largest, + 4 if the first NaN or Inf. */
static int add_totals(AccumulatorState *state, const JobResult *result) {
    state->within_sum += result->within_sum;
    state->within_count += result->within_count;
    state->nonfinite_masked += result->nonfinite_masked;
    const int minimum = result->minimum.value < state->minimum;
    const int maximum = result->maximum.value > state->maximum;
    if (minimum) state->minimum = result->minimum.value;
    if (maximum) state->maximum = result->maximum.value;
    const int nonfinite = !state->holds_nonfinite && any_nonfinite(&state->columns, state->features);
    if (nonfinite) state->holds_nonfinite = 1;
    return minimum + 2 * maximum + 4 * nonfinite;
}

/* Measure a tensor that no other accumulator reads straight into this one. Returns what `add_batch` does. */
static int measure_into(AccumulatorState *state, Job *job, const CompiledChoice *choice, int threads, long long small,
                        NewHolders *found) {
    if (!reserve_kept(state, choice)) {
        PyErr_NoMemory();
        return -1;
    }
    for (int64_t i = 0; i < choice->kept; i++) state->kept[choice->slots[i]] = EMPTY;
    JobResult result = {
        .columns = state->columns, .minimum = {state->minimum, -1, 0}, .maximum = {state->maximum, -1, 0}};
    result.kept = state->kept;
    job->slots = choice->slots;
    if (!run_job(job, threads, small, &result)) return -1;
    found->minimum = result.minimum;
    found->maximum = result.maximum;
    return add_totals(state, &result);
}

/* measure(tensor, choice, threads, small) -> BatchMoments, or None where the tensor cannot be read as it lies; fewer
 * than `small` numbers are measured by one thread */
static PyObject *accumulator_measure(PyObject *object, PyObject *args) {
    PyObject *tensor, *choice;
    int threads;
    long long small;
    if (!PyArg_ParseTuple(args, "OOiL", &tensor, &choice, &threads, &small) ||
        !checked(choice, choice_type, "CompiledChoice"))
        return NULL;
    TensorInfo info;
    Job job = {0};
    int readable = read_tensor_info(tensor, &info);
    if (readable > 0)
        readable = fill_job((const AccumulatorState *)object, (const CompiledChoice *)choice, &info, &job);
    if (readable == 0) Py_RETURN_NONE;
    return readable < 0 ? NULL : (PyObject *)measure_batch(&job, threads, small);
}

/* Add the moments of a tensor. Returns what `add_totals` does, -1 with an error. */
static int add_batch(AccumulatorState *state, const BatchMoments *batch, const CompiledChoice *choice) {
    if (batch->features != state->features || batch->kept != choice->kept) {
        PyErr_SetString(PyExc_ValueError, "the moments are of another choice or width");
        return -1;
    }
    if (!reserve_kept(state, choice)) {
        PyErr_NoMemory();
        return -1;
    }
    for (int64_t i = 0; i < choice->kept; i++) state->kept[choice->slots[i]] = batch->result.kept[i];
    merge_columns(&state->columns, &batch->result.columns, state->features);
    return add_totals(state, &batch->result);
}

/* add(batch moments, choice) -> new extremes */
static PyObject *accumulator_add(PyObject *object, PyObject *args) {
    PyObject *batch, *choice;
    if (!PyArg_ParseTuple(args, "OO", &batch, &choice) || !checked(batch, batch_moments_type, "BatchMoments") ||
        !checked(choice, choice_type, "CompiledChoice"))
        return NULL;
    const JobResult *result = &((const BatchMoments *)batch)->result;
    const NewHolders found = {result->minimum, result->maximum, {NAN, -1, 0}};
    return extremes_object(
        add_batch((AccumulatorState *)object, (const BatchMoments *)batch, (const CompiledChoice *)choice), &found);
}

/* keep(tensor, choice) -> whether the raw rows could be copied from the tensor as it lies */
static PyObject *accumulator_keep(PyObject *object, PyObject *args) {
    PyObject *tensor, *choice;
    if (!PyArg_ParseTuple(args, "OO", &tensor, &choice) || !checked(choice, choice_type, "CompiledChoice")) return NULL;
    TensorInfo info;
    Job job = {0};
    int readable = read_tensor_info(tensor, &info);
    if (readable > 0) readable = fill_job((AccumulatorState *)object, (const CompiledChoice *)choice, &info, &job);
    if (readable < 0 ||
        (readable > 0 && !copy_raw_rows((AccumulatorState *)object, &job, (const CompiledChoice *)choice)))
        return NULL;
    return PyBool_FromLong(readable);
}

/* The version of a tensor, which every write raises; -1: one made in inference mode has none, and to ask would raise;
 * -2: an error. */
static long long version_of(PyObject *tensor) {
    const int unversioned = is_true(tensor, interned.is_inference, 1);
    if (unversioned != 0) return unversioned < 0 ? -2 : -1;
    PyObject *version = PyObject_GetAttr(tensor, interned._version);
    if (version == NULL) return -2;
    const long long number = PyLong_AsLongLong(version);
    Py_DECREF(version);
    return number == -1 && PyErr_Occurred() ? -2 : number;
}

/* Moments of a tensor of some version, measured here or, before, by another accumulator that reads it; a new reference.
 *
 * Another's serve only if this one has at least as many numbers so far: `check_sums` lets sums through that are exact
 * enough beside those many, not beside fewer. An accumulator whose first tensor nobody else had read looks for none
 * from then on, nor measures apart what others might use: were one to read it later, it would measure for itself. */
static BatchMoments *recalled_or_measured(AccumulatorState *state, const Job *job, PyObject *tensor, long long version,
                                          CompiledChoice *choice, RecentMoments *recent, int threads, long long small) {
    const RecentEntry *known = find_recent(recent, tensor, version, choice);
    if (known != NULL && known->batch->prior_count <= job->prior_count) {
        state->readers = ((AccumulatorState *)known->state)->readers = SEVERAL_READERS;
        return (BatchMoments *)Py_NewRef((PyObject *)known->batch);
    }
    BatchMoments *batch = measure_batch(job, threads, small);
    if (batch != NULL && !add_recent(recent, tensor, version, choice, batch, (PyObject *)state)) Py_CLEAR(batch);
    if (state->readers == READERS_UNKNOWN) state->readers = ONE_READER;
    return batch;
}

/* Measure a tensor, unless another accumulator just did, and add that. Returns what `add_batch` does, or UNREADABLE if
 * the tensor cannot be read as it lies. */
static int observe(AccumulatorState *state, PyObject *tensor, const TensorInfo *info, CompiledChoice *choice,
                   const CompiledChoice *raw, RecentMoments *recent, int threads, long long small, NewHolders *found) {
    Job job = {0};
    const int readable = fill_job(state, choice, info, &job);
    if (readable <= 0) return readable < 0 ? -1 : UNREADABLE;
    const int64_t rows = job.outer * job.inner;
    if (raw != NULL && !copy_raw_rows(state, &job, raw)) return -1;
    if (rows > 0 && rows <= FEW_ROWS && job.features > 0 && !job.by_outer)
        return queue_rows(state, &job, choice, found);
    job.prior_count = smallest_count(state);
    const long long version = state->readers == ONE_READER ? -1 : version_of(tensor);
    if (version == -2) return -1;
    int changed;
    if (version == -1) {
        changed = measure_into(state, &job, choice, threads, small, found);
    } else {
        BatchMoments *batch = recalled_or_measured(state, &job, tensor, version, choice, recent, threads, small);
        if (batch == NULL) return -1;
        found->minimum = batch->result.minimum;
        found->maximum = batch->result.maximum;
        changed = add_batch(state, batch, choice);
        Py_DECREF(batch);
    }
    if (changed > 0 && changed & 4) found->nonfinite = first_nonfinite(&job);
    return changed;
}

/* observe(tensor, choice, choice of raw rows or None, recent, threads, small) -> new extremes; False: the tensor cannot
 * be read as it lies */
static PyObject *accumulator_observe(PyObject *object, PyObject *args) {
    PyObject *tensor, *choice, *raw, *recent;
    int threads;
    long long small;
    if (!PyArg_ParseTuple(args, "OOOOiL", &tensor, &choice, &raw, &recent, &threads, &small)) return NULL;
    if (!checked(choice, choice_type, "CompiledChoice") || !checked(recent, recent_moments_type, "RecentMoments") ||
        (raw != Py_None && !checked(raw, choice_type, "CompiledChoice")))
        return NULL;
    TensorInfo info;
    NewHolders found;
    const int readable = read_tensor_info(tensor, &info);
    if (readable == 0) Py_RETURN_FALSE;
    if (readable < 0) return NULL;
    const int changed = observe((AccumulatorState *)object, tensor, &info, (CompiledChoice *)choice,
                                raw == Py_None ? NULL : (CompiledChoice *)raw, (RecentMoments *)recent, threads, small,
                                &found);
    if (changed == UNREADABLE) Py_RETURN_FALSE;
    return extremes_object(changed, &found);
}

static PyObject *bytes_of(const double *numbers, int64_t count) {
    return PyBytes_FromStringAndSize((const char *)numbers, (Py_ssize_t)(count * (int64_t)sizeof(double)));
}

static PyObject *kept_bytes(const Moments *kept, int64_t count) {
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(count * SAMPLE_FIELDS * (int64_t)sizeof(double)));
    if (bytes == NULL) return NULL;
    double *to = (double *)(void *)PyBytes_AsString(bytes);
    for (int64_t i = 0; i < count; i++) {
#define FIELD_OF_KEPT(name, empty) kept[i].name,
        const double fields[SAMPLE_FIELDS] = {SAMPLE_MOMENTS(FIELD_OF_KEPT)};
#undef FIELD_OF_KEPT
        memcpy(to + i * SAMPLE_FIELDS, fields, sizeof fields);
    }
    return bytes;
}

/* fields(slots, raw slots) -> columns, kept samples, within_sum, within_count, nonfinite_masked, raw rows, bytes of a
 * number of these */
static PyObject *accumulator_fields(PyObject *object, PyObject *args) {
    AccumulatorState *state = (AccumulatorState *)object;
    long long slots, raw;
    if (!PyArg_ParseTuple(args, "LL", &slots, &raw)) return NULL;
    if (slots < 0 || raw < 0 || slots > state->slots || raw > state->raw_slots) {
        PyErr_SetString(PyExc_IndexError, "so many slots are not filled");
        return NULL;
    }
    merge_queue(state);
    const Py_ssize_t number = state->raw_double ? sizeof(double) : sizeof(float);
    return Py_BuildValue("NNdddNn", bytes_of(state->storage, FIELDS * state->features), kept_bytes(state->kept, slots),
                         state->within_sum, state->within_count, state->nonfinite_masked,
                         PyBytes_FromStringAndSize(state->raw, (Py_ssize_t)(raw * state->features) * number), number);
}

/* nbytes() -> how much memory it takes, the object itself aside */
static PyObject *accumulator_nbytes(PyObject *object, PyObject *none) {
    (void)none;
    const AccumulatorState *state = (const AccumulatorState *)object;
    const int64_t raw = state->raw_double ? sizeof(double) : sizeof(float);
    const int64_t queue = state->queue == NULL ? 0 : state->queued_double ? sizeof(double) : sizeof(float);
    return PyLong_FromLongLong((long long)(FIELDS * state->features * (int64_t)sizeof(double) +
                                           state->slots * (int64_t)sizeof(Moments) +
                                           (state->raw_slots * raw + QUEUE_ROWS * queue) * state->features));
}

static PyMethodDef accumulator_methods[] = {
    {"measure", accumulator_measure, METH_VARARGS, "Moments of a tensor."},
    {"add", accumulator_add, METH_VARARGS, "Add the moments of a tensor."},
    {"observe", accumulator_observe, METH_VARARGS,
     "Measure a tensor, unless another accumulator just did, and add that."},
    {"keep", accumulator_keep, METH_VARARGS, "Copy the raw rows that a choice keeps."},
    {"nbytes", accumulator_nbytes, METH_NOARGS, "How much memory it takes."},
    {"fields", accumulator_fields, METH_VARARGS, "Everything so far."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot accumulator_slots[] = {{Py_tp_new, (void *)accumulator_new},
                                          {Py_tp_dealloc, (void *)accumulator_free},
                                          {Py_tp_methods, accumulator_methods},
                                          {0, NULL}};
static PyType_Spec accumulator_spec = {"normprobe.kernels._cpu.AccumulatorState", sizeof(AccumulatorState), 0,
                                       Py_TPFLAGS_DEFAULT, accumulator_slots};

#endif
