/* The Python binding: checks the buffers, calls the path's function without the GIL, and returns bytes. It does no
 * computation itself. */
#include "binding.h"

#include <stdlib.h>
#include <string.h>

static const char *const FIELD_OPERATIONS[PSICLI_FIELD_OPERATIONS] = {
    "add", "subtract", "multiply", "square", "multiply_small", "carry", "reduce",
};

/* Fastest first. */
static const psicli_path *const PATHS[] = {
#ifdef __x86_64__
    &psicli_avx512ifma, &psicli_avx512, &psicli_avx2,
#endif
    &psicli_portable,
};
#define PATH_COUNT (sizeof PATHS / sizeof *PATHS)

static int is_supported(const psicli_path *path) {
#ifdef __x86_64__
    __builtin_cpu_init();
    if (path == &psicli_avx512ifma)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512ifma");
    if (path == &psicli_avx512)
        return __builtin_cpu_supports("avx512f");
    if (path == &psicli_avx2)
        return __builtin_cpu_supports("avx2");
#endif
    return path == &psicli_portable;
}

/* Return the path with this name. If there is none, or this CPU lacks its instructions, set ValueError, return NULL. */
static const psicli_path *find_path(const char *name) {
    for (size_t i = 0; i < PATH_COUNT; i++)
        if (strcmp(PATHS[i]->name, name) == 0 && is_supported(PATHS[i]))
            return PATHS[i];
    PyErr_SetString(PyExc_ValueError, "this machine does not have this path");
    return NULL;
}

/* Return whether a packed buffer holds whole points; set ValueError if not. */
static int are_points(const Py_buffer *points) {
    return require(points->len % 32 == 0, "the length is not a multiple of 32");
}

/* The points of n items, and a flag for each. If memory runs out, both are NULL and an exception is set. */
typedef struct {
    PyObject *bytes;
    uint8_t *flags;
} results;

static results make_results(size_t n) {
    results r = {new_bytes(n, 32), NULL};
    if (r.bytes == NULL)
        return r;
    r.flags = calloc(n ? n : 1, 1);
    if (r.flags == NULL) {
        Py_CLEAR(r.bytes);
        PyErr_NoMemory();
    }
    return r;
}

static uint8_t *result_data(const results *r) {
    return (uint8_t *)PyBytes_AsString(r->bytes);
}

/* Return the ascending indices of the flags that are set, as a list. */
static PyObject *flagged(const uint8_t *flags, size_t n) {
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list != NULL && i < n; i++) {
        if (!flags[i])
            continue;
        PyObject *index = PyLong_FromSize_t(i);
        if (index == NULL || PyList_Append(list, index) < 0)
            Py_CLEAR(list);
        Py_XDECREF(index);
    }
    return list;
}

PyDoc_STRVAR(paths_doc, "paths() -> tuple[str, ...]\n\nReturn the CPU paths this machine supports, fastest first.");

static PyObject *module_paths(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    PyObject *names = PyList_New(0);
    for (size_t i = 0; names != NULL && i < PATH_COUNT; i++) {
        if (!is_supported(PATHS[i]))
            continue;
        PyObject *name = PyUnicode_FromString(PATHS[i]->name);
        if (name == NULL || PyList_Append(names, name) < 0)
            Py_CLEAR(names);
        Py_XDECREF(name);
    }
    PyObject *tuple = names != NULL ? PyList_AsTuple(names) : NULL;
    Py_XDECREF(names);
    return tuple;
}

PyDoc_STRVAR(mask_doc, "mask(path, points, scalar) -> tuple[bytes, list[int]]\n\n"
                       "Return the products of packed points with the clamped scalar. Also return the ascending\n"
                       "indices of points that are not canonical or have no product; their results are zeros.\n"
                       "ValueError on an unknown path or a wrong length. Constant time in points and scalar.");

static PyObject *module_mask(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    Py_buffer points, scalar;
    PyObject *answer = NULL;
    if (!PyArg_ParseTuple(args, "sy*y*", &name, &points, &scalar))
        return NULL;
    const psicli_path *path = find_path(name);
    if (path != NULL && are_points(&points) && require(scalar.len == 32, "a scalar has 32 bytes")) {
        size_t n = (size_t)points.len / 32;
        results r = make_results(n);
        if (r.bytes != NULL) {
            uint8_t *out = result_data(&r);
            Py_BEGIN_ALLOW_THREADS
            path->mask(out, r.flags, points.buf, n, scalar.buf);
            Py_END_ALLOW_THREADS
            PyObject *bad = flagged(r.flags, n);
            if (bad != NULL)
                answer = PyTuple_Pack(2, r.bytes, bad);
            Py_XDECREF(bad);
        }
        free(r.flags);
        Py_XDECREF(r.bytes);
    }
    PyBuffer_Release(&points);
    PyBuffer_Release(&scalar);
    return answer;
}

