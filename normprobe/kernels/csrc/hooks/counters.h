/* What hooks look up at every call, as plain memory: an SiteCounters of each site, a ForwardState of each forward, and what sites
 * that are alike agreed on, which they find in a PlanSlot. */
#ifndef NORMPROBE_COUNTERS_H
#define NORMPROBE_COUNTERS_H

#include <stddef.h>
#include <structmember.h>

#include "numerics/accumulator.h"

#define FORWARD_STATE_HELD(X) X(owner) X(session) X(recent)
#define COUNTERS_HELD(X) X(samples) X(rows) X(dtype) X(state) X(plan_slot)
#define PLAN_SLOT_HELD(X) X(cached)
#define CACHED_PLAN_HELD(X) X(samples) X(rows) X(samples_after) X(rows_after) X(choice) X(raw_choice) X(placement) X(masked_by)

/* The two sites that every layer has; `normprobe.vocabulary` lists them and any further ones, with their numbers. */
enum { INPUT, OUTPUT, MOST_SITES = 64 };

/* A layer in a forward: whether a call of it is under way, and how many of its tensors were counted at each site. */
typedef struct {
    int open;
    unsigned int counts[]; /* as many as the forward has sites */
} LayerProgress;

/* Of a forward: the module it began with, what listens in it, and how it went with each layer. */
typedef struct {
    PyObject_HEAD
    FORWARD_STATE_HELD(FIELD)
    long long serial; /* no other forward's of this process */
    int threads, sites;
    char measured;
    long long open, room;      /* how many layers are under way; how many have a progress */
    char *progress_of_layers; /* a LayerProgress each, `progress_size` bytes apart */
} ForwardState;

/* Of a site: what it keeps, what it met, how much, and whether its layer's calls leave nothing to decide. */
typedef struct {
    PyObject_HEAD
    COUNTERS_HELD(FIELD)
    long long calls, n_samples, masked, firings;
    char decided;
} SiteCounters;

typedef struct {
    PyObject_HEAD
    PLAN_SLOT_HELD(FIELD)
    long long serial; /* of the forward that it was agreed in */
} PlanSlot;

/* What sites that are alike do with the first tensor of one shape in a forward; -1 stands for any size. */
typedef struct {
    PyObject_HEAD
    CACHED_PLAN_HELD(FIELD)
    int axes;
    int64_t shape[MOST_AXES];
    long long small, n_samples, masked; /* numbers below which one thread measures */
} CachedPlan;

COLLECTED(ForwardState, FORWARD_STATE_HELD, free(self->progress_of_layers);)
COLLECTED(SiteCounters, COUNTERS_HELD, )
COLLECTED(PlanSlot, PLAN_SLOT_HELD, )
COLLECTED(CachedPlan, CACHED_PLAN_HELD, )

static size_t progress_size(const ForwardState *forward_state) {
    return sizeof(LayerProgress) + sizeof(unsigned int) * (size_t)forward_state->sites;
}

/* How far a forward is with a layer; NULL where memory runs out. */
static LayerProgress *progress_of(ForwardState *forward_state, long long layer) {
    const size_t each = progress_size(forward_state);
    if (layer >= forward_state->room) {
        long long room = forward_state->room < 64 ? 64 : forward_state->room;
        while (room <= layer) room *= 2;
        char *larger = realloc(forward_state->progress_of_layers, each * (size_t)room);
        if (larger == NULL) return NULL;
        memset(larger + each * (size_t)forward_state->room, 0, each * (size_t)(room - forward_state->room));
        forward_state->progress_of_layers = larger;
        forward_state->room = room;
    }
    return (LayerProgress *)(void *)(forward_state->progress_of_layers + each * (size_t)layer);
}

/* Say whether a call of a layer is under way. */
static void set_open(ForwardState *forward_state, LayerProgress *progress, int open) {
    forward_state->open += open - progress->open;
    progress->open = open;
}

/* The course of the layer whose index is the first of the arguments; NULL with an error. */
static LayerProgress *progress_at(PyObject *forward_state, PyObject *index) {
    const long long layer = PyLong_AsLongLong(index);
    if (PyErr_Occurred()) return NULL;
    LayerProgress *progress = layer < 0 || layer > 1LL << 32 ? NULL : progress_of((ForwardState *)forward_state, layer);
    if (progress == NULL) PyErr_SetString(PyExc_IndexError, "so many layers cannot be followed");
    return progress;
}

