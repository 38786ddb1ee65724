/* A tensor whose samples are of groups, measured group by group; twin of capture/group_measurer.py.
 *
 * The counters of a site hold a list with a pair (state of the group, its SiteCounters) for each group by its index, or
 * None for one that was not met there yet.
 */
#ifndef NORMPROBE_GROUPS_H
#define NORMPROBE_GROUPS_H

#include "hooks/plan_cache.h"

/* One group of a plan, and what the site holds of it; borrowed references. */
typedef struct {
    PyObject *state;
    SiteCounters *counters;
    CompiledChoice *choice;
    long long n_samples, masked;
} Group;

/* Read the i-th group of a plan; 0 where the site does not hold it yet. */
static int read_group(const SiteCounters *site, const CachedPlan *plan, Py_ssize_t i, Group *group) {
    PyObject *planned = PyTuple_GetItem(plan->groups, i);
    const Py_ssize_t index = PyLong_AsSsize_t(PyTuple_GetItem(planned, 0));
    if (site->groups == NULL || !PyList_Check(site->groups) || index < 0 || index >= PyList_Size(site->groups)) return 0;
    PyObject *held = PyList_GetItem(site->groups, index);
    if (!PyTuple_Check(held) || Py_TYPE(PyTuple_GetItem(held, 1)) != counters_type) return 0;
    group->state = PyTuple_GetItem(held, 0);
    group->counters = (SiteCounters *)PyTuple_GetItem(held, 1);
    group->choice = (CompiledChoice *)PyTuple_GetItem(planned, 1);
    group->n_samples = PyLong_AsLongLong(PyTuple_GetItem(planned, 2));
    group->masked = PyLong_AsLongLong(PyTuple_GetItem(planned, 3));
    return group->counters->state != NULL && Py_TYPE(group->counters->state) == accumulator_type;
}

/* Whether a site holds every group of a plan. */
static int holds_groups(const SiteCounters *site, const CachedPlan *plan) {
    Group group;
    for (Py_ssize_t i = 0; plan->groups != Py_None && i < PyTuple_Size(plan->groups); i++)
        if (!read_group(site, plan, i, &group)) return 0;
    return 1;
}

/* Measure the samples of one group. 1: done; 0: the tensor cannot be read as it lies; -1: an error. */
static int observe_group(const Group *group, PyObject *tensor, const TensorInfo *info, RecentMoments *recent, int threads,
                         long long small, PyObject *record, PyObject *placement, PyObject *forward) {
    AccumulatorState *state = (AccumulatorState *)group->counters->state;
    NewHolders found;
    /* Of few rows one thread is faster than waking others, however many the tensor has. */
    const int used = group->choice->counted * state->features < small ? 1 : threads;
    const int changed = observe(state, tensor, info, group->choice, NULL, recent, used, small, &found);
    if (changed < 0) return changed == UNREADABLE ? 0 : -1;
    group->counters->calls++;
    group->counters->n_samples += group->n_samples;
    group->counters->masked += group->masked;
    if (changed == 0) return 1;
    PyObject *extremes = extremes_object(changed, &found);
    PyObject *recorded =
        extremes == NULL ? NULL
                         : PyObject_CallFunctionObjArgs(record, group->state, extremes, placement, forward, NULL);
    Py_XDECREF(extremes);
    Py_XDECREF(recorded);
    return recorded == NULL ? -1 : 1;
}

/* Measure a tensor group by group, once `holds_groups` said that it can be. Returns what `observe_group` does. */
static int observe_groups(const SiteCounters *site, const CachedPlan *plan, PyObject *tensor, const TensorInfo *info,
                          RecentMoments *recent, int threads, PyObject *record, PyObject *forward) {
    int done = 1;
    /* A list that grows meanwhile, or is replaced, frees none of the pairs that another thread would measure into. */
    PyObject *held = Py_NewRef(site->groups);
    for (Py_ssize_t i = 0; done > 0 && i < PyTuple_Size(plan->groups); i++) {
        Group group;
        done = read_group(site, plan, i, &group) ? observe_group(&group, tensor, info, recent, threads, plan->small,
                                                                 record, plan->placement, forward)
                                                 : -1;
    }
    Py_DECREF(held);
    return done;
}

#endif
