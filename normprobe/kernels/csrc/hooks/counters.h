/* What hooks look up at every call, as plain memory: an Account of each site, a Pass of each forward, and what sites
 * that are alike agreed on, which they find in a Cell. */
#ifndef NORMPROBE_ACCOUNT_H
#define NORMPROBE_ACCOUNT_H

#include <stddef.h>
#include <structmember.h>

#include "numerics/accumulator.h"

#define PASS_HELD(X) X(owner) X(session) X(memory)
#define ACCOUNT_HELD(X) X(samples) X(rows) X(dtype) X(state) X(cell)
#define CELL_HELD(X) X(agreed)
#define AGREED_HELD(X) X(samples) X(rows) X(samples_after) X(rows_after) X(plan) X(raw_plan) X(placed) X(masked_by)

/* A layer in a forward: whether a call of it is under way, and how often its input and its output were met. */
typedef struct {
    unsigned int met[2];
    int open;
} Course;

/* Of a forward: the module it began with, what listens in it, and how it went with each layer. */
typedef struct {
    PyObject_HEAD
    PASS_HELD(FIELD)
    long long serial; /* no other forward's of this process */
    int threads;
    char measured;
    long long open, room; /* how many layers are under way; of how many there is a course */
    Course *courses;
} Pass;

/* Of a site: what it keeps, what it met, how much, and whether its layer's calls leave nothing to decide. */
typedef struct {
    PyObject_HEAD
    ACCOUNT_HELD(FIELD)
    long long calls, n_samples, masked, firings;
    char decided;
} Account;

typedef struct {
    PyObject_HEAD
    CELL_HELD(FIELD)
    long long serial; /* of the forward that it was agreed in */
} Cell;

/* What sites that are alike do with the first tensor of one shape in a forward; -1 stands for any size. */
typedef struct {
    PyObject_HEAD
    AGREED_HELD(FIELD)
    int axes;
    int64_t shape[MOST_AXES];
    long long small, n_samples, masked; /* numbers below which one thread measures */
} Agreed;

COLLECTED(Pass, PASS_HELD, free(self->courses);)
COLLECTED(Account, ACCOUNT_HELD, )
COLLECTED(Cell, CELL_HELD, )
COLLECTED(Agreed, AGREED_HELD, )

/* How it went with a layer; NULL where memory runs out. */
static Course *course_of(Pass *pass, long long layer) {
    if (layer < pass->room) return &pass->courses[layer];
    long long room = pass->room < 64 ? 64 : pass->room;
    while (room <= layer) room *= 2;
    Course *larger = realloc(pass->courses, sizeof(Course) * (size_t)room);
    if (larger == NULL) return NULL;
    memset(larger + pass->room, 0, sizeof(Course) * (size_t)(room - pass->room));
    pass->courses = larger;
    pass->room = room;
    return &larger[layer];
}

/* Say whether a call of a layer is under way. */
static void set_open(Pass *pass, Course *course, int open) {
    pass->open += open - course->open;
    course->open = open;
}

/* The course of the layer whose index is the first of the arguments; NULL with an error. */
static Course *course_in(PyObject *pass, PyObject *index) {
    const long long layer = PyLong_AsLongLong(index);
    if (PyErr_Occurred()) return NULL;
    Course *course = layer < 0 || layer > 1LL << 32 ? NULL : course_of((Pass *)pass, layer);
    if (course == NULL) PyErr_SetString(PyExc_IndexError, "so many layers cannot be followed");
    return course;
}

/* enter(layer): a call of it is under way */
static PyObject *pass_enter(PyObject *object, PyObject *index) {
    Course *course = course_in(object, index);
    if (course == NULL) return NULL;
    set_open((Pass *)object, course, 1);
    Py_RETURN_NONE;
}

/* leave(layer): no call of it is */
static PyObject *pass_leave(PyObject *object, PyObject *index) {
    Course *course = course_in(object, index);
    if (course == NULL) return NULL;
    set_open((Pass *)object, course, 0);
    Py_RETURN_NONE;
}

/* is_open(layer) -> whether a call of it is under way */
static PyObject *pass_is_open(PyObject *object, PyObject *index) {
    const Course *course = course_in(object, index);
    return course == NULL ? NULL : PyBool_FromLong(course->open);
}

/* take_turn(layer, behind) -> how often its output, or its input, was met before this time */
static PyObject *pass_take_turn(PyObject *object, PyObject *args) {
    PyObject *index;
    int behind;
    if (!PyArg_ParseTuple(args, "Op", &index, &behind)) return NULL;
    Course *course = course_in(object, index);
    return course == NULL ? NULL : PyLong_FromUnsignedLong(course->met[behind]++);
}

/* Pass(owner, measured): everything else is None, empty or 1 thread. */
static PyObject *pass_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    PyObject *owner;
    int measured;
    if (!PyArg_ParseTuple(args, "Op", &owner, &measured)) return NULL;
    Pass *pass = (Pass *)PyType_GenericAlloc(type, 0);
    if (pass == NULL) return NULL;
    pass->owner = Py_NewRef(owner);
    static long long serials = 0;
    pass->serial = ++serials;
    pass->measured = (char)measured;
    pass->threads = 1;
    return (PyObject *)pass;
}

/* Account(samples, rows): nothing met yet */
static PyObject *account_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    PyObject *samples, *rows;
    if (!PyArg_ParseTuple(args, "OO", &samples, &rows)) return NULL;
    Account *account = (Account *)PyType_GenericAlloc(type, 0);
    if (account == NULL) return NULL;
    account->samples = Py_NewRef(samples);
    account->rows = Py_NewRef(rows);
    return (PyObject *)account;
}

