/* Which forward each thread is inside, and a Lock for what threads share; both are touched at every call of a layer. */
#ifndef NORMPROBE_INSIDE_H
#define NORMPROBE_INSIDE_H

#include "hooks/counters.h"

/* A thread in a forward, of which `now` is what hooks ask. */
typedef struct {
    unsigned long thread;
    PyObject *forward;
    Pass *now;
} Place;

typedef struct {
    PyObject_HEAD
    Py_ssize_t count, room;
    Place *places;
} Inside;

/* Reentrant; who waits for it lets the interpreter go on. */
typedef struct {
    PyObject_HEAD
    PyThread_type_lock lock;
    unsigned long owner; /* of a depth above 0 */
    int depth;
} Lock;

static PyTypeObject *inside_type, *lock_type;

/* Where this thread is; NULL: in no forward. */
static Place *here(const Inside *inside) {
    const unsigned long thread = PyThread_get_thread_ident();
    for (Py_ssize_t i = 0; i < inside->count; i++)
        if (inside->places[i].thread == thread) return &inside->places[i];
    return NULL;
}

static int inside_traverse(PyObject *object, visitproc visit, void *arg) {
    const Inside *inside = (const Inside *)object;
    Py_VISIT(Py_TYPE(object));
    for (Py_ssize_t i = 0; i < inside->count; i++) {
        Py_VISIT(inside->places[i].forward);
        Py_VISIT(inside->places[i].now);
    }
    return 0;
}

static int inside_clear(PyObject *object) {
    Inside *inside = (Inside *)object;
    while (inside->count > 0) {
        const Place last = inside->places[--inside->count];
        Py_DECREF(last.forward);
        Py_DECREF((PyObject *)last.now);
    }
    return 0;
}

static void inside_free(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    inside_clear(object);
    free(((Inside *)object)->places);
    PyObject_GC_Del(object);
    Py_DECREF(type);
}

/* leave(): this thread is in no forward */
static PyObject *inside_leave(PyObject *object, PyObject *none) {
    (void)none;
    Inside *inside = (Inside *)object;
    Place *place = here(inside);
    if (place == NULL) Py_RETURN_NONE;
    const Place left = *place;
    *place = inside->places[--inside->count];
    Py_DECREF(left.forward);
    Py_DECREF((PyObject *)left.now);
    Py_RETURN_NONE;
}

/* clear(): no thread is in any forward */
static PyObject *inside_empty(PyObject *object, PyObject *none) {
    (void)none;
    inside_clear(object);
    Py_RETURN_NONE;
}

/* begin(owner, measured) -> the pass of a forward that begins with a call of this module */
static PyObject *inside_begin(PyObject *object, PyObject *args) {
    (void)object;
    return pass_new(pass_type, args, NULL);
}

/* enter(forward): this thread is in it from now on */
static PyObject *inside_enter(PyObject *object, PyObject *forward) {
    Inside *inside = (Inside *)object;
    PyObject *now = PyObject_GetAttr(forward, names.now);
    if (now == NULL || !checked(now, pass_type, "Pass")) {
        Py_XDECREF(now);
        return NULL;
    }
    Py_XDECREF(inside_leave(object, NULL));
    if (inside->count == inside->room) {
        Place *larger = realloc(inside->places, sizeof(Place) * (size_t)(2 * inside->room + 4));
        if (larger == NULL) {
            Py_DECREF(now);
            return PyErr_NoMemory();
        }
        inside->places = larger;
        inside->room = 2 * inside->room + 4;
    }
    inside->places[inside->count++] = (Place){PyThread_get_thread_ident(), Py_NewRef(forward), (Pass *)now};
    Py_RETURN_NONE;
}

static PyObject *inside_forward(PyObject *object, void *none) {
    (void)none;
    const Place *place = here((const Inside *)object);
    return Py_NewRef(place == NULL ? Py_None : place->forward);
}

static int acquire(Lock *lock) {
    const unsigned long thread = PyThread_get_thread_ident();
    if (lock->depth > 0 && lock->owner == thread) return ++lock->depth;
    if (!PyThread_acquire_lock(lock->lock, NOWAIT_LOCK)) {
        Py_BEGIN_ALLOW_THREADS
        PyThread_acquire_lock(lock->lock, WAIT_LOCK);
        Py_END_ALLOW_THREADS
    }
    lock->owner = thread;
    return lock->depth = 1;
}

static void release(Lock *lock) {
    if (--lock->depth == 0) PyThread_release_lock(lock->lock);
}

static PyObject *lock_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "")) return NULL;
    Lock *lock = (Lock *)PyType_GenericAlloc(type, 0);
    if (lock == NULL || (lock->lock = PyThread_allocate_lock()) != NULL) return (PyObject *)lock;
    Py_DECREF(lock);
    return PyErr_NoMemory();
}

static void lock_free(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    if (((Lock *)object)->lock != NULL) PyThread_free_lock(((Lock *)object)->lock);
    PyObject_Free(object);
    Py_DECREF(type);
}

static PyObject *lock_enter(PyObject *object, PyObject *none) {
    (void)none;
    acquire((Lock *)object);
    return Py_NewRef(object);
}

static PyObject *lock_exit(PyObject *object, PyObject *error) {
    (void)error;
    release((Lock *)object);
    Py_RETURN_NONE;
}

static PyMethodDef inside_methods[] = {{"begin", inside_begin, METH_VARARGS, "What hooks ask of a new forward."},
                                       {"clear", inside_empty, METH_NOARGS, "Have no thread be in any forward."},
                                       {"enter", inside_enter, METH_O, "Be in this forward from now on."},
                                       {"leave", inside_leave, METH_NOARGS, "Be in none."},
                                       {NULL, NULL, 0, NULL}};
static PyGetSetDef inside_getters[] = {{"forward", inside_forward, NULL, "The forward that this thread is in.", NULL},
                                       {NULL, NULL, NULL, NULL, NULL}};
static PyType_Slot inside_slots[] = {{Py_tp_methods, inside_methods},
                                     {Py_tp_getset, inside_getters},
                                     {Py_tp_traverse, (void *)inside_traverse},
                                     {Py_tp_clear, (void *)inside_clear},
                                     {Py_tp_dealloc, (void *)inside_free},
                                     {0, NULL}};
static PyMethodDef lock_methods[] = {{"__enter__", lock_enter, METH_NOARGS, "Wait for it."},
                                     {"__exit__", lock_exit, METH_VARARGS, "Give it up."},
                                     {NULL, NULL, 0, NULL}};
static PyType_Slot lock_slots[] = {{Py_tp_new, (void *)lock_new},
                                   {Py_tp_dealloc, (void *)lock_free},
                                   {Py_tp_methods, lock_methods},
                                   {0, NULL}};
static PyType_Spec inside_spec = {"normprobe.kernels._cpu.Inside", sizeof(Inside), 0, RECORD, inside_slots};
static PyType_Spec lock_spec = {"normprobe.kernels._cpu.Lock", sizeof(Lock), 0, Py_TPFLAGS_DEFAULT, lock_slots};

#endif
