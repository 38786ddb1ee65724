/* The hooks of a layer and of a module that holds layers: the short way of a call of which everything is decided.
 *
 * Most calls are such calls, and of one decoded token they are all that a probe costs. An LayerHook looks whether a call is
 * as it was agreed, measures, and counts; a ContainerHook looks whether there is nothing to do. Whatever is otherwise goes the
 * long way, which is a callable of Python's with the same arguments.
 */
#ifndef NORMPROBE_FAST_HOOKS_H
#define NORMPROBE_FAST_HOOKS_H

#include "hooks/current_forward.h"

enum { MOST_HELD = 8, UNKNOWN = -1 };

#define LAYER_HOOK_HELD(X) X(current) X(lock) X(layer_state) X(site) X(counters) X(record_extremes) X(snapshot) X(long_way) X(masked_by)
#define CONTAINER_HOOK_HELD(X) X(current) X(model) X(long_way)

/* A tensor of a module's own as it was at the last snapshot. */
typedef struct {
    PyObject *tensor; /* not a reference: compared, never used */
    long long address, version;
} Stamp;

/* The hook of a layer at a site, of which it holds the account; `masked_by` is the mask that was noted last. */
typedef struct {
    PyObject_HEAD
    LAYER_HOOK_HELD(FIELD)
    long long layer;
    int number, scaled, modes, stamped; /* `number` is the site's */
    Stamp stamps[MOST_HELD];
} LayerHook;

typedef struct {
    PyObject_HEAD
    CONTAINER_HOOK_HELD(FIELD)
    int behind, entered;
} ContainerHook;

COLLECTED(LayerHook, LAYER_HOOK_HELD, )
COLLECTED(ContainerHook, CONTAINER_HOOK_HELD, )

static long long number_attribute(PyObject *object, PyObject *name) {
    PyObject *value = PyObject_GetAttr(object, name);
    const long long number = value == NULL ? -1 : PyLong_AsLongLong(value);
    Py_XDECREF(value);
    return number;
}

/* Hold another object in place of one. */
static void replace(PyObject **held, PyObject *other) {
    PyObject *before = *held;
    if (before == other) return;
    *held = Py_NewRef(other);
    Py_XDECREF(before);
}

static int truth_of_call(PyObject *function) {
    PyObject *value = PyObject_CallNoArgs(function);
    const int truth = value == NULL ? -1 : PyObject_IsTrue(value);
    Py_XDECREF(value);
    return truth;
}

/* Whether autograd runs backward in this thread: a forward there is a recomputation. */
static int in_backward(void) {
    PyObject *task = PyObject_CallNoArgs(graph_task);
    const long long number = task == NULL ? -1 : PyLong_AsLongLong(task);
    Py_XDECREF(task);
    return PyErr_Occurred() ? -1 : number != -1;
}

/* The pass of the forward that this thread is in, if it is in one; a new reference, or NULL. */
static ForwardState *forward_state_of(PyObject *current) {
    const ThreadEntry *entry = entry_here((const CurrentForward *)current);
    return entry == NULL ? NULL : (ForwardState *)Py_NewRef((PyObject *)entry->state);
}

/* What the site agreed on with those that are alike, if that was in this forward; a borrowed reference, or NULL. */
static const CachedPlan *cached_in(const SiteCounters *counters, const ForwardState *forward_state) {
    if (counters->plan_slot == NULL || Py_TYPE(counters->plan_slot) != plan_slot_type) return NULL;
    const PlanSlot *plan_slot = (const PlanSlot *)counters->plan_slot;
    return plan_slot->serial == forward_state->serial ? (const CachedPlan *)plan_slot->cached : NULL;
}

/* Whether a tensor is of the kind that was agreed on, met for the first time in this forward. */
static int is_as_agreed(const LayerHook *hook, const CachedPlan *cached, ForwardState *forward_state, const TensorInfo *seen) {
    const SiteCounters *counters = (const SiteCounters *)hook->counters;
    if (counters->samples != cached->samples || counters->rows != cached->rows || counters->dtype != seen->dtype) return 0;
    if (counters->state == NULL || Py_TYPE(counters->state) != state_type) return 0;
    if (forward_state->recent == NULL || Py_TYPE(forward_state->recent) != recent_moments_type || seen->count != cached->axes) return 0;
    for (int i = 0; i < seen->count; i++)
        if (cached->shape[i] >= 0 && cached->shape[i] != seen->shape[i]) return 0;
    if (hook->number >= forward_state->sites) return 0;
    const LayerProgress *progress = progress_of(forward_state, hook->layer);
    return progress != NULL && progress->counts[hook->number] == 0;
}

