/* Real values to codes, on their way into a graph of integers: what entrance.py does with numpy, in one walk. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define FORM 2 /* of the functions' arguments; entrance.py has the same number */
#define BLOCK 1024
#define LANES 16 /* of a vector of 512 bits */
#define PIXEL 4  /* channels that lie side by side */
#define ZERO 128 /* code 0 */

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define LOWEST 3 /* the channel in a pixel's lowest eight bits */
#else
#define LOWEST 0
#endif

#if defined(__GNUC__) && defined(__x86_64__)
#include <immintrin.h>
#define WIDE 1 /* where the processor has them, see `wide` */
#else
#define WIDE 0
#endif

#if WIDE && defined(__linux__) && !defined(__clang__)
#define VECTOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define VECTOR
#endif

static int wide; /* whether there are vectors of 512 bits */

/* Choices of numbers, not branches, so that it stays vector code; NaN counts as 0. The cast cuts off, which is floor
   above 0. */
VECTOR static void places(const float *x, int32_t *codes, int n, double factor, double offset)
{
    for (int i = 0; i < n; i++) {
        float value = x[i] == x[i] ? x[i] : 0.0f;
        double place = (double)value * factor + offset;
        place = place > 0.0 ? place : 0.0;
        place = place < 255.0 ? place : 255.0;
        codes[i] = (int32_t)place;
    }
}

#if WIDE
/* Compilers make comparisons and masks of the choices above: 2 times as many instructions. */
__attribute__((target("avx512f"))) static __m256i places_of_8(__m256 x, __m512d factor, __m512d offset)
{
    __m512d place = _mm512_add_pd(_mm512_mul_pd(_mm512_cvtps_pd(x), factor), offset);
    place = _mm512_min_pd(_mm512_max_pd(place, _mm512_setzero_pd()), _mm512_set1_pd(255.0));
    return _mm512_cvttpd_epi32(place);
}

__attribute__((target("avx512f"))) static void places_wide(const float *x, int32_t *codes, int n, double factor,
                                                           double offset)
{
    __m512d factors = _mm512_set1_pd(factor), offsets = _mm512_set1_pd(offset);
    for (int i = 0; i < n; i += LANES) {
        __mmask16 there = n - i < LANES ? (__mmask16)((1u << (n - i)) - 1) : (__mmask16)0xffff;
        __m512 values = _mm512_maskz_loadu_ps(there, x + i);
        values = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(values, values, _CMP_ORD_Q), values);
        __m256 behind = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(values), 1));
        __m256i low = places_of_8(_mm512_castps512_ps256(values), factors, offsets);
        __m256i high = places_of_8(behind, factors, offsets);
        _mm512_mask_storeu_epi32(codes + i, there, _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
    }
}
#endif

static void to_places(const float *x, int32_t *codes, int n, double factor, double offset)
{
#if WIDE
    if (wide) {
        places_wide(x, codes, n, factor, offset);
        return;
    }
#endif
    places(x, codes, n, factor, offset);
}

VECTOR static void narrow(const int32_t *places, uint8_t *codes, int n)
{
    for (int i = 0; i < n; i++)
        codes[i] = (uint8_t)places[i];
}

/* Four channels side by side, the first one lowest in memory. */
VECTOR static void interleave(int32_t places[PIXEL][BLOCK], uint32_t *restrict pixels, int n)
{
    const int32_t *restrict a = places[LOWEST], *restrict b = places[LOWEST ^ 1];
    const int32_t *restrict c = places[LOWEST ^ 2], *restrict d = places[LOWEST ^ 3];
    for (int i = 0; i < n; i++)
        pixels[i] = (uint32_t)a[i] | (uint32_t)b[i] << 8 | (uint32_t)c[i] << 16 | (uint32_t)d[i] << 24;
}

static void to_codes(const float *x, uint8_t *codes, Py_ssize_t n, double factor, double offset)
{
    int32_t found[BLOCK];
    for (Py_ssize_t start = 0; start < n; start += BLOCK) {
        int block = n - start < BLOCK ? (int)(n - start) : BLOCK;
        to_places(x + start, found, block, factor, offset);
        narrow(found, codes + start, block);
    }
}

/* One image: `channels` planes of n values. */
static void to_pixels(const float *x, uint8_t *codes, int channels, Py_ssize_t n, double factor, double offset)
{
    int32_t found[PIXEL][BLOCK];
    uint32_t pixels[BLOCK];
    for (int c = channels; c < PIXEL; c++)
        for (int i = 0; i < BLOCK; i++)
            found[c][i] = ZERO;
    for (Py_ssize_t start = 0; start < n; start += BLOCK) {
        int block = n - start < BLOCK ? (int)(n - start) : BLOCK;
        for (int c = 0; c < channels; c++)
            to_places(x + c * n + start, found[c], block, factor, offset);
        interleave(found, pixels, block);
        memcpy(codes + PIXEL * start, pixels, PIXEL * (size_t)block);
    }
}

static PyObject *py_to_codes(PyObject *self, PyObject *arguments)
{
    Py_buffer values, codes;
    double factor, offset;
    int channels, fit;
    Py_ssize_t images, pixels;
    if (!PyArg_ParseTuple(arguments, "y*w*ddni", &values, &codes, &factor, &offset, &images, &channels))
        return NULL;
    fit = values.itemsize == 4 && codes.itemsize == 1 && images >= 0 && channels >= 0 && channels <= PIXEL;
    if (fit && channels == 0)
        fit = values.len == 4 * codes.len;
    else if (fit) {
        pixels = images ? codes.len / PIXEL / images : 0;
        fit = codes.len == PIXEL * images * pixels && values.len == 4 * channels * images * pixels;
    }
    if (fit) {
        const float *x = values.buf;
        uint8_t *written = codes.buf;
        Py_BEGIN_ALLOW_THREADS
        if (channels == 0)
            to_codes(x, written, codes.len, factor, offset);
        else
            for (Py_ssize_t i = 0; i < images; i++)
                to_pixels(x + i * channels * pixels, written + i * PIXEL * pixels, channels, pixels, factor, offset);
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

static int has_wide(void)
{
#if WIDE
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") != 0;
#else
    return 0;
#endif
}

static PyObject *py_use_wide(PyObject *self, PyObject *allowed)
{
    int yes = PyObject_IsTrue(allowed);
    if (yes < 0)
        return NULL;
    wide = yes && has_wide();
    return PyBool_FromLong(wide);
}

static PyMethodDef methods[] = {
    {"to_codes", py_to_codes, METH_VARARGS,
     "to_codes(values, codes, factor, offset, images, channels): write int(x * factor + offset), clamped to 0 .. 255, for "
     "every value; 128 for NaN. With channels, 1 to 4: of so many images, four channels side by side for each pixel; those "
     "that are missing hold 128."},
    {"use_wide", py_use_wide, METH_O,
     "use_wide(allowed): whether vectors of 512 bits are used from now on; the codes are the same. For tests."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_entrance", "Real values to codes.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__entrance(void)
{
    PyObject *entrance = PyModule_Create(&module);
    wide = has_wide();
    if (entrance != NULL && PyModule_AddIntConstant(entrance, "FORM", FORM) < 0) {
        Py_DECREF(entrance);
        return NULL;
    }
    return entrance;
}
