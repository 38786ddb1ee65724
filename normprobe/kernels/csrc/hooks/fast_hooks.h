/* LayerHook and ContainerHook: the hooks of a layer at a site, and of a module that holds layers; twin of
 * capture/fast_hooks.py.
 *
 * Most calls of a layer are like those before, with everything about them decided; of one decoded token they are all
 * that a probe costs. A LayerHook compares such a call with the cached plan of its site, measures, and counts; a
 * ContainerHook sees whether there is nothing to do. Any other call goes to a Python callback with the same arguments.
 */
#ifndef NORMPROBE_FAST_HOOKS_H
#define NORMPROBE_FAST_HOOKS_H

#include "hooks/groups.h"

enum { MAX_TENSORS = 8, MAX_ARGUMENTS = 32, MODES_UNKNOWN = -1 };

#define LAYER_HOOK_OBJECTS(X)                                                                                          \
    X(current) X(lock) X(layer_state) X(site_state) X(counters) X(record_extremes) X(snapshot) X(callback)             \
    X(masked_by) X(traced)
#define CONTAINER_HOOK_OBJECTS(X) X(current) X(model) X(callback)

/* A parameter or buffer of a module as it was at the last snapshot. */
typedef struct {
    PyObject *tensor; /* not a reference: compared, never used */
    long long address, version;
} Stamp;

/* The hook of a layer at the site of this number. That of INPUT runs ahead of a call and reads its first argument,
 * those of all others behind it and read its output; the call is over with that of OUTPUT, which counts it.
 *
 * `masked_by` and `modes` are what was noted last, so that the layer state is asked only when they change. `traced` is
 * what Python shows to torch's compiler in its place. */
typedef struct {
    PyObject_HEAD
    LAYER_HOOK_OBJECTS(MEMBER)
    long long layer;
    int site, scaled, modes, stamped;
    Stamp stamps[MAX_TENSORS];
} LayerHook;

/* `entered`: whether the callback has run ahead of a call once, which decides what Python decides for a module. */
typedef struct {
    PyObject_HEAD
    CONTAINER_HOOK_OBJECTS(MEMBER)
    int after, entered;
} ContainerHook;

GC_TYPE(LayerHook, LAYER_HOOK_OBJECTS, )
GC_TYPE(ContainerHook, CONTAINER_HOOK_OBJECTS, )

static int truth_of_call(PyObject *function) {
    PyObject *value = PyObject_CallNoArgs(function);
    const int truth = value == NULL ? -1 : PyObject_IsTrue(value);
    Py_XDECREF(value);
    return truth;
}

/* Whether autograd runs backward in this thread: a forward there is a recomputation. -1 with an error. */
static int in_backward(void) {
    PyObject *task = PyObject_CallNoArgs(graph_task);
    const long long number = task == NULL ? -1 : PyLong_AsLongLong(task);
    Py_XDECREF(task);
    return PyErr_Occurred() ? -1 : number != -1;
}

/* The state of the forward that this thread is in, a new reference; NULL if it is in none. */
static ForwardState *forward_of_thread(PyObject *current) {
    const ThreadEntry *entry = entry_of_thread((const CurrentForward *)current);
    return entry == NULL ? NULL : (ForwardState *)Py_NewRef((PyObject *)entry->state);
}

/* The plan of a site that was stored for this forward, a borrowed reference; NULL if none was. */
static const CachedPlan *plan_for(const SiteCounters *counters, const ForwardState *forward) {
    if (counters->plan_slot == NULL || Py_TYPE(counters->plan_slot) != plan_slot_type) return NULL;
    const PlanSlot *slot = (const PlanSlot *)counters->plan_slot;
    return slot->serial == forward->serial ? (const CachedPlan *)slot->plan : NULL;
}

/* Whether a plan says what to do with a tensor: the site keeps what the plan begins with, its dtype and shape are those
 * planned for, and it is the layer's first at this site in this forward. */
