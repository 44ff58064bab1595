// From sums to stored floats: scale, shift, activation, bypass, activation, residual, channel sums.
#pragma once

#include "activate.h"
#include "bypass.h"
#include "walk.h"

namespace bz {
namespace BZ_NS {

constexpr int kBlock = 128;  // most channels of one block
constexpr int kArrays = 10;
constexpr int64_t kPast = 16 << 20;  // bytes of a result that no cache will hold until somebody reads it

// The epilogue's arrays in the order of padded outputs: each group's channels are followed by zeros up to `padded`, so
// that whole vectors can be read. Where there is nothing to pad they are the caller's own arrays.
struct Parameters {
    int outputs, padded;  // of one group
    const float *mul, *add;
    Activation first, second;
    float* memory;  // to be freed, or null
    bool past;      // the result is written past the caches: it need not be fetched for that
};

// Channels [first, first + count) of the output, whose parameters start at `at`; count may be read up to `padded`.
struct Channels {
    int first, count, padded, at;
    int bypass;  // where each vector of them lies side by side in the bypass, that of the first; else -1
};

// Whether a result is large, and all its vectors lie where they can be written past the caches.
static bool goes_past(const bz_conv_shape& s, const bz_epilogue& e) {
    const bz_map& out = e.out;
    const int64_t floats = int64_t(s.input.images) * s.out_h * s.out_w * s.out_channels;
    const int64_t steps = out.image | out.row | out.pixel | bz_group_outputs(s);
    const bool aligned = steps % kLanes == 0 && uintptr_t(out.data) % BZ_VEC_BYTES == 0;
    return BZ_VEC_BYTES >= 32 && floats * 4 >= kPast && aligned && !e.tail.channels && !e.bits;
}

static int take_parameters(Parameters& p, const bz_conv_shape& s, const bz_epilogue* e, int padded) {
    p.outputs = bz_group_outputs(s);
    p.padded = padded;
    p.memory = nullptr;
    p.past = e && goes_past(s, *e);
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
        const bool whole = c.first % in + c.padded <= in || (in % kLanes == 0 && c.first % kLanes == 0);
        if (c.first + count <= copied && whole) c.bypass = c.first % in;
    }
    return c;
}

// What an epilogue has, known when its loop is compiled.
// kAny: with a residual, which is rare, all is asked when it runs.
enum : int { kActivated = 1, kBypassed = 2, kScaled = 4, kSummed = 8, kAny = 31 };

static int features_of(const bz_epilogue& e) {
    if (e.residual.data) return kAny;
    return (e.first.kind || e.second.kind ? kActivated : 0) | (e.bypass.data ? kBypassed : 0) |
           (e.sample_scale ? kScaled : 0) | (e.sums ? kSummed : 0);
}

constexpr int kTogether = 8;  // positions for which the numbers of a channel are loaded once

// `count` neighbouring positions of a line times the channels of a block. sources[i](j) gives kLanes sums as floats;
// `sums` [padded] is added to, or null.
template <int Has, class Source>
static void finish_some(const Channels& c, const Parameters& p, const bz_conv_shape& s, const bz_epilogue& e,
                        const Source* sources, int64_t n, int64_t y, int64_t x0, int count, float* sums) {
    alignas(64) float spare_bypass[kTogether][kBlock], spare_residual[kTogether][kBlock], spare_out[kTogether][kBlock];
    const float *bypass[kTogether], *residual[kTogether];
    float* out[kTogether];
    const bool whole = c.count == c.padded, more = Has == kAny;
    const bool bypassed = Has & kBypassed && (Has != kAny || e.bypass.data);
    const bool summed = Has & kSummed && (Has != kAny || sums);
    for (int i = 0; i < count; ++i) {
        out[i] = whole ? at(e.out, n, y, x0 + i) + c.first : spare_out[i];
        if (bypassed) {
            const float* way = at(e.bypass, n, y, x0 + i);
            bypass[i] = c.bypass >= 0 ? way : spare_bypass[i];
            if (c.bypass < 0)
                bypass_part(way, e.bypass_channels, s.out_channels, c.first, c.count, c.padded, spare_bypass[i]);
        }
        if (more) {
            residual[i] = at(e.residual, n, y, x0 + i) + c.first;
            if (!whole) {
                memset(spare_residual[i], 0, sizeof(float) * size_t(c.padded));
                memcpy(spare_residual[i], residual[i], sizeof(float) * size_t(c.count));
                residual[i] = spare_residual[i];
            }
        }
    }
    const Floats scale = splat(Has & kScaled && (Has != kAny || e.sample_scale) ? e.sample_scale[n] : 1.0f);
    for (int j = 0; j < c.padded; j += kLanes) {
        const Floats mul = load<Floats>(p.mul + c.at + j), add = load<Floats>(p.add + c.at + j);
        Lanes first, second;  // not cleared: that would take longer than the rest
        if (Has & kActivated) take_lanes(first, p.first, c.at + j), take_lanes(second, p.second, c.at + j);
        const int from = c.bypass >= 0 ? (c.bypass + j) % e.bypass_channels : j;
        Floats sum = summed ? load<Floats>(sums + j) : Floats{};
        for (int i = 0; i < count; ++i) {
            Floats t = sources[i](j) * mul;
            if (Has & kScaled) t *= scale;
            t += add;
            if (Has & kActivated) t = activate(first, t);
            if (bypassed) t += load<Floats>(bypass[i] + from);
            if (Has & kActivated) t = activate(second, t);
            if (more) t += load<Floats>(residual[i] + j);
            if (Has & kSummed) sum += t;
            if (p.past && whole)
                store_past(out[i] + j, t);
            else
                store(out[i] + j, t);
        }
        if (summed) store(sums + j, sum);
    }
    if (!whole)
        for (int i = 0; i < count; ++i)
            memcpy(at(e.out, n, y, x0 + i) + c.first, spare_out[i], sizeof(float) * size_t(c.count));
}

// Positions [x0, x1) of a line; sources(x) is the source of one.
template <class Sources>
static void finish(int features, const Channels& c, const Parameters& p, const bz_conv_shape& s, const bz_epilogue& e,
                   const Sources& sources, int64_t n, int64_t y, int64_t x0, int64_t x1, float* sums) {
    for (int64_t x = x0; x < x1; x += kTogether) {
        const int count = int(x1 - x < kTogether ? x1 - x : kTogether);
        decltype(sources(x)) some[kTogether];
        for (int i = 0; i < count; ++i) some[i] = sources(x + i);
#define BZ_CASE(F) \
    case F: finish_some<F>(c, p, s, e, some, n, y, x, count, sums); break;
        switch (features) {
            BZ_CASE(0) BZ_CASE(1) BZ_CASE(2) BZ_CASE(3) BZ_CASE(4) BZ_CASE(5) BZ_CASE(6) BZ_CASE(7)
            BZ_CASE(8) BZ_CASE(9) BZ_CASE(10) BZ_CASE(11) BZ_CASE(12) BZ_CASE(13) BZ_CASE(14) BZ_CASE(15)
            BZ_CASE(kAny)
        }
#undef BZ_CASE
    }
}

}  // namespace BZ_NS
}  // namespace bz
