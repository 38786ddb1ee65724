/* Which forward each thread is inside, and a Lock for what threads share; both are touched at every call of a layer. */
#ifndef NORMPROBE_CURRENT_FORWARD_H
#define NORMPROBE_CURRENT_FORWARD_H

#include "hooks/counters.h"

/* A thread in a forward, of which `now` is what hooks ask. */
typedef struct {
    unsigned long thread;
    PyObject *forward;
    ForwardState *state;
} ThreadEntry;

typedef struct {
    PyObject_HEAD
    Py_ssize_t count, room;
    ThreadEntry *entries;
} CurrentForward;

/* Reentrant; who waits for it lets the interpreter go on. */
typedef struct {
    PyObject_HEAD
    PyThread_type_lock lock;
    unsigned long owner; /* of a depth above 0 */
    int depth;
} Lock;

static PyTypeObject *current_forward_type, *lock_type;

/* Where this thread is; NULL: in no forward. */
static ThreadEntry *entry_here(const CurrentForward *current) {
    const unsigned long thread = PyThread_get_thread_ident();
    for (Py_ssize_t i = 0; i < current->count; i++)
        if (current->entries[i].thread == thread) return &current->entries[i];
    return NULL;
}

static int current_forward_traverse(PyObject *object, visitproc visit, void *arg) {
    const CurrentForward *current = (const CurrentForward *)object;
    Py_VISIT(Py_TYPE(object));
    for (Py_ssize_t i = 0; i < current->count; i++) {
        Py_VISIT(current->entries[i].forward);
        Py_VISIT(current->entries[i].state);
    }
    return 0;
}

static int current_forward_clear(PyObject *object) {
    CurrentForward *current = (CurrentForward *)object;
    while (current->count > 0) {
        const ThreadEntry last = current->entries[--current->count];
        Py_DECREF(last.forward);
        Py_DECREF((PyObject *)last.state);
    }
    return 0;
}

static void current_forward_free(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    current_forward_clear(object);
    free(((CurrentForward *)object)->entries);
    PyObject_GC_Del(object);
    Py_DECREF(type);
}

/* leave(): this thread is in no forward */
static PyObject *current_forward_leave(PyObject *object, PyObject *none) {
    (void)none;
    CurrentForward *current = (CurrentForward *)object;
    ThreadEntry *entry = entry_here(current);
    if (entry == NULL) Py_RETURN_NONE;
    const ThreadEntry left = *entry;
    *entry = current->entries[--current->count];
    Py_DECREF(left.forward);
    Py_DECREF((PyObject *)left.state);
    Py_RETURN_NONE;
}

/* clear(): no thread is in any forward */
static PyObject *current_forward_empty(PyObject *object, PyObject *none) {
    (void)none;
    current_forward_clear(object);
    Py_RETURN_NONE;
}

/* begin(owner, measured, sites) -> the state of a forward that begins with a call of this module */
static PyObject *current_forward_begin(PyObject *object, PyObject *args) {
    (void)object;
    return forward_state_new(forward_state_type, args, NULL);
}

/* enter(forward): this thread is in it from now on */
static PyObject *current_forward_enter(PyObject *object, PyObject *forward) {
    CurrentForward *current = (CurrentForward *)object;
    PyObject *state = PyObject_GetAttr(forward, names.state);
    if (state == NULL || !checked(state, forward_state_type, "ForwardState")) {
        Py_XDECREF(state);
        return NULL;
    }
    Py_XDECREF(current_forward_leave(object, NULL));
    if (current->count == current->room) {
        ThreadEntry *larger = realloc(current->entries, sizeof(ThreadEntry) * (size_t)(2 * current->room + 4));
        if (larger == NULL) {
            Py_DECREF(state);
            return PyErr_NoMemory();
        }
        current->entries = larger;
        current->room = 2 * current->room + 4;
    }
    current->entries[current->count++] = (ThreadEntry){PyThread_get_thread_ident(), Py_NewRef(forward), (ForwardState *)state};
    Py_RETURN_NONE;
}

static PyObject *current_forward_forward(PyObject *object, void *none) {
    (void)none;
    const ThreadEntry *entry = entry_here((const CurrentForward *)object);
    return Py_NewRef(entry == NULL ? Py_None : entry->forward);
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

static PyMethodDef current_forward_methods[] = {{"begin", current_forward_begin, METH_VARARGS, "What hooks ask of a new forward."},
                                       {"clear", current_forward_empty, METH_NOARGS, "Have no thread be in any forward."},
                                       {"enter", current_forward_enter, METH_O, "Be in this forward from state on."},
                                       {"leave", current_forward_leave, METH_NOARGS, "Be in none."},
                                       {NULL, NULL, 0, NULL}};
static PyGetSetDef current_forward_getters[] = {{"forward", current_forward_forward, NULL, "The forward that this thread is in.", NULL},
                                       {NULL, NULL, NULL, NULL, NULL}};
static PyType_Slot current_forward_slots[] = {{Py_tp_methods, current_forward_methods},
                                     {Py_tp_getset, current_forward_getters},
                                     {Py_tp_traverse, (void *)current_forward_traverse},
                                     {Py_tp_clear, (void *)current_forward_clear},
                                     {Py_tp_dealloc, (void *)current_forward_free},
                                     {0, NULL}};
static PyMethodDef lock_methods[] = {{"__enter__", lock_enter, METH_NOARGS, "Wait for it."},
                                     {"__exit__", lock_exit, METH_VARARGS, "Give it up."},
                                     {NULL, NULL, 0, NULL}};
static PyType_Slot lock_slots[] = {{Py_tp_new, (void *)lock_new},
                                   {Py_tp_dealloc, (void *)lock_free},
                                   {Py_tp_methods, lock_methods},
                                   {0, NULL}};
static PyType_Spec current_forward_spec = {"normprobe.kernels._cpu.CurrentForward", sizeof(CurrentForward), 0, RECORD, current_forward_slots};
static PyType_Spec lock_spec = {"normprobe.kernels._cpu.Lock", sizeof(Lock), 0, Py_TPFLAGS_DEFAULT, lock_slots};

#endif
