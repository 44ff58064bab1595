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

// Few channels: lines of the result are two lines of x, brought to its width, on top of each other; a line of x is
// widened once for all lines that read it.
struct Widened {
    float* lines[2];
    int64_t rows[2];  // of x; -1: none
};

static const float* widened(const Resizer& r, int64_t n, int64_t row, Widened& w, int64_t other) {
    for (int i = 0; i < 2; ++i)
        if (w.rows[i] == row) return w.lines[i];
    const int at_line = w.rows[0] == other ? 1 : 0;
    const float* const from = r.source.data + n * r.source.image + row * r.source.row;
    float* to = w.lines[at_line];
    w.rows[at_line] = row;
    for (int64_t x = 0; x < r.width; ++x, to += r.channels) {
        const Neighbours h = r.cols[x];
        const float *const a = from + h.low * r.source.pixel, *const b = from + h.high * r.source.pixel;
        for (int c = 0; c < r.channels; ++c) to[c] = a[c] * (1 - h.weight) + b[c] * h.weight;
    }
    return w.lines[at_line];
}

static void widened_line(const Resizer& r, int64_t n, int64_t y, Widened& w, float* made, float* to, int64_t step) {
    const Neighbours v = r.rows[y];
    const float* const above = widened(r, n, v.low, w, v.high);
    const float* const below = widened(r, n, v.high, w, v.low);
    const int64_t count = int64_t(r.width) * r.channels;
    float* const out = step == r.channels ? to : made;
    const Floats low = splat(1 - v.weight), high = splat(v.weight);
    map_two(out, above, below, count, [&](Floats a, Floats b) { return a * low + b * high; });
    for (int64_t x = 0; out != to && x < r.width; ++x)
        for (int c = 0; c < r.channels; ++c) to[x * step + c] = made[x * r.channels + c];
}

static int widened_resize(int threads, const Resizer& r, const bz_resize_step& s, const Runs& runs, float* partial) {
    const int64_t lines = int64_t(s.images) * s.out_h, line = (int64_t(s.out_w) * s.channels + 15) / 16 * 16;
    int failed = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(| : failed) if (threads > 1)
    for (int t = 0; t < threads; ++t) {
        float* const memory = static_cast<float*>(aligned_alloc(64, size_t(3 * line) * sizeof(float)));
        if (!memory) {
            failed |= BZ_NO_MEMORY;
            continue;
        }
        Widened w = {{memory, memory + line}, {-1, -1}};
        int64_t image = -1;
        for (int64_t i = lines * t / threads; i < lines * (t + 1) / threads; ++i) {
            const int64_t n = i / s.out_h, y = i % s.out_h;
            if (n != image) w.rows[0] = w.rows[1] = -1, image = n;
            float* const to = at(s.out, n, y, 0);
            widened_line(r, n, y, w, memory + 2 * line, to, s.out.pixel);
            for (int64_t run = 0; partial && run < runs.per_line; ++run) {
                const Piece piece = run_of(runs, i * runs.per_line + run);
                add_positions(partial + (i * runs.per_line + run) * s.channels, to + piece.begin * s.out.pixel,
                              s.out.pixel, piece.end - piece.begin, s.channels);
            }
        }
        free(memory);
    }
    return failed;
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
    const bool few = !nearest && s.channels < 32;
    const int status = few ? widened_resize(some, z, s, r, partial) : BZ_OK;
#pragma omp parallel for schedule(static) num_threads(some) if (some > 1)
    for (int64_t item = 0; item < (few ? 0 : r.items()); ++item) {
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
    return status;
}

}  // namespace BZ_NS
}  // namespace bz