/* Return whether any of n flags is set, in constant time. */
static int any_of(const uint8_t *flags, size_t n) {
    uint8_t any = 0;
    for (size_t i = 0; i < n; i++)
        any |= flags[i];
    return any;
}

PyDoc_STRVAR(partners_doc, "partners(path, points, other, signs) -> bytearray\n\n"
                           "Return the sum or the difference of every packed point and the other one, by the lowest bit\n"
                           "of its sign (one byte for each point). ValueError on an unknown path or a wrong length;\n"
                           "ArithmeticError if a point has none. Constant time in points and signs.");

static PyObject *module_partners(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    Py_buffer points, other, signs;
    PyObject *made = NULL;
    if (!PyArg_ParseTuple(args, "sy*y*y*", &name, &points, &other, &signs))
        return NULL;
    const psicli_path *path = find_path(name);
    size_t n = (size_t)points.len / 32;
    if (path != NULL && are_points(&points) && require(other.len == 32, "the other point has 32 bytes") &&
        require((size_t)signs.len == n, "each point has one sign")) {
        uint8_t *flags = calloc(n ? n : 1, 1);
        made = flags != NULL ? PyByteArray_FromStringAndSize(NULL, points.len) : PyErr_NoMemory();
        if (made != NULL) {
            uint8_t *out = (uint8_t *)PyByteArray_AsString(made);
            Py_BEGIN_ALLOW_THREADS
            path->partners(out, flags, points.buf, n, other.buf, signs.buf);
            Py_END_ALLOW_THREADS
            if (any_of(flags, n)) {
                Py_CLEAR(made);
                PyErr_SetString(PyExc_ArithmeticError, "a point has no partner");
            }
        }
        free(flags);
    }
    PyBuffer_Release(&points);
    PyBuffer_Release(&other);
    PyBuffer_Release(&signs);
    return made;
}

/* Return whether there are offsets for `count` items from item `start` on, and they ascend and stay within the data;
 * set ValueError if not. Offsets must not change during the call; those of Arrow arrays are immutable. */
static int are_items(psicli_items *items, const Py_buffer *offsets, int width, Py_ssize_t start, Py_ssize_t count,
                     const Py_buffer *data) {
    if (!require(width == 4 || width == 8, "offsets have 4 or 8 bytes") ||
        !require(start >= 0 && count >= 0 && start < PY_SSIZE_T_MAX - count, "the range of items is invalid"))
        return 0;
    /* Arrow may omit the data buffer if all items are empty, but arithmetic on a null pointer is undefined. */
    *items = (psicli_items){offsets->buf, data->buf != NULL ? data->buf : (const void *)"", width == 8, (size_t)count};
    if (count == 0)
        return 1;
    if (!require(start + count < offsets->len / width, "too few offsets") ||
        !require((uintptr_t)offsets->buf % (uintptr_t)width == 0, "offsets are not aligned"))
        return 0;
    items->offsets = (const char *)offsets->buf + start * width;
    int64_t last = 0;
    for (Py_ssize_t i = 0; i <= count; i++) {
        int64_t offset = items->wide ? ((const int64_t *)items->offsets)[i] : ((const int32_t *)items->offsets)[i];
        if (!require(offset >= last && offset <= (int64_t)data->len, "offsets do not ascend within the data"))
            return 0;
        last = offset;
    }
    return 1;
}