static int matches_plan(const LayerHook *hook, const CachedPlan *plan, ForwardState *forward, const TensorInfo *info) {
    const SiteCounters *counters = (const SiteCounters *)hook->counters;
    if (counters->samples != plan->samples || counters->rows != plan->rows || counters->dtype != info->dtype) return 0;
    if (counters->state == NULL || Py_TYPE(counters->state) != accumulator_type) return 0;
    if (forward->recent == NULL || Py_TYPE(forward->recent) != recent_moments_type) return 0;
    if (info->count != plan->axes || hook->site >= forward->sites || !holds_groups(counters, plan)) return 0;
    for (int i = 0; i < info->count; i++)
        if (plan->shape[i] >= 0 && plan->shape[i] != info->shape[i]) return 0;
    const LayerProgress *progress = progress_of(forward, hook->layer);
    return progress != NULL && progress->counts[hook->site] == 0;
}

/* Let Python record who holds new extremes; 0 with an error. */
static int record_extremes(const LayerHook *hook, const CachedPlan *plan, PyObject *extremes) {
    if (extremes == Py_None) return 1;
    PyObject *forward = current_forward_forward(hook->current, NULL);
    PyObject *recorded =
        PyObject_CallFunctionObjArgs(hook->record_extremes, hook->site_state, extremes, plan->placement, forward, NULL);
    Py_DECREF(forward);
    Py_XDECREF(recorded);
    return recorded != NULL;
}

/* Note which padding mask was applied, if it is not the one of last time; 0 with an error. */
static int note_mask(LayerHook *hook, const CachedPlan *plan) {
    if (plan->masked_by == hook->masked_by || PyObject_IsTrue(plan->masked_by) != 1) return 1;
    PyObject *masks = PyObject_GetAttr(hook->layer_state, interned.masked_by);
    const int noted = masks != NULL && PyDict_SetItem(masks, plan->masked_by, Py_None) == 0;
    if (noted) replace(&hook->masked_by, plan->masked_by);
    Py_XDECREF(masks);
    return noted;
}

/* Count a measured tensor; 0 with an error. */
static int count_tensor(LayerHook *hook, const CachedPlan *plan, ForwardState *forward, PyObject *extremes) {
    SiteCounters *counters = (SiteCounters *)hook->counters;
    progress_of(forward, hook->layer)->counts[hook->site] = 1;
    counters->calls++;
    counters->n_samples += plan->n_samples;
    counters->masked += plan->masked;
    replace(&counters->samples, plan->samples_after);
    replace(&counters->rows, plan->rows_after);
    return record_extremes(hook, plan, extremes) && note_mask(hook, plan);
}

/* Note the modes that the layer runs in, if they are not those of last time; 0 with an error. */
static int note_modes(LayerHook *hook, PyObject *module) {
    const int training = is_true(module, interned.training, 0);
    const int grad = training < 0 ? -1 : truth_of_call(grad_enabled);
    const int inference = grad != 0 ? (grad < 0 ? -1 : 0) : truth_of_call(inference_enabled);
    if (inference < 0) return 0;
    const int modes = training + 2 * grad + 4 * inference;
    if (modes == hook->modes) return 1;
    PyObject *noted =
        PyObject_CallMethodObjArgs(hook->layer_state, interned.note_mode, training ? Py_True : Py_False, NULL);
    if (noted == NULL) return 0;
    Py_DECREF(noted);
    hook->modes = modes;
    return 1;
}

/* Whether the tensors in a dictionary are those stamped from `*at` on, as they were then; stamps them anew. -1 with an
 * error. */
static int stamps_match(LayerHook *hook, PyObject *tensors, int *at) {
    PyObject *name, *tensor;
    Py_ssize_t next = 0;
    int same = 1;
    while (PyDict_Next(tensors, &next, &name, &tensor)) {
        if (tensor == Py_None) continue;
        if (*at == MAX_TENSORS) return 0;
        PyObject *address = PyObject_CallMethodObjArgs(tensor, interned.data_ptr, NULL);
        const Stamp stamp = {tensor, address == NULL ? 0 : PyLong_AsLongLong(address),
                             address == NULL ? -1 : number_attribute(tensor, interned._version)};
        Py_XDECREF(address);
        if (PyErr_Occurred()) return -1;
        Stamp *known = &hook->stamps[(*at)++];
        same &= *at <= hook->stamped && known->tensor == stamp.tensor && known->address == stamp.address &&
                known->version == stamp.version;
        *known = stamp;
    }
    return same;
}

/* Take a snapshot of a norm's scale, shift and running statistics if one of its tensors was replaced or written to; 0
 * with an error. */
