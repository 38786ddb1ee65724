/* The hooks of a layer and of a module that holds layers: the short way of a call of which everything is decided.
 *
 * Most calls are such calls, and of one decoded token they are all that a probe costs. An Ear looks whether a call is
 * as it was agreed, measures, and counts; a Gate looks whether there is nothing to do. Whatever is otherwise goes the
 * long way, which is a callable of Python's with the same arguments.
 */
#ifndef NORMPROBE_EAR_H
#define NORMPROBE_EAR_H

#include "_state.h"

enum { MOST_HELD = 8, UNKNOWN = -1 };

/* A tensor of a module's own as it was at the last snapshot. */
typedef struct {
    PyObject *tensor; /* not a reference: compared, never used */
    long long address, version;
} Stamp;

typedef struct {
    PyObject_HEAD
    PyObject *thread, *acquire, *release; /* whose `forward` is this thread's; the lock's methods */
    PyObject *watch, *site, *hold, *snapshot, *long_way;
    int behind, modes, stamped;
    Stamp stamps[MOST_HELD];
} Ear;

typedef struct {
    PyObject_HEAD
    PyObject *thread, *model, *long_way;
    int behind, entered;
} Gate;

/* Whether an attribute is this very object; -1 with an error. */
static int attribute_is(PyObject *object, PyObject *name, const PyObject *other) {
    PyObject *value = PyObject_GetAttr(object, name);
    Py_XDECREF(value);
    return value == NULL ? -1 : value == other;
}

static long long number_attribute(PyObject *object, PyObject *name) {
    PyObject *value = PyObject_GetAttr(object, name);
    const long long number = value == NULL ? -1 : PyLong_AsLongLong(value);
    Py_XDECREF(value);
    return number;
}

/* object.name += number; 0 with an error. */
static int raise_by(PyObject *object, PyObject *name, PyObject *number) {
    PyObject *before = PyObject_GetAttr(object, name);
    PyObject *after = before == NULL ? NULL : PyNumber_Add(before, number);
    const int done = after != NULL && PyObject_SetAttr(object, name, after) == 0;
    Py_XDECREF(before);
    Py_XDECREF(after);
    return done;
}

/* object.name += other.name; 0 with an error. */
static int raise_as(PyObject *object, PyObject *name, PyObject *other) {
    PyObject *number = PyObject_GetAttr(other, name);
    const int done = number != NULL && raise_by(object, name, number);
    Py_XDECREF(number);
    return done;
}

