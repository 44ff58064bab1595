// Steps over positions: pools, means, and maps of another size.
#pragma once

#include "ops.h"
#include "resize.h"
#include "runs.h"

namespace bz {
namespace BZ_NS {

// One window, clipped to the map, and what its sum is divided by along this axis.
struct Window {
    int64_t begin, end, length;
};

static Window window_of(const bz_pool_step& s, int64_t i, bool high) {
    const bz_pool& g = s.geometry;
    const int64_t in = high ? s.height : s.width, out = high ? g.out_h : g.out_w;
    if (s.adaptive) {
        const Window w = {i * in / out, ((i + 1) * in + out - 1) / out, 0};
        return {w.begin, w.end, w.end - w.begin};
    }
    const int64_t kernel = high ? g.kernel_h : g.kernel_w, pad = high ? g.pad_h : g.pad_w;
    const int64_t begin = i * (high ? g.stride_h : g.stride_w) - pad;
    const int64_t end = begin + kernel < in + pad ? begin + kernel : in + pad;  // a window may reach beyond the padding
    Window w = {begin < 0 ? 0 : begin, end < in ? end : in, end - begin};
    if (!s.count_include_pad) w.length = w.end - w.begin;
    return w;
}

template <bool Average>
BZ_INLINE Floats pooled(Floats a, Floats b) {
    if (Average) return a + b;
    return b > a || b != b ? b : a;  // a NaN wins, as in torch
}

template <bool Average, int J>
BZ_INLINE void pool_vectors(const bz_pool_step& s, const float* x, const Window& v, const Window& h, Floats divisor,
                            float* to) {
    Floats sum[J];
    BZ_UNROLL for (int j = 0; j < J; ++j) sum[j] = splat(Average ? 0.0f : -__builtin_inff());
    for (int64_t ky = v.begin; ky < v.end; ++ky) {
        const float* from = x + ky * s.x.row + h.begin * s.x.pixel;
        for (int64_t kx = h.begin; kx < h.end; ++kx, from += s.x.pixel)
            BZ_UNROLL for (int j = 0; j < J; ++j) sum[j] = pooled<Average>(sum[j], load<Floats>(from + j * kLanes));
    }
    BZ_UNROLL for (int j = 0; j < J; ++j) store(to + j * kLanes, Average ? sum[j] / divisor : sum[j]);
}

template <bool Average>
static void pool_position(const bz_pool_step& s, const float* x, const Window& v, const Window& h, float* to) {
    const float divisor = s.divisor ? float(s.divisor) : float(v.length * h.length);
    int64_t c = 0;
    for (; c + 4 * kLanes <= s.channels; c += 4 * kLanes)
        pool_vectors<Average, 4>(s, x + c, v, h, splat(divisor), to + c);
    for (; c + kLanes <= s.channels; c += kLanes) pool_vectors<Average, 1>(s, x + c, v, h, splat(divisor), to + c);
    if (c < s.channels && s.channels >= kLanes) {  // some channels twice
        c = s.channels - kLanes;
        pool_vectors<Average, 1>(s, x + c, v, h, splat(divisor), to + c);
        return;
    }
    for (; c < s.channels; ++c) {
        float sum = Average ? 0.0f : -__builtin_inff();
        for (int64_t ky = v.begin; ky < v.end; ++ky)
            for (int64_t kx = h.begin; kx < h.end; ++kx) {
                const float value = x[ky * s.x.row + kx * s.x.pixel + c];
                if (Average)
                    sum += value;
                else if (value > sum || value != value)
                    sum = value;
            }
        to[c] = Average ? sum / divisor : sum;
    }
}

static int pool(int threads, const bz_pool_step& s) {
    const Runs r = {s.images, s.geometry.out_h, s.geometry.out_w, kStepRun, (s.geometry.out_w + kStepRun - 1) / kStepRun};
    float* const partial = partial_sums(s.sums, r, s.channels);
    if (s.sums && !partial) return BZ_NO_MEMORY;
    const int some = threads_for(threads, r.images * r.lines * r.width * s.channels);
#pragma omp parallel for schedule(static) num_threads(some) if (some > 1)
    for (int64_t item = 0; item < r.items(); ++item) {
        const Piece piece = run_of(r, item);
        const float* const x = s.x.data + piece.image * s.x.image;
        float* const first = at(s.out, piece.image, piece.line, piece.begin);
        const Window v = window_of(s, piece.line, true);
        for (int64_t i = piece.begin; i < piece.end; ++i) {
            float* const to = first + (i - piece.begin) * s.out.pixel;
            const Window h = window_of(s, i, false);
            if (s.average)
                pool_position<true>(s, x, v, h, to);
            else
                pool_position<false>(s, x, v, h, to);
        }
        if (partial)
            add_positions(partial + item * s.channels, first, s.out.pixel, piece.end - piece.begin, s.channels);
    }
    if (partial) reduce(partial, r.images, r.lines * r.per_line, 1, s.channels, s.channels, s.sums);
    free(partial);
    return BZ_OK;
}

static int mean(int threads, const bz_mean_step& s) {
    const int64_t all = int64_t(s.images) * s.channels;
    const float positions = float(int64_t(s.height) * s.width);
    const float* sums = s.sums;
    if (!sums) {
        const bz_map* const maps[] = {&s.x};
        const Runs r = make_runs(s.images, s.height, s.width, maps, 1, false, kStepRun);
        float* const partial = partial_sums(s.out, r, s.channels);
        if (!partial) return BZ_NO_MEMORY;
        const int some = threads_for(threads, all * s.height * s.width);
#pragma omp parallel for schedule(static) num_threads(some) if (some > 1)
        for (int64_t item = 0; item < r.items(); ++item) {
            const Piece piece = run_of(r, item);
            add_positions(partial + item * s.channels, at(s.x, piece.image, piece.line, piece.begin), s.x.pixel,
                          piece.end - piece.begin, s.channels);
        }
        reduce(partial, r.images, r.lines * r.per_line, 1, s.channels, s.channels, s.out);
        free(partial);
        sums = s.out;
    }
    for (int64_t i = 0; i < all; ++i) s.out[i] = sums[i] / positions;
    return BZ_OK;
}

// As torch's: the lower of the two neighbours, and the nearest position.
static void find_positions(Neighbours* to, int32_t out, int32_t in, float step, int mode) {
    if (mode == BZ_RESIZE_BILINEAR_ALIGNED || (mode == BZ_RESIZE_BILINEAR && step == 0))
        return find_neighbours(to, out, in, mode == BZ_RESIZE_BILINEAR_ALIGNED);
    const float scale = step > 0 ? step : float(in) / float(out);
    for (int32_t i = 0; i < out; ++i) {
        if (mode == BZ_RESIZE_BILINEAR) {
            float place = scale * (float(i) + 0.5f) - 0.5f;
            if (place < 0) place = 0;
            const int32_t low = place < float(in - 1) ? int32_t(place) : in - 1;
            const float weight = place - float(low);
            to[i] = {low, low < in - 1 ? low + 1 : low, weight > 1 ? 1.0f : weight};
        } else {
            const float place = scale * (mode == BZ_RESIZE_NEAREST ? float(i) : float(i) + 0.5f);
            const int32_t low = place < float(in - 1) ? int32_t(place) : in - 1;
            to[i] = {low, low, 0.0f};
        }
    }
}

static void nearest_run(const Resizer& r, const Piece& piece, float* to, int64_t step) {
    const float* const row = r.source.data + piece.image * r.source.image + r.rows[piece.line].low * r.source.row;
    for (int64_t x = piece.begin; x < piece.end; ++x, to += step) {
        const float* const from = row + r.cols[x].low * r.source.pixel;
        if (r.channels < 16)
            for (int c = 0; c < r.channels; ++c) to[c] = from[c];
        else
            memcpy(to, from, sizeof(float) * size_t(r.channels));
    }
}

static int resize(int threads, const bz_resize_step& s) {
    Resizer z = {s.x, s.channels, s.out_h, s.out_w, nullptr, nullptr};
    z.rows = static_cast<Neighbours*>(malloc(size_t(int64_t(s.out_h) + s.out_w) * sizeof(Neighbours)));
    const Runs r = {s.images, s.out_h, s.out_w, kStepRun, (s.out_w + kStepRun - 1) / kStepRun};
    float* const partial = partial_sums(s.sums, r, s.channels);
    if (!z.rows || (s.sums && !partial)) {
        free(z.rows);
        free(partial);
        return BZ_NO_MEMORY;
    }
    z.cols = z.rows + s.out_h;
    find_positions(z.rows, s.out_h, s.height, s.step_h, s.mode);
    find_positions(z.cols, s.out_w, s.width, s.step_w, s.mode);
    const bool nearest = s.mode >= BZ_RESIZE_NEAREST;
    const int some = threads_for(threads, r.images * r.lines * r.width * s.channels);
#pragma omp parallel for schedule(static) num_threads(some) if (some > 1)
    for (int64_t item = 0; item < r.items(); ++item) {
        const Piece piece = run_of(r, item);
        float* const to = at(s.out, piece.image, piece.line, piece.begin);
        if (nearest)
            nearest_run(z, piece, to, s.out.pixel);
        else
            resize_run(z, piece.image, piece.line, piece.begin, piece.end, to, s.out.pixel);
        if (partial) add_positions(partial + item * s.channels, to, s.out.pixel, piece.end - piece.begin, s.channels);
    }
    if (partial) reduce(partial, r.images, r.lines * r.per_line, 1, s.channels, s.channels, s.sums);
    free(z.rows);
    free(partial);
    return BZ_OK;
}

}  // namespace BZ_NS
}  // namespace bz
