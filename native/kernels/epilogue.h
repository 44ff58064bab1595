// From sums to stored floats: scale, shift, activation, bypass, activation, residual, channel sums.
#pragma once

#include "simd.h"

namespace bz {
namespace BZ_NS {

constexpr int kBlock = 128;  // most channels of one block
constexpr int kArrays = 10;

struct Activation {
    int kind;
    float low, high;
    const float *before, *negative, *positive, *after;
};

// The epilogue's arrays in the order of padded outputs: each group's channels are followed by zeros up to `padded`, so
// that whole vectors can be read. Where there is nothing to pad they are the caller's own arrays.
struct Parameters {
    int outputs, padded;  // of one group
    const float *mul, *add;
    Activation first, second;
    float* memory;  // to be freed, or null
};

// Channels [first, first + count) of the output, whose parameters start at `at`; count may be read up to `padded`.
struct Channels {
    int first, count, padded, at;
};

static int take_parameters(Parameters& p, const bz_conv_shape& s, const bz_epilogue* e, int padded) {
    p.outputs = bz_group_outputs(s);
    p.padded = padded;
    p.memory = nullptr;
    if (!e) return BZ_OK;
    const float* given[kArrays] = {e->mul,           e->add,          e->first.before,   e->first.negative,
                                   e->first.positive, e->first.after,  e->second.before,  e->second.negative,
                                   e->second.positive, e->second.after};
    if (p.outputs != padded) {
        const size_t length = size_t(s.input.groups) * size_t(padded);
        p.memory = static_cast<float*>(calloc(kArrays * length, sizeof(float)));
        if (!p.memory) return BZ_NO_MEMORY;
        for (int i = 0; i < kArrays; ++i) {
            if (!given[i]) continue;
            float* to = p.memory + size_t(i) * length;
            for (int g = 0; g < s.input.groups; ++g)
                memcpy(to + int64_t(g) * padded, given[i] + int64_t(g) * p.outputs, sizeof(float) * size_t(p.outputs));
            given[i] = to;
        }
    }
    p.mul = given[0];
    p.add = given[1];
    p.first = {e->first.kind, e->first.low, e->first.high, given[2], given[3], given[4], given[5]};
    p.second = {e->second.kind, e->second.low, e->second.high, given[6], given[7], given[8], given[9]};
    return BZ_OK;
}

BZ_INLINE Channels channels_of(const Parameters& p, int group, int first, int most) {
    const int count = p.outputs - first < most ? p.outputs - first : most;
    return {group * p.outputs + first, count, (count + kLanes - 1) / kLanes * kLanes, group * p.padded + first};
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
BZ_INLINE void finish(const Channels& b, const Parameters& p, const bz_conv_shape& s, const bz_epilogue& e,
                      const Source& source, int64_t n, int64_t y, int64_t x, float* sums) {
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
        if (p.mul) t *= load<Floats>(p.mul + b.at + j);
        if (scaled) t *= scale;
        if (p.add) t += load<Floats>(p.add + b.at + j);
        t = activate(p.first, t, b.at + j);
        if (bypass) t += load<Floats>(bypass + j);
        t = activate(p.second, t, b.at + j);
        if (residual) t += load<Floats>(residual + j);
        store(to + j, t);
        if (sums) store(sums + j, load<Floats>(sums + j) + t);
    }
    if (!whole) memcpy(out, spare_out, sizeof(float) * size_t(b.count));
}

}  // namespace BZ_NS
}  // namespace bz
