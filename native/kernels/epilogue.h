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
    BypassShape bypass;
};

// Channels [first, first + count) of the output, whose parameters start at `at`; what follows them may be read, up to
// whole vectors.
struct Channels {
    int first, count, at;
    int start;    // the bypass's channel that is copied to the first, if it is one of the copies
    bool direct;  // each vector of them lies side by side in the bypass
};

// Whether a result is large, and all its vectors lie where they can be written past the caches.
static bool goes_past(const bz_conv_shape& s, const bz_epilogue& e) {
    const bz_map& out = e.out;
    const int64_t floats = int64_t(s.input.images) * s.out_h * s.out_w * s.out_channels;
    const int64_t steps = out.image | out.row | out.pixel | bz_group_outputs(s);
    const bool aligned = steps % kLanes == 0 && uintptr_t(out.data) % BZ_VEC_BYTES == 0;
    return BZ_VEC_BYTES >= 32 && floats * 4 >= kPast && aligned && !e.tail.channels && !e.bits && !out.bf16;
}

static int take_parameters(Parameters& p, const bz_conv_shape& s, const bz_epilogue* e, int padded) {
    p.outputs = bz_group_outputs(s);
    p.padded = padded;
    p.memory = nullptr;
    p.past = e && goes_past(s, *e);
    if (!e) return BZ_OK;
    if (e->bypass.data) p.bypass = bypass_shape(e->bypass_channels, s.out_channels);
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

static Channels channels_of(const Parameters& p, const bz_epilogue* e, int group, int first, int most) {
    const int count = p.outputs - first < most ? p.outputs - first : most;
    Channels c = {group * p.outputs + first, count, group * p.padded + first, 0, false};
    if (e && e->bypass.data) {
        const int in = p.bypass.in;
        c.start = c.first % in;
        c.direct = c.first + count <= p.bypass.copied &&
                   (c.start + count <= in || (in % kLanes == 0 && c.first % kLanes == 0));
    }
    return c;
}

// A position's channels from `first` on, in a map that may hold bfloat16.
BZ_INLINE void* at_typed(const bz_map& m, int64_t n, int64_t y, int64_t x, int64_t first) {
    const int64_t offset = n * m.image + y * m.row + x * m.pixel + first;
    if (m.bf16) return reinterpret_cast<uint16_t*>(m.data) + offset;
    return m.data + offset;
}

// The channels of neighbouring positions, `step` bytes apart: a map's own, or copies of them.
struct Neighbourhood {
    char* data;
    int64_t step;
    bool halves;  // bfloat16

    template <class T>
    T* at(int i, int64_t k) const {
        return reinterpret_cast<T*>(data + i * step) + k;
    }
};

static Neighbourhood own_channels(const bz_map& m, int64_t n, int64_t y, int64_t x, int64_t first) {
    const bool halves = m.data && m.bf16;
    return {static_cast<char*>(at_typed(m, n, y, x, first)), m.pixel * (halves ? 2 : 4), halves};
}

// t[i] += vector k of position i.
template <int N, class Extent>
BZ_INLINE void add_vectors(Floats (&t)[N], const Neighbourhood& from, int64_t k, const Extent& extent) {
    if (from.halves)
        BZ_UNROLL for (int i = 0; i < N; ++i) t[i] += extent.get(from.at<const uint16_t>(i, k));
    else
        BZ_UNROLL for (int i = 0; i < N; ++i) t[i] += extent.get(from.at<const float>(i, k));
}

// N neighbouring positions of a line times the channels of a block: every question is asked once for all of them.
// `of` gives the sums of a position; Alike: those of all N lie side by side. `sums` [whole vectors] or null: those of
// all positions but the first `skipped` are added to them.
template <int N, bool Alike, class Sources>
static void finish_some(const Channels& c, const Parameters& p, const bz_epilogue& e, const Sources& of, int64_t n,
                        int64_t y, int64_t x, int skipped, float* sums) {
    alignas(64) float spare[N][kBlock + kLanes];
    Neighbourhood bypass = own_channels(e.bypass, n, y, x, 0);
    const Neighbourhood residual = own_channels(e.residual, n, y, x, c.first), out = own_channels(e.out, n, y, x, c.first);
    if (e.bypass.data && !c.direct) {
        for (int i = 0; i < N; ++i)
            if (bypass.halves)
                bypass_part(p.bypass, bypass.at<const uint16_t>(i, 0), c.first, c.start, c.count, spare[i]);
            else
                bypass_part(p.bypass, bypass.at<const float>(i, 0), c.first, c.start, c.count, spare[i]);
        bypass = {reinterpret_cast<char*>(spare), int64_t(sizeof *spare), false};
    }
    const Floats scale = splat(e.sample_scale ? e.sample_scale[n] : 1.0f);
    const bool bf16 = has_bf16();
    const auto first = of(x);
    decltype(of(x)) others[N];
    if (!Alike)
        for (int i = 0; i < N; ++i) others[i] = of(x + i);
    int from = c.direct ? c.start : 0;
    const auto vector = [&](int j, const auto& extent) __attribute__((always_inline)) {
        const Floats mul = load<Floats>(p.mul + c.at + j), add = load<Floats>(p.add + c.at + j);
        Floats t[N];
        BZ_UNROLL for (int i = 0; i < N; ++i) t[i] = (Alike ? of.beside(first, i)(j) : others[i](j)) * mul;
        if (e.sample_scale) BZ_UNROLL for (int i = 0; i < N; ++i) t[i] *= scale;
        BZ_UNROLL for (int i = 0; i < N; ++i) t[i] += add;
        activate(p.first, c.at + j, t);
        if (e.bypass.data) {
            add_vectors(t, bypass, from, extent);
            from += kLanes;
            if (c.direct && from >= p.bypass.in) from = 0;  // its channels once more
        }
        activate(p.second, c.at + j, t);
        if (e.residual.data) add_vectors(t, residual, j, extent);
        if (sums) {
            Floats sum = load<Floats>(sums + j);  // in their order, whatever the groups: the same bits on all processors
            BZ_UNROLL for (int i = 0; i < N; ++i)
                if (i >= skipped) sum += t[i];
            store(sums + j, sum);
        }
        if (out.halves && bf16 && extent.kWhole)
            BZ_UNROLL for (int i = 0; i < N; ++i) write_by_bf16(out.at<uint16_t>(i, j), t[i]);
        else if (out.halves)
            BZ_UNROLL for (int i = 0; i < N; ++i) extent.put(out.at<uint16_t>(i, j), t[i]);
        else if (p.past && extent.kWhole)
            BZ_UNROLL for (int i = 0; i < N; ++i) store_past(out.at<float>(i, j), t[i]);
        else
            BZ_UNROLL for (int i = 0; i < N; ++i) extent.put(out.at<float>(i, j), t[i]);
    };
    int j = 0;
    for (; j + kLanes <= c.count; j += kLanes) vector(j, Whole{});
    if (j < c.count) vector(j, Part{c.count - j});
}

// Positions [x0, x1) of a line, at most kMost of them; of(x) is the source of one. The last ones are a group of the
// same size that begins earlier: some positions are finished once more, which costs less than one by one, but they are
// not summed again.
template <class Sources>
static void finish(const Channels& c, const Parameters& p, const bz_epilogue& e, const Sources& of, int64_t n,
                   int64_t y, int64_t x0, int64_t x1, float* sums) {
    constexpr int kSome = 4, kMany = Sources::kMost < 8 ? kSome : 8;
    int64_t x = x0;
    for (int64_t left; (left = x1 - x) > 0;) {
        const int size = x1 - x0 < kSome ? 1 : left > kSome && x1 - x0 >= kMany ? kMany : kSome;
        const int again = left < size ? int(size - left) : 0;
        x -= again;
        if (size == 1)
            finish_some<1, true>(c, p, e, of, n, y, x, 0, sums);
        else if (size == kMany && of.alike(x, kMany))
            finish_some<kMany, true>(c, p, e, of, n, y, x, again, sums);
        else if (size == kMany)
            finish_some<kMany, false>(c, p, e, of, n, y, x, again, sums);
        else
            finish_some<kSome, false>(c, p, e, of, n, y, x, again, sums);
        x += size;
    }
}

}  // namespace BZ_NS
}  // namespace bz
