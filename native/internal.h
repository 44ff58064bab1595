// What the sources share: derived sizes, and the table of kernels that each instruction set fills.
//
// Nothing here may be an inline function of the C++ library: the same function compiled for AVX-512 could be the copy
// that the linker keeps for all.
#pragma once

#include "binarize.h"

namespace bz {

struct StepKernels;  // steps.h

struct Kernels {
    // resize: null if x is a map of the plane's height and width itself
    int (*sums)(int threads, const bz_plane_shape& s, const bz_map& x, const bz_resize* resize, float* sums);
    int (*pack)(int threads, const bz_plane_shape& s, const bz_map& x, const bz_resize* resize, const float* mul,
                const float* add, int64_t add_stride, uint32_t* plane, float* abs_sums);
    // out_int is null or takes the place of the epilogue
    int (*conv)(int threads, const bz_conv_shape& s, const uint32_t* plane, const uint32_t* words,
                const int32_t* counts, const bz_epilogue* epilogue, int32_t* out_int);
    int (*depthwise)(int threads, const bz_conv_shape& s, const uint32_t* plane, const uint32_t* words,
                     const int32_t* counts, const bz_epilogue* epilogue, int32_t* out_int);
    int (*scaled)(int threads, const bz_conv_shape& s, const uint32_t* plane, const uint16_t* words,
                  const float* alpha, bool exact, const bz_epilogue& epilogue);
    int (*stem)(int threads, const bz_conv_shape& s, const bz_map& x, const float* weights, const bz_norm* norm,
                const bz_pool* pool, const bz_epilogue& epilogue);
    double (*peak)(int64_t rounds);  // multiply-accumulates done
    bool byte_rows;                  // weights in the AVX2 layout
    int row_channels, row_bytes;     // of a row of weights of `scaled`, per output; 0: weights as those of `conv`
    const StepKernels* steps;
};

extern const Kernels portable_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
#endif

const Kernels* kernels_of(int isa);  // null if not available
int layer_step(int isa, int threads, const bz_layer_step* s);
// The first channel of a group of scales; of the one behind the last, the number of channels.
int64_t scale_group_begin(const bz_plane_shape& shape, int32_t groups, int32_t g);

}  // namespace bz

// Sizes, as macros of plain arithmetic would be; static keeps each translation unit's own copy.
static inline int32_t bz_ceil_div(int32_t a, int32_t b) { return (a + b - 1) / b; }
static inline int32_t bz_group_words(const bz_plane_shape& s) { return bz_ceil_div(s.channels / s.groups, 32); }
static inline int32_t bz_pixel_words(const bz_plane_shape& s) { return s.groups * bz_group_words(s); }
static inline int64_t bz_row_words(const bz_plane_shape& s) {
    return int64_t(s.width + 2 * s.border_w) * bz_pixel_words(s);
}
static inline int64_t bz_image_words(const bz_plane_shape& s) {
    return (s.height + 2 * s.border_h) * bz_row_words(s);
}
static inline int32_t bz_taps(const bz_conv_shape& s) { return s.kernel_h * s.kernel_w; }
static inline int32_t bz_group_outputs(const bz_conv_shape& s) { return s.out_channels / s.input.groups; }
// Groups of neighbouring channels with a scale each: whole words.
static inline int32_t bz_scale_groups(const bz_conv_shape& s) { return s.scale_groups > 1 ? s.scale_groups : 1; }
static inline int32_t bz_scale_word(int32_t words, int32_t groups, int32_t g) {  // the first one of group g
    return int32_t(int64_t(words) * g / groups);
}
static inline int32_t bz_scale_word(const bz_conv_shape& s, int32_t g) {
    return bz_scale_word(bz_group_words(s.input), bz_scale_groups(s), g);
}
static inline int32_t bz_padded_outputs(const bz_conv_shape& s) {
    return bz_ceil_div(bz_group_outputs(s), 16) * 16;
}
