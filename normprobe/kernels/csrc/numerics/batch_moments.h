/* A Delta: what one tensor holds; a Memory: the tensors just measured, so that several readers share one look. */
#ifndef NORMPROBE_DELTA_H
#define NORMPROBE_DELTA_H

#include "numerics/choice.h"
#include "numerics/traverse.h"

enum { REMEMBERED = 32 };

typedef struct {
    PyObject_HEAD
    int64_t features, kept;
    double met; /* only states that met at least so many numbers of each feature may add it */
    double *memory;
    Found found;
} Delta;

static void delta_free(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    free(((Delta *)object)->memory);
    PyObject_Free(object);
    Py_DECREF(type);
}

static Delta *delta_of(int64_t features, int64_t kept) {
    Delta *delta = (Delta *)PyType_GenericAlloc(delta_type, 0);
    if (delta == NULL) return NULL;
    const size_t columns = FIELDS * (size_t)features * sizeof(double);
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
    delta->found.columns = columns_at(delta->memory, features);
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
    Plan *plan;
    Delta *delta;
    PyObject *state; /* which measured it */
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
    Py_CLEAR(entry->state);
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
static const Entry *recall(Memory *memory, PyObject *tensor, long long version, const Plan *plan) {
    const Entry *found = NULL;
    for (int i = 0; i < REMEMBERED; i++) {
        Entry *entry = &memory->entries[i];
        if (entry->tensor == NULL) continue;
        PyObject *held = PyWeakref_GetObject(entry->tensor);
        if (held == Py_None || (held == tensor && entry->version != version)) forget(entry);
        else if (held == tensor && entry->plan == plan) found = entry;
    }
    return found;
}

/* Remember a tensor in place of the one met longest ago. */
static int remember(Memory *memory, PyObject *tensor, long long version, Plan *plan, Delta *delta, PyObject *state) {
    PyObject *weak = PyWeakref_NewRef(tensor, NULL);
    if (weak == NULL) return 0;
    Entry *entry = &memory->entries[memory->next];
    memory->next = (memory->next + 1) % REMEMBERED;
    forget(entry);
    entry->tensor = weak;
    entry->version = version;
    entry->plan = (Plan *)Py_NewRef((PyObject *)plan);
    entry->delta = (Delta *)Py_NewRef((PyObject *)delta);
    entry->state = Py_NewRef(state);
    return 1;
}

static PyType_Slot delta_slots[] = {{Py_tp_dealloc, (void *)delta_free}, {0, NULL}};
static PyType_Spec delta_spec = {"normprobe.kernels._cpu.Delta", sizeof(Delta), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, delta_slots};
static PyType_Slot memory_slots[] = {{Py_tp_new, (void *)memory_new}, {Py_tp_dealloc, (void *)memory_free}, {0, NULL}};
static PyType_Spec memory_spec = {"normprobe.kernels._cpu.Memory", sizeof(Memory), 0, Py_TPFLAGS_DEFAULT, memory_slots};

#endif
