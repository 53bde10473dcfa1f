/* The Python binding of lists.c. */
#include "binding.h"

#include <stdlib.h>

/* Return how many records of `width` bytes there are; set ValueError and return -1 if that is no whole number, or if
 * there are more than positions of 32 bits can tell. */
static Py_ssize_t count_records(const Py_buffer *records, int width) {
    int right = require(width >= 8 && records->len % width == 0, "the length is not a multiple of a width of 8 or more");
    return right && require(records->len / width <= UINT32_MAX, "too many records") ? records->len / width : -1;
}

PyDoc_STRVAR(order_doc, "order(records, width) -> tuple[bytes, bytes]\n\n"
                        "Return the positions, of 32 bits each, of packed records of `width` bytes in ascending order\n"
                        "of their first 64 bits, a little-endian number, and these numbers in this order. Equal ones\n"
                        "keep their order. ValueError on a wrong length.");

static PyObject *module_order(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer records;
    int width;
    PyObject *answer = NULL;
    if (!PyArg_ParseTuple(args, "y*i", &records, &width))
        return NULL;
    Py_ssize_t n = count_records(&records, width);
    PyObject *order = n < 0 ? NULL : new_bytes((size_t)n, 4), *words = n < 0 ? NULL : new_bytes((size_t)n, 8);
    if (order != NULL && words != NULL) {
        uint32_t *positions = (uint32_t *)PyBytes_AsString(order);
        uint64_t *numbers = (uint64_t *)PyBytes_AsString(words);
        int done;
        Py_BEGIN_ALLOW_THREADS
        done = psicli_order(positions, numbers, records.buf, (size_t)n, (size_t)width);
        Py_END_ALLOW_THREADS
        answer = done ? PyTuple_Pack(2, order, words) : PyErr_NoMemory();
    }
    Py_XDECREF(order);
    Py_XDECREF(words);
    PyBuffer_Release(&records);
    return answer;
}

PyDoc_STRVAR(seen_doc, "seen(records, others, width) -> bytes\n\n"
                       "Return one byte for each of the other packed records: 1 if its first 64 bits are those of one\n"
                       "of the records, and 0 in seven of eight other cases. ValueError on a wrong length.");

static PyObject *module_seen(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer records, others;
    int width;
    PyObject *seen = NULL;
    if (!PyArg_ParseTuple(args, "y*y*i", &records, &others, &width))
        return NULL;
    Py_ssize_t n = count_records(&records, width), count = n < 0 ? -1 : count_records(&others, width);
    if (count >= 0)
        seen = new_bytes((size_t)count, 1);
    if (seen != NULL) {
        uint8_t *flags = (uint8_t *)PyBytes_AsString(seen);
        int done;
        Py_BEGIN_ALLOW_THREADS
        done = psicli_seen(flags, records.buf, (size_t)n, others.buf, (size_t)count, (size_t)width);
        Py_END_ALLOW_THREADS
        if (!done) {
            Py_CLEAR(seen);
            PyErr_NoMemory();
        }
    }
    PyBuffer_Release(&records);
    PyBuffer_Release(&others);
    return seen;
}

PyDoc_STRVAR(take_doc, "take(offsets, data, places) -> tuple[bytes, bytes]\n\n"
                       "Return the values at some places (32 bits each) as offsets and data, given Arrow's offsets of\n"
                       "64 bits and data. ValueError on a place or an offset that does not fit.");

static PyObject *module_take(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer offsets, data, places;
    PyObject *ends = NULL, *taken = NULL, *answer = NULL;
    if (!PyArg_ParseTuple(args, "y*y*y*", &offsets, &data, &places))
        return NULL;
    size_t n = (size_t)places.len / 4, count = offsets.len >= 8 ? (size_t)offsets.len / 8 - 1 : 0;
    int64_t *starts = malloc((n ? n : 1) * sizeof *starts);
    int right = require(offsets.len % 8 == 0 && places.len % 4 == 0, "the length is not a multiple of 8 or 4") &&
                require((uintptr_t)offsets.buf % 8 == 0 && (uintptr_t)places.buf % 4 == 0, "numbers are not aligned");
    if (starts == NULL)
        PyErr_NoMemory();
    else if (right)
        ends = new_bytes(n + 1, 8);
    if (ends != NULL) {
        int64_t *until = (int64_t *)PyBytes_AsString(ends);
        Py_BEGIN_ALLOW_THREADS
        right = psicli_spans(starts, until, offsets.buf, count, (size_t)data.len, places.buf, n);
        Py_END_ALLOW_THREADS
        if (require(right, "a place or an offset does not fit"))
            taken = new_bytes((size_t)until[n], 1);
        if (taken != NULL) {
            uint8_t *out = (uint8_t *)PyBytes_AsString(taken);
            Py_BEGIN_ALLOW_THREADS
            psicli_gather(out, data.buf, starts, until, n);
            Py_END_ALLOW_THREADS
            answer = PyTuple_Pack(2, ends, taken);
        }
    }
    free(starts);
    Py_XDECREF(ends);
    Py_XDECREF(taken);
    PyBuffer_Release(&offsets);
    PyBuffer_Release(&data);
    PyBuffer_Release(&places);
    return answer;
}

PyMethodDef psicli_list_methods[] = {
    {"order", module_order, METH_VARARGS, order_doc},
    {"seen", module_seen, METH_VARARGS, seen_doc},
    {"take", module_take, METH_VARARGS, take_doc},
    {NULL, NULL, 0, NULL},
};
