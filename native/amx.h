// The kernels that AMX has of its own; all others are those of AVX-512.
#pragma once

#include "internal.h"

namespace bz {

bool amx_usable();  // the processor and the system have it, and the system allows this process to use it
const Kernels& amx_kernels();

int amx_conv(int threads, const bz_conv_shape& s, const uint32_t* plane, const uint32_t* words, const int32_t* counts,
             const bz_epilogue* e, int32_t* out_int);
int amx_scaled(int threads, const bz_conv_shape& s, const uint32_t* plane, const uint16_t* words, const float* alpha,
               bool exact, const bz_epilogue& e);
double amx_peak(int64_t rounds);

}  // namespace bz
