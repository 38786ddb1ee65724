/* BatchMoments: what one tensor holds. RecentMoments: those of a forward's last tensors, so that a tensor that several
 * layers read (queries, keys and values of attention) is measured once. */
#ifndef NORMPROBE_BATCH_MOMENTS_H
#define NORMPROBE_BATCH_MOMENTS_H

#include "numerics/choice.h"
#include "numerics/thread_parts.h"

enum { RECENT_TENSORS = 32 };

typedef struct {
    PyObject_HEAD
    int64_t features, kept;
    double prior_count; /* of the accumulator that measured it; see `recalled_or_measured` */
    double *storage;    /* the columns, then the kept samples */
    JobResult result;
} BatchMoments;

static void batch_moments_free(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    free(((BatchMoments *)object)->storage);
    PyObject_Free(object);
    Py_DECREF(type);
}

/* Those of no numbers yet; NULL with an error where memory runs out. */
static BatchMoments *batch_moments_of(int64_t features, int64_t kept) {
    BatchMoments *batch = (BatchMoments *)PyType_GenericAlloc(batch_moments_type, 0);
    if (batch == NULL) return NULL;
    const size_t columns = FIELDS * (size_t)features * sizeof(double);
    const size_t samples = (size_t)kept * sizeof(Moments);
    batch->storage = malloc(columns + samples + 1);
    if (batch->storage == NULL) {
        Py_DECREF(batch);
        PyErr_NoMemory();
        return NULL;
    }
    batch->features = features;
    batch->kept = kept;
    batch->result = (JobResult){.minimum = NO_MINIMUM, .maximum = NO_MAXIMUM};
    batch->result.kept = (Moments *)(void *)(batch->storage + columns / sizeof(double));
    batch->result.columns = columns_at(batch->storage, features);
    clear_columns(&batch->result.columns, features);
    for (int64_t i = 0; i < kept; i++) batch->result.kept[i] = EMPTY;
    return batch;
}

/* Who holds what is new in a tensor; `changed` tells which of them: bit 0, 1 and 2 in this order. */
typedef struct {
    Holder minimum, maximum;
    Holder nonfinite; /* the first NaN or Inf; sample -1: not looked for yet */
} NewHolders;

static PyObject *holder_object(int is_new, const Holder *held) {
    if (!is_new) return Py_NewRef(Py_None);
    return Py_BuildValue("dLL", held->value, (long long)held->sample, (long long)held->feature);
}

/* New extremes as Python takes them: (smallest, largest, first NaN or Inf), each (value, sample, feature), or None where
 * the old one stands; None for all together. `changed` negative: an error is set. */
static PyObject *extremes_object(int changed, const NewHolders *found) {
    if (changed < 0) return NULL;
    if (changed == 0) Py_RETURN_NONE;
    return Py_BuildValue("NNN", holder_object(changed & 1, &found->minimum), holder_object(changed & 2, &found->maximum),
                         holder_object(changed & 4, &found->nonfinite));
}

/* What a tensor holds. It may be trusted while the tensor lives, which the weak reference says (an address alone is
 * used again by the next tensor), while nobody wrote to it, which its version says, and for the same choice of rows. */
typedef struct {
    PyObject *tensor; /* a weak reference; NULL: an empty entry */
    long long version;
    CompiledChoice *choice;
    BatchMoments *batch;
    PyObject *state; /* the accumulator that measured it */
} RecentEntry;

typedef struct {
    PyObject_HEAD
    int next;
    RecentEntry entries[RECENT_TENSORS];
} RecentMoments;

static void clear_entry(RecentEntry *entry) {
    Py_CLEAR(entry->tensor);
    Py_CLEAR(entry->choice);
    Py_CLEAR(entry->batch);
    Py_CLEAR(entry->state);
}

static void recent_moments_free(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    for (int i = 0; i < RECENT_TENSORS; i++) clear_entry(&((RecentMoments *)object)->entries[i]);
    PyObject_Free(object);
    Py_DECREF(type);
}

static PyObject *recent_moments_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    return PyArg_ParseTuple(args, "") ? PyType_GenericAlloc(type, 0) : NULL;
}

/* The entry of a tensor, if it may be trusted, else NULL; empties those of tensors that died or were written to. */
static const RecentEntry *find_recent(RecentMoments *recent, PyObject *tensor, long long version,
                                      const CompiledChoice *choice) {
    const RecentEntry *known = NULL;
    for (int i = 0; i < RECENT_TENSORS; i++) {
        RecentEntry *entry = &recent->entries[i];
        if (entry->tensor == NULL) continue;
        PyObject *held = PyWeakref_GetObject(entry->tensor);
        if (held == Py_None || (held == tensor && entry->version != version)) clear_entry(entry);
        else if (held == tensor && entry->choice == choice) known = entry;
    }
    return known;
}

/* Put a tensor in the place of the oldest; 0 with an error. */
static int add_recent(RecentMoments *recent, PyObject *tensor, long long version, CompiledChoice *choice,
                      BatchMoments *batch, PyObject *state) {
    PyObject *weak = PyWeakref_NewRef(tensor, NULL);
    if (weak == NULL) return 0;
    RecentEntry *entry = &recent->entries[recent->next];
    recent->next = (recent->next + 1) % RECENT_TENSORS;
    clear_entry(entry);
    entry->tensor = weak;
    entry->version = version;
    entry->choice = (CompiledChoice *)Py_NewRef((PyObject *)choice);
    entry->batch = (BatchMoments *)Py_NewRef((PyObject *)batch);
    entry->state = Py_NewRef(state);
    return 1;
}

static PyType_Slot batch_moments_slots[] = {{Py_tp_dealloc, (void *)batch_moments_free}, {0, NULL}};
static PyType_Spec batch_moments_spec = {"normprobe.kernels._cpu.BatchMoments", sizeof(BatchMoments), 0,
                                         Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, batch_moments_slots};
static PyType_Slot recent_moments_slots[] = {
    {Py_tp_new, (void *)recent_moments_new}, {Py_tp_dealloc, (void *)recent_moments_free}, {0, NULL}};
static PyType_Spec recent_moments_spec = {"normprobe.kernels._cpu.RecentMoments", sizeof(RecentMoments), 0,
                                          Py_TPFLAGS_DEFAULT, recent_moments_slots};

#endif
