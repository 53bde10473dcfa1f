/* The Python binding: checks the buffers, calls the path's function without the GIL, and fills the caller's results. It
 * does no computation itself. Results are buffers of the caller, which can wipe them. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>
#ifdef __x86_64__
#include <cpuid.h>
#endif

#include "ole.h"

/* Fastest first. */
static const ole_path *const PATHS[] = {
#ifdef __x86_64__
    &ole_vaes, &ole_aesni,
#endif
    &ole_portable,
};
#define PATH_COUNT (sizeof PATHS / sizeof *PATHS)

#ifdef __x86_64__
static int has_aesni(void) {
    return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("avx2");
}

/* Some compilers do not know this feature by name. */
static int has_vaes(void) {
    unsigned a, b, c = 0, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && c >> 9 & 1;
}
#endif

static int is_supported(const ole_path *path) {
#ifdef __x86_64__
    __builtin_cpu_init();
    if (path == &ole_vaes)
        return has_aesni() && has_vaes();
    if (path == &ole_aesni)
        return has_aesni();
#endif
    return path == &ole_portable;
}

/* Return the path with this name. If there is none, or this CPU lacks its instructions, set ValueError, return NULL. */
static const ole_path *find_path(const char *name) {
    for (size_t i = 0; i < PATH_COUNT; i++)
        if (strcmp(PATHS[i]->name, name) == 0 && is_supported(PATHS[i]))
            return PATHS[i];
    PyErr_SetString(PyExc_ValueError, "this machine does not have this path");
    return NULL;
}

static int require(int condition, const char *problem) {
    if (!condition)
        PyErr_SetString(PyExc_ValueError, problem);
    return condition;
}

/* Return whether a buffer holds an array of elements of `size` bytes, and set their number; set ValueError if not. */
static int are_many(const Py_buffer *buffer, size_t size, size_t alignment, size_t *n) {
    *n = (size_t)buffer->len / size;
    return require((size_t)buffer->len % size == 0, "the length is not a multiple of the size of an element") &&
           require((uintptr_t)buffer->buf % alignment == 0, "the array is not aligned");
}

static int are_blocks(const Py_buffer *buffer, size_t *n) {
    return are_many(buffer, sizeof(block), _Alignof(block), n);
}

/* Return whether a buffer holds n blocks; set ValueError if not. */
static int are_n_blocks(const Py_buffer *buffer, size_t n) {
    size_t found;
    return are_blocks(buffer, &found) && require(found == n, "arrays have lengths that do not go together");
}

/* Return whether a buffer holds a * b blocks; set ValueError if not. */
static int are_product(const Py_buffer *buffer, size_t a, size_t b) {
    return require(a == 0 || b <= (size_t)PY_SSIZE_T_MAX / a, "too many blocks") && are_n_blocks(buffer, a * b);
}

static int is_key(const Py_buffer *key) {
    return require(key->len == 16, "a key or seed has 16 bytes");
}

/* Call a function of a path without the GIL. */
#define RUN(call)                                                                                                      \
    do {                                                                                                               \
        Py_BEGIN_ALLOW_THREADS                                                                                         \
        call;                                                                                                          \
        ole_wipe_stack();                                                                                              \
        Py_END_ALLOW_THREADS                                                                                           \
    } while (0)

