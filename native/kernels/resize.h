// Bilinear interpolation on the way: positions of the larger map are made when they are needed, and never stored.
#pragma once

#include "walk.h"

namespace bz {
namespace BZ_NS {

struct Neighbours {
    int32_t low, high;
    float weight;  // of `high`; 1 - weight of `low`
};

struct Resizer {
    bz_map source;
    int32_t channels, height, width;  // height, width: of the larger map
    Neighbours *rows, *cols;
};

static void find_neighbours(Neighbours* to, int32_t out, int32_t in, bool aligned) {
    const float step = aligned ? (out > 1 ? float(in - 1) / float(out - 1) : 0.0f) : float(in) / float(out);
    for (int32_t i = 0; i < out; ++i) {
        float at = aligned ? step * float(i) : step * (float(i) + 0.5f) - 0.5f;
        if (at < 0) at = 0;
        const int32_t low = int32_t(at) < in - 1 ? int32_t(at) : in - 1;
        float weight = at - float(low);
        if (weight > 1) weight = 1;
        to[i] = {low, low < in - 1 ? low + 1 : low, weight};
    }
}

// Returns a bz_status; free(r.rows) later.
[[maybe_unused]] static int make_resizer(Resizer& r, const bz_map& source, const bz_resize& z, int32_t channels,
                                         int32_t height, int32_t width) {
    r = {source, channels, height, width, nullptr, nullptr};
    r.rows = static_cast<Neighbours*>(malloc(size_t(int64_t(height) + width) * sizeof(Neighbours)));
    if (!r.rows) return BZ_NO_MEMORY;
    r.cols = r.rows + height;
    find_neighbours(r.rows, height, z.height, z.align_corners != 0);
    find_neighbours(r.cols, width, z.width, z.align_corners != 0);
    return BZ_OK;
}

// Positions [x0, x1) of a row, `step` floats apart. data: of the source, in its type.
template <class T>
static void resize_run_of(const Resizer& r, const T* data, int64_t n, int64_t y, int64_t x0, int64_t x1, float* to,
                          int64_t step) {
    const Neighbours v = r.rows[y];
    const T* const above = data + n * r.source.image + v.low * r.source.row;
    const T* const below = data + n * r.source.image + v.high * r.source.row;
    for (int64_t x = x0; x < x1; ++x, to += step) {
        const Neighbours h = r.cols[x];
        const T *const a = above + h.low * r.source.pixel, *const b = above + h.high * r.source.pixel;
        const T *const c = below + h.low * r.source.pixel, *const d = below + h.high * r.source.pixel;
        const float wa = (1 - v.weight) * (1 - h.weight), wb = (1 - v.weight) * h.weight;
        const float wc = v.weight * (1 - h.weight), wd = v.weight * h.weight;
        const Floats va = splat(wa), vb = splat(wb), vc = splat(wc), vd = splat(wd);
        const auto vector = [&](int i, const auto& extent) __attribute__((always_inline)) {
            extent.put(to + i, extent.get(a + i) * va + extent.get(b + i) * vb + extent.get(c + i) * vc +
                                   extent.get(d + i) * vd);
        };
        int i = 0;
        for (; i + kLanes <= r.channels; i += kLanes) vector(i, Whole{});
        if (i < r.channels) vector(i, Part{r.channels - i});
    }
}

static void resize_run(const Resizer& r, int64_t n, int64_t y, int64_t x0, int64_t x1, float* to, int64_t step) {
    if (r.source.bf16)
        resize_run_of(r, reinterpret_cast<const uint16_t*>(r.source.data), n, y, x0, x1, to, step);
    else
        resize_run_of(r, r.source.data, n, y, x0, x1, to, step);
}

// Sums over all positions of the larger map: those of the smaller one, each as often as it is asked for.
[[maybe_unused]] static int resized_sums(const Resizer& r, const bz_resize& z, int32_t images, float* sums) {
    double* const memory =
        static_cast<double*>(calloc(size_t(int64_t(z.height) + z.width + r.channels), sizeof(double)));
    float* const line = static_cast<float*>(malloc(size_t(r.channels) * sizeof(float)));
    if (!memory || !line) {
        free(memory);
        free(line);
        return BZ_NO_MEMORY;
    }
    double *const high = memory, *const wide = memory + z.height, *const total = wide + z.width;
    for (int32_t y = 0; y < r.height; ++y) {
        high[r.rows[y].low] += 1 - double(r.rows[y].weight);
        high[r.rows[y].high] += double(r.rows[y].weight);
    }
    for (int32_t x = 0; x < r.width; ++x) {
        wide[r.cols[x].low] += 1 - double(r.cols[x].weight);
        wide[r.cols[x].high] += double(r.cols[x].weight);
    }
    const auto add = [&](const auto* from, float weight) {
        const auto vector = [&](int i, const auto& extent) __attribute__((always_inline)) {
            extent.put(line + i, extent.get(line + i) + extent.get(from + i) * splat(weight));
        };
        int i = 0;
        for (; i + kLanes <= r.channels; i += kLanes) vector(i, Whole{});
        if (i < r.channels) vector(i, Part{r.channels - i});
    };
    for (int32_t n = 0; n < images; ++n) {
        memset(total, 0, sizeof(double) * size_t(r.channels));
        for (int32_t y = 0; y < z.height; ++y) {
            memset(line, 0, sizeof(float) * size_t(r.channels));
            for (int32_t x = 0; x < z.width; ++x) {
                const int64_t offset = n * r.source.image + y * r.source.row + x * r.source.pixel;
                if (r.source.bf16)
                    add(reinterpret_cast<const uint16_t*>(r.source.data) + offset, float(wide[x]));
                else
                    add(r.source.data + offset, float(wide[x]));
            }
            for (int32_t i = 0; i < r.channels; ++i) total[i] += high[y] * double(line[i]);
        }
        for (int32_t i = 0; i < r.channels; ++i) sums[int64_t(n) * r.channels + i] = float(total[i]);
    }
    free(memory);
    free(line);
    return BZ_OK;
}

}  // namespace BZ_NS
}  // namespace bz