/* Count what was measured, and note who holds a new extreme; 0 with an error. */
static int count(LayerHook *hook, const CachedPlan *cached, ForwardState *forward_state, PyObject *news) {
    SiteCounters *counters = (SiteCounters *)hook->counters;
    progress_of(forward_state, hook->layer)->counts[hook->number] = 1;
    counters->calls++;
    counters->n_samples += cached->n_samples;
    counters->masked += cached->masked;
    replace(&counters->samples, cached->samples_after);
    replace(&counters->rows, cached->rows_after);
    int done = 1;
    if (news != Py_None) {
        PyObject *forward = current_forward_forward(hook->current, NULL);
        PyObject *held = PyObject_CallFunctionObjArgs(hook->record_extremes, hook->site, news, cached->placement, forward, NULL);
        done = held != NULL;
        Py_DECREF(forward);
        Py_XDECREF(held);
    }
    if (done && cached->masked_by != hook->masked_by && PyObject_IsTrue(cached->masked_by) == 1) {
        PyObject *masks = PyObject_GetAttr(hook->layer_state, names.masked_by);
        done = masks != NULL && PyDict_SetItem(masks, cached->masked_by, Py_None) == 0;
        if (done) replace(&hook->masked_by, cached->masked_by);
        Py_XDECREF(masks);
    }
    return done;
}

/* Note the modes that the layer runs in, if they are not those met last; 0 with an error. */
static int note_mode(LayerHook *hook, PyObject *module) {
    const int training = is_true(module, names.training, 0);
    const int grad = training < 0 ? -1 : truth_of_call(grad_enabled);
    const int inference = grad != 0 ? (grad < 0 ? -1 : 0) : truth_of_call(inference_enabled);
    if (inference < 0) return 0;
    const int modes = training + 2 * grad + 4 * inference;
    if (modes == hook->modes) return 1;
    PyObject *counts = PyObject_CallMethodObjArgs(hook->layer_state, names.note_mode, training ? Py_True : Py_False, NULL);
    if (counts == NULL) return 0;
    Py_DECREF(counts);
    hook->modes = modes;
    return 1;
}

/* Whether the tensors in a dictionary are those stamped from `*at` on, as they were then; stamps them anew. */
static int unchanged_in(LayerHook *hook, PyObject *held, int *at) {
    PyObject *name, *tensor;
    Py_ssize_t next = 0;
    int same = 1;
    while (PyDict_Next(held, &next, &name, &tensor)) {
        if (tensor == Py_None) continue;
        if (*at == MOST_HELD) return 0;
        PyObject *address = PyObject_CallMethodObjArgs(tensor, names.data_ptr, NULL);
        const Stamp stamp = {tensor, address == NULL ? 0 : PyLong_AsLongLong(address),
                             address == NULL ? -1 : number_attribute(tensor, names._version)};
        Py_XDECREF(address);
        if (PyErr_Occurred()) return -1;
        Stamp *known = &hook->stamps[(*at)++];
        same &= *at <= hook->stamped && known->tensor == stamp.tensor && known->address == stamp.address &&
                known->version == stamp.version;
        *known = stamp;
    }
    return same;
}

/* Let a norm whose tensors changed be looked at again; 0 with an error. */
static int info_again(LayerHook *hook, PyObject *module) {
    if (!hook->scaled) return 1;
    PyObject *parameters = PyObject_GetAttr(module, names._parameters);
    PyObject *buffers = parameters == NULL ? NULL : PyObject_GetAttr(module, names._buffers);
    int at = 0, same = buffers != NULL && PyDict_Check(parameters) && PyDict_Check(buffers);
    if (same) same = unchanged_in(hook, parameters, &at);
    if (same >= 0) same = unchanged_in(hook, buffers, &at) == 1 && same && at == hook->stamped;
    Py_XDECREF(parameters);
    Py_XDECREF(buffers);
    PyErr_Clear(); /* a tensor made in inference mode has no version, a fake one no data */
    hook->stamped = at;
    if (same == 1) return 1;
    PyObject *read = PyObject_CallFunctionObjArgs(hook->snapshot, hook->layer_state, module, NULL);
    Py_XDECREF(read);
    return read != NULL;
}

