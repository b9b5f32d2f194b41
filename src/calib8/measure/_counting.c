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
#define FULL 2000000000 /* values that the small counters take: `pending` has 31 bits, a counter 32 */

#if defined(__GNUC__) && defined(__x86_64__) && defined(__linux__) && !defined(__clang__)
#define VECTOR __attribute__((target_clones("avx2", "default")))
#else
#define VECTOR
#endif

/* Counts in 64 bits, and in 32 bits what was added since they were last brought up to date: what is touched at random
   is half as large, which decides how much of it the caches keep. The small counters end with SPREAD for zeros. */
typedef struct {
    Py_buffer values, recent, counts;
} Arguments;

static int buffer(PyObject *object, Py_buffer *view, int flags, Py_ssize_t itemsize, const char *what)
{
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | flags) < 0)
        return -1;
    if (view->itemsize == itemsize)
        return 0;
    PyErr_Format(PyExc_TypeError, "%s must have items of %zd bytes", what, itemsize);
    PyBuffer_Release(view);
    return -1;
}

static void release(Arguments *a)
{
    PyBuffer_Release(&a->values);
    PyBuffer_Release(&a->recent);
    PyBuffer_Release(&a->counts);
}

static int acquire(PyObject *values, PyObject *recent, PyObject *counts, Arguments *a)
{
    memset(a, 0, sizeof *a);
    if (buffer(values, &a->values, 0, 4, "values") == 0 && buffer(recent, &a->recent, PyBUF_WRITABLE, 4, "recent") == 0
        && buffer(counts, &a->counts, PyBUF_WRITABLE, 8, "counts") == 0)
        return 0;
    release(a);
    return -1;
}

/* The bits of the largest |x|. Without the sign they are in the order of |x| as integers, and NaN comes last: a maximum
   of integers is vector code, and sees the NaN that one of floats would pass over. */
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

/* The bins of a block. Half of what is behind a ReLU is 0: zeros go to the spread counters, which `count` empties into
   bin 0. A choice of two numbers, not a branch, so that it stays vector code. */
VECTOR static void scaled_bins(const float *x, int32_t *bins, int n, float scale, int32_t size)
{
    for (int i = 0; i < n; i++) {
        int32_t bin = (int32_t)(fabsf(x[i]) * scale);
        bins[i] = x[i] == 0 ? size + i % SPREAD : bin;
    }
}

/* The same by the formula, in double as counting.py does it: float would put values near an edge into another bin. */
VECTOR static void centred_bins(const float *x, int32_t *bins, int n, double width, int32_t size)
{
    for (int i = 0; i < n; i++) {
        int32_t bin = (int32_t)(fabs((double)x[i]) / width + 0.5);
        bins[i] = x[i] == 0 ? size + i % SPREAD : bin;
    }
}

static void bring_up_to_date(uint32_t *recent, int64_t *counts, int32_t size)
{
    for (int32_t i = 0; i < size; i++)
        counts[i] += recent[i];
    memset(recent, 0, (size_t)size * sizeof *recent);
}

/* Returns the number of zeros. `pending` values are in `recent` already. The caller has checked that the bin of the
   largest |x| is in the table. */
static int64_t count(const float *x, Py_ssize_t n, uint32_t *recent, int64_t *counts, int32_t size, int32_t *pending,
                     double step, int centred)
{
    int32_t bins[BLOCK];
    int64_t zeros = 0;
    for (Py_ssize_t start = 0; start < n;) {
        int block = n - start < BLOCK ? (int)(n - start) : BLOCK;
        if (*pending + block > FULL) {
            bring_up_to_date(recent, counts, size);
            *pending = 0;
        }
        if (centred)
            centred_bins(x + start, bins, block, step, size);
        else
            scaled_bins(x + start, bins, block, (float)step, size);
        for (int i = 0; i < block; i++)
            ++recent[bins[i]];
        for (int i = 0; i < SPREAD; i++) {
            zeros += recent[size + i];
            recent[0] += recent[size + i];
            recent[size + i] = 0;
        }
        start += block;
        *pending += block;
    }
    return zeros;
}

static PyObject *py_largest(PyObject *self, PyObject *values)
{
    Py_buffer view;
    uint32_t largest;
    float single;
    if (buffer(values, &view, 0, 4, "values") < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    largest = largest_bits((const float *)view.buf, view.len / 4);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&view);
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
    PyObject *values, *recent, *counts;
    Arguments a;
    double step, limit;
    int32_t pending;
    uint32_t largest = 0;
    int64_t zeros = -1;
    if (!PyArg_ParseTuple(arguments, "OOOidd", &values, &recent, &counts, &pending, &step, &limit))
        return NULL;
    if (acquire(values, recent, counts, &a) < 0)
        return NULL;
    Py_ssize_t size = a.counts.len / 8;
    /* What is written behind `!` is false for NaN, which so is refused, too. */
    double last = centred ? limit / step + 0.5 : limit * step;
    if (size > INT32_MAX - SPREAD || a.recent.len / 4 != size + SPREAD || pending < 0 || pending > FULL
        || !(limit >= 0 && last >= 0 && last < (double)size)) {
        PyErr_SetString(PyExc_ValueError, "the bin of the limit is outside the table");
    } else {
        Py_BEGIN_ALLOW_THREADS
        largest = largest_bits((const float *)a.values.buf, a.values.len / 4);
        zeros = 0;
        if (largest <= bits_of(limit))
            zeros = count((const float *)a.values.buf, a.values.len / 4, (uint32_t *)a.recent.buf,
                          (int64_t *)a.counts.buf, (int32_t)size, &pending, step, centred);
        Py_END_ALLOW_THREADS
    }
    release(&a);
    if (zeros < 0)
        return NULL;
    float single;
    memcpy(&single, &largest, 4);
    return Py_BuildValue("(dLi)", (double)single, (long long)zeros, (int)pending);
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
     "count_scaled(values, recent, counts, pending, scale, limit): the largest |x|; if it is no more than limit, one more "
     "in bin int(|x| * scale) for every value; the number of zeros, and of values in recent."},
    {"count_centred", py_count_centred, METH_VARARGS,
     "count_centred(values, recent, counts, pending, width, limit): the same with bin int(|x| / width + 0.5)."},
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
