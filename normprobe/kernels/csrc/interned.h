/* What of Python's the extension looks up by name, interned once, and what it was told of torch. */
#ifndef NORMPROBE_INTERNED_H
#define NORMPROBE_INTERNED_H

#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* X(name) of each attribute that is looked up by its name. */
#define ATTRIBUTES(X)                                                                                              \
    X(shape) X(stride) X(dtype) X(data_ptr) X(_version) X(is_cpu) X(is_nested) X(is_neg) X(is_inference) /* tensors */ \
    X(training) X(_parameters) X(_buffers)                                                               /* modules */ \
    X(state)                                                                                              /* forwards */ \
    X(scaled) X(index) X(note_mode) X(masked_by) X(counters)                                          /* layers and sites */

#define FIELD(name) PyObject *name;
static struct { ATTRIBUTES(FIELD) } names;

/* What `learn` was given. */
static PyObject *dtypes, *plain_types, *graph_task, *grad_enabled, *inference_enabled;
static PyTypeObject *choice_type, *state_type, *batch_moments_type, *recent_moments_type;
static PyTypeObject *counters_type, *plan_slot_type, *cached_plan_type, *forward_state_type;

/* What each type that holds objects needs, which are HELD(X): to be looked through, emptied and freed, AT_LAST with what
 * else it has. */
#define VISIT(name) Py_VISIT(self->name);
#define CLEAR(name) Py_CLEAR(self->name);
#define COLLECTED(Type, HELD, AT_LAST)                                       \
    static int Type##_traverse(PyObject *object, visitproc visit, void *arg) { \
        Type *self = (Type *)object;                                         \
        Py_VISIT(Py_TYPE(object));                                           \
        HELD(VISIT)                                                          \
        return 0;                                                            \
    }                                                                        \
    static int Type##_clear(PyObject *object) {                              \
        Type *self = (Type *)object;                                         \
        HELD(CLEAR)                                                          \
        return 0;                                                            \
    }                                                                        \
    static void Type##_free(PyObject *object) {                              \
        PyTypeObject *type = Py_TYPE(object);                                \
        PyObject_GC_UnTrack(object);                                         \
        Type##_clear(object);                                                \
        Type *self = (Type *)object;                                         \
        (void)self;                                                          \
        AT_LAST                                                              \
        PyObject_GC_Del(object);                                             \
        Py_DECREF(type);                                                     \
    }
#define COLLECTED_SLOTS(Type) \
    {Py_tp_traverse, (void *)Type##_traverse}, {Py_tp_clear, (void *)Type##_clear}, {Py_tp_dealloc, (void *)Type##_free}

static int intern_names(void) {
#define INTERN(name) if ((names.name = PyUnicode_InternFromString(#name)) == NULL) return 0;
    ATTRIBUTES(INTERN)
#undef INTERN
    return 1;
}

static int checked(PyObject *object, PyTypeObject *type, const char *what) {
    if (PyObject_TypeCheck(object, type)) return 1;
    PyErr_Format(PyExc_TypeError, "a %s is needed", what);
    return 0;
}

/* Whether an attribute, or a method without arguments, of a tensor is true; -1 with an error. */
static int is_true(PyObject *tensor, PyObject *name, int method) {
    PyObject *value = method ? PyObject_CallMethodObjArgs(tensor, name, NULL) : PyObject_GetAttr(tensor, name);
    if (value == NULL) return -1;
    const int truth = PyObject_IsTrue(value);
    Py_DECREF(value);
    return truth;
}

#endif
