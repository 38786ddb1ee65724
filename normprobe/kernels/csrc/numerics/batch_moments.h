/* A BatchMoments: what one tensor holds; a RecentMoments: the tensors just measured, so that several readers share one look. */
#ifndef NORMPROBE_BATCH_MOMENTS_H
#define NORMPROBE_BATCH_MOMENTS_H

#include "numerics/choice.h"
#include "numerics/traverse.h"

enum { REMEMBERED = 32 };

typedef struct {
    PyObject_HEAD
    int64_t features, kept;
    double met; /* only states that met at least so many numbers of each feature may add it */
    double *recent;
    Found found;
} BatchMoments;

static void batch_moments_free(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    free(((BatchMoments *)object)->recent);
    PyObject_Free(object);
    Py_DECREF(type);
}

static BatchMoments *batch_moments_of(int64_t features, int64_t kept) {
    BatchMoments *delta = (BatchMoments *)PyType_GenericAlloc(batch_moments_type, 0);
    if (delta == NULL) return NULL;
    const size_t columns = FIELDS * (size_t)features * sizeof(double);
    const size_t samples = (size_t)kept * sizeof(Moments);
    delta->recent = malloc(columns + samples + 1);
    if (delta->recent == NULL) {
        Py_DECREF(delta);
        PyErr_NoMemory();
        return NULL;
    }
    delta->features = features;
    delta->kept = kept;
    const Found nothing = {.low = NO_LOW, .high = NO_HIGH};
    delta->found = nothing;
    delta->found.kept = (Moments *)(void *)(delta->recent + columns / sizeof(double));
    delta->found.columns = columns_at(delta->recent, features);
    clear(&delta->found.columns, features);
    for (int64_t i = 0; i < kept; i++) delta->found.kept[i] = EMPTY;
    return delta;
}

static PyObject *holder_of(const Holder *held) {
    return Py_BuildValue("dLL", held->value, (long long)held->sample, (long long)held->feature);
}

/* Who holds new extremes: (smallest, largest), each (value, sample, feature) or None where the old one stands; None
 * for both together. Bit 0 of `changed`: the smallest is new, bit 1: the largest; negative: an error is set. */
static PyObject *news(int changed, const Holder *low, const Holder *high) {
    if (changed < 0) return NULL;
    if (changed == 0) Py_RETURN_NONE;
    return Py_BuildValue("NN", changed & 1 ? holder_of(low) : Py_NewRef(Py_None),
                         changed & 2 ? holder_of(high) : Py_NewRef(Py_None));
}

/* --- what was just measured ------------------------------------------------------------------------------------- */

/* What a tensor held, for other layers that read it: as long as it lives and is not written to. */
typedef struct {
    PyObject *tensor; /* a weak reference; NULL: an empty entry */
    long long version;
    CompiledChoice *choice;
    BatchMoments *delta;
    PyObject *state; /* which measured it */
} Entry;

typedef struct {
    PyObject_HEAD
    int next;
    Entry entries[REMEMBERED];
} RecentMoments;

static void forget(Entry *entry) {
    Py_CLEAR(entry->tensor);
    Py_CLEAR(entry->choice);
    Py_CLEAR(entry->delta);
    Py_CLEAR(entry->state);
}

static void recent_moments_free(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    for (int i = 0; i < REMEMBERED; i++) forget(&((RecentMoments *)object)->entries[i]);
    PyObject_Free(object);
    Py_DECREF(type);
}

static PyObject *recent_moments_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    return PyArg_ParseTuple(args, "") ? PyType_GenericAlloc(type, 0) : NULL;
}

/* What the tensor held, if that is still so; frees what is known of tensors that died. A borrowed reference. */
static const Entry *recall(RecentMoments *recent, PyObject *tensor, long long version, const CompiledChoice *choice) {
    const Entry *found = NULL;
    for (int i = 0; i < REMEMBERED; i++) {
        Entry *entry = &recent->entries[i];
        if (entry->tensor == NULL) continue;
        PyObject *held = PyWeakref_GetObject(entry->tensor);
        if (held == Py_None || (held == tensor && entry->version != version)) forget(entry);
        else if (held == tensor && entry->choice == choice) found = entry;
    }
    return found;
}

/* Remember a tensor in place of the one met longest ago. */
static int remember(RecentMoments *recent, PyObject *tensor, long long version, CompiledChoice *choice, BatchMoments *delta, PyObject *state) {
    PyObject *weak = PyWeakref_NewRef(tensor, NULL);
    if (weak == NULL) return 0;
    Entry *entry = &recent->entries[recent->next];
    recent->next = (recent->next + 1) % REMEMBERED;
    forget(entry);
    entry->tensor = weak;
    entry->version = version;
    entry->choice = (CompiledChoice *)Py_NewRef((PyObject *)choice);
    entry->delta = (BatchMoments *)Py_NewRef((PyObject *)delta);
    entry->state = Py_NewRef(state);
    return 1;
}

static PyType_Slot batch_moments_slots[] = {{Py_tp_dealloc, (void *)batch_moments_free}, {0, NULL}};
static PyType_Spec batch_moments_spec = {"normprobe.kernels._cpu.BatchMoments", sizeof(BatchMoments), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, batch_moments_slots};
static PyType_Slot recent_moments_slots[] = {{Py_tp_new, (void *)recent_moments_new}, {Py_tp_dealloc, (void *)recent_moments_free}, {0, NULL}};
static PyType_Spec recent_moments_spec = {"normprobe.kernels._cpu.RecentMoments", sizeof(RecentMoments), 0, Py_TPFLAGS_DEFAULT, recent_moments_slots};

#endif
