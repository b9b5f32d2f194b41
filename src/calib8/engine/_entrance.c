/* Real values to codes, on their way into a graph of integers: what entrance.py does with numpy, in one walk. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

#if defined(__GNUC__) && defined(__x86_64__) && defined(__linux__) && !defined(__clang__)
#define VECTOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define VECTOR
#endif

#define ZERO 128.0 /* code 0, and NaN */

/* Choices of numbers, not branches, so that it stays vector code. The cast cuts off, which is floor above 0. */
VECTOR static void to_codes(const float *x, uint8_t *codes, Py_ssize_t n, double factor, double offset)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        double place = (double)x[i] * factor + offset;
        place = place == place ? place : ZERO;
        place = place > 0.0 ? place : 0.0;
        place = place < 255.0 ? place : 255.0;
        codes[i] = (uint8_t)(int32_t)place;
    }
}

static PyObject *py_to_codes(PyObject *self, PyObject *arguments)
{
    Py_buffer values, codes;
    double factor, offset;
    int fit;
    if (!PyArg_ParseTuple(arguments, "y*w*dd", &values, &codes, &factor, &offset))
        return NULL;
    fit = values.itemsize == 4 && codes.itemsize == 1 && values.len == 4 * codes.len;
    if (fit) {
        Py_BEGIN_ALLOW_THREADS
        to_codes((const float *)values.buf, (uint8_t *)codes.buf, codes.len, factor, offset);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&values);
    PyBuffer_Release(&codes);
    if (!fit) {
        PyErr_SetString(PyExc_ValueError, "float32 values and as many codes of a byte are expected");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"to_codes", py_to_codes, METH_VARARGS,
     "to_codes(values, codes, factor, offset): write int(x * factor + offset), clamped to 0 .. 255, for every value; 128 "
     "for NaN."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_entrance", "Real values to codes.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__entrance(void)
{
    return PyModule_Create(&module);
}
