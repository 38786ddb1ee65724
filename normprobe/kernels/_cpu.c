/* One pass over a tensor to the moments of its features and samples, added to what a site has met so far.
 *
 * Blocks of rows are added up in the tensor's own precision about a pivot near each column's mean, then merged
 * into double by the update of Chan, Golub and LeVeque (1979). A block whose pivot turns out far from its mean is
 * added up again about its own mean; one with numbers that are not finite, or whose squares leave the range, is
 * done in double. Parts of the rows have moments of their own, merged in order: the result depends on the number of
 * threads, never on which thread did what.
 *
 * Python sees four types. A Plan says which samples of a forward count and which are kept. A State is what one site
 * has met; it reads a tensor as (outer, inner, features) by its own rule and from the tensor's own shape and strides.
 * A Delta is what one tensor holds, so that a tensor several layers read is measured once.
 */
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include "_walk.h"

enum { SAMPLE_FIELDS = 5, MOST_AXES = 64, FEW = 4, QUEUE = 8, REMEMBERED = 32 };

static PyObject *dtypes, *plain_types;
static PyObject *name_shape, *name_stride, *name_dtype, *name_data_ptr, *name_version, *name_is_cpu, *name_is_nested,
    *name_is_neg, *name_is_inference;
static PyTypeObject *plan_type, *state_type, *delta_type, *memory_type;

/* --- plans ------------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    int64_t outer, inner;
    unsigned char *real;
    int64_t kept, *keep, *slots;
    int64_t raw_kept, *raw_rows, *raw_slots;
} Plan;

/* A copy of a buffer of int64 numbers within [0, limit), or NULL with an error. */
static int64_t *numbers_of(PyObject *source, int64_t limit, int64_t *count) {
    Py_buffer view;
    if (PyObject_GetBuffer(source, &view, PyBUF_C_CONTIGUOUS) < 0) return NULL;
    *count = view.len / (int64_t)sizeof(int64_t);
    int64_t *copy = view.itemsize == sizeof(int64_t) ? malloc((size_t)view.len + 1) : NULL;
    if (copy == NULL) PyErr_SetString(PyExc_ValueError, "a list of int64 numbers is needed");
    else if (view.len > 0) memcpy(copy, view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    for (int64_t i = 0; copy != NULL && i < *count; i++)
        if (copy[i] < 0 || copy[i] >= limit) {
            PyErr_SetString(PyExc_IndexError, "an index is out of range");
            free(copy);
            return NULL;
        }
    return copy;
}

static void plan_free(PyObject *object) {
    Plan *plan = (Plan *)object;
    PyTypeObject *type = Py_TYPE(object);
    free(plan->real);
    free(plan->keep);
    free(plan->slots);
    free(plan->raw_rows);
    free(plan->raw_slots);
    PyObject_Free(object);
    Py_DECREF(type);
}

static int ascending(const int64_t *numbers, int64_t count) {
    for (int64_t i = 1; i < count; i++)
        if (numbers[i] <= numbers[i - 1]) return 0;
    return 1;
}

/* Plan(samples, rows, real, keep, slots, raw_rows, raw_slots) */
static PyObject *plan_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    long long outer, inner;
    PyObject *real, *keep, *slots, *raw_rows, *raw_slots;
    if (!PyArg_ParseTuple(args, "LLOOOOO", &outer, &inner, &real, &keep, &slots, &raw_rows, &raw_slots))
        return NULL;
    const long long most = 1LL << 40;
    if (outer < 0 || inner < 0 || outer > most || inner > most || (inner > 0 && outer > most / inner)) {
        PyErr_SetString(PyExc_ValueError, "a plan needs sizes from 0 on");
        return NULL;
    }
    Plan *plan = (Plan *)PyType_GenericAlloc(type, 0);
    if (plan == NULL) return NULL;
    int64_t slots_count = 0, raw_slots_count = 0;
    plan->outer = outer;
    plan->inner = inner;
    const int64_t rows = outer * inner, any = INT64_MAX;
    if (real != Py_None) {
        Py_buffer view;
        if (PyObject_GetBuffer(real, &view, PyBUF_C_CONTIGUOUS) < 0) goto fail;
        if (view.itemsize == 1 && view.len == rows) plan->real = malloc((size_t)rows + 1);
        if (plan->real != NULL) memcpy(plan->real, view.buf, (size_t)rows);
        PyBuffer_Release(&view);
        if (plan->real == NULL) {
            PyErr_SetString(PyExc_ValueError, "a mask needs one byte per row");
            goto fail;
        }
    }
    if ((plan->keep = numbers_of(keep, outer, &plan->kept)) == NULL) goto fail;
    if ((plan->slots = numbers_of(slots, any, &slots_count)) == NULL) goto fail;
    if ((plan->raw_rows = numbers_of(raw_rows, rows, &plan->raw_kept)) == NULL) goto fail;
    if ((plan->raw_slots = numbers_of(raw_slots, any, &raw_slots_count)) == NULL) goto fail;
    if (slots_count != plan->kept || raw_slots_count != plan->raw_kept || !ascending(plan->keep, plan->kept)) {
        PyErr_SetString(PyExc_ValueError, "a plan needs a slot for each kept sample, and those in ascending order");
        goto fail;
    }
    return (PyObject *)plan;
fail:
    Py_DECREF(plan);
    return NULL;
}