static int refresh_snapshot(LayerHook *hook, PyObject *module) {
    if (!hook->scaled) return 1;
    PyObject *parameters = PyObject_GetAttr(module, interned._parameters);
    PyObject *buffers = parameters == NULL ? NULL : PyObject_GetAttr(module, interned._buffers);
    int at = 0, same = buffers != NULL && PyDict_Check(parameters) && PyDict_Check(buffers);
    if (same) same = stamps_match(hook, parameters, &at);
    if (same >= 0) same = stamps_match(hook, buffers, &at) == 1 && same && at == hook->stamped;
    Py_XDECREF(parameters);
    Py_XDECREF(buffers);
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)) return 0; /* an interrupt of a `data_ptr` in Python */
        PyErr_Clear(); /* a tensor made in inference mode has no version, a fake one no data */
    }
    hook->stamped = at;
    if (same == 1) return 1;
    PyObject *taken = PyObject_CallFunctionObjArgs(hook->snapshot, hook->layer_state, module, NULL);
    Py_XDECREF(taken);
    return taken != NULL;
}

/* Measure a tensor whose samples are of groups: in what the site holds itself of those that are kept alone. Returns 0
 * for None as new extremes, or what `observe` does with an error. */
static int observe_by_groups(LayerHook *hook, const CachedPlan *plan, ForwardState *forward, PyObject *tensor,
                             const TensorInfo *info) {
    SiteCounters *counters = (SiteCounters *)hook->counters;
    CompiledChoice *choice = (CompiledChoice *)plan->choice;
    RecentMoments *recent = (RecentMoments *)forward->recent;
    const CompiledChoice *raw = plan->raw_choice == Py_None ? NULL : (const CompiledChoice *)plan->raw_choice;
    NewHolders found;
    int changed = 0;
    if (choice->kept > 0 || raw != NULL)
        changed = observe((AccumulatorState *)counters->state, tensor, info, choice, raw, recent, 1, plan->small, &found);
    if (changed < 0) return changed;
    PyObject *now = current_forward_forward(hook->current, NULL);
    const int done = observe_groups(counters, plan, tensor, info, recent, forward->threads, hook->record_extremes, now);
    Py_DECREF(now);
    return done > 0 ? 0 : done == 0 ? UNREADABLE : -1;
}

/* Measure a tensor by the cached plan, under the Lock. 1: measured; 0: no plan fits it; -1: an error after it was
 * measured. */
static int measure_by_plan(LayerHook *hook, ForwardState *forward, PyObject *module, PyObject *tensor) {
    const CachedPlan *plan = plan_for((const SiteCounters *)hook->counters, forward);
    TensorInfo info;
    if (plan == NULL || read_tensor_info(tensor, &info) <= 0 || !matches_plan(hook, plan, forward, &info)) return 0;
    /* References of its own: without the interpreter's lock, another thread's forward may store another plan. */
    Py_INCREF((PyObject *)plan);
    SiteCounters *counters = (SiteCounters *)hook->counters;
    PyObject *state = Py_NewRef(counters->state), *recent = Py_NewRef(forward->recent);
    const CompiledChoice *raw = plan->raw_choice == Py_None ? NULL : (const CompiledChoice *)plan->raw_choice;
    NewHolders found;
    const int changed = plan->groups != Py_None
                            ? observe_by_groups(hook, plan, forward, tensor, &info)
                            : observe((AccumulatorState *)state, tensor, &info, (CompiledChoice *)plan->choice, raw,
                                      (RecentMoments *)recent, forward->threads, plan->small, &found);
    int done = 0;
    if (changed >= 0) {
        PyObject *extremes = extremes_object(changed, &found);
        done = extremes != NULL && count_tensor(hook, plan, forward, extremes) ? 1 : -1;
        Py_XDECREF(extremes);
    }
    if (done == 1) set_open(forward, progress_of(forward, hook->layer), hook->site == INPUT);
    if (done == 1 && hook->site == OUTPUT) {
        counters->firings++;
        done = note_modes(hook, module) && refresh_snapshot(hook, module) ? 1 : -1;
    }
    Py_DECREF(state);
    Py_DECREF(recent);
    Py_DECREF((PyObject *)plan);
    return done;
}

/* Whether nothing is left to decide at this layer's calls, and this one is part of a forward that another module began
 * and that was not cut short: no layer is under way. */
