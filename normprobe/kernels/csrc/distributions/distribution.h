/* Distribution: central sums and counts in bins of one site, or of one tensor that is added to sites; twin of
 * kernels/distributions/torch_distribution.py.
 *
 * It stands beside an AccumulatorState and is only there where it is asked for. Who touches one holds the interpreter's
 * lock, but for `run_distribution`, which adds to one that nobody else has yet.
 */
#ifndef NORMPROBE_DISTRIBUTION_H
#define NORMPROBE_DISTRIBUTION_H

#include "distributions/traverse_distribution.h"
#include "numerics/accumulator.h"

typedef struct {
    PyObject_HEAD
    int64_t features, slots;
    AxisRoles roles;
    double *storage; /* of the columns; NULL without kurtosis */
    DistributionResult result;
} Distribution;

static PyTypeObject *distribution_type;

static void distribution_free(PyObject *object) {
    Distribution *held = (Distribution *)object;
    PyTypeObject *type = Py_TYPE(object);
    free(held->storage);
    free(held->result.kept);
    free(held->result.counts);
    PyObject_Free(object);
    Py_DECREF(type);
}

/* One of no numbers yet; NULL with an error where memory runs out. */
static Distribution *empty_distribution(const AxisRoles *roles, int64_t features, int kurtosis, int quantiles) {
    Distribution *made = (Distribution *)PyType_GenericAlloc(distribution_type, 0);
    if (made == NULL) return NULL;
    made->features = features;
    made->roles = *roles;
    made->result.kurtosis = kurtosis;
    const size_t size = CENTRAL_FIELDS * (size_t)features * sizeof(double);
    if (kurtosis) made->storage = calloc(1, size + 1);
    if (quantiles) made->result.counts = calloc(BINS, sizeof(int64_t));
    if ((kurtosis && made->storage == NULL) || (quantiles && made->result.counts == NULL)) {
        Py_DECREF(made);
        PyErr_NoMemory();
        return NULL;
    }
    if (kurtosis) made->result.columns = central_at(made->storage, features);
    return made;
}

/* Distribution(features, axis, trailing, unbatched, by_outer, kurtosis, quantiles) */
static PyObject *distribution_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)type;
    (void)kwargs;
    long long features;
    int kurtosis, quantiles;
    AxisRoles roles;
    if (!PyArg_ParseTuple(args, "Liiippp", &features, &roles.axis, &roles.trailing, &roles.unbatched, &roles.by_outer,
                          &kurtosis, &quantiles))
        return NULL;
    if (features < 0 || features > 1LL << 40 || roles.trailing < 1) {
        PyErr_SetString(PyExc_ValueError, "a distribution needs a number of features");
        return NULL;
    }
    return (PyObject *)empty_distribution(&roles, features, kurtosis, quantiles);
}

/* Make room for so many kept samples; 0 with an error where memory runs out. */
static int reserve_central(Distribution *held, int64_t slots) {
    if (!held->result.kurtosis || slots == 0 ||
        reserve_slot((void **)&held->result.kept, &held->slots, slots - 1, sizeof(Central)))
        return 1;
    PyErr_NoMemory();
    return 0;
}

/* measure(tensor, choice, threads, small) -> a Distribution of this tensor alone, its kept samples in the order of the
 * choice; None where the tensor cannot be read as it lies */
static PyObject *distribution_measure(PyObject *object, PyObject *args) {
    const Distribution *held = (const Distribution *)object;
    PyObject *tensor, *given;
    int threads;
    long long small;
    if (!PyArg_ParseTuple(args, "OOiL", &tensor, &given, &threads, &small) ||
        !checked(given, choice_type, "CompiledChoice"))
        return NULL;
    const CompiledChoice *choice = (const CompiledChoice *)given;
    TensorInfo info;
    Job job = {.joined = 1};
    int readable = read_tensor_info(tensor, &info);
    if (readable > 0) readable = describe_job(&held->roles, held->features, choice, &info, &job);
    if (readable < 0) return NULL;
    if (readable == 0) Py_RETURN_NONE;
    Distribution *found =
        empty_distribution(&held->roles, held->features, held->result.kurtosis, held->result.counts != NULL);
    if (found == NULL || !reserve_central(found, choice->kept)) {
        Py_XDECREF((PyObject *)found);
        return NULL;
    }
    const int64_t rows = job.outer * job.inner;
    const int parts = threads < 1 || rows * job.features < small ? 1 : threads > MAX_PARTS ? MAX_PARTS : threads;
    int done = 1;
    if (rows > 0 && job.features > 0) {
        Py_BEGIN_ALLOW_THREADS
        done = run_distribution(&job, parts, &found->result);
        Py_END_ALLOW_THREADS
    }
    if (done) return (PyObject *)found;
    Py_DECREF((PyObject *)found);
    return PyErr_NoMemory();
}

