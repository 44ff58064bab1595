// The channels of a bypass that are those of the output: copies, and means of groups.
#pragma once

#include "simd.h"

namespace bz {
namespace BZ_NS {

// Means over `size` strided groups of channels: to[i] = (x[i] + x[i + step] + ...) / size.
[[maybe_unused]] static void merge(const float* x, int64_t step, int size, int count, float* to) {
    const bool halves = (size & (size - 1)) == 0;  // a product is as exact, and faster
    const Floats divisor = splat(float(size)), factor = splat(1.0f / float(size));
    int i = 0;
    for (; i + kLanes <= count; i += kLanes) {
        Floats sum = load<Floats>(x + i);
        for (int t = 1; t < size; ++t) sum += load<Floats>(x + i + t * step);
        store(to + i, halves ? sum * factor : sum / divisor);
    }
    for (; i < count; ++i) {
        float sum = x[i];
        for (int t = 1; t < size; ++t) sum += x[i + t * step];
        to[i] = sum / float(size);
    }
}

// Channels [first, first + count) of the bypass of one position, written to `spare` and followed by zeros.
[[maybe_unused]] static void bypass_part(const float* x, int in, int out, int first, int count, int padded, float* spare) {
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
        const int j = o - copied;
        if (j < merged - 1) {
            const int run = merged - 1 - j < end - o ? merged - 1 - j : end - o;
            merge(x + j, merged - 1, size, run, to);
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

}  // namespace BZ_NS
}  // namespace bz
