// Steps over the channels of each position: layer norm with what stands behind it, and softmax.
#pragma once

#include "activate.h"
#include "bypass.h"
#include "ops.h"
#include "runs.h"

namespace bz {
namespace BZ_NS {

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
        const Floats last = f(read_part(x + i, count - i));
        for (int64_t k = 0; k < count - i; ++k) total += last[k];
    }
    return total;
}

constexpr int kRowsTogether = 4;  // positions for which the numbers of a channel are loaded once
constexpr int kRowBlock = 128;    // channels of the bypass that are put together at a time

struct NormRows {
    const bz_layer_norm_step& s;
    Activation first, second;
    bool direct;  // the bypass of each vector lies side by side
    BypassShape bypass;
};

static Activation activation_of(const bz_activation& a) {
    return {a.kind, a.low, a.high, a.before, a.negative, a.positive, a.after};
}

static NormRows norm_rows(const bz_layer_norm_step& s) {
    const bool direct = s.bypass.data && s.bypass_channels % kLanes == 0 && s.channels % s.bypass_channels == 0;
    const BypassShape bypass = s.bypass.data ? bypass_shape(s.bypass_channels, s.channels) : BypassShape{};
    return {s, activation_of(s.first), activation_of(s.second), direct, bypass};
}

// Some positions, whose channels are one row each.
struct NormedRows {
    const float *x[kRowsTogether], *bypass[kRowsTogether], *residual[kRowsTogether];
    float* to[kRowsTogether];
    Floats mean[kRowsTogether], factor[kRowsTogether];
};

// What stands behind a norm, known when its loop is compiled.
enum : int { kNormFirst = 1, kNormBypass = 2, kNormSecond = 4, kNormResidual = 8 };

static int norm_features(const bz_layer_norm_step& s) {
    return (s.first.kind ? kNormFirst : 0) | (s.bypass.data ? kNormBypass : 0) | (s.second.kind ? kNormSecond : 0) |
           (s.residual.data ? kNormResidual : 0);
}

// One vector of channels, the first of them c, of the first N rows; `from`: of the bypass. load, save: whole vectors,
// or the last channels.
template <int Has, int N, class Load, class Save>
BZ_INLINE void norm_vector(const NormRows& r, const NormedRows& rows, int64_t c, int64_t from, const Load& load,
                           const Save& save) {
    const bz_layer_norm_step& s = r.s;
    const auto get = [&](const float* p) { return load(p + c); };
    const Floats weight = s.weight ? get(s.weight) : splat(1.0f), bias = s.bias ? get(s.bias) : Floats{};
    Lanes first, second;
    if (Has & kNormFirst) take_lanes_by(first, r.first, get);
    if (Has & kNormSecond) take_lanes_by(second, r.second, get);
    BZ_UNROLL for (int i = 0; i < N; ++i) {
        Floats v = (load(rows.x[i] + c) - rows.mean[i]) * rows.factor[i];
        v *= weight;
        v += bias;
        if (Has & kNormFirst) v = activate(first, v);
        if (Has & kNormBypass) v += load(rows.bypass[i] + from);
        if (Has & kNormSecond) v = activate(second, v);
        if (Has & kNormResidual) v += load(rows.residual[i] + c);
        save(rows.to[i] + c, v);
    }
}

// Channels [begin, end), at most kRowBlock of them if the bypass is put together.
template <int Has, int N>
static void norm_channels(const NormRows& r, const NormedRows& rows, int64_t begin, int64_t end) {
    int64_t c = begin, from = r.direct ? begin % r.s.bypass_channels : 0;
    for (; c + kLanes <= end; c += kLanes) {
        norm_vector<Has, N>(r, rows, c, from, [](const float* p) { return load<Floats>(p); },
                            [](float* p, Floats v) { store(p, v); });
        from += kLanes;
        if (r.direct && from == r.s.bypass_channels) from = 0;
    }
    const int64_t rest = end - c;
    if (rest > 0)
        norm_vector<Has, N>(r, rows, c, from, [&](const float* p) { return read_part(p, rest); },
                            [&](float* p, Floats v) { store_part(p, v, rest); });
}