/* --- deltas ------------------------------------------------------------------------------------------------ */

/* Of a tensor of a few rows (decoding token by token) the rows themselves: merging columns would cost more. */
typedef struct {
    PyObject_HEAD
    int64_t features, kept;
    double *memory;
    Found found;
    int few, wide; /* rows held, and whether they are doubles; few 0: columns are */
    char *rows;
} Delta;

static void delta_free(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    free(((Delta *)object)->memory);
    free(((Delta *)object)->rows);
    PyObject_Free(object);
    Py_DECREF(type);
}

static Delta *delta_of(int64_t features, int64_t kept, int few) {
    Delta *delta = (Delta *)PyType_GenericAlloc(delta_type, 0);
    if (delta == NULL) return NULL;
    const size_t columns = few ? 0 : FIELDS * (size_t)features * sizeof(double);
    const size_t samples = (size_t)kept * sizeof(Moments);
    delta->memory = malloc(columns + samples + 1);
    if (delta->memory == NULL) {
        Py_DECREF(delta);
        PyErr_NoMemory();
        return NULL;
    }
    delta->features = features;
    delta->kept = kept;
    const Found nothing = {.low = NO_LOW, .high = NO_HIGH};
    delta->found = nothing;
    delta->found.kept = (Moments *)(void *)(delta->memory + columns / sizeof(double));
    if (!few) {
        delta->found.columns = columns_at(delta->memory, features);
        clear(&delta->found.columns, features);
    }
    for (int64_t i = 0; i < kept; i++) delta->found.kept[i] = EMPTY;
    return delta;
}

static PyObject *holder_of(const Holder *held) {
    return Py_BuildValue("dLL", held->value, (long long)held->sample, (long long)held->feature);
}

/* Who holds new extremes: (smallest, largest), each (value, sample, feature) or None where the old one stands; None
 * for both together. Bit 0 of `changed`: the smallest is new, bit 1: the largest. */
static PyObject *news(const Delta *delta, int changed) {
    if (changed < 0) return NULL;
    if (changed == 0) Py_RETURN_NONE;
    return Py_BuildValue("NN", changed & 1 ? holder_of(&delta->found.low) : Py_NewRef(Py_None),
                         changed & 2 ? holder_of(&delta->found.high) : Py_NewRef(Py_None));
}

/* --- what was just measured ------------------------------------------------------------------------------------- */

/* What a tensor held, for other layers that read it: as long as it lives and is not written to. */
typedef struct {
    PyObject *tensor; /* a weak reference; NULL: an empty entry */
    long long version;
    Plan *plan;
    Delta *delta;
} Entry;

typedef struct {
    PyObject_HEAD
    int next;
    Entry entries[REMEMBERED];
} Memory;

static void forget(Entry *entry) {
    Py_CLEAR(entry->tensor);
    Py_CLEAR(entry->plan);
    Py_CLEAR(entry->delta);
}

