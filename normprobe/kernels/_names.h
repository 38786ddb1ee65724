/* What of Python's the extension looks up by name, interned once, and what it was told of torch. */
#ifndef NORMPROBE_NAMES_H
#define NORMPROBE_NAMES_H

#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* X(name) or X(field, attribute) of each attribute that is read, written or called. */
#define ATTRIBUTES(X)                                                                                              \
    X(shape) X(stride) X(dtype) X(data_ptr) X(_version) X(is_cpu) X(is_nested) X(is_neg) X(is_inference) /* tensors */ \
    X(training) X(_parameters) X(_buffers)                                                               /* modules */ \
    X(forward) X(owner) X(open) X(token) X(session) X(repeats) X(memory) X(threads) X(measured)         /* forwards */ \
    X(decided) X(scaled) X(index) X(firings) X(meet) X(masked_by)                                        /* layers */  \
    X(state) X(cell) X(samples) X(rows) X(calls) X(n_samples) X(masked)                                  /* sites */   \
    X(agreed) X(plan) X(raw_plan) X(small) X(placed) X(samples_after) X(rows_after)                      /* agreed */

#define FIELD(name) PyObject *name;
static struct { ATTRIBUTES(FIELD) } names;
#undef FIELD

/* What `learn` was given. */
static PyObject *dtypes, *plain_types, *graph_task, *grad_enabled, *inference_enabled;
static PyTypeObject *plan_type, *state_type, *delta_type, *memory_type;

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
