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
    int bypass;  // where they lie side by side in the bypass, the offset; else -1
};

static int take_parameters(Parameters& p, const bz_conv_shape& s, const bz_epilogue* e, int padded) {
    p.outputs = bz_group_outputs(s);
    p.padded = padded;
    p.memory = nullptr;
    if (!e) return BZ_OK;
    const float* given[kArrays] = {e->mul,           e->add,          e->first.before,   e->first.negative,
                                   e->first.positive, e->first.after,  e->second.before,  e->second.negative,
                                   e->second.positive, e->second.after};
    const bool filled = !e->mul || !e->add;  // ones and zeros instead of a question per vector
    if (p.outputs != padded || filled) {
        const size_t length = size_t(s.input.groups) * size_t(padded);
        p.memory = static_cast<float*>(calloc(kArrays * length, sizeof(float)));
        if (!p.memory) return BZ_NO_MEMORY;
        for (int i = 0; i < kArrays; ++i) {
            float* to = p.memory + size_t(i) * length;
            if (i == 0 && !given[i])
                for (size_t k = 0; k < length; ++k) to[k] = 1;
            if (i < 2 && !given[i]) given[i] = to;
            else if (!given[i] || p.outputs == padded) continue;
            else {
                for (int g = 0; g < s.input.groups; ++g)
                    memcpy(to + int64_t(g) * padded, given[i] + int64_t(g) * p.outputs,
                           sizeof(float) * size_t(p.outputs));
                given[i] = to;
            }
        }
    }
    p.mul = given[0];
    p.add = given[1];
    p.first = {e->first.kind, e->first.low, e->first.high, given[2], given[3], given[4], given[5]};
    p.second = {e->second.kind, e->second.low, e->second.high, given[6], given[7], given[8], given[9]};
    return BZ_OK;
}

static Channels channels_of(const Parameters& p, const bz_conv_shape& s, const bz_epilogue* e, int group, int first,
                            int most) {
    const int count = p.outputs - first < most ? p.outputs - first : most;
    Channels c = {group * p.outputs + first, count, (count + kLanes - 1) / kLanes * kLanes,
                  group * p.padded + first, -1};
    if (e && e->bypass.data) {
        const int in = e->bypass_channels, copied = s.out_channels / in * in;
        if (c.first + count <= copied && c.first % in + c.padded <= in) c.bypass = c.first % in;
    }
    return c;
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

// Channels [first, first + count) of the bypass of one position, written to `spare` and followed by zeros.
static void bypass_part(const float* x, int in, int out, int first, int count, int padded, float* spare) {
    const int copied = out / in * in;
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
}

BZ_INLINE float* at(const bz_map& m, int64_t n, int64_t y, int64_t x) {
    return m.data + n * m.image + y * m.row + x * m.pixel;
}

// What an epilogue has, known when its loop is compiled.
enum : int { kActivated = 1, kBypassed = 2, kScaled = 4, kMore = 8 };  // kMore: residual or sums

static int features_of(const bz_epilogue& e) {
    return (e.first.kind || e.second.kind ? kActivated : 0) | (e.bypass.data ? kBypassed : 0) |
           (e.sample_scale ? kScaled : 0) | (e.residual.data || e.sums ? kMore : 0);
}

// Positions [x0, x1) of a line times the channels of a block. `sources(x)(j)` gives kLanes sums as floats; `sums`
// [padded] is added to, or null.
template <int Has, class Sources>
static void finish_some(const Channels& c, const Parameters& p, const bz_conv_shape& s, const bz_epilogue& e,
                        const Sources& sources, int64_t n, int64_t y, int64_t x0, int64_t x1, float* sums) {
    alignas(64) float spare_bypass[kBlock], spare_residual[kBlock], spare_out[kBlock];
    const bool whole = c.count == c.padded;
    const int padded = c.padded;
    const float *const mul = p.mul + c.at, *const add = p.add + c.at;
    const Floats scale = splat(Has & kScaled ? e.sample_scale[n] : 1.0f);
    float* out = at(e.out, n, y, x0) + c.first;
    const float* way = Has & kBypassed ? at(e.bypass, n, y, x0) : nullptr;
    const float* residual = Has & kMore && e.residual.data ? at(e.residual, n, y, x0) + c.first : nullptr;
    for (int64_t x = x0; x < x1; ++x) {
        const auto source = sources(x);
        const float *bypass = spare_bypass, *last = residual;
        if (Has & kBypassed) {
            if (c.bypass >= 0) bypass = way + c.bypass;
            else bypass_part(way, e.bypass_channels, s.out_channels, c.first, c.count, padded, spare_bypass);
            way += e.bypass.pixel;
        }
        if (Has & kMore && residual) {
            if (!whole) {
                memset(spare_residual, 0, sizeof(float) * size_t(padded));
                memcpy(spare_residual, residual, sizeof(float) * size_t(c.count));
                last = spare_residual;
            }
            residual += e.residual.pixel;
        }
        float* const to = whole ? out : spare_out;
        for (int j = 0; j < padded; j += kLanes) {
            Floats t = source(j) * load<Floats>(mul + j);
            if (Has & kScaled) t *= scale;
            t += load<Floats>(add + j);
            if (Has & kActivated) t = activate(p.first, t, c.at + j);
            if (Has & kBypassed) t += load<Floats>(bypass + j);
            if (Has & kActivated) t = activate(p.second, t, c.at + j);
            if (Has & kMore) {
                if (last) t += load<Floats>(last + j);
                if (sums) store(sums + j, load<Floats>(sums + j) + t);
            }
            store(to + j, t);
        }
        if (!whole) memcpy(out, spare_out, sizeof(float) * size_t(c.count));
        out += e.out.pixel;
    }
}

template <class Sources>
static void finish(int features, const Channels& c, const Parameters& p, const bz_conv_shape& s, const bz_epilogue& e,
                   const Sources& sources, int64_t n, int64_t y, int64_t x0, int64_t x1, float* sums) {
#define BZ_CASE(F) \
    case F: return finish_some<F>(c, p, s, e, sources, n, y, x0, x1, sums);
    switch (features) {
        BZ_CASE(0) BZ_CASE(1) BZ_CASE(2) BZ_CASE(3) BZ_CASE(4) BZ_CASE(5) BZ_CASE(6) BZ_CASE(7)
        BZ_CASE(8) BZ_CASE(9) BZ_CASE(10) BZ_CASE(11) BZ_CASE(12) BZ_CASE(13) BZ_CASE(14) BZ_CASE(15)
    }
#undef BZ_CASE
}

}  // namespace BZ_NS
}  // namespace bz