/* Release the buffers; return None, or NULL if there is an exception. */
static PyObject *finish(Py_buffer *buffers, size_t count) {
    for (size_t i = 0; i < count; i++)
        PyBuffer_Release(&buffers[i]);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
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

PyDoc_STRVAR(encrypt_doc, "encrypt(path, out, blocks, key) -> None\n\nEncrypt blocks with AES-128, each alone.");

static PyObject *module_encrypt(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    Py_buffer b[3];
    size_t n;
    if (!PyArg_ParseTuple(args, "sw*y*y*", &name, &b[0], &b[1], &b[2]))
        return NULL;
    const ole_path *path = find_path(name);
    if (path != NULL && are_blocks(&b[1], &n) && are_n_blocks(&b[0], n) && is_key(&b[2]))
        RUN(path->encrypt(b[0].buf, b[1].buf, n, b[2].buf));
    return finish(b, 3);
}

PyDoc_STRVAR(hashes_doc, "hashes(path, out, blocks, first) -> None\n\nHash blocks; the first one has the tweak `first`.");

static PyObject *module_hashes(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    Py_buffer b[2];
    long long first;
    size_t n;
    if (!PyArg_ParseTuple(args, "sw*y*L", &name, &b[0], &b[1], &first))
        return NULL;
    const ole_path *path = find_path(name);
    if (path != NULL && are_blocks(&b[1], &n) && are_n_blocks(&b[0], n) && require(first >= 0, "tweaks start at 0"))
        RUN(path->hashes(b[0].buf, b[1].buf, n, (uint64_t)first));
    return finish(b, 2);
}

PyDoc_STRVAR(add_products_doc, "add_products(path, sums, blocks, factor) -> None\n\n"
                               "Add the products of blocks with one factor to the sums.");

static PyObject *module_add_products(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    Py_buffer b[3];
    size_t n;
    if (!PyArg_ParseTuple(args, "sw*y*y*", &name, &b[0], &b[1], &b[2]))
        return NULL;
    const ole_path *path = find_path(name);
    if (path != NULL && are_blocks(&b[0], &n) && are_n_blocks(&b[1], n) && are_n_blocks(&b[2], 1))
        RUN(path->add_products(b[0].buf, b[1].buf, n, b[2].buf));
    return finish(b, 3);
}

PyDoc_STRVAR(combine_doc, "combine(path, out, planes) -> None\n\nAdd x^b times plane b of 128 planes.");
PyDoc_STRVAR(transpose_doc, "transpose(path, out, planes) -> None\n\nTranspose the bits of 128 planes.");

static PyObject *module_combine(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    Py_buffer b[2];
    size_t n;
    if (!PyArg_ParseTuple(args, "sw*y*", &name, &b[0], &b[1]))
        return NULL;
    const ole_path *path = find_path(name);
    if (path != NULL && are_blocks(&b[0], &n) && are_product(&b[1], OLE_DELTA, n))
        RUN(path->combine(b[0].buf, b[1].buf, n));
    return finish(b, 2);
}

static PyObject *module_transpose(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    Py_buffer b[2];
    size_t n;
    if (!PyArg_ParseTuple(args, "sw*y*", &name, &b[0], &b[1]))
        return NULL;
    const ole_path *path = find_path(name);
    if (path != NULL && are_blocks(&b[1], &n) && require(n % OLE_DELTA == 0, "there are not 128 planes") &&
        are_n_blocks(&b[0], n))
        RUN(path->transpose(b[0].buf, b[1].buf, n / OLE_DELTA));
    return finish(b, 2);
}

/* Set the levels below the root of a tree with `width` leaves. Return whether there is such a tree; set ValueError if
 * not. */
static int is_width(Py_ssize_t width, unsigned *depth) {
    if (!require(width >= 1 && width <= (Py_ssize_t)1 << OLE_MOST_DEPTH, "no tree has so many leaves"))
        return 0;
    for (*depth = 0; (Py_ssize_t)1 << *depth < width;)
        ++*depth;
    return 1;
}

PyDoc_STRVAR(grow_doc, "grow(path, leaves, sums, seeds, width) -> None\n\n"
                       "Grow trees from seeds to `width` leaves each; also write two sums of each of their levels.");

static PyObject *module_grow(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    Py_buffer b[3];
    Py_ssize_t width;
    unsigned depth;
    size_t n;
    int done = 0;
    if (!PyArg_ParseTuple(args, "sw*w*y*n", &name, &b[0], &b[1], &b[2], &width))
        return NULL;
    const ole_path *path = find_path(name);
    if (path != NULL && is_width(width, &depth) && are_blocks(&b[2], &n) && are_product(&b[0], n, (size_t)width) &&
        are_product(&b[1], n, 2 * depth))
        RUN(done = path->grow(b[0].buf, b[1].buf, b[2].buf, n, (size_t)width, depth));
    if (done < 0)
        PyErr_NoMemory();
    return finish(b, 3);
}

PyDoc_STRVAR(regrow_doc, "regrow(path, leaves, sums, points, width) -> None\n\n"
                         "Grow trees without the leaf at a point (32 bits) of each, from one sum of each level.");

static PyObject *module_regrow(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    Py_buffer b[3];
    Py_ssize_t width;
    unsigned depth;
    size_t n;
    int done = 0;
    if (!PyArg_ParseTuple(args, "sw*y*y*n", &name, &b[0], &b[1], &b[2], &width))
        return NULL;
    const ole_path *path = find_path(name);
    if (path != NULL && is_width(width, &depth) && are_many(&b[2], sizeof(uint32_t), _Alignof(uint32_t), &n) &&
        are_product(&b[0], n, (size_t)width) && are_product(&b[1], n, depth))
        RUN(done = path->regrow(b[0].buf, b[1].buf, b[2].buf, n, (size_t)width, depth));
    if (done < 0)
        PyErr_NoMemory();
    return finish(b, 3);
}

PyDoc_STRVAR(spread_doc, "spread(path, sums, planes, seeds, points) -> None\n\n"
                         "Expand groups of 16 seeds to streams, which are as long as the sums allow, and write their\n"
                         "sum and four planes for each group. points: None, or one of 32 bits for each group.");

static PyObject *module_spread(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    Py_buffer b[4];
    size_t all, seeds, points;
    if (!PyArg_ParseTuple(args, "sw*w*y*z*", &name, &b[0], &b[1], &b[2], &b[3]))
        return NULL;
    const ole_path *path = find_path(name);
    if (path != NULL && are_blocks(&b[2], &seeds) && require(seeds % OLE_STREAMS == 0, "there are not 16 seeds a group") &&
        are_blocks(&b[0], &all) && are_product(&b[1], OLE_PLANES, all) &&
        are_many(&b[3], sizeof(uint32_t), _Alignof(uint32_t), &points)) {
        size_t groups = seeds / OLE_STREAMS, n = groups ? all / groups : 0;
        if (require(groups * n == all, "arrays have lengths that do not go together") &&
            require(b[3].buf == NULL || points == groups, "there is not one point a group"))
            RUN(path->spread(b[0].buf, b[1].buf, b[2].buf, b[3].buf, groups, n));
    }
    return finish(b, 4);
}

PyDoc_STRVAR(convolve_doc, "convolve(path, noise, width) -> None\n\n"
                           "The convolution of the code, in place, on elements of `width` blocks, 1 or 2.");

/* Set the number of elements that a buffer holds. */
static int are_elements(const Py_buffer *buffer, int width, size_t *n) {
    return require(width == 1 || width == 2, "an element has one or two blocks") &&
           are_many(buffer, (size_t)width * sizeof(block), _Alignof(block), n);
}

static PyObject *module_convolve(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    Py_buffer noise;
    int width;
    size_t n;
    if (!PyArg_ParseTuple(args, "sw*i", &name, &noise, &width))
        return NULL;
    const ole_path *path = find_path(name);
    if (path != NULL && are_elements(&noise, width, &n))
        RUN(path->convolve(noise.buf, n, (unsigned)width));
    return finish(&noise, 1);
}

PyDoc_STRVAR(expand_doc, "expand(path, out, noise, width, first) -> None\n\n"
                         "Write the elements of the code's result from `first` on, as many as `out` has room for.");

static PyObject *module_expand(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    Py_buffer b[2];
    int width;
    Py_ssize_t first;
    size_t count, n;
    if (!PyArg_ParseTuple(args, "sw*y*in", &name, &b[0], &b[1], &width, &first))
        return NULL;
    const ole_path *path = find_path(name);
    if (path != NULL && are_elements(&b[0], width, &count) && are_elements(&b[1], width, &n) &&
        require(first >= 0, "the first element is 0") &&
        require((n > 0 || count == 0) && n <= UINT32_MAX, "no code has so much noise"))
        RUN(path->expand(b[0].buf, (size_t)first, count, b[1].buf, n, (unsigned)width));
    return finish(b, 2);
}

/* A length below 0 is none of these. */
static int is_length(size_t length) {
    return require(length >= OLE_BAND && length <= UINT32_MAX, "a store has at least 256 positions, and below 2^32");
}

PyDoc_STRVAR(rows_doc, "rows(path, out, keys, length, seed) -> None\n\n"
                       "Write the row of each key in a store of `length` positions.");

static int are_rows(const Py_buffer *rows, size_t *n) {
    return are_many(rows, sizeof(ole_row), _Alignof(ole_row), n) && require(*n <= UINT32_MAX, "too many rows");
}

static PyObject *module_rows(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    Py_buffer b[3];
    Py_ssize_t length;
    size_t n;
    if (!PyArg_ParseTuple(args, "sw*y*ny*", &name, &b[0], &b[1], &length, &b[2]))
        return NULL;
    const ole_path *path = find_path(name);
    if (path != NULL && are_rows(&b[0], &n) && are_n_blocks(&b[1], n) && is_key(&b[2]) &&
        is_length((size_t)length))
        RUN(path->rows(b[0].buf, b[1].buf, n, (size_t)length, b[2].buf));
    return finish(b, 3);
}

/* Return whether n rows are within a store, and set its length; set ValueError if not. The rows must not change during
 * the call. */
static int are_within(const Py_buffer *rows, size_t *n, const Py_buffer *store, size_t *length) {
    if (!are_rows(rows, n) || !are_blocks(store, length) || !is_length(*length))
        return 0;
    const ole_row *row = rows->buf;
    uint64_t last = 0;
    Py_BEGIN_ALLOW_THREADS
    for (size_t i = 0; i < *n; i++)
        last = row[i].start > last ? row[i].start : last;
    Py_END_ALLOW_THREADS
    return require(last <= *length - OLE_BAND, "a row ends beyond the store");
}

PyDoc_STRVAR(encode_doc, "encode(path, store, rows, values) -> bool\n\n"
                         "Fill the store so that the positions of each row sum to its value; return whether they can.");

static PyObject *module_encode(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    Py_buffer b[3];
    size_t n, length;
    int solved = 0;
    if (!PyArg_ParseTuple(args, "sw*y*y*", &name, &b[0], &b[1], &b[2]))
        return NULL;
    const ole_path *path = find_path(name);
    if (path != NULL && are_within(&b[1], &n, &b[0], &length) && are_n_blocks(&b[2], n))
        RUN(solved = path->encode(b[0].buf, length, b[1].buf, b[2].buf, n));
    if (solved < 0)
        PyErr_NoMemory();
    PyObject *none = finish(b, 3);
    Py_XDECREF(none);
    return none == NULL ? NULL : PyBool_FromLong(solved);
}

PyDoc_STRVAR(decode_doc, "decode(path, out, store, rows) -> None\n\nWrite the sum of the positions of each row.");

static PyObject *module_decode(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    Py_buffer b[3];
    size_t n, length;
    int done = 0;
    if (!PyArg_ParseTuple(args, "sw*y*y*", &name, &b[0], &b[1], &b[2]))
        return NULL;
    const ole_path *path = find_path(name);
    if (path != NULL && are_within(&b[2], &n, &b[1], &length) && are_n_blocks(&b[0], n))
        RUN(done = path->decode(b[0].buf, b[1].buf, length, b[2].buf, n));
    if (done < 0)
        PyErr_NoMemory();
    return finish(b, 3);
}

static PyMethodDef methods[] = {
    {"paths", module_paths, METH_NOARGS, paths_doc},
    {"encrypt", module_encrypt, METH_VARARGS, encrypt_doc},
    {"hashes", module_hashes, METH_VARARGS, hashes_doc},
    {"add_products", module_add_products, METH_VARARGS, add_products_doc},
    {"combine", module_combine, METH_VARARGS, combine_doc},
    {"transpose", module_transpose, METH_VARARGS, transpose_doc},
    {"grow", module_grow, METH_VARARGS, grow_doc},
    {"regrow", module_regrow, METH_VARARGS, regrow_doc},
    {"spread", module_spread, METH_VARARGS, spread_doc},
    {"convolve", module_convolve, METH_VARARGS, convolve_doc},
    {"expand", module_expand, METH_VARARGS, expand_doc},
    {"rows", module_rows, METH_VARARGS, rows_doc},
    {"encode", module_encode, METH_VARARGS, encode_doc},
    {"decode", module_decode, METH_VARARGS, decode_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_doc = "The kernel of RR22 in C; use it through psicli.ole.native.",
    .m_size = 0,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__native(void) {
    return PyModuleDef_Init(&module);
}