/* object.name = other.source; 0 with an error. */
static int set_as(PyObject *object, PyObject *name, PyObject *other, PyObject *source) {
    PyObject *value = PyObject_GetAttr(other, source);
    const int done = value != NULL && PyObject_SetAttr(object, name, value) == 0;
    Py_XDECREF(value);
    return done;
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

/* What the site agreed on with those that are alike, if that was in this forward; a new reference, or NULL. */
static PyObject *agreed_in(PyObject *site, PyObject *forward) {
    PyObject *cell = PyObject_GetAttr(site, names.cell);
    PyObject *agreed = cell == NULL ? NULL : PyObject_GetAttr(cell, names.agreed);
    PyObject *token = agreed == NULL || agreed == Py_None ? NULL : PyObject_GetAttr(agreed, names.token);
    const int same = token != NULL && attribute_is(forward, names.token, token) == 1;
    Py_XDECREF(cell);
    Py_XDECREF(token);
    if (same) return agreed;
    Py_XDECREF(agreed);
    return NULL;
}

/* Whether a shape is the one expected, in which None stands for any size. */
static int is_shaped(PyObject *shape, PyObject *expected) {
    if (!PyTuple_Check(shape) || !PyTuple_Check(expected) || PyTuple_Size(shape) != PyTuple_Size(expected)) return 0;
    for (Py_ssize_t i = 0; i < PyTuple_Size(expected); i++) {
        PyObject *size = PyTuple_GetItem(expected, i);
        if (size != Py_None && PyObject_RichCompareBool(PyTuple_GetItem(shape, i), size, Py_EQ) != 1) return 0;
    }
    return 1;
}

/* Whether a tensor is of the kind that was agreed on, met for the first time in this forward. */
static int is_as_agreed(PyObject *site, PyObject *agreed, PyObject *repeats, PyObject *tensor) {
    PyObject *const alike[] = {names.samples, names.rows};
    for (int i = 0; i < 2; i++) {
        PyObject *expected = PyObject_GetAttr(agreed, alike[i]);
        const int same = expected != NULL && attribute_is(site, alike[i], expected) == 1;
        Py_XDECREF(expected);
        if (!same) return 0;
    }
    if (PyDict_Contains(repeats, site) != 0) return 0;
    PyObject *dtype = PyObject_GetAttr(site, names.dtype);
    const int same = dtype != NULL && attribute_is(tensor, names.dtype, dtype) == 1;
    Py_XDECREF(dtype);
    if (!same) return 0;
    PyObject *shape = PyObject_GetAttr(tensor, names.shape), *expected = PyObject_GetAttr(agreed, names.shape);
    const int fits = shape != NULL && expected != NULL && is_shaped(shape, expected);
    Py_XDECREF(shape);
    Py_XDECREF(expected);
    return fits;
}

/* Measure a tensor as was agreed. What `added` gives; UNKNOWN where it cannot be read as it lies, or with an error. */
static PyObject *hear_as_agreed(PyObject *site, PyObject *agreed, PyObject *forward, PyObject *tensor) {
    PyObject *state = PyObject_GetAttr(site, names.state), *plan = PyObject_GetAttr(agreed, names.plan);
    PyObject *raw = PyObject_GetAttr(agreed, names.raw_plan), *memory = PyObject_GetAttr(forward, names.memory);
    const long long threads = number_attribute(forward, names.threads), small = number_attribute(agreed, names.small);
    PyObject *news = NULL;
    if (state != NULL && plan != NULL && raw != NULL && memory != NULL && !PyErr_Occurred() && state != Py_None)
        news = hear((State *)state, tensor, plan, raw, memory, (int)threads, small);
    Py_XDECREF(state);
    Py_XDECREF(plan);
    Py_XDECREF(raw);
    Py_XDECREF(memory);
    return news;
}

/* Count what was measured, and note who holds a new extreme; 0 with an error. */
static int count(const Ear *ear, PyObject *agreed, PyObject *forward, PyObject *repeats, PyObject *news) {
    PyObject *site = ear->site, *one = PyLong_FromLong(1);
    int done = one != NULL && PyDict_SetItem(repeats, site, one) == 0 && raise_by(site, names.calls, one) &&
               set_as(site, names.samples, agreed, names.samples_after) &&
               set_as(site, names.rows, agreed, names.rows_after) && raise_as(site, names.n_samples, agreed) &&
               raise_as(site, names.masked, agreed);
    Py_XDECREF(one);
    if (done && news != Py_None) {
        PyObject *placed = PyObject_GetAttr(agreed, names.placed);
        PyObject *held = placed == NULL ? NULL : PyObject_CallFunctionObjArgs(ear->hold, site, news, placed, forward, NULL);
        done = held != NULL;
        Py_XDECREF(placed);
        Py_XDECREF(held);
    }
    PyObject *mask = done ? PyObject_GetAttr(agreed, names.masked_by) : NULL;
    done = mask != NULL;
    if (done && PyObject_IsTrue(mask) == 1) {
        PyObject *masks = PyObject_GetAttr(ear->watch, names.masked_by);
        done = masks != NULL && PyDict_SetItem(masks, mask, Py_None) == 0;
        Py_XDECREF(masks);
    }
    Py_XDECREF(mask);
    return done;
}

/* Add the layer to those whose call is under way, or take it off; 0 with an error. */
static int turn(const Ear *ear, PyObject *open) {
    PyObject *index = PyObject_GetAttr(ear->watch, names.index);
    const int done = index != NULL && (ear->behind ? PySet_Discard(open, index) : PySet_Add(open, index)) >= 0;
    Py_XDECREF(index);
    return done;
}

/* Note the modes that the layer runs in, if they are not those met last; 0 with an error. */
static int meet(Ear *ear, PyObject *module) {
    const int training = is_true(module, names.training, 0);
    const int grad = training < 0 ? -1 : truth_of_call(grad_enabled);
    const int inference = grad < 0 ? -1 : truth_of_call(inference_enabled);
    if (inference < 0) return 0;
    const int modes = training + 2 * grad + 4 * inference;
    if (modes == ear->modes) return 1;
    PyObject *met = PyObject_CallMethodObjArgs(ear->watch, names.meet, training ? Py_True : Py_False, NULL);
    if (met == NULL) return 0;
    Py_DECREF(met);
    ear->modes = modes;
    return 1;
}

/* Whether the tensors in a dictionary are those stamped from `*at` on, as they were then; stamps them anew. */
static int unchanged_in(Ear *ear, PyObject *held, int *at) {
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
        Stamp *known = &ear->stamps[(*at)++];
        same &= *at <= ear->stamped && known->tensor == stamp.tensor && known->address == stamp.address &&
                known->version == stamp.version;
        *known = stamp;
    }
    return same;
}

