// The channels of a bypass that are those of the output: copies, and means of groups.
#pragma once

#include "simd.h"

namespace bz {
namespace BZ_NS {

// How many channels are whole copies of a position's `in`, and how many behind them are means of `size` channels each
// (of the last one: of all that are left). Divided once, not at each position.
struct BypassShape {
    int in, copied, merged, size;
};

static BypassShape bypass_shape(int in, int out) {
    const int copied = out / in * in, merged = out - copied;
    return {in, copied, merged, merged ? in / merged : 0};
}

// `copy_channels`, `merge` and `bypass_part` write whole vectors: up to kLanes - 1 floats behind the last of `count`.

template <class T>
BZ_INLINE void copy_channels(float* to, const T* from, int count) {
    int i = 0;
    for (; i + kLanes <= count; i += kLanes) store(to + i, read(from + i));
    if (i < count) store(to + i, read_part(from + i, count - i));
}

// The sum of neighbouring channels in 16 chains, however long vectors are: the same bits on all processors.
template <class T>
BZ_INLINE float sum_channels(const T* x, int count) {
    constexpr int kChains = 16 / kLanes;  // vectors
    Floats sum[kChains] = {};
    int c = 0;
    for (; c + 16 <= count; c += 16)
        BZ_UNROLL for (int v = 0; v < kChains; ++v) sum[v] += read(x + c + v * kLanes);
    for (int v = 0; c < count; c += kLanes, ++v)
        sum[v] += count - c < kLanes ? read_part(x + c, count - c) : read(x + c);
    BZ_UNROLL for (int half = kChains / 2; half > 0; half /= 2)
        BZ_UNROLL for (int v = 0; v < half; ++v) sum[v] += sum[v + half];
    return sum_lanes(sum[0]);
}

// Means over `size` strided groups of channels: to[i] = (x[i] + x[i + step] + ...) / size.
template <class T>
BZ_INLINE void merge(float* to, const T* x, int64_t step, int size, int count) {
    const bool halves = (size & (size - 1)) == 0;  // a product is as exact, and faster
    const Floats divisor = splat(float(size)), factor = splat(1.0f / float(size));
    const auto put = [&](int i, const auto& extent) __attribute__((always_inline)) {
        Floats sum = extent.get(x + i);
        for (int t = 1; t < size; ++t) sum += extent.get(x + i + t * step);
        store(to + i, halves ? sum * factor : sum / divisor);
    };
    int i = 0;
    for (; i + kLanes <= count; i += kLanes) put(i, Whole{});
    if (i < count) put(i, Part{count - i});
}

// Channels [first, first + count) of the bypass of one position, the first of them a copy of channel `start` if it is
// one.
template <class T>
static void bypass_part(const BypassShape& b, const T* x, int first, int start, int count, float* to) {
    const int end = first + count;
    int o = first;
    for (int run, from = start; o < end && o < b.copied; o += run, to += run, from = 0) {
        run = b.in - from < end - o ? b.in - from : end - o;
        copy_channels(to, x + from, run);
    }
    if (o >= end) return;
    const int j = o - b.copied, last = b.merged - 1;
    if (j < last) {
        const int run = last - j < end - o ? last - j : end - o;
        merge(to, x + j, last, b.size, run);
        o += run, to += run;
    }
    if (o >= end) return;
    const int left = b.in - b.size * last;
    *to = sum_channels(x + b.size * last, left) / float(left);
}

}  // namespace BZ_NS
}  // namespace bz
