/* The hooks of a layer and of a module that holds layers: the short way of a call of which everything is decided.
 *
 * Most calls are such calls, and of one decoded token they are all that a probe costs. An Ear looks whether a call is
 * as it was agreed, measures, and counts; a Gate looks whether there is nothing to do. Whatever is otherwise goes the
 * long way, which is a callable of Python's with the same arguments.
 */
#ifndef NORMPROBE_EAR_H
#define NORMPROBE_EAR_H

#include "hooks/current_forward.h"

enum { MOST_HELD = 8, UNKNOWN = -1 };

#define EAR_HELD(X) X(inside) X(lock) X(watch) X(site) X(account) X(hold) X(snapshot) X(long_way) X(masked_by)
#define GATE_HELD(X) X(inside) X(model) X(long_way)

/* A tensor of a module's own as it was at the last snapshot. */
typedef struct {
    PyObject *tensor; /* not a reference: compared, never used */
    long long address, version;
} Stamp;

/* The hook of a layer at a site, of which it holds the account; `masked_by` is the mask that was noted last. */
typedef struct {
    PyObject_HEAD
    EAR_HELD(FIELD)
    long long layer;
    int behind, scaled, modes, stamped;
    Stamp stamps[MOST_HELD];
} Ear;

typedef struct {
    PyObject_HEAD
    GATE_HELD(FIELD)
    int behind, entered;
} Gate;

COLLECTED(Ear, EAR_HELD, )
COLLECTED(Gate, GATE_HELD, )

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
static Pass *pass_of(PyObject *inside) {
    const Place *place = here((const Inside *)inside);
    return place == NULL ? NULL : (Pass *)Py_NewRef((PyObject *)place->now);
}

/* What the site agreed on with those that are alike, if that was in this forward; a borrowed reference, or NULL. */
static const Agreed *agreed_in(const Account *account, const Pass *pass) {
    if (account->cell == NULL || Py_TYPE(account->cell) != cell_type) return NULL;
    const Cell *cell = (const Cell *)account->cell;
    return cell->serial == pass->serial ? (const Agreed *)cell->agreed : NULL;
}

/* Whether a tensor is of the kind that was agreed on, met for the first time in this forward. */
static int is_as_agreed(const Ear *ear, const Agreed *agreed, Pass *pass, const Look *seen) {
    const Account *account = (const Account *)ear->account;
    if (account->samples != agreed->samples || account->rows != agreed->rows || account->dtype != seen->dtype) return 0;
    if (account->state == NULL || Py_TYPE(account->state) != state_type) return 0;
    if (pass->memory == NULL || Py_TYPE(pass->memory) != memory_type || seen->count != agreed->axes) return 0;
    for (int i = 0; i < seen->count; i++)
        if (agreed->shape[i] >= 0 && agreed->shape[i] != seen->shape[i]) return 0;
    const Course *course = course_of(pass, ear->layer);
    return course != NULL && course->met[ear->behind] == 0;
}

/* Count what was measured, and note who holds a new extreme; 0 with an error. */
static int count(Ear *ear, const Agreed *agreed, Pass *pass, PyObject *news) {
    Account *account = (Account *)ear->account;
    course_of(pass, ear->layer)->met[ear->behind] = 1;
    account->calls++;
    account->n_samples += agreed->n_samples;
    account->masked += agreed->masked;
    replace(&account->samples, agreed->samples_after);
    replace(&account->rows, agreed->rows_after);
    int done = 1;
    if (news != Py_None) {
        PyObject *forward = inside_forward(ear->inside, NULL);
        PyObject *held = PyObject_CallFunctionObjArgs(ear->hold, ear->site, news, agreed->placed, forward, NULL);
        done = held != NULL;
        Py_DECREF(forward);
        Py_XDECREF(held);
    }
    if (done && agreed->masked_by != ear->masked_by && PyObject_IsTrue(agreed->masked_by) == 1) {
        PyObject *masks = PyObject_GetAttr(ear->watch, names.masked_by);
        done = masks != NULL && PyDict_SetItem(masks, agreed->masked_by, Py_None) == 0;
        if (done) replace(&ear->masked_by, agreed->masked_by);
        Py_XDECREF(masks);
    }
    return done;
}