/* Let a norm whose tensors changed be looked at again; 0 with an error. */
static int look_again(Ear *ear, PyObject *module) {
    const int scaled = is_true(ear->watch, names.scaled, 0);
    if (scaled <= 0) return scaled == 0;
    PyObject *parameters = PyObject_GetAttr(module, names._parameters);
    PyObject *buffers = parameters == NULL ? NULL : PyObject_GetAttr(module, names._buffers);
    int at = 0, same = buffers != NULL && PyDict_Check(parameters) && PyDict_Check(buffers);
    if (same) same = unchanged_in(ear, parameters, &at);
    if (same >= 0) same = unchanged_in(ear, buffers, &at) == 1 && same && at == ear->stamped;
    Py_XDECREF(parameters);
    Py_XDECREF(buffers);
    PyErr_Clear(); /* a tensor made in inference mode has no version, a fake one no data */
    ear->stamped = at;
    if (same == 1) return 1;
    PyObject *looked = PyObject_CallFunctionObjArgs(ear->snapshot, ear->watch, module, NULL);
    Py_XDECREF(looked);
    return looked != NULL;
}

/* With the lock: 1 where the call was heard, 0 where it is not as agreed, -1 with an error after it was measured. */
static int listen(Ear *ear, PyObject *forward, PyObject *agreed, PyObject *module, PyObject *tensor) {
    PyObject *repeats = PyObject_GetAttr(forward, names.repeats), *open = PyObject_GetAttr(forward, names.open);
    PyObject *one = PyLong_FromLong(1), *news = NULL;
    int done = 0;
    if (repeats != NULL && open != NULL && one != NULL && is_as_agreed(ear->site, agreed, repeats, tensor))
        news = hear_as_agreed(ear->site, agreed, forward, tensor);
    if (news != NULL && news != Py_False) {
        done = count(ear, agreed, forward, repeats, news) && turn(ear, open) ? 1 : -1;
        if (done == 1 && ear->behind)
            done = raise_by(ear->watch, names.firings, one) && meet(ear, module) && look_again(ear, module) ? 1 : -1;
    }
    Py_XDECREF(repeats);
    Py_XDECREF(open);
    Py_XDECREF(one);
    Py_XDECREF(news);
    return done;
}

/* Whether the hook has a forward, not begun by this module, and nothing else to decide. */
static int is_plain_call(const Ear *ear, PyObject *forward, const PyObject *module) {
    if (forward == Py_None || is_true(ear->watch, names.decided, 0) != 1) return 0;
    if (ear->behind) return attribute_is(forward, names.owner, module) == 0;
    PyObject *open = PyObject_GetAttr(forward, names.open);
    const int none = open != NULL && PySet_Check(open) && PySet_Size(open) == 0;
    Py_XDECREF(open);
    return none;
}

/* In a forward that is not measured a call is only counted: 1 where it was, -1 with an error. */
static int pass_by(const Ear *ear) {
    if (!ear->behind) return 1;
    PyObject *one = PyLong_FromLong(1);
    const int done = one != NULL && raise_by(ear->watch, names.firings, one) ? 1 : -1;
    Py_XDECREF(one);
    return done;
}

