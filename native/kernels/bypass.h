// The channels of a bypass that are those of the output: copies, and means of groups.
#pragma once

#include "simd.h"

namespace bz {
namespace BZ_NS {

// Means over `size` strided groups of channels: to[i] = (x[i] + x[i + step] + ...) / size.
template <class T>
static void merge(const T* x, int64_t step, int size, int count, float* to) {
    const bool halves = (size & (size - 1)) == 0;  // a product is as exact, and faster
    const Floats divisor = splat(float(size)), factor = splat(1.0f / float(size));
    const auto some = [&](int i) {
        Floats sum = read(x + i);
        for (int t = 1; t < size; ++t) sum += read(x + i + t * step);
        store(to + i, halves ? sum * factor : sum / divisor);
    };
    int i = 0;
    for (; i + kLanes <= count; i += kLanes) some(i);
    if (i < count && count >= kLanes) {
        some(count - kLanes);  // the last ones, some of them once more
        return;
    }
    for (; i < count; ++i) {
        float sum = read_one(x + i);
        for (int t = 1; t < size; ++t) sum += read_one(x + i + t * step);
        to[i] = sum / float(size);
    }
}

BZ_INLINE void copy_floats(float* to, const float* from, int count) {
    memcpy(to, from, sizeof(float) * size_t(count));
}
BZ_INLINE void copy_floats(float* to, const uint16_t* from, int count) {
    int i = 0;
    for (; i + kLanes <= count; i += kLanes) store(to + i, read(from + i));
    for (; i < count; ++i) to[i] = read_one(from + i);
}

// Channels [first, first + count) of the bypass of one position, written to `spare` and followed by zeros.
template <class T>
static void bypass_part(const T* x, int in, int out, int first, int count, int padded, float* spare) {
    const int copied = out / in * in;
    const int end = first + count, merged = out - copied;
    float* to = spare;
    int o = first;
    for (int run; o < end && o < copied; o += run, to += run) {
        run = in - o % in;
        if (run > end - o) run = end - o;
        copy_floats(to, x + o % in, run);
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
            for (int c = strided; c < in; ++c) sum += read_one(x + c);
            *to = sum / float(in - strided);
        }
    }
    memset(spare + count, 0, sizeof(float) * size_t(padded - count));
}

}  // namespace BZ_NS
}  // namespace bz