/* Run hash_to_points or, with a scalar, hash_and_mask. Checks the offsets before it releases the GIL. */
static PyObject *hash_items(const char *name, const Py_buffer *offsets, int width, Py_ssize_t start, Py_ssize_t count,
                            const Py_buffer *data, const Py_buffer *prefix, const Py_buffer *dst,
                            const Py_buffer *scalar) {
    psicli_items items;
    psicli_suite suite = {prefix->buf, dst->buf, (size_t)prefix->len, (size_t)dst->len};
    const psicli_path *path = find_path(name);
    if (path == NULL || !require(dst->len <= 255, "a DST has at most 255 bytes") ||
        !are_items(&items, offsets, width, start, count, data))
        return NULL;
    results r = make_results(items.count);
    if (r.bytes == NULL)
        return NULL;
    uint8_t *out = result_data(&r);
    Py_BEGIN_ALLOW_THREADS
    if (scalar != NULL)
        path->hash_and_mask(out, r.flags, &items, &suite, scalar->buf);
    else
        path->hash_to_points(out, r.flags, &items, &suite);
    Py_END_ALLOW_THREADS
    if (any_of(r.flags, items.count)) {
        Py_CLEAR(r.bytes);
        PyErr_SetString(PyExc_ArithmeticError, "an item hit an exceptional case of the hash");
    }
    free(r.flags);
    return r.bytes;
}

PyDoc_STRVAR(hash_to_points_doc,
             "hash_to_points(path, offsets, width, start, count, data, prefix, dst) -> bytes\n\n"
             "Return the packed u-coordinates of hash_to_curve(prefix + item) for items `start` to `start + count` of\n"
             "Arrow's offsets (of `width` bytes) and data (None where there is none). RFC 9380.\n"
             "ValueError on offsets that do not fit; ArithmeticError in a case that no known item reaches.");

static PyObject *module_hash_to_points(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    int width;
    Py_ssize_t start, count;
    Py_buffer offsets, data, prefix, dst;
    if (!PyArg_ParseTuple(args, "sz*innz*y*y*", &name, &offsets, &width, &start, &count, &data, &prefix, &dst))
        return NULL;
    PyObject *points = hash_items(name, &offsets, width, start, count, &data, &prefix, &dst, NULL);
    PyBuffer_Release(&offsets);
    PyBuffer_Release(&data);
    PyBuffer_Release(&prefix);
    PyBuffer_Release(&dst);
    return points;
}

PyDoc_STRVAR(hash_and_mask_doc,
             "hash_and_mask(path, offsets, width, start, count, data, prefix, dst, scalar) -> bytes\n\n"
             "Return the products of hash_to_points with the clamped scalar. Constant time in items and scalar.");

static PyObject *module_hash_and_mask(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    int width;
    Py_ssize_t start, count;
    Py_buffer offsets, data, prefix, dst, scalar;
    PyObject *points = NULL;
    if (!PyArg_ParseTuple(args, "sz*innz*y*y*y*", &name, &offsets, &width, &start, &count, &data, &prefix, &dst, &scalar))
        return NULL;
    if (require(scalar.len == 32, "a scalar has 32 bytes"))
        points = hash_items(name, &offsets, width, start, count, &data, &prefix, &dst, &scalar);
    PyBuffer_Release(&offsets);
    PyBuffer_Release(&data);
    PyBuffer_Release(&prefix);
    PyBuffer_Release(&dst);
    PyBuffer_Release(&scalar);
    return points;
}

PyDoc_STRVAR(digests_doc, "digests(path, offsets, width, start, count, data, prefix, size) -> bytes\n\n"
                          "Return SHA-256(prefix + item)[:size] of every item. ValueError on a size that is not 1 to\n"
                          "32, or a prefix of more than 128 bytes. Constant time in items and prefix.");

static PyObject *module_digests(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    int width, size;
    Py_ssize_t start, count;
    Py_buffer offsets, data, prefix;
    PyObject *packed = NULL;
    psicli_items items;
    if (!PyArg_ParseTuple(args, "sz*innz*y*i", &name, &offsets, &width, &start, &count, &data, &prefix, &size))
        return NULL;
    const psicli_path *path = find_path(name);
    if (path != NULL && require(size >= 1 && size <= 32, "a digest has 1 to 32 bytes") &&
        require(prefix.len <= PSICLI_DIGEST_PREFIX, "the prefix is too long") &&
        are_items(&items, &offsets, width, start, count, &data)) {
        packed = new_bytes(items.count, (size_t)size);
        if (packed != NULL) {
            uint8_t *out = (uint8_t *)PyBytes_AsString(packed);
            Py_BEGIN_ALLOW_THREADS
            path->digests(out, (size_t)size, &items, prefix.buf, (size_t)prefix.len);
            Py_END_ALLOW_THREADS
        }
    }
    PyBuffer_Release(&offsets);
    PyBuffer_Release(&data);
    PyBuffer_Release(&prefix);
    return packed;
}

