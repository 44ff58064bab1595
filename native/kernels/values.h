// Weights mul * b + offset and activations s + midpoint, b and s = +-1: sums of their products from the sums of b * s.
//
// Over the taps inside, of K products:
//   sum (mul b + offset)(s + midpoint) = mul * sum b s + [midpoint * (mul * sum b + offset * K)] + offset * sum s
// The bracket is the same for all positions of a border class; sum s is the same for all outputs of a group.
//
// With a midpoint of 1 (or -1) and no offset, activations are 0 and 2 (or -2 and 0): sums are whole numbers then, as
// sums of +-1 are. Of bits that stand for 0 and 1 they are what AND and popcount give, doubled.
#pragma once

#include "epilogue.h"
#include "sums.h"

namespace bz {
namespace BZ_NS {

struct Values {
    bool used;
    const float *mul, *offset;  // in the order of padded outputs
    const float* fixed;         // the bracket: [classes][padded outputs of all groups]
    void* memory;
};

BZ_INLINE bool is_step(const bz_epilogue* e) { return e && !e->offset && (e->midpoint == 1 || e->midpoint == -1); }
BZ_INLINE bool has_values(const bz_epilogue* e) { return e && (e->offset || e->midpoint != 0) && !is_step(e); }

// Of an epilogue that is a step: sum b (s + midpoint) = base + midpoint * (sum b over the taps inside) - 2 * mismatches,
// where sum b = 2 * (+1 weights of all taps) - base.
[[maybe_unused]] static void midpoint_base(Border& b, const bz_conv_shape& s, const bz_epilogue& e,
                                           const int32_t* counts) {
    const int32_t midpoint = int32_t(e.midpoint);
    for (int64_t i = 0; i < b.length; ++i) {
        int32_t ones = 0;
        for (int64_t tap = 0; tap < bz_taps(s); ++tap) ones += counts[tap * b.length + i];
        for (int64_t c = 0; c < b.classes; ++c) {
            int32_t& base = b.base[c * b.length + i];
            base += midpoint * (2 * ones - base);
        }
    }
}

// Of an epilogue that has values. From here on `p.mul` is 1: Values::mul is applied to the sums before.
// Returns a bz_status; free(v.memory) later.
[[maybe_unused]] static int take_values(Values& v, Parameters& p, const bz_conv_shape& s, const bz_epilogue& e,
                                        const Border& b, const int32_t* counts, int32_t channels) {
    const int64_t length = b.length;
    float* const memory = static_cast<float*>(calloc(size_t(length) * size_t(b.classes + 2), sizeof(float)));
    int64_t* const ones = static_cast<int64_t*>(calloc(size_t(length), sizeof(int64_t)));  // +1 weights of all taps
    v.memory = memory;
    if (!memory || !ones) {
        free(ones);
        return BZ_NO_MEMORY;
    }
    float *const mul = memory, *const offset = memory + length, *const fixed = memory + 2 * length;
    v = {true, p.mul, offset, fixed, memory};
    for (int64_t i = 0; i < length; ++i) mul[i] = 1;
    if (e.offset)
        for (int g = 0; g < s.out_channels / p.outputs; ++g)
            memcpy(offset + int64_t(g) * p.padded, e.offset + int64_t(g) * p.outputs,
                   sizeof(float) * size_t(p.outputs));
    for (int64_t tap = 0; tap < bz_taps(s); ++tap)
        for (int64_t i = 0; i < length; ++i) ones[i] += counts[tap * length + i];
    for (int64_t c = 0; c < b.classes; ++c)
        for (int64_t i = 0; i < length; ++i) {
            // base = K + 2 (ones outside), so this is 2 (ones inside) - K
            const double signs = double(2 * ones[i] - b.base[c * length + i]);
            const double products = double(channels) * b.taps[c];
            fixed[c * length + i] =
                float(double(e.midpoint) * (double(v.mul[i]) * signs + double(offset[i]) * products));
        }
    p.mul = mul;
    free(ones);
    return BZ_OK;
}

// Sum s: of a position and group (one number), or of each channel of a position (of a depthwise convolution, from the
// counts of +1 over `taps` taps inside).
struct WindowSumOfGroup {
    Floats sum;
    inline __attribute__((always_inline)) Floats operator()(int) const { return sum; }
};
struct WindowSumOfChannels {
    const uint8_t* ones;
    Ints taps;
    inline __attribute__((always_inline)) Floats operator()(int j) const {
        return __builtin_convertvector(2 * widen(ones + j) - taps, Floats);
    }
};

template <class Count, class WindowSum>
struct ValueSums {
    Sums<Count> sums;
    const float *mul, *fixed, *offset;
    WindowSum window_sum;

    inline __attribute__((always_inline)) Floats operator()(int j) const {
        return sums(j) * load<Floats>(mul + j) + load<Floats>(fixed + j) + window_sum(j) * load<Floats>(offset + j);
    }
};

// The sums of neighbouring positions of a line. `window_sums(x, class)` gives a position's WindowSum.
template <class Count, class WindowSum, class WindowSums>
struct ValueSumsOfLine {
    static constexpr int kMost = kAnyNumber;
    SumsOfLine<Count> sums;
    const Values& values;
    WindowSums window_sums;