/* With the lock: 1 where the call was heard, 0 where it is not as agreed, -1 with an error after it was measured. */
static int listen(LayerHook *hook, ForwardState *forward_state, PyObject *module, PyObject *tensor) {
    const CachedPlan *cached = cached_in((const SiteCounters *)hook->counters, forward_state);
    TensorInfo seen;
    if (cached == NULL || read_info(tensor, &seen) <= 0) return 0;
    if (!is_as_agreed(hook, cached, forward_state, &seen)) return 0;
    Py_INCREF((PyObject *)cached); /* another thread may agree on something else meanwhile */
    SiteCounters *counters = (SiteCounters *)hook->counters;
    PyObject *state = Py_NewRef(counters->state), *recent = Py_NewRef(forward_state->recent);
    const CompiledChoice *raw = cached->raw_choice == Py_None ? NULL : (const CompiledChoice *)cached->raw_choice;
    Holder low, high;
    const int changed = observe((AccumulatorState *)state, tensor, &seen, (CompiledChoice *)cached->choice, raw, (RecentMoments *)recent, forward_state->threads,
                             cached->small, &low, &high);
    int done = 0;
    if (changed >= 0) {
        PyObject *found = news(changed, &low, &high);
        done = found != NULL && count(hook, cached, forward_state, found) ? 1 : -1;
        Py_XDECREF(found);
    }
    if (done == 1) set_open(forward_state, progress_of(forward_state, hook->layer), hook->number == INPUT);
    if (done == 1 && hook->number == OUTPUT) {
        counters->firings++;
        done = note_mode(hook, module) && info_again(hook, module) ? 1 : -1;
    }
    Py_DECREF(state);
    Py_DECREF(recent);
    Py_DECREF((PyObject *)cached);
    return done;
}

/* Whether nothing is left to decide at this layer's calls, and this one is part of a forward that another module
 * began and that was not cut short: no layer is under way. */
static int is_plain_call(const LayerHook *hook, const ForwardState *forward_state, const PyObject *module) {
    if (forward_state->owner == module) return 0;
    if (hook->number == INPUT && forward_state->open != 0) return 0;
    return ((const SiteCounters *)hook->counters)->decided;
}

/* 1: the call was heard; 0: it goes the long way; -1: an error. */
static int short_way(LayerHook *hook, ForwardState *forward_state, PyObject *module, PyObject *tensor) {
    if (!is_plain_call(hook, forward_state, module) || in_backward() != 0) return 0;
    SiteCounters *counters = (SiteCounters *)hook->counters;
    if (!forward_state->measured) { /* a call is only counted */
        counters->firings += hook->number == OUTPUT;
        return 1;
    }
    if (cached_in(counters, forward_state) == NULL) return 0;
    acquire((Lock *)hook->lock);
    const int observed = listen(hook, forward_state, module, tensor);
    release((Lock *)hook->lock);
    return observed;
}

/* The tensor that a call reads or writes: the first argument, or the output. */
static PyObject *tensor_of(const LayerHook *hook, PyObject *args) {
    const Py_ssize_t size = PyTuple_Size(args);
    if (hook->number != INPUT) return size > 3 ? PyTuple_GetItem(args, 3) : NULL;
    PyObject *given = size > 1 ? PyTuple_GetItem(args, 1) : NULL;
    return given != NULL && PyTuple_Check(given) && PyTuple_Size(given) > 0 ? PyTuple_GetItem(given, 0) : NULL;
}

/* ear(module, args, kwargs) ahead of a call; ear(module, args, kwargs, output) behind it */
static PyObject *layer_hook_call(PyObject *object, PyObject *args, PyObject *kwargs) {
    LayerHook *hook = (LayerHook *)object;
    PyObject *tensor = kwargs == NULL ? tensor_of(hook, args) : NULL;
    ForwardState *forward_state = tensor == NULL ? NULL : forward_state_of(hook->current);
    const int observed = forward_state == NULL ? 0 : short_way(hook, forward_state, PyTuple_GetItem(args, 0), tensor);
    Py_XDECREF((PyObject *)forward_state);
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)) return NULL;
        PyErr_Clear(); /* of a call not heard the long way finds out what it is, and says so */
    }
    return observed ? Py_NewRef(Py_None) : PyObject_Call(hook->long_way, args, kwargs);
}

