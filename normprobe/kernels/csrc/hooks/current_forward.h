/* ForwardState, CurrentForward and Lock: what hooks ask of a forward, which forward each thread is in, and what only
 * one thread may do at a time; twin of capture/forwards/current_forward.py.
 *
 * A ForwardState is used by the thread of its forward only. A CurrentForward is shared by all threads, and only read or
 * changed under the interpreter's lock. The Lock is what the interpreter's lock cannot be: it stays held while a tensor
 * is measured without the interpreter's lock, so that no second thread adds to the same site meanwhile.
 */
#ifndef NORMPROBE_CURRENT_FORWARD_H
#define NORMPROBE_CURRENT_FORWARD_H

#include "hooks/counters.h"

/* --- the state of a forward -------------------------------------------------------------------------------------- */

/* The two sites that every layer has; `normprobe.vocabulary` lists them and any further ones, with their numbers. */
enum { INPUT, OUTPUT, MAX_SITES = 64 };

#define FORWARD_STATE_OBJECTS(X) X(owner) X(session) X(recent)

/* A layer in a forward: whether a call of it is under way, and how many of its tensors were counted at each site. */
typedef struct {
    int open;
    unsigned int counts[]; /* as many as the forward has sites */
} LayerProgress;

/* `serial` is given to no other forward of this process: a plan stored for this one holds it (plan_cache.h). An address
 * would not do, for the next forward may get the same. */
typedef struct {
    PyObject_HEAD
    FORWARD_STATE_OBJECTS(MEMBER)
    long long serial;
    int threads, sites;
    char measured;
    long long open, room;     /* how many layers are under way; for how many there is a LayerProgress */
    char *progress_of_layers; /* those, `progress_size` bytes apart */
} ForwardState;

GC_TYPE(ForwardState, FORWARD_STATE_OBJECTS, free(self->progress_of_layers);)

static size_t progress_size(const ForwardState *forward) {
    return sizeof(LayerProgress) + sizeof(unsigned int) * (size_t)forward->sites;
}

/* How far a forward is with a layer; NULL where memory runs out. The next call for another layer may move it. */
static LayerProgress *progress_of(ForwardState *forward, long long layer) {
    const size_t each = progress_size(forward);
    if (layer >= forward->room) {
        long long room = forward->room < 64 ? 64 : forward->room;
        while (room <= layer) room *= 2;
        char *larger = realloc(forward->progress_of_layers, each * (size_t)room);
        if (larger == NULL) return NULL;
        memset(larger + each * (size_t)forward->room, 0, each * (size_t)(room - forward->room));
        forward->progress_of_layers = larger;
        forward->room = room;
    }
    return (LayerProgress *)(void *)(forward->progress_of_layers + each * (size_t)layer);
}

/* Set whether a call of a layer is under way. */
static void set_open(ForwardState *forward, LayerProgress *progress, int open) {
    forward->open += open - progress->open;
    progress->open = open;
}

/* How far a forward is with the layer of this index; NULL with an error. */
static LayerProgress *progress_at(PyObject *forward, PyObject *index) {
    const long long layer = PyLong_AsLongLong(index);
    if (PyErr_Occurred()) return NULL;
    LayerProgress *progress = layer < 0 || layer > 1LL << 32 ? NULL : progress_of((ForwardState *)forward, layer);
    if (progress == NULL) PyErr_SetString(PyExc_IndexError, "so many layers cannot be followed");
    return progress;
}

/* enter(layer): a call of it is under way */
static PyObject *forward_state_enter(PyObject *object, PyObject *index) {
    LayerProgress *progress = progress_at(object, index);
    if (progress == NULL) return NULL;
    set_open((ForwardState *)object, progress, 1);
    Py_RETURN_NONE;
}

/* leave(layer): no call of it is under way */
static PyObject *forward_state_leave(PyObject *object, PyObject *index) {
    LayerProgress *progress = progress_at(object, index);
    if (progress == NULL) return NULL;
    set_open((ForwardState *)object, progress, 0);
    Py_RETURN_NONE;
}

/* is_open(layer) -> whether a call of it is under way */
static PyObject *forward_state_is_open(PyObject *object, PyObject *index) {
    const LayerProgress *progress = progress_at(object, index);
    return progress == NULL ? NULL : PyBool_FromLong(progress->open);
}

/* next_repeat(layer, site) -> how many tensors of the layer were counted at the site before this one */
static PyObject *forward_state_next_repeat(PyObject *object, PyObject *args) {
    const int sites = ((const ForwardState *)object)->sites;
    PyObject *index;
    int site;
    if (!PyArg_ParseTuple(args, "Oi", &index, &site)) return NULL;
    if (site < 0 || site >= sites) {
        PyErr_Format(PyExc_IndexError, "site %d is not one of the forward's %d", site, sites);
        return NULL;
    }
    LayerProgress *progress = progress_at(object, index);
    return progress == NULL ? NULL : PyLong_FromUnsignedLong(progress->counts[site]++);
}

