// The kernels of training, as a table that each instruction set fills. See internal.h.
#pragma once

#include "binarize.h"

namespace bz {

// Sums are those over positions, [kinds][images][channels].
struct TrainKernels {
    int (*value_sums)(int threads, const bz_values& v, const float* x, double* sums);
    int (*deviation_sums)(int threads, const bz_values& v, const float* x, const float* threshold, double* sums);
    int (*signs)(int threads, const bz_values& v, const float* x, const bz_signs& s, float* y);
    int (*signs_backward)(int threads, const bz_values& v, const float* g, const float* x, const bz_signs& s,
                          float* gx, double* sums);
    int (*piecewise)(int threads, const bz_values& v, const float* x, const bz_pieces& p, float* y);
    int (*piecewise_backward)(int threads, const bz_values& v, const float* g, const float* x, const bz_pieces& p,
                              float* gx, double* sums);
    void (*bypass)(int threads, int64_t positions, int64_t in, int64_t out, const float* x, float* y);
    void (*bypass_backward)(int threads, int64_t positions, int64_t in, int64_t out, const float* g, float* gx);
};

extern const TrainKernels portable_train;
#if defined(__x86_64__)
extern const TrainKernels avx2_train;
extern const TrainKernels avx512_train;
#endif

}  // namespace bz
