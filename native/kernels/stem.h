// Float convolution of few input channels, the stem of a network, with its epilogue and the max-pool behind it.
//
// A thread walks down a band of an image. It keeps the input rows that one line of outputs reads, channels next to each
// other and with their border of zeros, and as many lines of outputs as the pool reads: neither the padded input nor
// the map in front of the pool is ever stored. A kernel's row is one run of floats in such an input row.
#pragma once

#include "epilogue.h"
#include "products.h"
#include "walk.h"

namespace bz {
namespace BZ_NS {

// Positions and blocks of 16 outputs whose sums stay in registers. (14 positions times 2 blocks, whose weights fit the
// first cache better, are slower by 3 %.)
#if BZ_VEC_BYTES == 64
constexpr int kStemPositions = 6, kStemSixteens = 4;
#elif BZ_VEC_BYTES == 32
constexpr int kStemPositions = 6, kStemSixteens = 1;
#else
constexpr int kStemPositions = 2, kStemSixteens = 1;
#endif
constexpr int kStemTogether = 16;  // tiles whose sums go through the epilogue together: 24 KB at most

struct StemPlan {
    bz_conv_shape s;
    bz_map x;
    const bz_pool* pool;
    const bz_epilogue* e;
    const float* weights;  // [sixteens][kernel_h][kernel_w * channels][16]
    Parameters parameters;
    int sixteens, blocks;
    int64_t run, row;  // floats of a kernel's row, and of an input row with its border
    int64_t bands, lines;  // of an image; lines: of the result
    float* partial;  // [images][lines][padded outputs]: sums of each line, or null
};

// One thread's rows and lines, used in turn.
struct StemRows {
    float *inputs, *lines;
    float* input(const StemPlan& p, int64_t y) const { return inputs + (y + p.s.pad_top) % p.s.kernel_h * p.row; }
    float* line(const StemPlan& p, int64_t y) const {
        return lines + y % p.pool->kernel_h * p.s.out_w * p.parameters.padded;
    }
};

// Three channels side by side: compilers make vectors of this.
static void interleave(const float* __restrict a, const float* __restrict b, const float* __restrict c, int64_t count,
                       float* __restrict to) {
    for (int64_t i = 0; i < count; ++i) to[3 * i] = a[i], to[3 * i + 1] = b[i], to[3 * i + 2] = c[i];
}

// Input row y, which may lie in the border, with channels next to each other.
static void stem_input(const StemPlan& p, int64_t n, int64_t y, float* to) {
    const bz_plane_shape& in = p.s.input;
    const int64_t channels = in.channels, left = p.s.pad_left > 0 ? p.s.pad_left : 0;
    if (y < 0 || y >= in.height) {
        memset(to, 0, size_t(p.row) * sizeof(float));
        return;
    }
    const float* from = p.x.data + n * p.x.image + y * p.x.row;
    memset(to, 0, size_t(left * channels) * sizeof(float));
    float* const inside = to + left * channels;
    if (p.x.channel == 1 && p.x.pixel == channels)
        memcpy(inside, from, size_t(in.width * channels) * sizeof(float));
    else if (p.x.pixel == 1 && channels == 3)
        interleave(from, from + p.x.channel, from + 2 * p.x.channel, in.width, inside);
    else
        for (int64_t c = 0; c < channels; ++c)
            for (int64_t x = 0; x < in.width; ++x) inside[x * channels + c] = from[c * p.x.channel + x * p.x.pixel];
    const int64_t end = (left + in.width) * channels;
    memset(to + end, 0, size_t(p.row - end) * sizeof(float));
}

// Sums of P positions times S blocks of 16 outputs, to [P][S * 16].
template <int P, int S>
static void stem_tile(const float* const* rows, int64_t begin, int64_t step, int height, int64_t run,
                      const float* weights, float* to) {
    Floats sum[P][S * kVectors] = {};
    for (int y = 0; y < height; ++y)
        add_products<P, S>(sum, rows[y] + begin, step, run, weights + y * run * 16, height * run * 16);
    BZ_UNROLL for (int p = 0; p < P; ++p)
        BZ_UNROLL for (int j = 0; j < S * kVectors; ++j) store(to + p * S * 16 + j * kLanes, sum[p][j]);
}

typedef void (*StemTile)(const float* const*, int64_t, int64_t, int, int64_t, const float*, float*);

#if BZ_VEC_BYTES == 64
#define BZ_STEM(P) {stem_tile<P, 1>, stem_tile<P, 2>, stem_tile<P, 3>, stem_tile<P, 4>}
#else
#define BZ_STEM(P) {stem_tile<P, 1>}
#endif
static const StemTile kStemTiles[kStemPositions][kStemSixteens] = {
    BZ_STEM(1), BZ_STEM(2),
#if BZ_VEC_BYTES >= 32
    BZ_STEM(3), BZ_STEM(4), BZ_STEM(5), BZ_STEM(6),
#endif
};
#undef BZ_STEM

struct FloatSums {
    const float* sums;
    Floats operator()(int j) const { return load<Floats>(sums + j); }
};
struct FloatSumsOfLine {
    static constexpr int kMost = kStemTogether * kStemPositions;
    const float* sums;
    int64_t begin, step;
    FloatSums operator()(int64_t x) const { return {sums + (x - begin) * step}; }
    bool alike(int64_t, int) const { return true; }
    FloatSums beside(const FloatSums& first, int64_t i) const { return {first.sums + i * step}; }
};

// Line y of the convolution's output, through the epilogue `e`. rows: of the input, one for each of the kernel's.
static void stem_line(const StemPlan& p, const float* const* rows, const bz_epilogue& e, int64_t n, int64_t y,
                      float* sums) {
    const bz_conv_shape& s = p.s;
    const int64_t step = int64_t(s.stride_w) * s.input.channels, tiles = bz_ceil_div(s.out_w, kStemPositions);
    const int64_t skipped = s.pad_left < 0 ? -int64_t(s.pad_left) * s.input.channels : 0;
    const auto begin_of = [&](int64_t t) { return s.out_w * (t < tiles ? t : tiles) / tiles; };
    alignas(64) float made[kStemTogether * kStemPositions * kStemSixteens * 16];
    for (int b = 0; b < p.blocks; ++b) {
        const int first = p.sixteens * b / p.blocks, count = p.sixteens * (b + 1) / p.blocks - first;
        const Channels channels = channels_of(p.parameters, &e, 0, first * 16, count * 16);
        const float* const weights = p.weights + first * s.kernel_h * p.run * 16;
        for (int64_t t = 0; t < tiles; t += kStemTogether) {
            const int64_t begin = begin_of(t), end = begin_of(t + kStemTogether);
            for (int64_t i = t, x = begin; x < end; x = begin_of(++i))
                kStemTiles[begin_of(i + 1) - x - 1][count - 1](rows, skipped + x * step, step, s.kernel_h, p.run,
                                                               weights, made + (x - begin) * count * 16);
            finish(channels, p.parameters, e, FloatSumsOfLine{made, begin, count * 16}, n, y, begin,
                   end, sums ? sums + channels.at : nullptr);
        }
    }
}

BZ_INLINE Floats larger(Floats a, Floats b) { return b > a || b != b ? b : a; }  // a NaN wins, as in torch

// Line y of the result from the lines of the convolution's output.
static void stem_pool(const StemPlan& p, const StemRows& rows, int64_t n, int64_t y, float* sums) {
    const bz_pool& pool = *p.pool;
    const int64_t padded = p.parameters.padded;
    const Range high = taps_inside(int32_t(y), pool.kernel_h, pool.stride_h, pool.pad_h, 1, p.s.out_h);
    const int64_t top = y * pool.stride_h - pool.pad_h;
    for (int32_t x = 0; x < pool.out_w; ++x) {
        const Range wide = taps_inside(x, pool.kernel_w, pool.stride_w, pool.pad_w, 1, p.s.out_w);
        const int64_t left = x * int64_t(pool.stride_w) - pool.pad_w;
        void* const to = at_typed(p.e->out, n, y, x, 0);
        for (int64_t j = 0; j < padded; j += 16) {
            Floats most[kVectors];
            for (int v = 0; v < kVectors; ++v) {
                const int64_t at_channel = j + v * kLanes;
                Floats m = splat(-__builtin_inff());
                for (int32_t ky = high.low; ky < high.high; ++ky) {
                    const float* const line = rows.line(p, top + ky) + at_channel;
                    for (int32_t kx = wide.low; kx < wide.high; ++kx)
                        m = larger(m, load<Floats>(line + (left + kx) * padded));
                }
                most[v] = m;
                if (sums) store(sums + at_channel, load<Floats>(sums + at_channel) + m);
            }
            const int count = int(p.s.out_channels - j < 16 ? p.s.out_channels - j : 16);
            if (p.e->out.bf16)
                store_first(static_cast<uint16_t*>(to) + j, most, count);
            else
                store_first(static_cast<float*>(to) + j, most, count);
        }
    }
}

// Lines [begin, end) of image n's result.
static void stem_band(const StemPlan& p, const StemRows& rows, const float** kernel_rows, int64_t n, int64_t begin,
                      int64_t end) {
    const bz_conv_shape& s = p.s;
    int64_t input = -int64_t(s.pad_top), line = 0;  // the next ones to make
    const auto convolve = [&](int64_t y, const bz_epilogue& e, float* sums) {
        const int64_t top = y * s.stride_h - s.pad_top;
        for (input = input < top ? top : input; input < top + s.kernel_h; ++input)
            stem_input(p, n, input, rows.input(p, input));
        for (int ky = 0; ky < s.kernel_h; ++ky) kernel_rows[ky] = rows.input(p, top + ky);
        stem_line(p, kernel_rows, e, n, y, sums);
    };
    bz_epilogue inner = *p.e;
    for (int64_t y = begin; y < end; ++y) {
        float* const sums = p.partial ? p.partial + (n * p.lines + y) * p.parameters.padded : nullptr;
        if (!p.pool) {
            convolve(y, inner, sums);
            continue;
        }
        const Range inside = taps_inside(int32_t(y), p.pool->kernel_h, p.pool->stride_h, p.pool->pad_h, 1, s.out_h);
        const int64_t top = y * p.pool->stride_h - p.pool->pad_h;
        for (line = line < top + inside.low ? top + inside.low : line; line < top + inside.high; ++line) {
            inner.out = {rows.line(p, line), 0, 0, p.parameters.padded, 1, 0};
            convolve(line, inner, nullptr);
        }
        stem_pool(p, rows, n, y, sums);
    }
}

static int stem_item(const StemPlan& p, int64_t item) {
    const bz_conv_shape& s = p.s;
    const int64_t n = item / p.bands, band = item % p.bands;
    const int64_t begin = p.lines * band / p.bands, end = p.lines * (band + 1) / p.bands;
    if (begin == end) return BZ_OK;
    const size_t inputs = size_t(s.kernel_h) * size_t(p.row);
    const size_t lines = p.pool ? size_t(p.pool->kernel_h) * size_t(s.out_w) * size_t(p.parameters.padded) : 0;
    const StemRows rows = {static_cast<float*>(malloc(inputs * sizeof(float))),
                           static_cast<float*>(aligned_alloc(64, (lines + 16) / 16 * 16 * sizeof(float)))};
    const float** kernel_rows = static_cast<const float**>(malloc(size_t(s.kernel_h) * sizeof(float*)));
    const bool enough = rows.inputs && rows.lines && kernel_rows;
    if (enough) stem_band(p, rows, kernel_rows, n, begin, end);
    free(kernel_rows);
    free(rows.lines);
    free(rows.inputs);
    return enough ? BZ_OK : BZ_NO_MEMORY;
}

// [out][channels][kernel_h][kernel_w] to [sixteens][kernel_h][kernel_w][channels][16], zeros behind the last output.
static float* stem_weights(const bz_conv_shape& s, const float* weights) {
    const int64_t taps = bz_taps(s), channels = s.input.channels, length = taps * channels;
    const int64_t sixteens = bz_ceil_div(s.out_channels, 16);
    float* const packed = static_cast<float*>(aligned_alloc(64, size_t(sixteens * length * 16) * sizeof(float)));
    if (!packed) return nullptr;
    float* to = packed;
    for (int64_t first = 0; first < sixteens * 16; first += 16)
        for (int64_t tap = 0; tap < taps; ++tap)
            for (int64_t c = 0; c < channels; ++c)
                for (int64_t o = first; o < first + 16; ++o)
                    *to++ = o < s.out_channels ? weights[o * length + c * taps + tap] : 0;
    return packed;
}

// The epilogue `e` with the norm in its mul and add, which are written to `to` [2][outputs].
static bz_epilogue with_norm(const bz_epilogue& e, const bz_norm& norm, int32_t outputs, float* to) {
    for (int32_t o = 0; o < outputs; ++o) {
        const double factor = (norm.weight ? norm.weight[o] : 1) / __builtin_sqrt(norm.variance[o] + norm.eps);
        to[o] = float((e.mul ? e.mul[o] : 1) * factor);
        to[outputs + o] = float(((e.add ? e.add[o] : 0) - double(norm.mean[o])) * factor + (norm.bias ? norm.bias[o] : 0));
    }
    bz_epilogue result = e;
    result.mul = to, result.add = to + outputs;
    return result;
}

static int stem(int threads, const bz_conv_shape& s, const bz_map& x, const float* weights, const bz_norm* norm,
                const bz_pool* pool, const bz_epilogue& given) {
    float* const folded = static_cast<float*>(malloc(size_t(s.out_channels) * 2 * sizeof(float)));
    if (!folded) return BZ_NO_MEMORY;
    const bz_epilogue e = norm ? with_norm(given, *norm, s.out_channels, folded) : given;
    StemPlan p = {s, x, pool, &e, nullptr, {}, bz_ceil_div(s.out_channels, 16), 0, 0, 0, 1, 0, nullptr};
    p.blocks = bz_ceil_div(p.sixteens, kStemSixteens);
    p.run = int64_t(s.kernel_w) * s.input.channels;
    const int64_t left = s.pad_left > 0 ? s.pad_left : 0, reach = int64_t(s.out_w - 1) * s.stride_w - s.pad_left + s.kernel_w;
    const int64_t width = reach > s.input.width ? reach : s.input.width;
    p.row = (left + width) * s.input.channels;
    p.lines = pool ? pool->out_h : s.out_h;
    const int64_t images = s.input.images;
    if (threads > 1 && images < 4 * int64_t(threads)) p.bands = threads;  // at each seam a pool's lines are made twice
    int status = take_parameters(p.parameters, s, &e, p.sixteens * 16);
    p.parameters.past = false;  // a pool's lines are scratch
    float* const packed = stem_weights(s, weights);
    p.weights = packed;
    const size_t sums = size_t(images * p.lines) * size_t(p.sixteens) * 16;
    if (e.sums) p.partial = static_cast<float*>(calloc(sums, sizeof(float)));
    if (status == BZ_OK && (!packed || (e.sums && !p.partial))) status = BZ_NO_MEMORY;
    if (status == BZ_OK) {
        int failed = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(| : failed) if (threads > 1)
        for (int64_t i = 0; i < images * p.bands; ++i) failed |= stem_item(p, i);
        status = failed;
        if (e.sums)
            reduce(p.partial, images, p.lines, 1, s.out_channels, p.parameters.padded, e.sums);
    }
    free(p.partial);
    free(packed);
    free(p.parameters.memory);
    free(folded);
    return status;
}

}  // namespace BZ_NS
}  // namespace bz