/* enter(layer): a call of it is under way */
static PyObject *forward_state_enter(PyObject *object, PyObject *index) {
    LayerProgress *progress = progress_at(object, index);
    if (progress == NULL) return NULL;
    set_open((ForwardState *)object, progress, 1);
    Py_RETURN_NONE;
}

/* leave(layer): no call of it is */
static PyObject *forward_state_leave(PyObject *object, PyObject *index) {
    LayerProgress *progress = progress_at(object, index);
    if (progress == NULL) return NULL;
    set_open((ForwardState *)object, progress, 0);
    Py_RETURN_NONE;
}

/* is_open(layer) -> whether a call of it is under way */
static PyObject *forward_state_is_open(PyObject *object, PyObject *index) {
    const LayerProgress *progress = progress_at(object, index);
    return progress == NULL ? NULL : PyBool_FromLong(progress->open);
}

/* next_repeat(layer, site) -> how many tensors of the layer were counted at the site before this one */
static PyObject *forward_state_next_repeat(PyObject *object, PyObject *args) {
    PyObject *index;
    int site;
    if (!PyArg_ParseTuple(args, "Oi", &index, &site)) return NULL;
    if (site < 0 || site >= ((const ForwardState *)object)->sites) {
        PyErr_Format(PyExc_IndexError, "site %d is not one of the forward's %d", site, ((const ForwardState *)object)->sites);
        return NULL;
    }
    LayerProgress *progress = progress_at(object, index);
    return progress == NULL ? NULL : PyLong_FromUnsignedLong(progress->counts[site]++);
}

/* ForwardState(owner, measured, sites): everything else is None, empty or 1 thread. */
static PyObject *forward_state_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    PyObject *owner;
    int measured, sites;
    if (!PyArg_ParseTuple(args, "Opi", &owner, &measured, &sites)) return NULL;
    if (sites < 1 || sites > MOST_SITES) {
        PyErr_Format(PyExc_ValueError, "a forward needs from 1 to %d sites, got %d", MOST_SITES, sites);
        return NULL;
    }
    ForwardState *forward_state = (ForwardState *)PyType_GenericAlloc(type, 0);
    if (forward_state == NULL) return NULL;
    forward_state->owner = Py_NewRef(owner);
    static long long serials = 0;
    forward_state->serial = ++serials;
    forward_state->measured = (char)measured;
    forward_state->sites = sites;
    forward_state->threads = 1;
    return (PyObject *)forward_state;
}

/* SiteCounters(samples, rows): nothing met yet */
static PyObject *counters_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    PyObject *samples, *rows;
    if (!PyArg_ParseTuple(args, "OO", &samples, &rows)) return NULL;
    SiteCounters *counters = (SiteCounters *)PyType_GenericAlloc(type, 0);
    if (counters == NULL) return NULL;
    counters->samples = Py_NewRef(samples);
    counters->rows = Py_NewRef(rows);
    return (PyObject *)counters;
}

static PyObject *plan_slot_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    return PyArg_ParseTuple(args, "") ? PyType_GenericAlloc(type, 0) : NULL;
}

/* settle(agreed, pass): it holds in the forward of this pass, and no other */
static PyObject *plan_slot_store(PyObject *object, PyObject *args) {
    PyObject *cached, *forward_state;
    if (!PyArg_ParseTuple(args, "O!O!", cached_plan_type, &cached, forward_state_type, &forward_state)) return NULL;
    PlanSlot *plan_slot = (PlanSlot *)object;
    PyObject *before = plan_slot->cached;
    plan_slot->cached = Py_NewRef(cached);
    plan_slot->serial = ((const ForwardState *)forward_state)->serial;
    Py_XDECREF(before);
    Py_RETURN_NONE;
}

/* CachedPlan(*, shape, samples, rows, samples_after, rows_after, plan, raw_plan, small, placed, n_samples, masked,
 * masked_by) */