static void memory_free(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    for (int i = 0; i < REMEMBERED; i++) forget(&((Memory *)object)->entries[i]);
    PyObject_Free(object);
    Py_DECREF(type);
}

static PyObject *memory_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    return PyArg_ParseTuple(args, "") ? PyType_GenericAlloc(type, 0) : NULL;
}

/* What the tensor held, if that is still so; frees what is known of tensors that died. A borrowed reference. */
static Delta *recall(Memory *memory, PyObject *tensor, long long version, const Plan *plan) {
    Delta *found = NULL;
    for (int i = 0; i < REMEMBERED; i++) {
        Entry *entry = &memory->entries[i];
        if (entry->tensor == NULL) continue;
        PyObject *held = PyWeakref_GetObject(entry->tensor);
        if (held == Py_None || (held == tensor && entry->version != version)) forget(entry);
        else if (held == tensor && entry->plan == plan) found = entry->delta;
    }
    return found;
}

/* Remember a tensor in place of the one met longest ago. */
static int remember(Memory *memory, PyObject *tensor, long long version, Plan *plan, Delta *delta) {
    PyObject *weak = PyWeakref_NewRef(tensor, NULL);
    if (weak == NULL) return 0;
    Entry *entry = &memory->entries[memory->next];
    memory->next = (memory->next + 1) % REMEMBERED;
    forget(entry);
    entry->tensor = weak;
    entry->version = version;
    entry->plan = (Plan *)Py_NewRef((PyObject *)plan);
    entry->delta = (Delta *)Py_NewRef((PyObject *)delta);
    return 1;
}

/* --- states ------------------------------------------------------------------------------------------------ */

typedef struct {
    PyObject_HEAD
    int64_t features;
    int axis, trailing, unbatched, by_outer;
    double *memory; /* the columns */
    Columns columns;
    double within_sum, within_count, hidden, low, high;
    int64_t slots, raw_slots;
    Moments *kept;
    int raw_double;
    char *raw;
    int waiting, waiting_double; /* rows not yet merged */
    char *queue;
} State;

static void state_free(PyObject *object) {
    State *state = (State *)object;
    PyTypeObject *type = Py_TYPE(object);
    free(state->memory);
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
    State *state = (State *)PyType_GenericAlloc(type, 0);
    if (state == NULL) return NULL;
    state->features = features;
    state->axis = axis;
    state->trailing = trailing;
    state->unbatched = unbatched;
    state->by_outer = by_outer;
    state->low = INFINITY;
    state->high = -INFINITY;
    state->memory = malloc(FIELDS * (size_t)features * sizeof(double) + 1);
    if (state->memory == NULL) {
        Py_DECREF(state);
        return PyErr_NoMemory();
    }
    state->columns = columns_at(state->memory, features);
    clear(&state->columns, features);
    return (PyObject *)state;
}

