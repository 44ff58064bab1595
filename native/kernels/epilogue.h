// From sums to stored floats: scale, shift, activation, bypass, activation, residual, channel sums.
#pragma once

#include "simd.h"

namespace bz {
namespace BZ_NS {

constexpr int kBlock = 128;  // most channels of one block

struct Activation {
    int kind;
    float low, high;
    const float *before, *negative, *positive, *after;
};

// The parameters of channels [first, first + count), readable up to `padded`, a multiple of kLanes.
struct Channels {
    int first, count, padded;
    const float *mul, *add;
    Activation before_bypass, after_bypass;
    float copies[10][kBlock];
};

BZ_INLINE const float* readable(Channels& b, int slot, const float* all) {
    if (!all) return nullptr;
    if (b.count == b.padded) return all + b.first;
    memset(b.copies[slot], 0, sizeof b.copies[slot]);
    memcpy(b.copies[slot], all + b.first, sizeof(float) * size_t(b.count));
    return b.copies[slot];
}

BZ_INLINE Activation activation_of(Channels& b, int slot, const bz_activation& a) {
    return {a.kind, a.low, a.high, readable(b, slot, a.before), readable(b, slot + 1, a.negative),
            readable(b, slot + 2, a.positive), readable(b, slot + 3, a.after)};
}

static void take_channels(Channels& b, const bz_epilogue& e, int first, int count) {
    b.first = first;
    b.count = count;
    b.padded = (count + kLanes - 1) / kLanes * kLanes;
    b.mul = readable(b, 0, e.mul);
    b.add = readable(b, 1, e.add);
    b.before_bypass = activation_of(b, 2, e.first);
    b.after_bypass = activation_of(b, 6, e.second);
}

BZ_INLINE Floats activate(const Activation& a, Floats t, int j) {
    if (a.kind == BZ_ACT_NONE) return t;
    if (a.kind == BZ_ACT_CLAMP) {
        const Floats low = splat(a.low), high = splat(a.high);
        t = t < low ? low : t;
        return t > high ? high : t;
    }
    if (a.before) t += load<Floats>(a.before + j);
    const Floats below = a.negative ? t * load<Floats>(a.negative + j) : Floats{};
    const Floats above = a.positive ? t * load<Floats>(a.positive + j) : t;
    t = t < Floats{} ? below : above;
    if (a.after) t += load<Floats>(a.after + j);
    return t;
}

// Channels [first, first + count) of the bypass of one position: a pointer into x where they lie there side by side
// and the padding may be read, else written to `spare`.
static const float* bypass_part(const float* x, int in, int out, int first, int count, int padded, float* spare) {
    const int copied = out / in * in;
    if (first + count <= copied && first % in + padded <= in) return x + first % in;
    const int end = first + count, merged = out - copied;
    float* to = spare;
    int o = first;
    for (int run; o < end && o < copied; o += run, to += run) {
        run = in - o % in;
        if (run > end - o) run = end - o;
        memcpy(to, x + o % in, sizeof(float) * size_t(run));
    }
    if (o < end) {
        const int size = in / merged, strided = size * (merged - 1);
        int j = o - copied;
        if (j < merged - 1) {
            const int run = merged - 1 - j < end - o ? merged - 1 - j : end - o;
            for (int i = 0; i < run; ++i) to[i] = x[j + i];
            for (int t = 1; t < size; ++t)
                for (int i = 0; i < run; ++i) to[i] += x[j + i + t * (merged - 1)];
            for (int i = 0; i < run; ++i) to[i] /= float(size);
            o += run, to += run;
        }
        if (o < end) {
            float sum = 0;
            for (int c = strided; c < in; ++c) sum += x[c];
            *to = sum / float(in - strided);
        }
    }
    memset(spare + count, 0, sizeof(float) * size_t(padded - count));
    return spare;
}

BZ_INLINE float* at(const bz_map& m, int64_t n, int64_t y, int64_t x) {
    return m.data + n * m.image + y * m.row + x * m.pixel;
}

// One position's channels of a block. `source(j)` gives kLanes sums as floats; `sums` [padded] is added to, or null.
template <class Source>
BZ_INLINE void finish(const Channels& b, const bz_conv_shape& s, const bz_epilogue& e, const Source& source, int64_t n,
                      int64_t y, int64_t x, float* sums) {
    float spare_bypass[kBlock], spare_residual[kBlock], spare_out[kBlock];
    const bool whole = b.count == b.padded;
    const float* bypass = nullptr;
    const float* residual = nullptr;
    if (e.bypass.data)
        bypass = bypass_part(at(e.bypass, n, y, x), e.bypass_channels, s.out_channels, b.first, b.count, b.padded,
                             spare_bypass);
    if (e.residual.data) {
        residual = at(e.residual, n, y, x) + b.first;
        if (!whole) {
            memset(spare_residual, 0, sizeof(float) * size_t(b.padded));
            memcpy(spare_residual, residual, sizeof(float) * size_t(b.count));
            residual = spare_residual;
        }
    }
    float* const out = at(e.out, n, y, x) + b.first;
    float* const to = whole ? out : spare_out;
    const bool scaled = e.sample_scale != nullptr;
    const Floats scale = splat(scaled ? e.sample_scale[n] : 1.0f);
    for (int j = 0; j < b.padded; j += kLanes) {
        Floats t = source(j);
        if (b.mul) t *= load<Floats>(b.mul + j);
        if (scaled) t *= scale;
        if (b.add) t += load<Floats>(b.add + j);
        t = activate(b.before_bypass, t, j);
        if (bypass) t += load<Floats>(bypass + j);
        t = activate(b.after_bypass, t, j);
        if (residual) t += load<Floats>(residual + j);
        store(to + j, t);
        if (sums) store(sums + j, load<Floats>(sums + j) + t);
    }
    if (!whole) memcpy(out, spare_out, sizeof(float) * size_t(b.count));
}

}  // namespace BZ_NS
}  // namespace bz