/* LayerHook(long way, layer state, site state, number of the site, current forward, lock, record_extremes, snapshot) */
static PyObject *layer_hook_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    PyObject *long_way, *layer_state, *site, *current, *lock, *record_extremes, *snapshot;
    int number;
    if (!PyArg_ParseTuple(args, "OOOiO!O!OO", &long_way, &layer_state, &site, &number, current_forward_type, &current, lock_type, &lock,
                          &record_extremes, &snapshot))
        return NULL;
    if (number < 0 || number >= MOST_SITES) {
        PyErr_Format(PyExc_ValueError, "a site's number is from 0 to %d, got %d", MOST_SITES - 1, number);
        return NULL;
    }
    LayerHook *hook = (LayerHook *)PyType_GenericAlloc(type, 0);
    if (hook == NULL) return NULL;
    hook->long_way = Py_NewRef(long_way);
    hook->layer_state = Py_NewRef(layer_state);
    hook->site = Py_NewRef(site);
    hook->current = Py_NewRef(current);
    hook->lock = Py_NewRef(lock);
    hook->record_extremes = Py_NewRef(record_extremes);
    hook->snapshot = Py_NewRef(snapshot);
    hook->number = number;
    hook->modes = UNKNOWN;
    hook->scaled = is_true(layer_state, names.scaled, 0);
    hook->counters = PyObject_GetAttr(site, names.counters);
    hook->layer = number_attribute(layer_state, names.index);
    if (!PyErr_Occurred() && checked(hook->counters, counters_type, "SiteCounters")) return (PyObject *)hook;
    Py_DECREF(hook);
    return NULL;
}

/* Whether a call of a module that holds layers, in a forward that the model began, changes nothing. */
static int nothing_to_do(const ContainerHook *hook, const ForwardState *forward_state, const PyObject *module) {
    if (module == hook->model || forward_state->owner == module || (forward_state->session != NULL && forward_state->session != Py_None)) return 0;
    if (hook->behind) return 1;
    return hook->entered && forward_state->owner == hook->model && forward_state->open == 0;
}

/* gate(module, args, kwargs) ahead of a call; gate(module, args, kwargs, output) behind it */
static PyObject *container_hook_call(PyObject *object, PyObject *args, PyObject *kwargs) {
    ContainerHook *hook = (ContainerHook *)object;
    PyObject *module = PyTuple_Size(args) > 0 ? PyTuple_GetItem(args, 0) : NULL;
    ForwardState *forward_state = module == NULL ? NULL : forward_state_of(hook->current);
    const int nothing = forward_state != NULL && nothing_to_do(hook, forward_state, module);
    Py_XDECREF((PyObject *)forward_state);
    if (PyErr_Occurred()) return NULL;
    if (nothing) Py_RETURN_NONE;
    PyObject *answer = PyObject_Call(hook->long_way, args, kwargs);
    if (answer != NULL && !hook->behind && !hook->entered) hook->entered = in_backward() == 0;
    return answer;
}

/* ContainerHook(long way, model, behind, inside) */
static PyObject *container_hook_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    PyObject *long_way, *model, *current;
    int behind;
    if (!PyArg_ParseTuple(args, "OOpO!", &long_way, &model, &behind, current_forward_type, &current)) return NULL;
    ContainerHook *hook = (ContainerHook *)PyType_GenericAlloc(type, 0);
    if (hook == NULL) return NULL;
    hook->long_way = Py_NewRef(long_way);
    hook->model = Py_NewRef(model);
    hook->current = Py_NewRef(current);
    hook->behind = behind;
    return (PyObject *)hook;
}

static PyType_Slot layer_hook_slots[] = {
    {Py_tp_new, (void *)layer_hook_new}, {Py_tp_call, (void *)layer_hook_call}, COLLECTED_SLOTS(LayerHook), {0, NULL}};
static PyType_Slot container_hook_slots[] = {
    {Py_tp_new, (void *)container_hook_new}, {Py_tp_call, (void *)container_hook_call}, COLLECTED_SLOTS(ContainerHook), {0, NULL}};
static PyType_Spec layer_hook_spec = {"normprobe.kernels._cpu.LayerHook", sizeof(LayerHook), 0, RECORD, layer_hook_slots};
static PyType_Spec container_hook_spec = {"normprobe.kernels._cpu.ContainerHook", sizeof(ContainerHook), 0, RECORD, container_hook_slots};

#endif