static PyObject *cell_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    return PyArg_ParseTuple(args, "") ? PyType_GenericAlloc(type, 0) : NULL;
}

/* settle(agreed, pass): it holds in the forward of this pass, and no other */
static PyObject *cell_settle(PyObject *object, PyObject *args) {
    PyObject *agreed, *pass;
    if (!PyArg_ParseTuple(args, "O!O!", agreed_type, &agreed, pass_type, &pass)) return NULL;
    Cell *cell = (Cell *)object;
    PyObject *before = cell->agreed;
    cell->agreed = Py_NewRef(agreed);
    cell->serial = ((const Pass *)pass)->serial;
    Py_XDECREF(before);
    Py_RETURN_NONE;
}

/* Agreed(*, shape, samples, rows, samples_after, rows_after, plan, raw_plan, small, placed, n_samples, masked,
 * masked_by) */
static PyObject *agreed_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *keywords[] = {"shape", "samples", "rows",      "samples_after", "rows_after", "plan", "raw_plan",
                               "small", "placed",  "n_samples", "masked",        "masked_by",  NULL};
    PyObject *shape, *samples, *rows, *samples_after, *rows_after, *plan, *raw, *placed, *masked_by;
    long long small, n_samples, masked;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$O!OOOOOOLOLLO", keywords, &PyTuple_Type, &shape, &samples, &rows,
                                     &samples_after, &rows_after, &plan, &raw, &small, &placed, &n_samples, &masked,
                                     &masked_by))
        return NULL;
    if (!checked(plan, plan_type, "Plan") ||
        (raw != Py_None && !checked(raw, plan_type, "Plan")))
        return NULL;
    Agreed *agreed = (Agreed *)PyType_GenericAlloc(type, 0);
    if (agreed == NULL) return NULL;
    agreed->axes = read_sizes(shape, agreed->shape);
    agreed->samples = Py_NewRef(samples);
    agreed->rows = Py_NewRef(rows);
    agreed->samples_after = Py_NewRef(samples_after);
    agreed->rows_after = Py_NewRef(rows_after);
    agreed->plan = Py_NewRef(plan);
    agreed->raw_plan = Py_NewRef(raw);
    agreed->placed = Py_NewRef(placed);
    agreed->masked_by = Py_NewRef(masked_by);
    agreed->small = small;
    agreed->n_samples = n_samples;
    agreed->masked = masked;
    if (agreed->axes >= 0) return (PyObject *)agreed;
    Py_DECREF(agreed);
    return NULL;
}

#define OBJECT_OF(Type, name) {#name, T_OBJECT, offsetof(Type, name), 0, NULL},
#define COUNT_OF(Type, name) {#name, T_LONGLONG, offsetof(Type, name), 0, NULL},
#define OF_PASS(name) OBJECT_OF(Pass, name)
#define OF_ACCOUNT(name) OBJECT_OF(Account, name)
static PyMemberDef pass_members[] = {PASS_HELD(OF_PASS){"threads", T_INT, offsetof(Pass, threads), 0, NULL},
                                     {"measured", T_BOOL, offsetof(Pass, measured), 0, NULL},
                                     {NULL, 0, 0, 0, NULL}};
static PyMethodDef pass_methods[] = {{"enter", pass_enter, METH_O, "Note that a call of a layer is under way."},
                                     {"leave", pass_leave, METH_O, "Note that none is."},
                                     {"is_open", pass_is_open, METH_O, "Whether a call of a layer is under way."},
                                     {"take_turn", pass_take_turn, METH_VARARGS, "Count a tensor of a layer."},
                                     {NULL, NULL, 0, NULL}};
static PyMemberDef account_members[] = {ACCOUNT_HELD(OF_ACCOUNT) COUNT_OF(Account, calls) COUNT_OF(Account, n_samples)
                                            COUNT_OF(Account, masked) COUNT_OF(Account, firings){
                                                "decided", T_BOOL, offsetof(Account, decided), 0, NULL},
                                        {NULL, 0, 0, 0, NULL}};
static PyMethodDef cell_methods[] = {{"settle", cell_settle, METH_VARARGS, "Hold what was agreed on in a forward."},
                                     {NULL, NULL, 0, NULL}};

static PyType_Slot pass_slots[] = {
    {Py_tp_new, (void *)pass_new}, {Py_tp_members, pass_members}, {Py_tp_methods, pass_methods}, COLLECTED_SLOTS(Pass),
    {0, NULL}};
static PyType_Slot account_slots[] = {
    {Py_tp_new, (void *)account_new}, {Py_tp_members, account_members}, COLLECTED_SLOTS(Account), {0, NULL}};
static PyType_Slot cell_slots[] = {
    {Py_tp_new, (void *)cell_new}, {Py_tp_methods, cell_methods}, COLLECTED_SLOTS(Cell), {0, NULL}};
static PyType_Slot agreed_slots[] = {{Py_tp_new, (void *)agreed_new}, COLLECTED_SLOTS(Agreed), {0, NULL}};

enum { RECORD = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC };
static PyType_Spec pass_spec = {"normprobe.kernels._cpu.Pass", sizeof(Pass), 0, RECORD, pass_slots};
static PyType_Spec account_spec = {"normprobe.kernels._cpu.Account", sizeof(Account), 0, RECORD, account_slots};
static PyType_Spec cell_spec = {"normprobe.kernels._cpu.Cell", sizeof(Cell), 0, RECORD, cell_slots};
static PyType_Spec agreed_spec = {"normprobe.kernels._cpu.Agreed", sizeof(Agreed), 0, RECORD, agreed_slots};

#endif
