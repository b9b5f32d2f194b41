/* Counting |x| into bins: the loop that decides what a calibration costs.

   Arithmetic is that of counting.py, which does the same with numpy where this is not compiled; the tests hold both
   against each other. Every function releases the GIL. All is done for a block at a time, which stays in the first cache:
   its largest |x|, its bins, which compilers turn into vector code, and the zeros taken out; what is left is added one by
   one. Tables apart for neighbouring values (against waiting for the addition before) were measured and bring nothing. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define FORM 3 /* of the functions' arguments and results; counting.py has the same number */
#define BLOCK 2048
#define CHUNK 64 /* values whose bins are computed again, by the formula, where one of them lies near an edge */
#define LANES 16 /* of a vector of 512 bits; what is written behind the end of a block */
#define FULL 2000000000 /* values that the small counters take: `pending` has 31 bits, a counter 32 */

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

static int wide; /* whether there are vectors of 512 bits with `compress` */

/* Counts in 64 bits, and in 32 bits what was added since they were last brought up to date: what is touched at random
   is half as large, which decides how much of it the caches keep. */
typedef struct {
    Py_buffer values, recent, counts;
} Arguments;

static int buffer(PyObject *object, Py_buffer *view, int flags, Py_ssize_t itemsize, const char *what)
{
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | flags) < 0)
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