    inline __attribute__((always_inline)) ValueSums<Count, WindowSum> operator()(int64_t x) const {
        const int64_t c = sums.border.class_of(sums.y, x), at = sums.at;
        return {sums(x), values.mul + at, values.fixed + c * sums.border.length + at, values.offset + at,
                window_sums(x, c)};
    }
    bool alike(int64_t, int) const { return false; }
    ValueSums<Count, WindowSum> beside(const ValueSums<Count, WindowSum>& first, int64_t) const { return first; }
};

struct WindowSumsOfGroup {
    const int32_t* sums;  // of position 0 of the line
    int64_t step;

    inline __attribute__((always_inline)) WindowSumOfGroup operator()(int64_t x, int64_t) const {
        return {splat(float(sums[x * step]))};
    }
};
struct WindowSumsOfChannels {
    const uint8_t* ones;  // of position x0
    const int32_t* taps;  // of the classes
    int64_t x0, step;

    inline __attribute__((always_inline)) WindowSumOfChannels operator()(int64_t x, int64_t c) const {
        return {ones + (x - x0) * step, taps[c] - Ints{}};
    }
};

// sums[images][height][width][groups] of the signs of a plane.
static void pixel_sums(int threads, const bz_plane_shape& in, const uint32_t* plane, int32_t* sums) {
    const int words = bz_group_words(in), channels = in.channels / in.groups;
    const int64_t row = int64_t(in.width) * in.groups;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t item = 0; item < int64_t(in.images) * in.height; ++item) {
        const uint32_t* from = plane + item / in.height * bz_image_words(in) +
                               (item % in.height + in.border_h) * bz_row_words(in) +
                               int64_t(in.border_w) * bz_pixel_words(in);
        int32_t* const to = sums + item * row;
        for (int64_t i = 0; i < row; ++i, from += words) {
            int32_t ones = 0;
            for (int w = 0; w < words; ++w) ones += __builtin_popcount(from[w]);
            to[i] = 2 * ones - channels;
        }
    }
}

// One row of window sums [out_w][groups] over the taps inside. columns: [width][groups] of scratch.
static void window_sums_of_row(const bz_conv_shape& s, const int32_t* image, int64_t y, int32_t* columns,
                               int32_t* out) {
    const bz_plane_shape& in = s.input;
    const int64_t row = int64_t(in.width) * in.groups;
    const Range v = taps_inside(y, s.kernel_h, s.stride_h, s.pad_top, s.dilation_h, in.height);
    memset(columns, 0, size_t(row) * sizeof *columns);
    for (int32_t ky = v.low; ky < v.high; ++ky) {
        const int32_t* from = image + (y * s.stride_h - s.pad_top + int64_t(ky) * s.dilation_h) * row;
        for (int64_t i = 0; i < row; ++i) columns[i] += from[i];
    }
    memset(out, 0, size_t(s.out_w) * size_t(in.groups) * sizeof *out);
    for (int64_t x = 0; x < s.out_w; ++x, out += in.groups) {
        const Range h = taps_inside(x, s.kernel_w, s.stride_w, s.pad_left, s.dilation_w, in.width);
        for (int32_t kx = h.low; kx < h.high; ++kx) {
            const int32_t* from = columns + (x * s.stride_w - s.pad_left + int64_t(kx) * s.dilation_w) * in.groups;
            for (int32_t g = 0; g < in.groups; ++g) out[g] += from[g];
        }
    }
}

// [images][out_h][out_w][groups]: sum s over the taps inside. Null: no memory.
[[maybe_unused]] static int32_t* make_window_sums(int threads, const bz_conv_shape& s, const uint32_t* plane) {
    const bz_plane_shape& in = s.input;
    const int64_t row = int64_t(in.width) * in.groups, out_row = int64_t(s.out_w) * in.groups;
    const int64_t image = in.height * row, rows = int64_t(in.images) * s.out_h;
    int32_t* const window_sums = static_cast<int32_t*>(malloc(size_t(rows * out_row) * sizeof(int32_t)));
    // each thread's columns stand behind the pixels
    int32_t* const pixels =
        static_cast<int32_t*>(malloc(size_t(in.images * image + threads * row) * sizeof(int32_t)));
    if (window_sums && pixels) {
        pixel_sums(threads, in, plane, pixels);
        int32_t* const columns = pixels + in.images * image;
#pragma omp parallel for schedule(static, 1) num_threads(threads) if (threads > 1)
        for (int t = 0; t < threads; ++t)
            for (int64_t item = rows * t / threads; item < rows * (t + 1) / threads; ++item)
                window_sums_of_row(s, pixels + item / s.out_h * image, item % s.out_h, columns + t * row,
                                   window_sums + item * out_row);
        free(pixels);
        return window_sums;
    }
    free(window_sums);
    free(pixels);
    return nullptr;
}

}  // namespace BZ_NS
}  // namespace bz