static int is_plain_call(const LayerHook *hook, const ForwardState *forward, const PyObject *module) {
    if (forward->owner == module) return 0;
    if (hook->site == INPUT && forward->open != 0) return 0;
    return ((const SiteCounters *)hook->counters)->decided;
}

/* Whether the arguments of a call, args[1] and args[2], are tensors where those of a decided one are: with other
 * tensors or words a norm may compute otherwise. Twin of `call_tensors.bits_of`. */
static int has_form(const LayerHook *hook, PyObject *args) {
    const long long form = ((const SiteCounters *)hook->counters)->form;
    if (form == 0) return 1;
    PyObject *given = PyTuple_GetItem(args, 1), *named = PyTuple_GetItem(args, 2);
    if (given == NULL || named == NULL || !PyTuple_Check(given) || !PyDict_Check(named)) return 0;
    const Py_ssize_t count = PyTuple_Size(given);
    if (PyDict_Size(named) != 0 || count > MAX_ARGUMENTS) return 0;
    long long bits = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *argument = PyTuple_GetItem(given, i);
        const int tensor = argument != Py_None && is_tensor(argument);
        if (!tensor && argument != Py_None) return 0;
        bits |= (long long)tensor << i;
    }
    return bits == form;
}

/* 1: the call was dealt with; 0: it goes to the callback; -1: an error. */
static int handle_call(LayerHook *hook, ForwardState *forward, PyObject *args, PyObject *tensor) {
    PyObject *module = PyTuple_GetItem(args, 0);
    if (!is_plain_call(hook, forward, module) || !has_form(hook, args) || in_backward() != 0) return 0;
    SiteCounters *counters = (SiteCounters *)hook->counters;
    if (!forward->measured && hook->site != OUTPUT) return 1;
    if (forward->measured && plan_for(counters, forward) == NULL) return 0;
    int handled = 1;
    acquire((Lock *)hook->lock);
    if (forward->measured) handled = measure_by_plan(hook, forward, module, tensor);
    else counters->firings++; /* under the Lock, too: Python adds to it in several steps */
    release((Lock *)hook->lock);
    return handled;
}

/* The tensor that a call reads or writes, borrowed: the first argument, or the output; NULL if there is none. */
static PyObject *tensor_of(const LayerHook *hook, PyObject *args) {
    const Py_ssize_t size = PyTuple_Size(args);
    if (hook->site != INPUT) return size > 3 ? PyTuple_GetItem(args, 3) : NULL;
    PyObject *given = size > 1 ? PyTuple_GetItem(args, 1) : NULL;
    return given != NULL && PyTuple_Check(given) && PyTuple_Size(given) > 0 ? PyTuple_GetItem(given, 0) : NULL;
}

/* hook(module, args, kwargs) ahead of a call; hook(module, args, kwargs, output) behind it */
static PyObject *layer_hook_call(PyObject *object, PyObject *args, PyObject *kwargs) {
    LayerHook *hook = (LayerHook *)object;
    PyObject *tensor = kwargs == NULL ? tensor_of(hook, args) : NULL;
    ForwardState *forward = tensor == NULL ? NULL : forward_of_thread(hook->current);
    const int handled = forward == NULL ? 0 : handle_call(hook, forward, args, tensor);
    Py_XDECREF((PyObject *)forward);
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)) return NULL;
        PyErr_Clear(); /* of a call that was not measured; the callback comes to the same error and reports it */
    }
    return handled ? Py_NewRef(Py_None) : PyObject_Call(hook->callback, args, kwargs);
}

/* LayerHook(callback, layer state, site state, number of the site, current forward, lock, record_extremes, snapshot) */
static PyObject *layer_hook_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    PyObject *callback, *layer_state, *site_state, *current, *lock, *record, *snapshot;
    int site;
    if (!PyArg_ParseTuple(args, "OOOiO!O!OO", &callback, &layer_state, &site_state, &site, current_forward_type,
                          &current, lock_type, &lock, &record, &snapshot))
        return NULL;
    if (site < 0 || site >= MAX_SITES) {
        PyErr_Format(PyExc_ValueError, "a site's number is from 0 to %d, got %d", MAX_SITES - 1, site);
        return NULL;
    }
    LayerHook *hook = (LayerHook *)PyType_GenericAlloc(type, 0);
    if (hook == NULL) return NULL;
    hook->callback = Py_NewRef(callback);
    hook->layer_state = Py_NewRef(layer_state);
    hook->site_state = Py_NewRef(site_state);
    hook->current = Py_NewRef(current);
    hook->lock = Py_NewRef(lock);
    hook->record_extremes = Py_NewRef(record);
    hook->snapshot = Py_NewRef(snapshot);
    hook->site = site;
    hook->modes = MODES_UNKNOWN;
    hook->scaled = is_true(layer_state, interned.scaled, 0);
    hook->counters = PyObject_GetAttr(site_state, interned.counters);
    hook->layer = number_attribute(layer_state, interned.index);
    if (!PyErr_Occurred() && checked(hook->counters, counters_type, "SiteCounters")) return (PyObject *)hook;
    Py_DECREF(hook);
    return NULL;
}

