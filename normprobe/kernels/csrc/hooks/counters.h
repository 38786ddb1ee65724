/* SiteCounters: what hooks read and write of a site at every call; twin of capture/states/counters.py.
 *
 * Written under the probe's Lock, by a hook here or by `normprobe.capture.measure` in Python.
 */
#ifndef NORMPROBE_COUNTERS_H
#define NORMPROBE_COUNTERS_H

#include <stddef.h>
#include <structmember.h>

#include "numerics/accumulator.h"

#define COUNTERS_OBJECTS(X) X(samples) X(rows) X(dtype) X(state) X(plan_slot) X(groups)

typedef struct {
    PyObject_HEAD
    COUNTERS_OBJECTS(MEMBER)
    long long calls, n_samples, masked, firings, form;
    char decided;
} SiteCounters;

GC_TYPE(SiteCounters, COUNTERS_OBJECTS, )

/* SiteCounters(samples, rows): everything else is None or 0 */
static PyObject *counters_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    PyObject *samples, *rows;
    if (!PyArg_ParseTuple(args, "OO", &samples, &rows)) return NULL;
    SiteCounters *counters = (SiteCounters *)PyType_GenericAlloc(type, 0);
    if (counters == NULL) return NULL;
    counters->samples = Py_NewRef(samples);
    counters->rows = Py_NewRef(rows);
    return (PyObject *)counters;
}

#define OBJECT_OF(Type, name) {#name, T_OBJECT, offsetof(Type, name), 0, NULL},
#define COUNT_OF_SITE(name) {#name, T_LONGLONG, offsetof(SiteCounters, name), 0, NULL},
#define OBJECT_OF_SITE(name) OBJECT_OF(SiteCounters, name)
static PyMemberDef counters_members[] = {
    COUNTERS_OBJECTS(OBJECT_OF_SITE) COUNT_OF_SITE(calls) COUNT_OF_SITE(n_samples) COUNT_OF_SITE(masked)
        COUNT_OF_SITE(firings) COUNT_OF_SITE(form){"decided", T_BOOL, offsetof(SiteCounters, decided), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyType_Slot counters_slots[] = {
    {Py_tp_new, (void *)counters_new},
    {Py_tp_members, counters_members},
    GC_SLOTS(SiteCounters),
    {0, NULL},
};
static PyType_Spec counters_spec = {"normprobe.kernels._cpu.SiteCounters", sizeof(SiteCounters), 0, GC_FLAGS,
                                    counters_slots};

#endif
