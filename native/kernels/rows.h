// Steps over the channels of each position: layer norm and softmax.
#pragma once

#include "ops.h"
#include "runs.h"

namespace bz {
namespace BZ_NS {

BZ_INLINE float sum_lanes(Floats v) {  // halves onto each other
    alignas(64) float lanes[kLanes];
    store(lanes, v);
    BZ_UNROLL for (int half = kLanes / 2; half > 0; half /= 2)
        BZ_UNROLL for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    return lanes[0];
}

// Sums f(x) in four chains of vectors, whose order does not depend on anything but `count`.
template <class F>
BZ_INLINE float sum_of(const float* x, int64_t count, const F& f) {
    Floats sum[4] = {};
    int64_t i = 0;
    for (; i + 4 * kLanes <= count; i += 4 * kLanes)
        BZ_UNROLL for (int q = 0; q < 4; ++q) sum[q] += f(load<Floats>(x + i + q * kLanes));
    for (; i + kLanes <= count; i += kLanes) sum[0] += f(load<Floats>(x + i));
    float total = sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
    if (i < count) {
        const Floats last = f(load_part(x + i, count - i));
        for (int64_t k = 0; k < count - i; ++k) total += last[k];
    }
    return total;
}

static void norm_position(const bz_layer_norm_step& s, const float* x, float* to) {
    const int64_t channels = s.channels;
    const float n = float(channels);
    const Floats mean = splat(sum_of(x, channels, [](Floats v) { return v; }) / n);
    const double variance = sum_of(x, channels, [&](Floats v) { return (v - mean) * (v - mean); }) / n;
    const Floats factor = splat(float(1.0 / __builtin_sqrt(variance + s.eps)));
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
        Floats v = (load<Floats>(x + c) - mean) * factor;
        if (s.weight) v *= load<Floats>(s.weight + c);
        if (s.bias) v += load<Floats>(s.bias + c);
        store(to + c, v);
    }
    for (; c < channels; ++c) {
        float v = (x[c] - mean[0]) * factor[0];
        if (s.weight) v *= s.weight[c];
        if (s.bias) v += s.bias[c];
        to[c] = v;
    }
}

static int layer_norm(int threads, const bz_layer_norm_step& s) {
    const bz_map* const maps[] = {&s.x, &s.out};
    const Runs r = make_runs(s.images, s.height, s.width, maps, 2, !s.sums, kStepRun);
    float* const partial = partial_sums(s.sums, r, s.channels);
    if (s.sums && !partial) return BZ_NO_MEMORY;
    const int some = threads_for(threads, int64_t(s.images) * s.height * s.width * s.channels);
#pragma omp parallel for schedule(static) num_threads(some) if (some > 1)
    for (int64_t item = 0; item < r.items(); ++item) {
        const Piece piece = run_of(r, item);
        float* const first = at(s.out, piece.image, piece.line, piece.begin);
        for (int64_t x = piece.begin; x < piece.end; ++x)
            norm_position(s, at(s.x, piece.image, piece.line, x), first + (x - piece.begin) * s.out.pixel);
        if (partial)
            add_positions(partial + item * s.channels, first, s.out.pixel, piece.end - piece.begin, s.channels);
    }
    if (partial) reduce(partial, r.images, r.lines * r.per_line, 1, s.channels, s.channels, s.sums);
    free(partial);
    return BZ_OK;
}

static void softmax_row(const float* x, float* y, int64_t length, float factor) {
    const float lowest = -__builtin_inff();
    Floats most = splat(lowest);
    int64_t i = 0;
    const auto larger = [](Floats a, Floats b) { return b > a || b != b ? b : a; };  // a NaN stays
    for (; i + kLanes <= length; i += kLanes) most = larger(most, load<Floats>(x + i) * factor);
    float top = lowest;
    for (int k = 0; k < kLanes; ++k) top = most[k] > top || most[k] != most[k] ? most[k] : top;
    for (; i < length; ++i) {
        const float v = x[i] * factor;
        top = v > top || v != v ? v : top;
    }
    map_one<1>(y, x, length, [&](Floats v) { return exponential(v * factor - top); });
    const float sum = sum_of(y, length, [](Floats v) { return v; });
    map_one<4>(y, y, length, [&](Floats v) { return v / sum; });
}

static int softmax(int threads, const bz_softmax_step& s) {
    const int some = threads_for(threads, s.rows * s.length);
#pragma omp parallel for schedule(static) num_threads(some) if (some > 1)
    for (int64_t r = 0; r < s.rows; ++r) softmax_row(s.x + r * s.x_row, s.y + r * s.y_row, s.length, s.factor);
    return BZ_OK;
}

}  // namespace BZ_NS
}  // namespace bz
