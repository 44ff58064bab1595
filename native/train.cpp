// The public functions of training: checks, the kernels, and what is done with their sums.
#include <stdlib.h>

#include "checks.h"
#include "dab.h"
#include "train.h"

using namespace bz;

namespace {

constexpr int64_t kLarge = int64_t(1) << 40;      // floats of a map: products of sizes stay within 64 bits
constexpr int64_t kOwnPass = int64_t(1) << 16;    // floats of an image from which on it is worked on by itself

bool good(const bz_values* v) {
    if (!v || v->images < 1 || v->positions < 1 || v->channels < 1) return false;
    if (v->images > kLarge || v->positions > kLarge / v->images) return false;
    return v->channels <= kLarge / (v->images * v->positions);
}

bool good(int threads, const bz_values* v, const bz_dab* dab) {
    if (threads < 1 || !good(v) || !dab || dab->groups < 0 || !(dab->plain || dab->a)) return false;
    return dab->groups <= (v->channels + 31) / 32;
}

const TrainKernels* train_kernels_of(int isa) {
    if (isa == BZ_ISA_AUTO) isa = bz_get_isa();
    if (!bz_isa_available(isa)) return nullptr;
#if defined(__x86_64__)
    if (isa == BZ_ISA_AVX512 || isa == BZ_ISA_AMX) return &avx512_train;
    if (isa == BZ_ISA_AVX2) return &avx2_train;
#endif
    return &portable_train;
}

int64_t floats_of(const bz_values& v) { return v.positions * v.channels; }

// The first channel of a group of scales; of the one behind the last, the number of channels.
int64_t first_of_group(const bz_values& v, int32_t groups, int64_t g) {
    return g == groups ? v.channels : (v.channels + 31) / 32 * g / groups * 32;
}

// The sum of a channel whose runs overflowed to both infinities.
double plain_sum(const bz_values& v, const float* x, int64_t n, int64_t c) {
    double sum = 0;
    const int64_t step = v.channels_last ? v.channels : 1, start = v.channels_last ? c : c * v.positions;
    for (int64_t p = 0; p < v.positions; ++p) sum += double(x[n * floats_of(v) + start + p * step]);
    return sum;
}

// mean, threshold, M and scale, each [images][channels].
struct Kept {
    float *mean, *threshold, *deviation, *scale;
};

Kept parts(const bz_values& v, float* kept) {
    const int64_t all = v.images * v.channels;
    return {kept, kept + all, kept + 2 * all, kept + 3 * all};
}

void thresholds(const bz_values& v, const bz_dab& dab, const float* x, const double* sums, const Kept& kept) {
    for (int64_t i = 0; i < v.images * v.channels; ++i) {
        const int64_t c = i % v.channels;
        double sum = dab.k ? sums[i] : 0.0;
        if (sum != sum) sum = plain_sum(v, x, i / v.channels, c);
        kept.mean[i] = limited(float(sum / double(v.positions)));
        float threshold = dab.k ? dab.k[c] * kept.mean[i] : 0.0f;
        if (dab.b) threshold += dab.b[c];
        kept.threshold[i] = threshold;
    }
}

void scales(const bz_values& v, const bz_dab& dab, const double* sums, const Kept& kept) {
    const int32_t groups = dab.groups;
    for (int64_t n = 0; n < v.images; ++n)
        for (int64_t g = 0; g < (groups ? groups : v.channels); ++g) {
            const int64_t first = groups ? first_of_group(v, groups, g) : g;
            const int64_t end = groups ? first_of_group(v, groups, g + 1) : g + 1;
            double sum = 0;
            for (int64_t c = first; c < end; ++c) sum += sums[n * v.channels + c];
            const float deviation = limited(float(sum / (double(v.positions) * double(end - first))));
            const float scale = dab.plain ? deviation : scale_of(dab.a[g] * (deviation - 1.0f));
            for (int64_t c = first; c < end; ++c) {
                kept.deviation[n * v.channels + c] = deviation;
                kept.scale[n * v.channels + c] = scale;
            }
        }
}

int forward(const TrainKernels& k, int threads, const bz_values& v, const bz_dab& dab, const float* x, const Kept& kept,
            double* sums, float* y) {
    int status = dab.k ? k.value_sums(threads, v, x, sums) : BZ_OK;
    if (status != BZ_OK) return status;
    thresholds(v, dab, x, sums, kept);
    status = k.deviation_sums(threads, v, x, kept.threshold, sums);
    if (status != BZ_OK) return status;
    scales(v, dab, sums, kept);
    return k.signs(threads, v, x, {kept.threshold, kept.scale, 1, 0}, y);
}

double* sums_of(const bz_values& v, int kinds) {
    return static_cast<double*>(malloc(size_t(kinds * v.images * v.channels) * sizeof(double)));
}

double over_images(const bz_values& v, const double* sums, int64_t c) {
    double sum = 0;
    for (int64_t n = 0; n < v.images; ++n) sum += sums[n * v.channels + c];
    return sum;
}

void gradients(const bz_values& v, const bz_dab& dab, const double* sums, const Kept& kept, float* grads) {
    const double* const signs = sums + v.images * v.channels;
    float *const da = grads, *const dk = grads + v.channels, *const db = grads + 2 * v.channels;
    double whole = 0;
    int64_t g = 0;
    for (int64_t c = 0; c < v.channels; ++c) {
        double k = 0, a = 0;
        const int64_t own = dab.groups ? g : c;
        for (int64_t n = 0; n < v.images; ++n) {
            const int64_t i = n * v.channels + c;
            if (dab.k) k += sums[i] * double(kept.mean[i]);
            const float over = kept.deviation[i] - 1.0f;
            if (!dab.plain && !(dab.a[own] * over > kLargestExponent)) a += signs[i] * double(kept.scale[i]) * over;
        }
        dk[c] = float(-k);
        db[c] = float(-over_images(v, sums, c));
        if (!dab.groups) da[c] = float(a);
        whole += a;
        if (dab.groups && c + 1 == first_of_group(v, dab.groups, g + 1)) {
            da[g++] = float(whole);
            whole = 0;
        }
    }
}

}  // namespace