/* 1: the call was heard; 0: it goes the long way; -1: an error. */
static int short_way(Ear *ear, PyObject *forward, PyObject *module, PyObject *tensor) {
    if (!is_plain_call(ear, forward, module) || in_backward() != 0) return 0;
    if (is_true(forward, names.measured, 0) == 0) return pass_by(ear);
    PyObject *agreed = agreed_in(ear->site, forward);
    if (agreed == NULL) return 0;
    PyObject *locked = PyObject_CallNoArgs(ear->acquire);
    Py_XDECREF(locked);
    const int heard = locked == NULL ? -1 : listen(ear, forward, agreed, module, tensor);
    if (locked != NULL) {
        PyObject *type, *value, *trace;
        PyErr_Fetch(&type, &value, &trace);
        Py_XDECREF(PyObject_CallNoArgs(ear->release));
        PyErr_Restore(type, value, trace);
    }
    Py_DECREF(agreed);
    return heard;
}

/* The tensor that a call reads or writes: the first argument, or the output. */
static PyObject *tensor_of(const Ear *ear, PyObject *args) {
    const Py_ssize_t size = PyTuple_Size(args);
    if (ear->behind) return size > 3 ? PyTuple_GetItem(args, 3) : NULL;
    PyObject *given = size > 1 ? PyTuple_GetItem(args, 1) : NULL;
    return given != NULL && PyTuple_Check(given) && PyTuple_Size(given) > 0 ? PyTuple_GetItem(given, 0) : NULL;
}

/* ear(module, args, kwargs) ahead of a call; ear(module, args, kwargs, output) behind it */
static PyObject *ear_call(PyObject *object, PyObject *args, PyObject *kwargs) {
    Ear *ear = (Ear *)object;
    PyObject *tensor = kwargs == NULL ? tensor_of(ear, args) : NULL;
    PyObject *forward = tensor == NULL ? NULL : PyObject_GetAttr(ear->thread, names.forward);
    int heard = forward == NULL ? 0 : short_way(ear, forward, PyTuple_GetItem(args, 0), tensor);
    Py_XDECREF(forward);
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)) return NULL;
        PyErr_Clear(); /* of a call not heard the long way finds out what it is, and says so */
    }
    return heard ? Py_NewRef(Py_None) : PyObject_Call(ear->long_way, args, kwargs);
}

static int ear_traverse(PyObject *object, visitproc visit, void *arg) {
    Ear *ear = (Ear *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(ear->thread);
    Py_VISIT(ear->acquire);
    Py_VISIT(ear->release);
    Py_VISIT(ear->watch);
    Py_VISIT(ear->site);
    Py_VISIT(ear->hold);
    Py_VISIT(ear->snapshot);
    Py_VISIT(ear->long_way);
    return 0;
}

static int ear_clear(PyObject *object) {
    Ear *ear = (Ear *)object;
    Py_CLEAR(ear->thread);
    Py_CLEAR(ear->acquire);
    Py_CLEAR(ear->release);
    Py_CLEAR(ear->watch);
    Py_CLEAR(ear->site);
    Py_CLEAR(ear->hold);
    Py_CLEAR(ear->snapshot);
    Py_CLEAR(ear->long_way);
    return 0;
}

static void ear_free(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    ear_clear(object);
    PyObject_GC_Del(object);
    Py_DECREF(type);
}

/* Ear(long way, watch, site, behind, thread, lock, hold, snapshot) */
static PyObject *ear_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    PyObject *long_way, *watch, *site, *thread, *lock, *hold, *snapshot;
    int behind;
    if (!PyArg_ParseTuple(args, "OOOpOOOO", &long_way, &watch, &site, &behind, &thread, &lock, &hold, &snapshot))
        return NULL;
    Ear *ear = (Ear *)PyType_GenericAlloc(type, 0);
    if (ear == NULL) return NULL;
    ear->long_way = Py_NewRef(long_way);
    ear->watch = Py_NewRef(watch);
    ear->site = Py_NewRef(site);
    ear->thread = Py_NewRef(thread);
    ear->hold = Py_NewRef(hold);
    ear->snapshot = Py_NewRef(snapshot);
    ear->behind = behind;
    ear->modes = UNKNOWN;
    ear->acquire = PyObject_GetAttrString(lock, "acquire");
    ear->release = PyObject_GetAttrString(lock, "release");
    if (ear->acquire != NULL && ear->release != NULL) return (PyObject *)ear;
    Py_DECREF(ear);
    return NULL;
}