static PyObject *cached_plan_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *keywords[] = {"shape", "samples", "rows",      "samples_after", "rows_after", "choice", "raw_choice",
                               "small", "placement",  "n_samples", "masked",        "masked_by",  NULL};
    PyObject *shape, *samples, *rows, *samples_after, *rows_after, *choice, *raw, *placement, *masked_by;
    long long small, n_samples, masked;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$O!OOOOOOLOLLO", keywords, &PyTuple_Type, &shape, &samples, &rows,
                                     &samples_after, &rows_after, &choice, &raw, &small, &placement, &n_samples, &masked,
                                     &masked_by))
        return NULL;
    if (!checked(choice, choice_type, "CompiledChoice") ||
        (raw != Py_None && !checked(raw, choice_type, "CompiledChoice")))
        return NULL;
    CachedPlan *cached = (CachedPlan *)PyType_GenericAlloc(type, 0);
    if (cached == NULL) return NULL;
    cached->axes = read_sizes(shape, cached->shape);
    cached->samples = Py_NewRef(samples);
    cached->rows = Py_NewRef(rows);
    cached->samples_after = Py_NewRef(samples_after);
    cached->rows_after = Py_NewRef(rows_after);
    cached->choice = Py_NewRef(choice);
    cached->raw_choice = Py_NewRef(raw);
    cached->placement = Py_NewRef(placement);
    cached->masked_by = Py_NewRef(masked_by);
    cached->small = small;
    cached->n_samples = n_samples;
    cached->masked = masked;
    if (cached->axes >= 0) return (PyObject *)cached;
    Py_DECREF(cached);
    return NULL;
}

#define OBJECT_OF(Type, name) {#name, T_OBJECT, offsetof(Type, name), 0, NULL},
#define COUNT_OF(Type, name) {#name, T_LONGLONG, offsetof(Type, name), 0, NULL},
#define OF_FORWARD_STATE(name) OBJECT_OF(ForwardState, name)
#define OF_COUNTERS(name) OBJECT_OF(SiteCounters, name)
static PyMemberDef forward_state_members[] = {FORWARD_STATE_HELD(OF_FORWARD_STATE){"threads", T_INT, offsetof(ForwardState, threads), 0, NULL},
                                     {"measured", T_BOOL, offsetof(ForwardState, measured), 0, NULL},
                                     {NULL, 0, 0, 0, NULL}};
static PyMethodDef forward_state_methods[] = {{"enter", forward_state_enter, METH_O, "Note that a call of a layer is under way."},
                                     {"leave", forward_state_leave, METH_O, "Note that none is."},
                                     {"is_open", forward_state_is_open, METH_O, "Whether a call of a layer is under way."},
                                     {"next_repeat", forward_state_next_repeat, METH_VARARGS, "Count a tensor of a layer at a site; how many came before it."},
                                     {NULL, NULL, 0, NULL}};
static PyMemberDef counters_members[] = {COUNTERS_HELD(OF_COUNTERS) COUNT_OF(SiteCounters, calls) COUNT_OF(SiteCounters, n_samples)
                                            COUNT_OF(SiteCounters, masked) COUNT_OF(SiteCounters, firings){
                                                "decided", T_BOOL, offsetof(SiteCounters, decided), 0, NULL},
                                        {NULL, 0, 0, 0, NULL}};
static PyMethodDef plan_slot_methods[] = {{"store", plan_slot_store, METH_VARARGS, "Hold what was cached on in a forward."},
                                     {NULL, NULL, 0, NULL}};

static PyType_Slot forward_state_slots[] = {
    {Py_tp_new, (void *)forward_state_new}, {Py_tp_members, forward_state_members}, {Py_tp_methods, forward_state_methods}, COLLECTED_SLOTS(ForwardState),
    {0, NULL}};
static PyType_Slot counters_slots[] = {
    {Py_tp_new, (void *)counters_new}, {Py_tp_members, counters_members}, COLLECTED_SLOTS(SiteCounters), {0, NULL}};
static PyType_Slot plan_slot_slots[] = {
    {Py_tp_new, (void *)plan_slot_new}, {Py_tp_methods, plan_slot_methods}, COLLECTED_SLOTS(PlanSlot), {0, NULL}};
static PyType_Slot cached_plan_slots[] = {{Py_tp_new, (void *)cached_plan_new}, COLLECTED_SLOTS(CachedPlan), {0, NULL}};

enum { RECORD = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC };
static PyType_Spec forward_state_spec = {"normprobe.kernels._cpu.ForwardState", sizeof(ForwardState), 0, RECORD, forward_state_slots};
static PyType_Spec counters_spec = {"normprobe.kernels._cpu.SiteCounters", sizeof(SiteCounters), 0, RECORD, counters_slots};
static PyType_Spec plan_slot_spec = {"normprobe.kernels._cpu.PlanSlot", sizeof(PlanSlot), 0, RECORD, plan_slot_slots};
static PyType_Spec cached_plan_spec = {"normprobe.kernels._cpu.CachedPlan", sizeof(CachedPlan), 0, RECORD, cached_plan_slots};

#endif
