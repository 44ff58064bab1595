// Convolution as a product of matrices of int8, by the tile units of AMX: 1,024 products per cycle where a popcount
// takes 512, and activations may have values: a scale per image and channel costs two digits instead of one.
//
// Files and memory keep single bits. What a block of positions reads is expanded to int8, once for all outputs, and stays
// in the second cache. The weights of 32 outputs are expanded to +-1, once for all positions of a block, and no more of
// them at a time than the first cache holds. A position outside the map is 0, so no border is corrected.
//
// Scales alpha[n][c] of a group become whole numbers q of a step, step = max abs(alpha) / 8128, in two digits of base 64:
// q = 64 d1 + d0, |d1| <= 127, |d0| <= 32. The digits of 32 channels lie side by side, and their weights are +-64 and
// +-1. Exact scales have four digits: q = 8192 q1 + q0, step = max / (8128 * 8192), a float's precision.
#pragma once

#include "amx_expand.h"
#include "amx_sums.h"
#include "amx_tiles.h"
#include "values.h"

namespace bz {
namespace BZ_NS {

// The sums of strip `strip` of a block, over all positions.
static void multiply_strip(const MatrixPlan& p, const Block& b, int strip, const int8_t* activations, int8_t* weights,
                           int32_t* sums) {
    const int outputs = p.parameters.outputs, strips = bz_ceil_div(outputs, kStrip);
    const int g = strip / strips, output = strip % strips * kStrip;
    const bool two = outputs - output > kRows;
    const int64_t all = bz_taps(p.s) * p.steps_of_tap, width = b.x1 - b.x0, lines = b.y1 - b.y0;
    int64_t begin = 0;
    while (begin < all) {
        const int64_t end = all - begin <= p.chunk ? all : begin + p.chunk;
        two ? expand_weights<2>(p, g, output / 16, begin, end, weights)
            : expand_weights<1>(p, g, output / 16, begin, end, weights);
        for (int pass = 0; pass < p.passes; ++pass) {
            const int8_t* const a = activations + (g * p.passes + pass) * p.steps_of_tap * p.positions * kStep;
            int32_t* const to = sums + pass * (p.sums_ints / 2);
            const auto run = [&](const int8_t* from, int64_t count, int32_t* line) {
                two ? multiply_run<2>(p, from, count, weights, begin, end, line)
                    : multiply_run<1>(p, from, count, weights, begin, end, line);
            };
            if (p.flat) {
                run(a, (lines - 1) * p.sums_pitch + width, to);
                continue;
            }
            for (int64_t y = 0; y < lines; ++y)
                run(a + y * p.s.stride_h * p.buffer_cols * kStep, width, to + y * p.sums_pitch * kStrip);
        }
        begin = end;
    }
}

static void copy_sums(const MatrixPlan& p, const Block& b, int strip, const int32_t* sums) {
    const int outputs = p.parameters.outputs, strips = bz_ceil_div(outputs, kStrip);
    const int output = strip % strips * kStrip, count = outputs - output < kStrip ? outputs - output : kStrip;
    for (int64_t y = b.y0; y < b.y1; ++y)
        for (int64_t x = b.x0; x < b.x1; ++x)
            memcpy(p.out_int + ((b.n * p.lines.lines + y) * p.lines.width + x) * p.s.out_channels +
                       int64_t(strip / strips) * outputs + output,
                   sums + ((y - b.y0) * p.sums_pitch + x - b.x0) * kStrip, sizeof(int32_t) * size_t(count));
}

// Strips [first, last), which are numbered over all groups. Those of a block of channels are finished while their sums
// are in the cache, unless the epilogue needs all of a position's.
static int matrix_block(const MatrixPlan& p, int64_t item, int first, int last, int8_t* memory) {
    int8_t* const weights = memory + p.activation_bytes;
    int32_t* const sums = reinterpret_cast<int32_t*>(weights + p.weight_bytes);
    const int64_t bx = item % p.blocks_x, by = item / p.blocks_x % p.blocks_y, n = item / (p.blocks_x * p.blocks_y);
    const int64_t lines = p.lines.lines, width = p.lines.width;
    const Block b = {n,
                     p.image < 0 ? n : p.image,
                     lines * by / p.blocks_y,
                     lines * (by + 1) / p.blocks_y,
                     width * bx / p.blocks_x,
                     width * (bx + 1) / p.blocks_x};
    const int strips = bz_ceil_div(p.parameters.outputs, kStrip);
    const int64_t of_strip = p.sums_positions * kStrip;
    const bool whole = p.e && is_staged(*p.e);
    // of one block of channels, all in one group
    const auto next = [&](int strip) {
        const int to = strip + kBlock / kStrip, of_group = (strip / strips + 1) * strips;
        return to < of_group ? (to < last ? to : last) : of_group < last ? of_group : last;
    };
    const auto finish_block = [&](const bz_epilogue& e, const Piece& piece, int begin, int end, const int32_t* from) {
        const int g = begin / strips;
        const Channels channels =
            channels_of(p.parameters, &e, g, begin % strips * kStrip, (end - begin) * kStrip);
        finish_channels(p, e, channels, g, piece, from + (piece.line - b.y0) * p.sums_pitch * kStrip, item);
    };
    expand_block(p, b.image, b.y0, b.x0, b.y1 - b.y0, b.x1 - b.x0, memory);
    for (int begin = first, end; begin < last; begin = end) {
        end = next(begin);
        int32_t* const to = sums + (whole ? begin * of_strip : 0);
        for (int strip = begin; strip < end; ++strip) {
            multiply_strip(p, b, strip, memory, weights, to + (strip - begin) * of_strip);
            if (p.out_int) copy_sums(p, b, strip, to + (strip - begin) * of_strip);
        }
        if (p.out_int || whole) continue;
        for (int64_t y = b.y0; y < b.y1; ++y) finish_block(*p.e, {b.image, y, b.x0, b.x1}, begin, end, to);
    }
    int status = BZ_OK;
    for (int64_t y = b.y0; whole && y < b.y1; ++y) {
        const Piece piece = {b.image, y, b.x0, b.x1};
        status |= staged(*p.e, p.s, p.resizer, piece, [&](const bz_epilogue& e) {
            for (int begin = first, end; begin < last; begin = end)
                finish_block(e, piece, begin, end = next(begin), sums + begin * of_strip);
        });
    }
    return status;
}

static int run_matrices(int threads, MatrixPlan& p) {
    const bz_conv_shape& s = p.s;
    const bz_plane_shape& in = s.input;
    const int padded = bz_padded_outputs(s), strips = in.groups * bz_ceil_div(bz_group_outputs(s), kStrip);
    int status = take_parameters(p.parameters, s, p.e, padded);
    if (status == BZ_OK) status = make_bypass_resizer(p.resizer, s, p.e);
    p.offsets = static_cast<int64_t*>(malloc(size_t(bz_taps(s) + 1) * sizeof(int64_t)));
    if (status == BZ_OK && !p.offsets) status = BZ_NO_MEMORY;
    int8_t* memory = nullptr;
    if (status == BZ_OK) {
        make_blocks(p);
        const bool summed = p.e && p.e->sums, whole = p.e && is_staged(*p.e);
        const int64_t items = p.items(), all = int64_t(in.groups) * padded;
        const int64_t parts = whole || items >= threads ? 1 : strips < threads ? strips : threads;
        const int64_t workers = items * parts < threads ? items * parts : threads;
        const int64_t share = ceil_to(p.activation_bytes + p.weight_bytes + p.sums_ints * 4, 64);
        memory = static_cast<int8_t*>(aligned_alloc(64, size_t(workers * share)));
        if (summed) p.partial = static_cast<float*>(calloc(size_t(items * all), sizeof(float)));
        const bool enough = memory && (p.partial || !summed);
        if (enough && p.e && p.e->bits) clear_border(*p.e->bits);
        int failed = 0;
#pragma omp parallel for schedule(static, 1) num_threads(int(workers)) reduction(| : failed) if (workers > 1)
        for (int64_t t = 0; t < (enough ? workers : 0); ++t) {
            configure_tiles(p.rows);
            for (int64_t i = items * parts * t / workers; i < items * parts * (t + 1) / workers; ++i) {
                const int64_t part = i % parts;
                failed |= matrix_block(p, i / parts, int(strips * part / parts), int(strips * (part + 1) / parts),
                                       memory + t * share);
            }
            _tile_release();
            if (p.parameters.past) settle();
        }
        status = enough ? failed : BZ_NO_MEMORY;
        if (enough && summed)
            reduce(p.partial, p.lines.images, p.blocks_y * p.blocks_x, in.groups, p.parameters.outputs, padded,
                   p.e->sums + (p.image < 0 ? 0 : p.image) * s.out_channels);
    }
    free(memory);
    free(p.partial);
    free(p.offsets);
    free(p.resizer.rows);
    free(p.parameters.memory);
    return status;
}

// Sums of products of +-1 weights with +-1, or with 0 and +-2 (a midpoint of +-1).
static int conv(int threads, const bz_conv_shape& s, const uint32_t* plane, const uint32_t* words,
                const bz_epilogue* e, int32_t* out_int) {
    MatrixPlan p = plan_of(s, plane, words, e, 1, 1);
    p.out_int = out_int;
    const int64_t of_group = p.steps_of_tap * kStep, all = s.input.groups * of_group;
    const int channels = s.input.channels / s.input.groups, midpoint = is_step(e) ? int(e->midpoint) : 0;
    int8_t* const values = static_cast<int8_t*>(calloc(size_t(2 * all), 1));
    if (!values) return BZ_NO_MEMORY;
    for (int g = 0; g < s.input.groups; ++g) {
        memset(values + g * of_group, midpoint + 1, size_t(channels));
        memset(values + all + g * of_group, midpoint - 1, size_t(channels));
    }
    p.positive = values;
    p.negative = values + all;
    const int status = run_matrices(threads, p);
    free(values);
    return status;
}

static int rounded(double x) { return int(x < 0 ? x - 0.5 : x + 0.5); }

// The digits of an image's scales and their negatives; the largest scale of each group.
static void make_digits(const MatrixPlan& p, const float* alpha, int8_t* positive, int8_t* negative, float* largest) {
    const bz_plane_shape& in = p.s.input;
    const int64_t of_group = p.steps_of_tap * kStep, all = in.groups * of_group;
    const int channels = in.channels / in.groups;
    for (int g = 0; g < in.groups; ++g) {
        const float* scales = alpha + p.image * in.channels + int64_t(g) * channels;
        float most = 0;
        for (int c = 0; c < channels; ++c)
            if (__builtin_fabsf(scales[c]) > most) most = __builtin_fabsf(scales[c]);
        largest[g] = most;
        const double inverse = most > 0 ? double(kMost) / double(most) : 0.0;
        for (int c = 0; c < channels; ++c) {
            const auto put = [&](int pass, int q) {
                const int high = (q + kBase / 2) >> 6, low = q - kBase * high;
                const int64_t at = pass * all + g * of_group + c / 32 * kStep + c % 32;
                positive[at] = int8_t(high), negative[at] = int8_t(-high);
                positive[at + 32] = int8_t(low), negative[at + 32] = int8_t(-low);
            };
            const double q = double(scales[c]) * inverse;
            if (p.passes == 1) {
                put(0, rounded(q));
                continue;
            }
            const int fine = rounded(q * kPairBase), high = (fine + kPairBase / 2) >> 13;
            put(0, high);
            put(1, fine - kPairBase * high);
        }
    }
}

static int scaled(int threads, const bz_conv_shape& s, const uint32_t* plane, const uint16_t* words,
                  const float* alpha, bool exact, const bz_epilogue& e) {
    bz_conv_shape one = s;  // image: each has its scales
    one.input.images = 1;
    const int64_t all = 2 * int64_t(bz_pixel_words(s.input)) * kStep;  // of two passes
    int8_t* const digits = static_cast<int8_t*>(calloc(size_t(2 * all), 1));
    float* const largest = static_cast<float*>(malloc(size_t(s.input.groups) * sizeof(float)));
    int status = digits && largest ? BZ_OK : BZ_NO_MEMORY;
    for (int64_t n = 0; n < s.input.images && status == BZ_OK; ++n) {
        MatrixPlan p = plan_of(one, plane, reinterpret_cast<const uint32_t*>(words), &e, 2, exact ? 2 : 1);
        p.image = n;
        make_digits(p, alpha, digits, digits + all, largest);
        p.positive = digits;
        p.negative = digits + all;
        p.largest = largest;
        status = run_matrices(threads, p);
    }
    free(largest);
    free(digits);
    return status;
}

// Products of tiles in registers.
static double peak(int64_t rounds) {
    configure_tiles(kRows);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
    const int64_t some = rounds / 16 + 1;  // a round takes as long as 16 of popcounts'
    for (int64_t r = 0; r < some; ++r) {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
    _tile_release();
    return double(some) * 4 * kRows * kRows * kStep;
}

}  // namespace BZ_NS
}  // namespace bz