/* Whether a call of a module that holds layers, in a forward that the model began, changes nothing. */
static int nothing_to_do(const Gate *gate, PyObject *forward, const PyObject *module) {
    if (forward == Py_None || module == gate->model || attribute_is(forward, names.session, Py_None) != 1) return 0;
    if (gate->behind) return attribute_is(forward, names.owner, module) == 0;
    if (!gate->entered || attribute_is(forward, names.owner, gate->model) != 1) return 0;
    PyObject *open = PyObject_GetAttr(forward, names.open);
    const int none = open != NULL && PySet_Check(open) && PySet_Size(open) == 0;
    Py_XDECREF(open);
    return none;
}

/* gate(module, args, kwargs) ahead of a call; gate(module, args, kwargs, output) behind it */
static PyObject *gate_call(PyObject *object, PyObject *args, PyObject *kwargs) {
    Gate *gate = (Gate *)object;
    PyObject *module = PyTuple_Size(args) > 0 ? PyTuple_GetItem(args, 0) : NULL;
    PyObject *forward = module == NULL ? NULL : PyObject_GetAttr(gate->thread, names.forward);
    const int nothing = forward != NULL && nothing_to_do(gate, forward, module);
    Py_XDECREF(forward);
    if (PyErr_Occurred()) return NULL;
    if (nothing) Py_RETURN_NONE;
    PyObject *answer = PyObject_Call(gate->long_way, args, kwargs);
    if (answer != NULL && !gate->behind && !gate->entered) gate->entered = in_backward() == 0;
    return answer;
}

static int gate_traverse(PyObject *object, visitproc visit, void *arg) {
    Gate *gate = (Gate *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(gate->thread);
    Py_VISIT(gate->model);
    Py_VISIT(gate->long_way);
    return 0;
}

static int gate_clear(PyObject *object) {
    Gate *gate = (Gate *)object;
    Py_CLEAR(gate->thread);
    Py_CLEAR(gate->model);
    Py_CLEAR(gate->long_way);
    return 0;
}

static void gate_free(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    gate_clear(object);
    PyObject_GC_Del(object);
    Py_DECREF(type);
}

/* Gate(long way, model, behind, thread) */
static PyObject *gate_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    PyObject *long_way, *model, *thread;
    int behind;
    if (!PyArg_ParseTuple(args, "OOpO", &long_way, &model, &behind, &thread)) return NULL;
    Gate *gate = (Gate *)PyType_GenericAlloc(type, 0);
    if (gate == NULL) return NULL;
    gate->long_way = Py_NewRef(long_way);
    gate->model = Py_NewRef(model);
    gate->thread = Py_NewRef(thread);
    gate->behind = behind;
    return (PyObject *)gate;
}

static PyType_Slot ear_slots[] = {{Py_tp_new, (void *)ear_new},           {Py_tp_dealloc, (void *)ear_free},
                                  {Py_tp_traverse, (void *)ear_traverse}, {Py_tp_clear, (void *)ear_clear},
                                  {Py_tp_call, (void *)ear_call},         {0, NULL}};
static PyType_Slot gate_slots[] = {{Py_tp_new, (void *)gate_new},           {Py_tp_dealloc, (void *)gate_free},
                                   {Py_tp_traverse, (void *)gate_traverse}, {Py_tp_clear, (void *)gate_clear},
                                   {Py_tp_call, (void *)gate_call},         {0, NULL}};
static PyType_Spec ear_spec = {"normprobe.kernels._cpu.Ear", sizeof(Ear), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
                               ear_slots};
static PyType_Spec gate_spec = {"normprobe.kernels._cpu.Gate", sizeof(Gate), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, gate_slots};

#endif
