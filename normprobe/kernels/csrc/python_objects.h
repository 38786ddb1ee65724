/* What the types of this extension need as Python objects: to be traversed and freed by the garbage collector, to take
 * and give references, to be checked. */
#ifndef NORMPROBE_OBJECTS_H
#define NORMPROBE_OBJECTS_H

#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* A type's references to other objects are listed once, as OBJECTS(X); these make its members and, by GC_TYPE, its
 * traverse, clear and free functions, the last of which runs FREE_REST for what else it has. */
#define MEMBER(name) PyObject *name;
#define VISIT(name) Py_VISIT(self->name);
#define CLEAR(name) Py_CLEAR(self->name);
#define GC_TYPE(Type, OBJECTS, FREE_REST)                                                                              \
    static int Type##_traverse(PyObject *object, visitproc visit, void *arg) {                                         \
        Type *self = (Type *)object;                                                                                   \
        Py_VISIT(Py_TYPE(object));                                                                                     \
        OBJECTS(VISIT)                                                                                                 \
        return 0;                                                                                                      \
    }                                                                                                                  \
    static int Type##_clear(PyObject *object) {                                                                        \
        Type *self = (Type *)object;                                                                                   \
        OBJECTS(CLEAR)                                                                                                 \
        return 0;                                                                                                      \
    }                                                                                                                  \
    static void Type##_free(PyObject *object) {                                                                        \
        PyTypeObject *type = Py_TYPE(object);                                                                          \
        PyObject_GC_UnTrack(object);                                                                                   \
        Type##_clear(object);                                                                                          \
        Type *self = (Type *)object;                                                                                   \
        (void)self;                                                                                                    \
        FREE_REST                                                                                                      \
        PyObject_GC_Del(object);                                                                                       \
        Py_DECREF(type);                                                                                               \
    }
#define GC_SLOTS(Type)                                                                                                 \
    {Py_tp_traverse, (void *)Type##_traverse}, {Py_tp_clear, (void *)Type##_clear}, {                                  \
        Py_tp_dealloc, (void *)Type##_free                                                                             \
    }

enum { GC_FLAGS = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC };

/* Refer to another object. The old reference goes last: freeing an object may run Python code that comes back here. */
static void replace(PyObject **reference, PyObject *other) {
    PyObject *before = *reference;
    if (before == other) return;
    *reference = Py_NewRef(other);
    Py_XDECREF(before);
}

static int checked(PyObject *object, PyTypeObject *type, const char *name) {
    if (PyObject_TypeCheck(object, type)) return 1;
    PyErr_Format(PyExc_TypeError, "a %s is needed", name);
    return 0;
}

/* Whether an attribute, or the result of a method without arguments, is true; -1 with an error. */
static int is_true(PyObject *object, PyObject *name, int method) {
    PyObject *value = method ? PyObject_CallMethodObjArgs(object, name, NULL) : PyObject_GetAttr(object, name);
    if (value == NULL) return -1;
    const int truth = PyObject_IsTrue(value);
    Py_DECREF(value);
    return truth;
}

/* An attribute that is a whole number; -1 with an error, or if it is -1. */
static long long number_attribute(PyObject *object, PyObject *name) {
    PyObject *value = PyObject_GetAttr(object, name);
    const long long number = value == NULL ? -1 : PyLong_AsLongLong(value);
    Py_XDECREF(value);
    return number;
}

#endif
