/* Counting |x| into bins: the loop that decides what a calibration costs.

   Arithmetic is that of counting.py, which does the same with numpy where this is not compiled; the tests hold both
   against each other. Every function releases the GIL. Bins are computed for a block at a time, which compilers turn
   into vector code, and then added one by one. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 2048
#define SPREAD 16 /* counters that zeros alternate between: an addition to one bin waits for the one before it */

#if defined(__GNUC__) && defined(__x86_64__) && defined(__linux__) && !defined(__clang__)
#define VECTOR __attribute__((target_clones("avx2", "default")))
#else
#define VECTOR
#endif

typedef struct {
    Py_buffer values, table;
} Arguments;

static int acquire(PyObject *values, PyObject *table, Arguments *a)
{
    if (PyObject_GetBuffer(values, &a->values, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0)
        return -1;
    if (a->values.itemsize != 4 || !a->values.format || strcmp(a->values.format, "f") != 0) {
        PyErr_SetString(PyExc_TypeError, "values must be float32");
        PyBuffer_Release(&a->values);
        return -1;
    }
    if (table == NULL)
        return 0;
    if (PyObject_GetBuffer(table, &a->table, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) < 0) {
        PyBuffer_Release(&a->values);
        return -1;
    }
    if (a->table.itemsize != 8 || a->table.len < 8) {
        PyErr_SetString(PyExc_TypeError, "the table must be int64 and not empty");
        PyBuffer_Release(&a->values);
        PyBuffer_Release(&a->table);
        return -1;
    }
    return 0;
}

VECTOR static uint32_t largest_bits(const float *x, Py_ssize_t n)
{
    uint32_t largest = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        bits &= 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

VECTOR static void scaled_bins(const float *x, int32_t *bins, int n, float scale, int32_t size)
{
    for (int i = 0; i < n; i++) {
        int32_t bin = (int32_t)(fabsf(x[i]) * scale);
        bins[i] = x[i] == 0 ? size + i % SPREAD : bin;
    }
}

VECTOR static void centred_bins(const float *x, int32_t *bins, int n, double width, int32_t size)
{
    for (int i = 0; i < n; i++) {
        int32_t bin = (int32_t)(fabs((double)x[i]) / width + 0.5);
        bins[i] = x[i] == 0 ? size + i % SPREAD : bin;
    }
}

/* The table ends with SPREAD counters for zeros, which are added to bin 0 at the end. Returns the number of zeros.
   The caller has checked that the bin of the largest |x| is in the table. */
static int64_t count(const float *x, Py_ssize_t n, int64_t *table, int32_t size, double step, int centred)
{
    int32_t bins[BLOCK];
    int64_t zeros = 0;
    for (Py_ssize_t start = 0; start < n; start += BLOCK) {
        int block = n - start < BLOCK ? (int)(n - start) : BLOCK;
        if (centred)
            centred_bins(x + start, bins, block, step, size);
        else
            scaled_bins(x + start, bins, block, (float)step, size);
        for (int i = 0; i < block; i++)
            ++table[bins[i]];
    }
    for (int i = 0; i < SPREAD; i++) {
        zeros += table[size + i];
        table[size + i] = 0;
    }
    table[0] += zeros;
    return zeros;
}

static PyObject *py_largest(PyObject *self, PyObject *values)
{
    Arguments a;
    uint32_t largest;
    float single;
    if (acquire(values, NULL, &a) < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    largest = largest_bits((const float *)a.values.buf, a.values.len / 4);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&a.values);
    memcpy(&single, &largest, 4);
    return PyFloat_FromDouble(single);
}

static uint32_t bits_of(double value)
{
    float single = (float)value;
    uint32_t bits;
    memcpy(&bits, &single, 4);
    return bits;
}

static PyObject *py_count(PyObject *arguments, int centred)
{
    PyObject *values, *table;
    Arguments a;
    double step, limit;
    uint32_t largest = 0;
    int64_t zeros = -1;
    if (!PyArg_ParseTuple(arguments, "OOdd", &values, &table, &step, &limit))
        return NULL;
    if (acquire(values, table, &a) < 0)
        return NULL;
    Py_ssize_t size = a.table.len / 8 - SPREAD;
    double last = centred ? limit / step + 0.5 : limit * step;
    if (size < 1 || size > INT32_MAX - SPREAD || !(limit >= 0 && last >= 0 && last < (double)size)) {
        PyErr_SetString(PyExc_ValueError, "the bin of the limit is outside the table");
    } else {
        Py_BEGIN_ALLOW_THREADS
        /* As integers, the bits of |x| are in the order of |x|, and NaN comes last. */
        largest = largest_bits((const float *)a.values.buf, a.values.len / 4);
        zeros = largest > bits_of(limit) ? 0
                                         : count((const float *)a.values.buf, a.values.len / 4,
                                                 (int64_t *)a.table.buf, (int32_t)size, step, centred);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&a.values);
    PyBuffer_Release(&a.table);
    if (zeros < 0)
        return NULL;
    float single;
    memcpy(&single, &largest, 4);
    return Py_BuildValue("(dL)", (double)single, (long long)zeros);
}

static PyObject *py_count_scaled(PyObject *self, PyObject *arguments)
{
    return py_count(arguments, 0);
}

static PyObject *py_count_centred(PyObject *self, PyObject *arguments)
{
    return py_count(arguments, 1);
}

static PyMethodDef methods[] = {
    {"largest", py_largest, METH_O, "largest(values): the largest |x|, NaN if there is one."},
    {"count_scaled", py_count_scaled, METH_VARARGS,
     "count_scaled(values, table, scale, limit): the largest |x|; if it is no more than limit, ++table[int(|x| * scale)] "
     "for every value, and the number of zeros. The last SPREAD items of the table are scratch."},
    {"count_centred", py_count_centred, METH_VARARGS,
     "count_centred(values, table, width, limit): the same with ++table[int(|x| / width + 0.5)]."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_counting", "Counting |x| into bins.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__counting(void)
{
    PyObject *counting = PyModule_Create(&module);
    if (counting != NULL && PyModule_AddIntConstant(counting, "SPREAD", SPREAD) < 0) {
        Py_DECREF(counting);
        return NULL;
    }
    return counting;
}