/* Note the modes that the layer runs in, if they are not those met last; 0 with an error. */
static int meet(Ear *ear, PyObject *module) {
    const int training = is_true(module, names.training, 0);
    const int grad = training < 0 ? -1 : truth_of_call(grad_enabled);
    const int inference = grad != 0 ? (grad < 0 ? -1 : 0) : truth_of_call(inference_enabled);
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
    if (!ear->scaled) return 1;
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
static int listen(Ear *ear, Pass *pass, PyObject *module, PyObject *tensor) {
    const Agreed *agreed = agreed_in((const Account *)ear->account, pass);
    Look seen;
    if (agreed == NULL || look(tensor, &seen) <= 0) return 0;
    if (!is_as_agreed(ear, agreed, pass, &seen)) return 0;
    Py_INCREF((PyObject *)agreed); /* another thread may agree on something else meanwhile */
    Account *account = (Account *)ear->account;
    PyObject *state = Py_NewRef(account->state), *memory = Py_NewRef(pass->memory);
    const Plan *raw = agreed->raw_plan == Py_None ? NULL : (const Plan *)agreed->raw_plan;
    Holder low, high;
    const int changed = hear((State *)state, tensor, &seen, (Plan *)agreed->plan, raw, (Memory *)memory, pass->threads,
                             agreed->small, &low, &high);
    int done = 0;
    if (changed >= 0) {
        PyObject *found = news(changed, &low, &high);
        done = found != NULL && count(ear, agreed, pass, found) ? 1 : -1;
        Py_XDECREF(found);
    }
    if (done == 1) set_open(pass, course_of(pass, ear->layer), !ear->behind);
    if (done == 1 && ear->behind) {
        account->firings++;
        done = meet(ear, module) && look_again(ear, module) ? 1 : -1;
    }
    Py_DECREF(state);
    Py_DECREF(memory);
    Py_DECREF((PyObject *)agreed);
    return done;
}

/* Whether nothing is left to decide at this layer's calls, and this one is part of a forward that another module
 * began and that was not cut short: no layer is under way. */
static int is_plain_call(const Ear *ear, const Pass *pass, const PyObject *module) {
    if (pass->owner == module) return 0;
    if (!ear->behind && pass->open != 0) return 0;
    return ((const Account *)ear->account)->decided;
}

/* 1: the call was heard; 0: it goes the long way; -1: an error. */
static int short_way(Ear *ear, Pass *pass, PyObject *module, PyObject *tensor) {
    if (!is_plain_call(ear, pass, module) || in_backward() != 0) return 0;
    Account *account = (Account *)ear->account;
    if (!pass->measured) { /* a call is only counted */
        account->firings += ear->behind;
        return 1;
    }
    if (agreed_in(account, pass) == NULL) return 0;
    acquire((Lock *)ear->lock);
    const int heard = listen(ear, pass, module, tensor);
    release((Lock *)ear->lock);
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
    Pass *pass = tensor == NULL ? NULL : pass_of(ear->inside);
    const int heard = pass == NULL ? 0 : short_way(ear, pass, PyTuple_GetItem(args, 0), tensor);
    Py_XDECREF((PyObject *)pass);
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)) return NULL;
        PyErr_Clear(); /* of a call not heard the long way finds out what it is, and says so */
    }
    return heard ? Py_NewRef(Py_None) : PyObject_Call(ear->long_way, args, kwargs);
}

/* Ear(long way, watch, site, behind, inside, lock, hold, snapshot) */
static PyObject *ear_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    PyObject *long_way, *watch, *site, *inside, *lock, *hold, *snapshot;
    int behind;
    if (!PyArg_ParseTuple(args, "OOOpO!O!OO", &long_way, &watch, &site, &behind, inside_type, &inside, lock_type, &lock,
                          &hold, &snapshot))
        return NULL;
    Ear *ear = (Ear *)PyType_GenericAlloc(type, 0);
    if (ear == NULL) return NULL;
    ear->long_way = Py_NewRef(long_way);
    ear->watch = Py_NewRef(watch);
    ear->site = Py_NewRef(site);
    ear->inside = Py_NewRef(inside);
    ear->lock = Py_NewRef(lock);
    ear->hold = Py_NewRef(hold);
    ear->snapshot = Py_NewRef(snapshot);
    ear->behind = behind;
    ear->modes = UNKNOWN;
    ear->scaled = is_true(watch, names.scaled, 0);
    ear->account = PyObject_GetAttr(site, names.account);
    ear->layer = number_attribute(watch, names.index);
    if (!PyErr_Occurred() && checked(ear->account, account_type, "Account")) return (PyObject *)ear;
    Py_DECREF(ear);
    return NULL;
}

/* Whether a call of a module that holds layers, in a forward that the model began, changes nothing. */
static int nothing_to_do(const Gate *gate, const Pass *pass, const PyObject *module) {
    if (module == gate->model || pass->owner == module || (pass->session != NULL && pass->session != Py_None)) return 0;
    if (gate->behind) return 1;
    return gate->entered && pass->owner == gate->model && pass->open == 0;
}

/* gate(module, args, kwargs) ahead of a call; gate(module, args, kwargs, output) behind it */
static PyObject *gate_call(PyObject *object, PyObject *args, PyObject *kwargs) {
    Gate *gate = (Gate *)object;
    PyObject *module = PyTuple_Size(args) > 0 ? PyTuple_GetItem(args, 0) : NULL;
    Pass *pass = module == NULL ? NULL : pass_of(gate->inside);
    const int nothing = pass != NULL && nothing_to_do(gate, pass, module);
    Py_XDECREF((PyObject *)pass);
    if (PyErr_Occurred()) return NULL;
    if (nothing) Py_RETURN_NONE;
    PyObject *answer = PyObject_Call(gate->long_way, args, kwargs);
    if (answer != NULL && !gate->behind && !gate->entered) gate->entered = in_backward() == 0;
    return answer;
}

/* Gate(long way, model, behind, inside) */
static PyObject *gate_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    PyObject *long_way, *model, *inside;
    int behind;
    if (!PyArg_ParseTuple(args, "OOpO!", &long_way, &model, &behind, inside_type, &inside)) return NULL;
    Gate *gate = (Gate *)PyType_GenericAlloc(type, 0);
    if (gate == NULL) return NULL;
    gate->long_way = Py_NewRef(long_way);
    gate->model = Py_NewRef(model);
    gate->inside = Py_NewRef(inside);
    gate->behind = behind;
    return (PyObject *)gate;
}

static PyType_Slot ear_slots[] = {
    {Py_tp_new, (void *)ear_new}, {Py_tp_call, (void *)ear_call}, COLLECTED_SLOTS(Ear), {0, NULL}};
static PyType_Slot gate_slots[] = {
    {Py_tp_new, (void *)gate_new}, {Py_tp_call, (void *)gate_call}, COLLECTED_SLOTS(Gate), {0, NULL}};
static PyType_Spec ear_spec = {"normprobe.kernels._cpu.Ear", sizeof(Ear), 0, RECORD, ear_slots};
static PyType_Spec gate_spec = {"normprobe.kernels._cpu.Gate", sizeof(Gate), 0, RECORD, gate_slots};

#endif