/* Whether a call of a module that holds layers, in a forward that the model began, changes nothing. */
static int nothing_to_do(const ContainerHook *hook, const ForwardState *forward, const PyObject *module) {
    if (module == hook->model || forward->owner == module) return 0;
    if (forward->session != NULL && forward->session != Py_None) return 0;
    if (hook->after) return 1;
    return hook->entered && forward->owner == hook->model && forward->open == 0;
}

/* hook(module, args, kwargs) ahead of a call; hook(module, args, kwargs, output) behind it */
static PyObject *container_hook_call(PyObject *object, PyObject *args, PyObject *kwargs) {
    ContainerHook *hook = (ContainerHook *)object;
    PyObject *module = PyTuple_Size(args) > 0 ? PyTuple_GetItem(args, 0) : NULL;
    ForwardState *forward = module == NULL ? NULL : forward_of_thread(hook->current);
    const int nothing = forward != NULL && nothing_to_do(hook, forward, module);
    Py_XDECREF((PyObject *)forward);
    if (PyErr_Occurred()) return NULL;
    if (nothing) Py_RETURN_NONE;
    PyObject *result = PyObject_Call(hook->callback, args, kwargs);
    if (result != NULL && !hook->after && !hook->entered) hook->entered = in_backward() == 0;
    return result;
}

/* ContainerHook(callback, model, whether it runs after a call, current forward) */
static PyObject *container_hook_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    PyObject *callback, *model, *current;
    int after;
    if (!PyArg_ParseTuple(args, "OOpO!", &callback, &model, &after, current_forward_type, &current)) return NULL;
    ContainerHook *hook = (ContainerHook *)PyType_GenericAlloc(type, 0);
    if (hook == NULL) return NULL;
    hook->callback = Py_NewRef(callback);
    hook->model = Py_NewRef(model);
    hook->current = Py_NewRef(current);
    hook->after = after;
    return (PyObject *)hook;
}

/* __reduce__(): in a copy or pickle of a module, a hook is one that does nothing; see `normprobe.capture.hooks.handles`. */
static PyObject *hook_reduce(PyObject *object, PyObject *none) {
    (void)object;
    (void)none;
    return Py_BuildValue("O()", empty_hook);
}

static PyMethodDef hook_methods[] = {
    {"__reduce__", hook_reduce, METH_NOARGS, "Copies and pickles are empty hooks."},
    {NULL, NULL, 0, NULL},
};
static PyMemberDef layer_hook_members[] = {
    {"traced", T_OBJECT, offsetof(LayerHook, traced), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyType_Slot layer_hook_slots[] = {
    {Py_tp_new, (void *)layer_hook_new},
    {Py_tp_call, (void *)layer_hook_call},
    {Py_tp_members, layer_hook_members},
    {Py_tp_methods, hook_methods},
    GC_SLOTS(LayerHook),
    {0, NULL},
};
static PyType_Slot container_hook_slots[] = {
    {Py_tp_new, (void *)container_hook_new},
    {Py_tp_call, (void *)container_hook_call},
    {Py_tp_methods, hook_methods},
    GC_SLOTS(ContainerHook),
    {0, NULL},
};
static PyType_Spec layer_hook_spec = {"normprobe.kernels._cpu.LayerHook", sizeof(LayerHook), 0, GC_FLAGS,
                                      layer_hook_slots};
static PyType_Spec container_hook_spec = {"normprobe.kernels._cpu.ContainerHook", sizeof(ContainerHook), 0, GC_FLAGS,
                                          container_hook_slots};

#endif