static uint32_t bits_of(double value)
{
    float single = (float)value;
    uint32_t bits;
    memcpy(&bits, &single, 4);
    return bits;
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

VECTOR static void scaled_bins(const float *x, int32_t *bins, int n, float scale)
{
    for (int i = 0; i < n; i++)
        bins[i] = (int32_t)(fabsf(x[i]) * scale);
}

/* By the formula, in double as counting.py does it. */
VECTOR static void centred_bins(const float *x, int32_t *bins, int n, double width)
{
    for (int i = 0; i < n; i++)
        bins[i] = (int32_t)(fabs((double)x[i]) / width + 0.5);
}

/* The same bins in float, by a product instead of a division, and how far the last of the values is from its bin's
   centre: as the bits of a number of bins. The product is off by less than 3 * 2^-24 of itself, so what is further from
   the edges than that is in the formula's bin. Without a sign, such bits are in the order of the numbers. */
VECTOR static uint32_t near_bins(const float *x, int32_t *bins, int n, float inverse)
{
    uint32_t furthest = 0;
    for (int i = 0; i < n; i++) {
        float place = fabsf(x[i]) * inverse, aside;
        uint32_t bits;
        bins[i] = (int32_t)(place + 0.5f);
        aside = fabsf(place - (float)bins[i]);
        memcpy(&bits, &aside, 4);
        furthest = bits > furthest ? bits : furthest;
    }
    return furthest;
}

/* The formula's bins, `margin` bins being what `near_bins` is off by; it has to be less than 1/2. */
static void formula_bins(const float *x, int32_t *bins, int n, double width, float margin)
{
    float inverse = (float)(1 / width);
    uint32_t safe = bits_of(0.5f - margin);
    for (int start = 0; start < n; start += CHUNK) {
        int chunk = n - start < CHUNK ? n - start : CHUNK;
        if (near_bins(x + start, bins + start, chunk, inverse) >= safe)
            centred_bins(x + start, bins + start, chunk, width);
    }
}

/* Half of what is behind a ReLU is 0: the bins of what is not, moved together; returns how many. A sum, not a branch,
   which would be taken at random. */
static int without_zeros(const float *x, int32_t *bins, int n)
{
    int kept = 0;
    for (int i = 0; i < n; i++) {
        bins[kept] = bins[i];
        kept += x[i] != 0;
    }
    return kept;
}

#if WIDE
#define AVX512 __attribute__((target("avx512f")))

/* |x| as bits; 0 behind the end. */
AVX512 static __m512i magnitudes(const float *x, int left)
{
    __mmask16 there = left < LANES ? (__mmask16)((1u << left) - 1) : (__mmask16)0xffff;
    return _mm512_and_si512(_mm512_maskz_loadu_epi32(there, x), _mm512_set1_epi32(0x7fffffff));
}

/* Writes the bins of what is not 0, LANES places at most; returns how many. Compressed in a register: some processors
   write compressed lanes to memory one by one. */
AVX512 static int keep(int32_t *bins, __m512i magnitudes, __m512i found)
{
    __mmask16 others = _mm512_test_epi32_mask(magnitudes, magnitudes);
    _mm512_storeu_si512(bins, _mm512_maskz_compress_epi32(others, found));
    return __builtin_popcount(others);
}

AVX512 static int without_zeros_wide(const float *x, int32_t *bins, int n)
{
    int kept = 0;
    for (int i = 0; i < n; i += LANES)
        kept += keep(bins + kept, magnitudes(x + i, n - i), _mm512_loadu_si512(bins + i));
    return kept;
}

/* largest_bits, scaled_bins and without_zeros in one walk. `bins` has LANES places more than n. */
AVX512 static int scaled_wide(const float *x, int32_t *bins, int n, float scale, uint32_t *largest)
{
    __m512 scales = _mm512_set1_ps(scale);
    __m512i most = _mm512_setzero_si512();
    int kept = 0;
    for (int i = 0; i < n; i += LANES) {
        __m512i bits = magnitudes(x + i, n - i);
        most = _mm512_max_epu32(most, bits);
        kept += keep(bins + kept, bits, _mm512_cvttps_epi32(_mm512_mul_ps(_mm512_castsi512_ps(bits), scales)));
    }
    *largest = _mm512_reduce_max_epu32(most);
    return kept;
}

/* The same with formula_bins. */
AVX512 static int formula_wide(const float *x, int32_t *bins, int n, double width, float margin, uint32_t *largest)
{
    __m512 inverse = _mm512_set1_ps((float)(1 / width)), half = _mm512_set1_ps(0.5f);
    __m512i safe = _mm512_set1_epi32((int32_t)bits_of(0.5f - margin)), most = _mm512_setzero_si512();
    int kept = 0;
    for (int start = 0; start < n; start += CHUNK) {
        int chunk = n - start < CHUNK ? n - start : CHUNK;
        __m512i bits[CHUNK / LANES], found[CHUNK / LANES];
        int near_an_edge = 0;
        for (int i = 0; i < CHUNK / LANES; i++) {
            int left = chunk - i * LANES;
            bits[i] = magnitudes(x + start + i * LANES, left > 0 ? left : 0);
            most = _mm512_max_epu32(most, bits[i]);
            __m512 place = _mm512_mul_ps(_mm512_castsi512_ps(bits[i]), inverse);
            found[i] = _mm512_cvttps_epi32(_mm512_add_ps(place, half));
            __m512i aside = _mm512_castps_si512(_mm512_sub_ps(place, _mm512_cvtepi32_ps(found[i])));
            aside = _mm512_and_si512(aside, _mm512_set1_epi32(0x7fffffff));
            near_an_edge |= _mm512_cmpge_epu32_mask(aside, safe);
        }
        if (near_an_edge) {
            int32_t exact[CHUNK];
            centred_bins(x + start, exact, chunk, width);
            for (int i = 0; i < CHUNK / LANES; i++)
                found[i] = _mm512_loadu_si512(exact + i * LANES);
        }
        for (int i = 0; i < CHUNK / LANES; i++)
            kept += keep(bins + kept, bits[i], found[i]);
    }
    *largest = _mm512_reduce_max_epu32(most);
    return kept;
}
#endif

/* Two bins in one load: there are fewer of these than additions. */
static void add_one_each(uint32_t *recent, const int32_t *bins, int n)
{
    int i = 0;
    for (; i + 2 <= n; i += 2) {
        uint64_t two;
        memcpy(&two, bins + i, 8);
        ++recent[(uint32_t)two];
        ++recent[two >> 32];
    }
    if (i < n)
        ++recent[bins[i]];
}

static void bring_up_to_date(uint32_t *recent, int64_t *counts, int32_t size)
{
    for (int32_t i = 0; i < size; i++)
        counts[i] += recent[i];
    memset(recent, 0, (size_t)size * sizeof *recent);
}

typedef struct {
    Py_ssize_t counted; /* values from the first on */
    int64_t zeros;
    uint32_t largest; /* of them */
    int32_t pending;
} Tally;

/* The bins of what is not 0 in a block, and its largest |x|; without bins where that is beyond `most`. */
static int bins_of(const float *x, int32_t *bins, int n, double step, float margin, int centred, int by_product,
                   uint32_t most, uint32_t *largest)
{
    *largest = largest_bits(x, n);
    if (*largest > most)
        return 0;
    if (!centred)
        scaled_bins(x, bins, n, (float)step);
    else if (by_product)
        formula_bins(x, bins, n, step, margin);
    else
        centred_bins(x, bins, n, step);
#if WIDE
    if (wide)
        return without_zeros_wide(x, bins, n);
#endif
    return without_zeros(x, bins, n);
}

/* Counts up to the block that has a NaN or a value beyond the limit. `pending` values are in `recent` already. The caller
   has checked that the bin of the limit is in the table. */
static void count(const float *x, Py_ssize_t n, uint32_t *recent, int64_t *counts, int32_t size, double step,
                  double limit, int centred, Tally *tally)
{
    int32_t bins[BLOCK + LANES];
    uint32_t most = bits_of(limit);
    /* Float does not reach all widths, and with many bins too much lies near their edges. */
    float margin = (float)size * 0x1p-22f;
    int by_product = margin <= 0x1p-9f && step > 0x1p-100 && step < 0x1p100;
    while (tally->counted < n) {
        const float *values = x + tally->counted;
        int block = n - tally->counted < BLOCK ? (int)(n - tally->counted) : BLOCK;
        uint32_t largest;
        int others;
#if WIDE
        if (wide && !centred)
            others = scaled_wide(values, bins, block, (float)step, &largest);
        else if (wide && by_product)
            others = formula_wide(values, bins, block, step, margin, &largest);
        else
#endif
            others = bins_of(values, bins, block, step, margin, centred, by_product, most, &largest);
        if (largest > most)
            return;
        if (tally->pending + block > FULL) {
            bring_up_to_date(recent, counts, size);
            tally->pending = 0;
        }
        add_one_each(recent, bins, others);
        recent[0] += (uint32_t)(block - others);
        tally->zeros += block - others;
        tally->largest = largest > tally->largest ? largest : tally->largest;
        tally->counted += block;
        tally->pending += block;
    }
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

static PyObject *py_largest_of_rows(PyObject *self, PyObject *arguments)
{
    PyObject *values, *found;
    Py_buffer view, rows;
    Py_ssize_t count, n;
    if (!PyArg_ParseTuple(arguments, "OO", &values, &found) || buffer(values, &view, 0, 4, "values") < 0)
        return NULL;
    if (buffer(found, &rows, PyBUF_WRITABLE, 4, "rows") < 0) {
        PyBuffer_Release(&view);
        return NULL;
    }
    count = rows.len / 4;
    n = count ? view.len / 4 / count : 0;
    if (view.len != 4 * n * count) {
        PyBuffer_Release(&view);
        PyBuffer_Release(&rows);
        PyErr_SetString(PyExc_ValueError, "as many values are expected in every row");
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < count; i++)
        ((uint32_t *)rows.buf)[i] = largest_bits((const float *)view.buf + i * n, n);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&view);
    PyBuffer_Release(&rows);
    Py_RETURN_NONE;
}

static PyObject *py_count(PyObject *arguments, int centred)
{
    PyObject *values, *recent, *counts;
    Arguments a;
    Tally tally = {0};
    double step, limit;
    int32_t pending;
    int fits;
    if (!PyArg_ParseTuple(arguments, "OOOidd", &values, &recent, &counts, &pending, &step, &limit))
        return NULL;
    if (acquire(values, recent, counts, &a) < 0)
        return NULL;
    Py_ssize_t size = a.counts.len / 8;
    /* Comparisons with NaN are false, so it is refused, too. */
    double last = centred ? limit / step + 0.5 : limit * step;
    fits = size <= INT32_MAX && a.recent.len / 4 == size && pending >= 0 && pending <= FULL
           && limit >= 0 && last >= 0 && last < (double)size;
    if (fits) {
        tally.pending = pending;
        Py_BEGIN_ALLOW_THREADS
        count((const float *)a.values.buf, a.values.len / 4, (uint32_t *)a.recent.buf, (int64_t *)a.counts.buf,
              (int32_t)size, step, limit, centred, &tally);
        Py_END_ALLOW_THREADS
    }
    release(&a);
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "the bin of the limit is outside the table");
        return NULL;
    }
    float single;
    memcpy(&single, &tally.largest, 4);
    return Py_BuildValue("(ndLi)", tally.counted, (double)single, (long long)tally.zeros, (int)tally.pending);
}

