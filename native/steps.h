// The kernels of a program's steps, as a table that each instruction set fills. See internal.h.
#pragma once

#include "binarize.h"

namespace bz {

struct StepKernels {
    int (*pointwise)(int threads, const bz_pointwise_step& s);
    int (*layer_norm)(int threads, const bz_layer_norm_step& s);
    int (*pool)(int threads, const bz_pool_step& s);
    int (*mean)(int threads, const bz_mean_step& s);
    int (*linear)(int threads, const bz_linear_step& s);
    int (*copy)(int threads, const bz_copy_step& s);
    int (*resize)(int threads, const bz_resize_step& s);
    int (*softmax)(int threads, const bz_softmax_step& s);
    int (*attention)(int threads, const bz_attention_step& s);
};

extern const StepKernels portable_steps;
#if defined(__x86_64__)
extern const StepKernels avx2_steps;
extern const StepKernels avx512_steps;
#endif

// Sizes, strides and pointers of a step's arguments.
bool good_step(const bz_pointwise_step* s);
bool good_step(const bz_layer_norm_step* s);
bool good_step(const bz_pool_step* s);
bool good_step(const bz_mean_step* s);
bool good_step(const bz_linear_step* s);
bool good_step(const bz_copy_step* s);
bool good_step(const bz_resize_step* s);
bool good_step(const bz_softmax_step* s);
bool good_step(const bz_attention_step* s);

}  // namespace bz