extern "C" {

int bz_train_signs(int isa, int threads, const bz_values* values, const bz_signs* signs, const float* x, float* y) {
    if (threads < 1 || !good(values) || !signs || !x || !y) return BZ_BAD_ARGUMENT;
    const TrainKernels* kernels = train_kernels_of(isa);
    return kernels ? kernels->signs(threads, *values, x, *signs, y) : BZ_NO_ISA;
}

int bz_train_signs_backward(int isa, int threads, const bz_values* values, const bz_signs* signs, const float* grad,
                            const float* x, float* gx, double* sums) {
    if (threads < 1 || !good(values) || !signs || !grad || !x || !gx || !sums) return BZ_BAD_ARGUMENT;
    const TrainKernels* kernels = train_kernels_of(isa);
    return kernels ? kernels->signs_backward(threads, *values, grad, x, *signs, gx, sums) : BZ_NO_ISA;
}

int bz_train_dab(int isa, int threads, const bz_values* values, const bz_dab* dab, const float* x, float* kept,
                 float* y) {
    if (!good(threads, values, dab) || !x || !kept || !y) return BZ_BAD_ARGUMENT;
    const TrainKernels* kernels = train_kernels_of(isa);
    if (!kernels) return BZ_NO_ISA;
    // an image at a time, while it is in the cache; of small ones all
    bz_values v = *values;
    const int64_t images = v.images, step = floats_of(v) < kOwnPass ? images : 1;
    v.images = step;
    double* const sums = sums_of(v, 1);
    int status = sums ? BZ_OK : BZ_NO_MEMORY;
    const Kept all = parts(*values, kept);
    for (int64_t n = 0; n < images && status == BZ_OK; n += step) {
        const int64_t at = n * v.channels, start = n * floats_of(v);
        const Kept own = {all.mean + at, all.threshold + at, all.deviation + at, all.scale + at};
        status = forward(*kernels, threads, v, *dab, x + start, own, sums, y + start);
    }
    free(sums);
    return status;
}

int bz_train_dab_backward(int isa, int threads, const bz_values* values, const bz_dab* dab, const float* grad,
                          const float* x, const float* kept, float* gx, float* grads) {
    if (!good(threads, values, dab) || !grad || !x || !kept || !gx || !grads) return BZ_BAD_ARGUMENT;
    const TrainKernels* kernels = train_kernels_of(isa);
    if (!kernels) return BZ_NO_ISA;
    const Kept there = parts(*values, const_cast<float*>(kept));
    double* const sums = sums_of(*values, 2);
    if (!sums) return BZ_NO_MEMORY;
    const int status =
        kernels->signs_backward(threads, *values, grad, x, {there.threshold, there.scale, 1, 0}, gx, sums);
    if (status == BZ_OK) gradients(*values, *dab, sums, there, grads);
    free(sums);
    return status;
}

int bz_train_pieces(int isa, int threads, const bz_values* values, const bz_pieces* pieces, const float* x, float* y) {
    if (threads < 1 || !good(values) || !pieces || !x || !y) return BZ_BAD_ARGUMENT;
    const TrainKernels* kernels = train_kernels_of(isa);
    return kernels ? kernels->piecewise(threads, *values, x, *pieces, y) : BZ_NO_ISA;
}

int bz_train_pieces_backward(int isa, int threads, const bz_values* values, const bz_pieces* pieces, const float* grad,
                             const float* x, float* gx, float* grads) {
    if (threads < 1 || !good(values) || !pieces || !grad || !x || !gx || !grads) return BZ_BAD_ARGUMENT;
    const TrainKernels* kernels = train_kernels_of(isa);
    if (!kernels) return BZ_NO_ISA;
    double* const sums = sums_of(*values, 4);
    if (!sums) return BZ_NO_MEMORY;
    const int status = kernels->piecewise_backward(threads, *values, grad, x, *pieces, gx, sums);
    constexpr int kOrder[4] = {0, 2, 3, 1};  // before, negative, positive, after
    const int64_t channels = values->channels;
    for (int i = 0; i < 4 && status == BZ_OK; ++i)
        for (int64_t c = 0; c < channels; ++c)
            grads[i * channels + c] = float(over_images(*values, sums + kOrder[i] * values->images * channels, c));
    free(sums);
    return status;
}

static bool good_bypass(int threads, int64_t positions, int64_t in, int64_t out) {
    const bz_values from = {1, positions, in, 1, 0}, to = {1, positions, out, 1, 0};
    return threads >= 1 && good(&from) && good(&to);
}

int bz_train_bypass(int isa, int threads, int64_t positions, int64_t in, int64_t out, const float* x, float* y) {
    if (!good_bypass(threads, positions, in, out) || !x || !y) return BZ_BAD_ARGUMENT;
    const TrainKernels* kernels = train_kernels_of(isa);
    if (!kernels) return BZ_NO_ISA;
    kernels->bypass(threads, positions, in, out, x, y);
    return BZ_OK;
}

int bz_train_bypass_backward(int isa, int threads, int64_t positions, int64_t in, int64_t out, const float* grad,
                             float* gx) {
    if (!good_bypass(threads, positions, in, out) || !grad || !gx) return BZ_BAD_ARGUMENT;
    const TrainKernels* kernels = train_kernels_of(isa);
    if (!kernels) return BZ_NO_ISA;
    kernels->bypass_backward(threads, positions, in, out, grad, gx);
    return BZ_OK;
}

}  // extern "C"