static PyObject *py_count_scaled(PyObject *self, PyObject *arguments)
{
    return py_count(arguments, 0);
}

static PyObject *py_count_centred(PyObject *self, PyObject *arguments)
{
    return py_count(arguments, 1);
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
    {"largest", py_largest, METH_O, "largest(values): the largest |x|, NaN if there is one."},
    {"largest_of_rows", py_largest_of_rows, METH_VARARGS,
     "largest_of_rows(values, rows): write the largest |x| of each row, NaN if there is one."},
    {"count_scaled", py_count_scaled, METH_VARARGS,
     "count_scaled(values, recent, counts, pending, scale, limit): one more in bin int(|x| * scale) for every value, up to "
     "a block with a NaN or an |x| beyond limit; how many were counted, the largest |x| of them, the number of zeros, and "
     "of values in recent."},
    {"count_centred", py_count_centred, METH_VARARGS,
     "count_centred(values, recent, counts, pending, width, limit): the same with bin int(|x| / width + 0.5)."},
    {"use_wide", py_use_wide, METH_O,
     "use_wide(allowed): whether vectors of 512 bits are used from now on; the counts are the same. For tests."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_counting", "Counting |x| into bins.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__counting(void)
{
    PyObject *counting = PyModule_Create(&module);
    wide = has_wide();
    if (counting != NULL && PyModule_AddIntConstant(counting, "FORM", FORM) < 0) {
        Py_DECREF(counting);
        return NULL;
    }
    return counting;
}
