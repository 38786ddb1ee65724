/* CachedPlan and PlanSlot: what to do with a tensor, decided in Python, where hooks find it; twin of
 * capture/identity/plan_cache.py, which says when a plan may be reused.
 */
#ifndef NORMPROBE_PLAN_CACHE_H
#define NORMPROBE_PLAN_CACHE_H

#include "hooks/current_forward.h"

#define PLAN_SLOT_OBJECTS(X) X(plan)
#define CACHED_PLAN_OBJECTS(X)                                                                                         \
    X(samples) X(rows) X(samples_after) X(rows_after) X(choice) X(raw_choice) X(placement) X(masked_by) X(groups)

/* How the first tensor of a shape at sites of a kind is measured in one forward. Never changes once made.
 *
 * It holds for a site that keeps `samples` and `rows` before, and then keeps `samples_after` and `rows_after`. Where
 * samples are of groups, `groups` has a tuple (index, choice, samples, rows left out) for each group, and `choice` is of
 * the samples that are kept alone; else it is None. */
typedef struct {
    PyObject_HEAD
    CACHED_PLAN_OBJECTS(MEMBER)
    int axes;
    int64_t shape[MAX_AXES];            /* -1 stands for any size */
    long long small, n_samples, masked; /* fewer numbers than `small` are measured by one thread */
} CachedPlan;

/* Shared by all sites of a kind. The plan counts in the forward of this serial only: in the next one the samples have
 * other numbers, and a forward that stores nothing (of another shape) must not find what an earlier one left. */
typedef struct {
    PyObject_HEAD
    PLAN_SLOT_OBJECTS(MEMBER)
    long long serial;
} PlanSlot;

GC_TYPE(PlanSlot, PLAN_SLOT_OBJECTS, )
GC_TYPE(CachedPlan, CACHED_PLAN_OBJECTS, )

static PyObject *plan_slot_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    return PyArg_ParseTuple(args, "") ? PyType_GenericAlloc(type, 0) : NULL;
}

/* store(plan, forward state): the plan holds in this forward, and in no other */
static PyObject *plan_slot_store(PyObject *object, PyObject *args) {
    PyObject *plan, *forward;
    if (!PyArg_ParseTuple(args, "O!O!", cached_plan_type, &plan, forward_state_type, &forward)) return NULL;
    PlanSlot *slot = (PlanSlot *)object;
    slot->serial = ((const ForwardState *)forward)->serial;
    replace(&slot->plan, plan);
    Py_RETURN_NONE;
}

/* Whether an object says how groups are measured: None, or a tuple for each; 0 with an error. */
static int are_groups(PyObject *groups) {
    int fit = groups == Py_None || PyTuple_Check(groups);
    for (Py_ssize_t i = 0; fit && groups != Py_None && i < PyTuple_Size(groups); i++) {
        PyObject *group = PyTuple_GetItem(groups, i);
        fit = PyTuple_Check(group) && PyTuple_Size(group) == 4 && Py_TYPE(PyTuple_GetItem(group, 1)) == choice_type;
    }
    if (!fit) PyErr_SetString(PyExc_TypeError, "groups are tuples (index, CompiledChoice, samples, rows left out)");
    return fit;
}

/* CachedPlan(*, shape, samples, rows, samples_after, rows_after, choice, raw_choice, small, placement, n_samples,
 * masked, masked_by, groups) */
static PyObject *cached_plan_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *keywords[] = {"shape", "samples",   "rows",      "samples_after", "rows_after", "choice", "raw_choice",
                               "small", "placement", "n_samples", "masked",        "masked_by",  "groups", NULL};
    PyObject *shape, *samples, *rows, *samples_after, *rows_after, *choice, *raw, *placement, *masked_by, *groups;
    long long small, n_samples, masked;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$O!OOOOOOLOLLOO", keywords, &PyTuple_Type, &shape, &samples, &rows,
                                     &samples_after, &rows_after, &choice, &raw, &small, &placement, &n_samples,
                                     &masked, &masked_by, &groups))
        return NULL;
    if (!checked(choice, choice_type, "CompiledChoice") ||
        (raw != Py_None && !checked(raw, choice_type, "CompiledChoice")) || !are_groups(groups))
        return NULL;
    CachedPlan *plan = (CachedPlan *)PyType_GenericAlloc(type, 0);
    if (plan == NULL) return NULL;
    plan->axes = read_sizes(shape, plan->shape);
    plan->samples = Py_NewRef(samples);
    plan->rows = Py_NewRef(rows);
    plan->samples_after = Py_NewRef(samples_after);
    plan->rows_after = Py_NewRef(rows_after);
    plan->choice = Py_NewRef(choice);
    plan->raw_choice = Py_NewRef(raw);
    plan->placement = Py_NewRef(placement);
    plan->masked_by = Py_NewRef(masked_by);
    plan->groups = Py_NewRef(groups);
    plan->small = small;
    plan->n_samples = n_samples;
    plan->masked = masked;
    if (plan->axes >= 0) return (PyObject *)plan;
    Py_DECREF(plan);
    return NULL;
}

/* choice(forward state) -> which rows of a tensor count and are kept, as the plan of this forward says; None without one */
static PyObject *plan_slot_choice(PyObject *object, PyObject *forward) {
    const PlanSlot *slot = (const PlanSlot *)object;
    if (!checked(forward, forward_state_type, "ForwardState")) return NULL;
    if (slot->plan == NULL || slot->serial != ((const ForwardState *)forward)->serial) Py_RETURN_NONE;
    return Py_NewRef(((const CachedPlan *)slot->plan)->choice);
}

static PyMethodDef plan_slot_methods[] = {
    {"choice", plan_slot_choice, METH_O, "The choice that holds in a forward."},
    {"store", plan_slot_store, METH_VARARGS, "Let a plan hold in a forward."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot plan_slot_slots[] = {
    {Py_tp_new, (void *)plan_slot_new},
    {Py_tp_methods, plan_slot_methods},
    GC_SLOTS(PlanSlot),
    {0, NULL},
};
static PyType_Slot cached_plan_slots[] = {
    {Py_tp_new, (void *)cached_plan_new},
    GC_SLOTS(CachedPlan),
    {0, NULL},
};
static PyType_Spec plan_slot_spec = {"normprobe.kernels._cpu.PlanSlot", sizeof(PlanSlot), 0, GC_FLAGS, plan_slot_slots};
static PyType_Spec cached_plan_spec = {"normprobe.kernels._cpu.CachedPlan", sizeof(CachedPlan), 0, GC_FLAGS,
                                       cached_plan_slots};

#endif