/* ForwardState(owner, measured, sites): everything else is None, empty or 1 thread */
static PyObject *forward_state_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    static long long serials = 0;
    PyObject *owner;
    int measured, sites;
    if (!PyArg_ParseTuple(args, "Opi", &owner, &measured, &sites)) return NULL;
    if (sites < 1 || sites > MAX_SITES) {
        PyErr_Format(PyExc_ValueError, "a forward needs from 1 to %d sites, got %d", MAX_SITES, sites);
        return NULL;
    }
    ForwardState *forward = (ForwardState *)PyType_GenericAlloc(type, 0);
    if (forward == NULL) return NULL;
    forward->owner = Py_NewRef(owner);
    forward->serial = ++serials;
    forward->measured = (char)measured;
    forward->sites = sites;
    forward->threads = 1;
    return (PyObject *)forward;
}

#define OBJECT_OF_FORWARD(name) OBJECT_OF(ForwardState, name)
static PyMemberDef forward_state_members[] = {
    FORWARD_STATE_OBJECTS(OBJECT_OF_FORWARD){"threads", T_INT, offsetof(ForwardState, threads), 0, NULL},
    {"measured", T_BOOL, offsetof(ForwardState, measured), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyMethodDef forward_state_methods[] = {
    {"enter", forward_state_enter, METH_O, "Note that a call of a layer is under way."},
    {"leave", forward_state_leave, METH_O, "Note that no call of a layer is under way."},
    {"is_open", forward_state_is_open, METH_O, "Whether a call of a layer is under way."},
    {"next_repeat", forward_state_next_repeat, METH_VARARGS, "Count a tensor of a layer at a site."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot forward_state_slots[] = {
    {Py_tp_new, (void *)forward_state_new},
    {Py_tp_members, forward_state_members},
    {Py_tp_methods, forward_state_methods},
    GC_SLOTS(ForwardState),
    {0, NULL},
};
static PyType_Spec forward_state_spec = {"normprobe.kernels._cpu.ForwardState", sizeof(ForwardState), 0, GC_FLAGS,
                                         forward_state_slots};

/* --- the forward that each thread is in -------------------------------------------------------------------------- */

/* A thread in a forward; `state` is the forward's, looked up once. */
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

/* The entry of this thread, NULL if it is in no forward. Valid until an entry is added or removed. */
static ThreadEntry *entry_of_thread(const CurrentForward *current) {
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

/* An entry is removed before its references go: freeing a forward may run Python code that comes back here. */
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
    ThreadEntry *entry = entry_of_thread(current);
    if (entry == NULL) Py_RETURN_NONE;
    const ThreadEntry left = *entry;
    *entry = current->entries[--current->count];
    Py_DECREF(left.forward);
    Py_DECREF((PyObject *)left.state);
    Py_RETURN_NONE;
}

/* clear(): no thread is in any forward */
static PyObject *current_forward_clear_all(PyObject *object, PyObject *none) {
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
    PyObject *state = PyObject_GetAttr(forward, interned.state);
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
    current->entries[current->count++] =
        (ThreadEntry){PyThread_get_thread_ident(), Py_NewRef(forward), (ForwardState *)state};
    Py_RETURN_NONE;
}

static PyObject *current_forward_forward(PyObject *object, void *none) {
    (void)none;
    const ThreadEntry *entry = entry_of_thread((const CurrentForward *)object);
    return Py_NewRef(entry == NULL ? Py_None : entry->forward);
}

static PyMethodDef current_forward_methods[] = {
    {"begin", current_forward_begin, METH_VARARGS, "State of a new forward."},
    {"clear", current_forward_clear_all, METH_NOARGS, "Clear the forwards of all threads."},
    {"enter", current_forward_enter, METH_O, "Set the forward of this thread."},
    {"leave", current_forward_leave, METH_NOARGS, "Clear the forward of this thread."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef current_forward_getters[] = {
    {"forward", current_forward_forward, NULL, "The forward that this thread is in.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot current_forward_slots[] = {
    {Py_tp_methods, current_forward_methods},           {Py_tp_getset, current_forward_getters},
    {Py_tp_traverse, (void *)current_forward_traverse}, {Py_tp_clear, (void *)current_forward_clear},
    {Py_tp_dealloc, (void *)current_forward_free},      {0, NULL},
};
static PyType_Spec current_forward_spec = {"normprobe.kernels._cpu.CurrentForward", sizeof(CurrentForward), 0, GC_FLAGS,
                                           current_forward_slots};

/* --- the lock of a probe ----------------------------------------------------------------------------------------- */

/* Reentrant. `owner` and `depth` are read and written under the interpreter's lock, and `owner` means nothing while
 * `depth` is 0. */
typedef struct {
    PyObject_HEAD
    PyThread_type_lock lock;
    unsigned long owner;
    int depth;
} Lock;

/* Waits without the interpreter's lock: who holds this one may need that to go on, and both threads would wait for
 * ever. */
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

static PyMethodDef lock_methods[] = {
    {"__enter__", lock_enter, METH_NOARGS, "Acquire it."},
    {"__exit__", lock_exit, METH_VARARGS, "Release it."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot lock_slots[] = {
    {Py_tp_new, (void *)lock_new},
    {Py_tp_dealloc, (void *)lock_free},
    {Py_tp_methods, lock_methods},
    {0, NULL},
};
static PyType_Spec lock_spec = {"normprobe.kernels._cpu.Lock", sizeof(Lock), 0, Py_TPFLAGS_DEFAULT, lock_slots};

#endif
