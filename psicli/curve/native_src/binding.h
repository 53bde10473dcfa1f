/* What the two files of the Python binding share. */
#ifndef PSICLI_BINDING_H
#define PSICLI_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "psicli.h"

/* Set ValueError unless the condition is true; return the condition. */
static inline int require(int condition, const char *problem) {
    if (!condition)
        PyErr_SetString(PyExc_ValueError, problem);
    return condition;
}

/* Return an uninitialised bytes object for n results of `size` bytes, or NULL with an exception. */
static inline PyObject *new_bytes(size_t n, size_t size) {
    if (n > (size_t)PY_SSIZE_T_MAX / size)
        return PyErr_NoMemory();
    return PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(n * size));
}

/* The methods for lists of records, which end with an empty one. */
extern PSICLI_HIDDEN PyMethodDef psicli_list_methods[];

#endif