/* add(distribution of a tensor, choice): its kept samples go to the slots of the choice */
static PyObject *distribution_add(PyObject *object, PyObject *args) {
    Distribution *held = (Distribution *)object;
    PyObject *given, *chosen;
    if (!PyArg_ParseTuple(args, "OO", &given, &chosen) || !checked(given, distribution_type, "Distribution") ||
        !checked(chosen, choice_type, "CompiledChoice"))
        return NULL;
    const Distribution *found = (const Distribution *)given;
    const CompiledChoice *choice = (const CompiledChoice *)chosen;
    if (found->features != held->features || found->result.kurtosis != held->result.kurtosis ||
        (found->result.counts == NULL) != (held->result.counts == NULL) ||
        (held->result.kurtosis && found->slots < choice->kept)) {
        PyErr_SetString(PyExc_ValueError, "the distribution is of another choice or width, or has other parts");
        return NULL;
    }
    for (int64_t i = 0; held->result.kurtosis && i < choice->kept; i++) {
        if (!reserve_central(held, choice->slots[i] + 1)) return NULL;
        held->result.kept[choice->slots[i]] = found->result.kept[i];
    }
    if (held->result.kurtosis)
        merge_central_columns(&held->result.columns, &found->result.columns, held->features);
    for (int i = 0; held->result.counts != NULL && i < BINS; i++) held->result.counts[i] += found->result.counts[i];
    Py_RETURN_NONE;
}

/* fields(slots) -> columns, kept samples, counts; empty where they are not asked for */
static PyObject *distribution_fields(PyObject *object, PyObject *args) {
    const Distribution *held = (const Distribution *)object;
    long long slots;
    if (!PyArg_ParseTuple(args, "L", &slots)) return NULL;
    if (slots < 0 || (held->result.kurtosis && slots > held->slots)) {
        PyErr_SetString(PyExc_IndexError, "so many slots are not filled");
        return NULL;
    }
    const int64_t columns = held->result.kurtosis ? CENTRAL_FIELDS * held->features : 0;
    const int64_t kept = held->result.kurtosis ? slots : 0, counts = held->result.counts == NULL ? 0 : BINS;
    return Py_BuildValue(
        "NNN", bytes_of(held->storage, columns),
        PyBytes_FromStringAndSize((const char *)held->result.kept, (Py_ssize_t)(kept * (int64_t)sizeof(Central))),
        PyBytes_FromStringAndSize((const char *)held->result.counts, (Py_ssize_t)(counts * (int64_t)sizeof(int64_t))));
}

/* nbytes() -> how much memory it takes, the object itself aside */
static PyObject *distribution_nbytes(PyObject *object, PyObject *none) {
    (void)none;
    const Distribution *held = (const Distribution *)object;
    const int64_t columns = held->result.kurtosis ? CENTRAL_FIELDS * held->features * (int64_t)sizeof(double) : 0;
    const int64_t counts = held->result.counts == NULL ? 0 : BINS * (int64_t)sizeof(int64_t);
    return PyLong_FromLongLong((long long)(columns + held->slots * (int64_t)sizeof(Central) + counts));
}

static PyMethodDef distribution_methods[] = {
    {"measure", distribution_measure, METH_VARARGS, "The distribution of a tensor."},
    {"add", distribution_add, METH_VARARGS, "Add the distribution of a tensor."},
    {"fields", distribution_fields, METH_VARARGS, "Everything so far."},
    {"nbytes", distribution_nbytes, METH_NOARGS, "How much memory it takes."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot distribution_slots[] = {{Py_tp_new, (void *)distribution_new},
                                           {Py_tp_dealloc, (void *)distribution_free},
                                           {Py_tp_methods, distribution_methods},
                                           {0, NULL}};
static PyType_Spec distribution_spec = {"normprobe.kernels._cpu.Distribution", sizeof(Distribution), 0,
                                        Py_TPFLAGS_DEFAULT, distribution_slots};

#endif