PyDoc_STRVAR(tokens_doc, "tokens(path, points, prefix) -> bytes\n\n"
                         "Return SHA-256(prefix + point)[:16] of every packed point. ValueError on a wrong length.");

static PyObject *module_tokens(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    Py_buffer points, prefix;
    PyObject *packed = NULL;
    if (!PyArg_ParseTuple(args, "sy*y*", &name, &points, &prefix))
        return NULL;
    const psicli_path *path = find_path(name);
    if (path != NULL && are_points(&points)) {
        packed = PyBytes_FromStringAndSize(NULL, points.len / 2);
        if (packed != NULL) {
            uint8_t *out = (uint8_t *)PyBytes_AsString(packed);
            Py_BEGIN_ALLOW_THREADS
            path->tokens(out, points.buf, (size_t)points.len / 32, prefix.buf, (size_t)prefix.len);
            Py_END_ALLOW_THREADS
        }
    }
    PyBuffer_Release(&points);
    PyBuffer_Release(&prefix);
    return packed;
}

PyDoc_STRVAR(on_curve_doc, "on_curve(path, points) -> bool\n\n"
                           "Return whether all packed points are canonical and on the curve, not on its twist.");

static PyObject *module_on_curve(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    Py_buffer points;
    PyObject *answer = NULL;
    if (!PyArg_ParseTuple(args, "sy*", &name, &points))
        return NULL;
    const psicli_path *path = find_path(name);
    if (path != NULL && are_points(&points)) {
        int all;
        Py_BEGIN_ALLOW_THREADS
        all = path->on_curve(points.buf, (size_t)points.len / 32);
        Py_END_ALLOW_THREADS
        answer = PyBool_FromLong(all);
    }
    PyBuffer_Release(&points);
    return answer;
}

PyDoc_STRVAR(field_doc, "field(path, operation, a, b) -> bytes\n\n"
                        "For tests: run one field function on raw limbs, 64-bit numbers, limb by limb, lane by lane.");

static PyObject *module_field(PyObject *self, PyObject *args) {
    (void)self;
    const char *name, *operation;
    Py_buffer a, b;
    PyObject *answer = NULL;
    if (!PyArg_ParseTuple(args, "ssy*y*", &name, &operation, &a, &b))
        return NULL;
    const psicli_path *path = find_path(name);
    int chosen = 0;
    while (chosen < PSICLI_FIELD_OPERATIONS && strcmp(FIELD_OPERATIONS[chosen], operation) != 0)
        chosen++;
    if (path != NULL && require(chosen < PSICLI_FIELD_OPERATIONS, "no such operation")) {
        Py_ssize_t size = (Py_ssize_t)sizeof(uint64_t) * path->limbs * path->lanes;
        uint64_t left[PSICLI_FIELD_LIMBS], right[PSICLI_FIELD_LIMBS], out[PSICLI_FIELD_LIMBS];
        if (require(a.len == size && b.len == size, "a wrong number of limbs")) {
            memcpy(left, a.buf, (size_t)size);
            memcpy(right, b.buf, (size_t)size);
            path->field(chosen, out, left, right);
            answer = PyBytes_FromStringAndSize((const char *)out, size);
        }
    }
    PyBuffer_Release(&a);
    PyBuffer_Release(&b);
    return answer;
}

static PyMethodDef methods[] = {
    {"paths", module_paths, METH_NOARGS, paths_doc},
    {"mask", module_mask, METH_VARARGS, mask_doc},
    {"partners", module_partners, METH_VARARGS, partners_doc},
    {"hash_to_points", module_hash_to_points, METH_VARARGS, hash_to_points_doc},
    {"hash_and_mask", module_hash_and_mask, METH_VARARGS, hash_and_mask_doc},
    {"digests", module_digests, METH_VARARGS, digests_doc},
    {"tokens", module_tokens, METH_VARARGS, tokens_doc},
    {"on_curve", module_on_curve, METH_VARARGS, on_curve_doc},
    {"field", module_field, METH_VARARGS, field_doc},
    {NULL, NULL, 0, NULL},
};

static int add_list_methods(PyObject *module) {
    return PyModule_AddFunctions(module, psicli_list_methods);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, add_list_methods},
    {0, NULL},
};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_doc = "The curve kernel in C; use it through psicli.curve.native.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__native(void) {
    return PyModuleDef_Init(&module);
}