/* A tuple of whole numbers; their count, or -1 with an error. */
static int read_sizes(PyObject *tuple, int64_t *to) {
    const Py_ssize_t count = tuple != NULL && PyTuple_Check(tuple) ? PyTuple_Size(tuple) : -1;
    if (count < 0 || count >= MOST_AXES) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "a tensor of plain sizes is needed");
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        to[i] = PyLong_AsLongLong(PyTuple_GetItem(tuple, i));
        if (to[i] == -1 && PyErr_Occurred()) return -1;
    }
    return (int)count;
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
static const char *fold(const State *state, const Axis *given, int count, Job *job) {
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

/* Fill a job from a tensor. 1: done; 0: it cannot be read as it lies; -1: an error. */
static int read_tensor(const State *state, const Plan *plan, PyObject *tensor, Job *job) {
    int64_t shape[MOST_AXES], strides[MOST_AXES];
    Axis axes[MOST_AXES];
    PyObject *sizes = PyObject_GetAttr(tensor, name_shape);
    const int count = read_sizes(sizes, shape);
    Py_XDECREF(sizes);
    if (count < 0) return -1;
    PyObject *steps = PyObject_CallMethodObjArgs(tensor, name_stride, NULL);
    const int same = read_sizes(steps, strides);
    Py_XDECREF(steps);
    PyObject *dtype = same == count ? PyObject_GetAttr(tensor, name_dtype) : NULL;
    if (dtype == NULL) return -1;
    job->type = -1;
    for (int i = 0; i < (int)PyTuple_Size(dtypes); i++)
        if (PyTuple_GetItem(dtypes, i) == dtype) job->type = i;
    Py_DECREF(dtype);
    int64_t numbers = 1;
    for (int i = 0; i < count; i++) {
        const Axis axis = {shape[i], strides[i]};
        axes[i] = axis;
        numbers *= shape[i];
        if (strides[i] < 0) return 0;
    }
    if (job->type < 0) return 0;
    job->size = job->type == FLOAT32 ? 4 : job->type == FLOAT64 ? 8 : 2;
    if (fold(state, axes, count, job) != NULL) return 0;
    if (job->features != state->features || job->outer * job->inner != plan->outer * plan->inner ||
        (state->by_outer && job->outer != plan->outer)) {
        PyErr_SetString(PyExc_ValueError, "the tensor does not have the rows and features of the plan and the state");
        return -1;
    }
    PyObject *address = PyObject_CallMethodObjArgs(tensor, name_data_ptr, NULL);
    if (address == NULL) return -1;
    job->data = PyLong_AsVoidPtr(address);
    Py_DECREF(address);
    if (PyErr_Occurred()) return -1;
    if (job->data == NULL && numbers > 0) return 0;
    job->by_outer = state->by_outer && job->inner != 1;
    job->real = plan->real;
    job->keep = plan->keep;
    job->kept = plan->kept;
    return 1;
}

static int checked(PyObject *object, PyTypeObject *type, const char *what) {
    if (PyObject_TypeCheck(object, type)) return 1;
    PyErr_Format(PyExc_TypeError, "a %s is needed", what);
    return 0;
}

/* Take a few rows as they are: their own moments, and a copy. */
static Delta *take_few(const Job *job) {
    const int64_t rows = job->outer * job->inner, features = job->features;
    const int wide = job->type == FLOAT64;
    const size_t each = (wide ? sizeof(double) : sizeof(float)) * (size_t)features;
    Delta *delta = delta_of(features, job->kept, 1);
    if (delta == NULL) return NULL;
    delta->rows = malloc(each * (size_t)rows + 1);
    if (delta->rows == NULL) {
        Py_DECREF(delta);
        PyErr_NoMemory();
        return NULL;
    }
    delta->wide = wide;
    Found *found = &delta->found;
    for (int64_t row = 0, next = 0; row < rows; row++) {
        const char *from = row_at(job, row / job->inner, row % job->inner);
        if (job->real != NULL && !job->real[row]) {
            found->hidden += count_hidden(job, from);
            continue;
        }
        char *to = delta->rows + each * (size_t)delta->few++;
        if (job->stride_feature == 1 && job->type <= FLOAT64) memcpy(to, from, each);
        else if (wide) for (int64_t c = 0; c < features; c++) ((double *)(void *)to)[c] = number_at(job, from, c);
        else for (int64_t c = 0; c < features; c++) ((float *)(void *)to)[c] = (float)number_at(job, from, c);
        const Moments own = row_moments(job, to, wide ? *(double *)(void *)to : *(float *)(void *)to);
        if (own.count > 0) {
            found->within_sum += variance(&own);
            found->within_count++;
        }
        if (own.low < found->low.value) found->low = (Holder){own.low, row, first_of(job, to, own.low)};
        if (own.high > found->high.value) found->high = (Holder){own.high, row, first_of(job, to, own.high)};
        if (next < job->kept && job->keep[next] == row) found->kept[next++] = own;
    }
    return delta;
}

/* Merge the rows that wait. The work space is shared: only who holds the interpreter's lock comes here. */
static void settle_queue(State *state) {
    static Work work;
    Holder low = NO_LOW, high = NO_HIGH;
    const size_t each = (state->waiting_double ? sizeof(double) : sizeof(float)) * (size_t)state->features;
    for (int r = 0; r < state->waiting; r++) {
        work.rows[r] = state->queue + each * (size_t)r;
        work.index[r] = 0;
    }
    if (state->waiting == 0) return;
    if (state->waiting_double)
        block_f64((const double *const *)work.rows, work.index, state->waiting, state->features, &state->columns, NULL,
                  &work.tile.f64, work.sums, &low, &high);
    else
        block_f32((const float *const *)work.rows, work.index, state->waiting, state->features, &state->columns, NULL,
                  &work.tile.f32, work.sums, &low, &high);
    state->waiting = 0;
}

/* Let a few rows wait until there are enough to merge at once. Returns 0 where memory runs out. */
static int enqueue(State *state, const Delta *delta) {
    const size_t each = (delta->wide ? sizeof(double) : sizeof(float)) * (size_t)state->features;
    if (state->waiting_double != delta->wide || state->waiting + delta->few > QUEUE) settle_queue(state);
    if (state->queue == NULL || state->waiting_double != delta->wide) {
        char *fresh = realloc(state->queue, each * QUEUE);
        if (fresh == NULL) return 0;
        state->queue = fresh;
        state->waiting_double = delta->wide;
    }
    memcpy(state->queue + each * (size_t)state->waiting, delta->rows, each * (size_t)delta->few);
    state->waiting += delta->few;
    return 1;
}

/* Measure a tensor. NULL with an error set, or without one where the tensor cannot be read as it lies. */
static Delta *measured(const State *state, const Plan *plan, PyObject *tensor, int threads, long long small) {
    Job job = {0};
    if (read_tensor(state, plan, tensor, &job) <= 0) return NULL;
    const int64_t rows = job.outer * job.inner;
    if (rows > 0 && rows <= FEW && job.features > 0 && !job.by_outer) return take_few(&job);
    Delta *delta = delta_of(job.features, plan->kept, 0);
    if (delta == NULL || rows == 0 || job.features == 0) return delta;
    const int parts = threads < 1 || rows * job.features < small ? 1 : threads > MOST_PARTS ? MOST_PARTS : threads;
    /* Another thread may add to the state meanwhile: a pivot may be any number, but must not change. */
    const size_t size = sizeof(double) * (size_t)job.features;
    double *hint = state->columns.count[0] > 0 ? malloc(size) : NULL;
    if (hint != NULL) memcpy(hint, state->columns.mean, size);
    job.hint = hint;
    int done;
    Py_BEGIN_ALLOW_THREADS
    done = walk(&job, parts, &delta->found);
    Py_END_ALLOW_THREADS
    free(hint);
    if (done) return delta;
    Py_DECREF(delta);
    PyErr_NoMemory();
    return NULL;
}

/* measure(tensor, plan, threads, small) -> Delta, or None where the tensor cannot be read as it lies; below `small`
 * numbers on one thread */
static PyObject *state_measure(PyObject *object, PyObject *args) {
    PyObject *tensor, *plan;
    int threads;
    long long small;
    if (!PyArg_ParseTuple(args, "OOiL", &tensor, &plan, &threads, &small) || !checked(plan, plan_type, "Plan"))
        return NULL;
    Delta *delta = measured((const State *)object, (const Plan *)plan, tensor, threads, small);
    if (delta != NULL || PyErr_Occurred()) return (PyObject *)delta;
    Py_RETURN_NONE;
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

/* Add what a tensor held. 1 if that has a new smallest value, + 2 if a new largest; -1 with an error. */
static int added(State *state, const Delta *delta, const Plan *plan) {
    if (delta->features != state->features || delta->kept != plan->kept) {
        PyErr_SetString(PyExc_ValueError, "the delta is of another plan or width");
        return -1;
    }
    int64_t largest = -1;
    for (int64_t i = 0; i < plan->kept; i++) largest = plan->slots[i] > largest ? plan->slots[i] : largest;
    if ((largest >= 0 && !make_room((void **)&state->kept, &state->slots, largest, sizeof(Moments))) ||
        (delta->rows != NULL && !enqueue(state, delta))) {
        PyErr_NoMemory();
        return -1;
    }
    for (int64_t i = 0; i < plan->kept; i++) state->kept[plan->slots[i]] = delta->found.kept[i];
    if (delta->rows == NULL) merge_columns(&state->columns, &delta->found.columns, state->features);
    state->within_sum += delta->found.within_sum;
    state->within_count += delta->found.within_count;
    state->hidden += delta->found.hidden;
    const int low = delta->found.low.value < state->low, high = delta->found.high.value > state->high;
    if (low) state->low = delta->found.low.value;
    if (high) state->high = delta->found.high.value;
    return low + 2 * high;
}

/* add(delta, plan) -> who holds new extremes */
static PyObject *state_add(PyObject *object, PyObject *args) {
    PyObject *delta, *plan;
    if (!PyArg_ParseTuple(args, "OO", &delta, &plan) || !checked(delta, delta_type, "Delta") ||
        !checked(plan, plan_type, "Plan"))
        return NULL;
    return news((const Delta *)delta, added((State *)object, (const Delta *)delta, (const Plan *)plan));
}

static int widen_raw(State *state) {
    const int64_t numbers = state->raw_slots * state->features;
    double *larger = malloc(sizeof(double) * (size_t)numbers + 1);
    if (larger == NULL) return 0;
    for (int64_t i = 0; i < numbers; i++) larger[i] = ((const float *)(void *)state->raw)[i];
    free(state->raw);
    state->raw = (char *)larger;
    state->raw_double = 1;
    return 1;
}

/* Copy the plan's raw rows. 1: done; 0: the tensor cannot be read as it lies; -1: an error. */
static int kept_rows(State *state, PyObject *tensor, const Plan *plan) {
    Job job = {0};
    const int readable = read_tensor(state, plan, tensor, &job);
    if (readable <= 0) return readable;
    if (job.type == FLOAT64 && !state->raw_double && !widen_raw(state)) {
        PyErr_NoMemory();
        return -1;
    }
    const size_t number = state->raw_double ? sizeof(double) : sizeof(float), each = number * (size_t)state->features;
    for (int64_t i = 0; i < plan->raw_kept; i++) {
        if (!make_room((void **)&state->raw, &state->raw_slots, plan->raw_slots[i], each)) {
            PyErr_NoMemory();
            return -1;
        }
        const int64_t row = plan->raw_rows[i];
        const char *from = row_at(&job, row / job.inner, row % job.inner);
        char *to = state->raw + (size_t)plan->raw_slots[i] * each;
        for (int64_t c = 0; c < state->features; c++) {
            const double x = number_at(&job, from, c);
            if (state->raw_double) ((double *)(void *)to)[c] = x;
            else ((float *)(void *)to)[c] = (float)x;
        }
    }
    return 1;
}

/* keep(tensor, plan) -> whether the plan's raw rows could be copied from the tensor as it lies */
static PyObject *state_keep(PyObject *object, PyObject *args) {
    PyObject *tensor, *plan;
    if (!PyArg_ParseTuple(args, "OO", &tensor, &plan) || !checked(plan, plan_type, "Plan")) return NULL;
    const int done = kept_rows((State *)object, tensor, (const Plan *)plan);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

/* Whether an attribute, or a method without arguments, of a tensor is true; -1 with an error. */
static int is_true(PyObject *tensor, PyObject *name, int method) {
    PyObject *value = method ? PyObject_CallMethodObjArgs(tensor, name, NULL) : PyObject_GetAttr(tensor, name);
    if (value == NULL) return -1;
    const int truth = PyObject_IsTrue(value);
    Py_DECREF(value);
    return truth;
}

/* Whether the numbers of a tensor lie in memory as its shape and strides say; -1 with an error. */
static int plain(PyObject *tensor) {
    const PyTypeObject *type = Py_TYPE(tensor);
    int known = 0;
    for (Py_ssize_t i = 0; i < PyTuple_Size(plain_types); i++)
        known |= (const PyTypeObject *)PyTuple_GetItem(plain_types, i) == type;
    if (!known) return 0;
    const int here = is_true(tensor, name_is_cpu, 0);
    if (here <= 0) return here;
    const int nested = is_true(tensor, name_is_nested, 0);
    if (nested != 0) return nested < 0 ? -1 : 0;
    const int negated = is_true(tensor, name_is_neg, 1);
    return negated != 0 ? (negated < 0 ? -1 : 0) : 1;
}

/* The version of a tensor, which every write raises; -1: one made in inference mode has none; -2: an error. */
static long long version_of(PyObject *tensor) {
    const int timeless = is_true(tensor, name_is_inference, 1);
    if (timeless != 0) return timeless < 0 ? -2 : -1;
    PyObject *version = PyObject_GetAttr(tensor, name_version);
    if (version == NULL) return -2;
    const long long number = PyLong_AsLongLong(version);
    Py_DECREF(version);
    return number == -1 && PyErr_Occurred() ? -2 : number;
}

/* hear(tensor, plan, raw plan or None, memory, threads, small) -> what `add` gives; False: the tensor cannot be read
 * as it lies */
static PyObject *state_hear(PyObject *object, PyObject *args) {
    State *state = (State *)object;
    PyObject *tensor, *given, *raw, *memory;
    int threads;
    long long small;
    if (!PyArg_ParseTuple(args, "OOOOiL", &tensor, &given, &raw, &memory, &threads, &small) ||
        !checked(given, plan_type, "Plan") || !checked(memory, memory_type, "Memory") ||
        (raw != Py_None && !checked(raw, plan_type, "Plan")))
        return NULL;
    Plan *plan = (Plan *)given;
    const int readable = plain(tensor);
    const long long version = readable > 0 ? version_of(tensor) : -1;
    if (readable < 0 || version == -2) return NULL;
    if (readable == 0) Py_RETURN_FALSE;
    Delta *delta = version < 0 ? NULL : recall((Memory *)memory, tensor, version, plan);
    Py_XINCREF((PyObject *)delta);
    if (delta == NULL) {
        delta = measured(state, plan, tensor, threads, small);
        if (delta == NULL) return PyErr_Occurred() ? NULL : Py_NewRef(Py_False);
        if (version >= 0 && !remember((Memory *)memory, tensor, version, plan, delta)) goto fail;
    }
    if (raw != Py_None && kept_rows(state, tensor, (const Plan *)raw) <= 0) goto fail;
    PyObject *answer = news(delta, added(state, delta, plan));
    Py_DECREF(delta);
    return answer;
fail:
    Py_DECREF(delta);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_False);
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
    State *state = (State *)object;
    long long slots, raw;
    if (!PyArg_ParseTuple(args, "LL", &slots, &raw)) return NULL;
    if (slots < 0 || raw < 0 || slots > state->slots || raw > state->raw_slots) {
        PyErr_SetString(PyExc_IndexError, "so many slots are not filled");
        return NULL;
    }
    settle_queue(state);
    const Py_ssize_t number = state->raw_double ? sizeof(double) : sizeof(float);
    return Py_BuildValue("NNdddNn", bytes_of(state->memory, FIELDS * state->features), kept_bytes(state->kept, slots),
                         state->within_sum, state->within_count, state->hidden,
                         PyBytes_FromStringAndSize(state->raw, (Py_ssize_t)(raw * state->features) * number), number);
}

/* nbytes() -> how much memory the state takes, itself aside */
static PyObject *state_nbytes(PyObject *object, PyObject *none) {
    (void)none;
    const State *state = (const State *)object;
    const int64_t raw = state->raw_double ? sizeof(double) : sizeof(float);
    const int64_t queue = state->queue == NULL ? 0 : state->waiting_double ? sizeof(double) : sizeof(float);
    return PyLong_FromLongLong((long long)(FIELDS * state->features * (int64_t)sizeof(double) +
                                           state->slots * (int64_t)sizeof(Moments) +
                                           (state->raw_slots * raw + QUEUE * queue) * state->features));
}

/* --- the module -------------------------------------------------------------------------------------------- */

static PyMethodDef state_methods[] = {
    {"measure", state_measure, METH_VARARGS, "Measure a tensor."},
    {"add", state_add, METH_VARARGS, "Add what was measured."},
    {"hear", state_hear, METH_VARARGS, "Measure a tensor, unless it was just measured, and add what it held."},
    {"keep", state_keep, METH_VARARGS, "Copy the raw rows that a plan asks for."},
    {"nbytes", state_nbytes, METH_NOARGS, "How much memory it takes."},
    {"fields", state_fields, METH_VARARGS, "Everything met so far."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot plan_slots[] = {{Py_tp_new, (void *)plan_new}, {Py_tp_dealloc, (void *)plan_free}, {0, NULL}};
static PyType_Slot delta_slots[] = {{Py_tp_dealloc, (void *)delta_free}, {0, NULL}};
static PyType_Slot state_slots[] = {{Py_tp_new, (void *)state_new},
                                    {Py_tp_dealloc, (void *)state_free},
                                    {Py_tp_methods, state_methods},
                                    {0, NULL}};
static PyType_Slot memory_slots[] = {{Py_tp_new, (void *)memory_new}, {Py_tp_dealloc, (void *)memory_free}, {0, NULL}};
static PyType_Spec memory_spec = {"normprobe.kernels._cpu.Memory", sizeof(Memory), 0, Py_TPFLAGS_DEFAULT, memory_slots};
static PyType_Spec plan_spec = {"normprobe.kernels._cpu.Plan", sizeof(Plan), 0, Py_TPFLAGS_DEFAULT, plan_slots};
static PyType_Spec delta_spec = {"normprobe.kernels._cpu.Delta", sizeof(Delta), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, delta_slots};
static PyType_Spec state_spec = {"normprobe.kernels._cpu.State", sizeof(State), 0, Py_TPFLAGS_DEFAULT, state_slots};

static void set_tuple(PyObject **to, PyObject *given) {
    PyObject *known = *to;
    Py_INCREF(given);
    *to = given;
    Py_XDECREF(known);
}

/* learn((float32, float64, bfloat16, float16), plain tensor types): the dtypes in the order of the types here */
static PyObject *learn(PyObject *module, PyObject *args) {
    PyObject *types, *plain_ones;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!O!", &PyTuple_Type, &types, &PyTuple_Type, &plain_ones)) return NULL;
    if (PyTuple_Size(types) != 4) {
        PyErr_SetString(PyExc_TypeError, "four dtypes are needed");
        return NULL;
    }
    set_tuple(&dtypes, types);
    set_tuple(&plain_types, plain_ones);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"learn", learn, METH_VARARGS, "Say which dtypes the extension reads."},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_cpu", NULL, -1, functions, NULL, NULL, NULL, NULL};

static PyTypeObject *type_of(PyObject *module, PyType_Spec *spec, const char *name) {
    PyObject *type = PyType_FromSpec(spec);
    if (type == NULL || PyModule_AddObjectRef(module, name, type) < 0) return NULL;
    return (PyTypeObject *)type;
}

PyMODINIT_FUNC PyInit__cpu(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL) return NULL;
    plan_type = type_of(module, &plan_spec, "Plan");
    delta_type = type_of(module, &delta_spec, "Delta");
    state_type = type_of(module, &state_spec, "State");
    memory_type = type_of(module, &memory_spec, "Memory");
    const struct { PyObject **to; const char *name; } names[] = {
        {&name_shape, "shape"},         {&name_stride, "stride"},       {&name_dtype, "dtype"},
        {&name_data_ptr, "data_ptr"},   {&name_version, "_version"},    {&name_is_cpu, "is_cpu"},
        {&name_is_nested, "is_nested"}, {&name_is_neg, "is_neg"},       {&name_is_inference, "is_inference"}};
    int known = plan_type != NULL && delta_type != NULL && state_type != NULL && memory_type != NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        known &= (*names[i].to = PyUnicode_InternFromString(names[i].name)) != NULL;
    dtypes = PyTuple_New(0);
    plain_types = PyTuple_New(0);
    if (known && dtypes != NULL && plain_types != NULL) return module;
    Py_DECREF(module);
    return NULL;
}