typedef void (*NormChannels)(const NormRows&, const NormedRows&, int64_t, int64_t);

#define BZ_ROW(F) {norm_channels<F, 1>, norm_channels<F, kRowsTogether>}
static const NormChannels kNormChannels[16][2] = {
    BZ_ROW(0), BZ_ROW(1), BZ_ROW(2),  BZ_ROW(3),  BZ_ROW(4),  BZ_ROW(5),  BZ_ROW(6),  BZ_ROW(7),
    BZ_ROW(8), BZ_ROW(9), BZ_ROW(10), BZ_ROW(11), BZ_ROW(12), BZ_ROW(13), BZ_ROW(14), BZ_ROW(15)};
#undef BZ_ROW

// 1 or kRowsTogether positions.
static void norm_some(const NormRows& r, int64_t n, int64_t y, int64_t x0, int count) {
    const bz_layer_norm_step& s = r.s;
    const int64_t channels = s.channels;
    alignas(64) float spare[kRowsTogether][kRowBlock + kLanes];
    NormedRows rows;
    for (int i = 0; i < count; ++i) {
        rows.x[i] = at(s.x, n, y, x0 + i);
        rows.to[i] = at(s.out, n, y, x0 + i);
        rows.residual[i] = s.residual.data ? at(s.residual, n, y, x0 + i) : nullptr;
        rows.bypass[i] = r.direct ? at(s.bypass, n, y, x0 + i) : spare[i];
        const float size = float(channels);
        const Floats centre = splat(sum_of(rows.x[i], channels, [](Floats v) { return v; }) / size);
        const auto spread = [&](Floats v) { return (v - centre) * (v - centre); };
        const double variance = sum_of(rows.x[i], channels, spread) / size;
        rows.mean[i] = centre;
        rows.factor[i] = splat(float(1.0 / __builtin_sqrt(variance + s.eps)));
    }
    const NormChannels run = kNormChannels[norm_features(s)][count > 1];
    if (!s.bypass.data || r.direct) return run(r, rows, 0, channels);
    for (int64_t c = 0; c < channels; c += kRowBlock) {
        const int some = int(channels - c < kRowBlock ? channels - c : kRowBlock);
        for (int i = 0; i < count; ++i)
            bypass_part(r.bypass, at(s.bypass, n, y, x0 + i), int(c), int(c % r.bypass.in), some, spare[i]);
        run(r, rows, c, c + some);
    }
}

static int layer_norm(int threads, const bz_layer_norm_step& s) {
    const bz_map* maps[4] = {&s.x, &s.out};
    int count = 2;
    if (s.bypass.data) maps[count++] = &s.bypass;
    if (s.residual.data) maps[count++] = &s.residual;
    const Runs r = make_runs(s.images, s.height, s.width, maps, count, !s.sums, kStepRun);
    const NormRows rows = norm_rows(s);
    float* const partial = partial_sums(s.sums, r, s.channels);
    if (s.sums && !partial) return BZ_NO_MEMORY;
    const int some = threads_for(threads, int64_t(s.images) * s.height * s.width * s.channels);
#pragma omp parallel for schedule(static) num_threads(some) if (some > 1)
    for (int64_t item = 0; item < r.items(); ++item) {
        const Piece piece = run_of(r, item);
        for (int64_t x = piece.begin, some; x < piece.end; x += some) {
            some = piece.end - x < kRowsTogether ? 1 : kRowsTogether;
            norm_some(rows, piece.image, piece.line, x, int(some));
        }
        if (partial)
            add_positions(partial + item * s.channels, at(s.out, piece.image, piece.line, piece.begin), s.out.pixel,
                          piece.end - piece.begin, s.channels);
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
    map_one<1>(y, x, length, [&](Floats v) { return exponential_or_zero(v * factor - top); });
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
