// What a training step does to maps of floats around the convolutions, each in one pass.
#pragma once

#include "sweep.h"

namespace bz {
namespace BZ_NS {

BZ_INLINE Floats where(Ints mask, Floats yes, Floats no) { return mask ? yes : no; }
BZ_INLINE Floats signed_like(Floats magnitude, Floats u) {  // magnitude * sign(u), sign(0) = 1
    return where(u >= Floats{}, magnitude, -magnitude);
}

struct Sum {
    static constexpr int Inputs = 1, Params = 0, Sums = 1;
    static constexpr bool Writes = false, Pad = false;
    inline __attribute__((always_inline)) Floats operator()(const Floats* x, const Floats*, Floats* sums) const {
        sums[0] += x[0];
        return x[0];
    }
};

struct Deviation {  // sum of abs(x - t)
    static constexpr int Inputs = 1, Params = 1, Sums = 1;
    static constexpr bool Writes = false, Pad = true;
    inline __attribute__((always_inline)) Floats operator()(const Floats* x, const Floats* p, Floats* sums) const {
        sums[0] += absolute(x[0] - p[0]);
        return x[0];
    }
};

struct Signs {  // magnitude * sign(x - t)
    static constexpr int Inputs = 1, Params = 2, Sums = 0;
    static constexpr bool Writes = true, Pad = false;
    inline __attribute__((always_inline)) Floats operator()(const Floats* x, const Floats* p, Floats*) const {
        return signed_like(p[1], x[0] - p[0]);
    }
};

struct SignsBackward {  // g m max(0, 2 - 2 abs(x - t)); its sum, and that of g sign(x - t)
    static constexpr int Inputs = 2, Params = 2, Sums = 2;
    static constexpr bool Writes = true, Pad = false;
    inline __attribute__((always_inline)) Floats operator()(const Floats* in, const Floats* p, Floats* sums) const {
        const Floats u = in[1] - p[0], outside = absolute(u), one = splat(1.0f);
        const Floats inside = where(outside >= one, Floats{}, one - outside);  // a NaN stays one
        const Floats gx = in[0] * inside * (p[1] + p[1]);
        sums[0] += gx;
        sums[1] += signed_like(in[0], u);
        return gx;
    }
};

struct Piecewise {  // t = x + before; (t > 0 ? positive : negative) * t + after
    static constexpr int Inputs = 1, Params = 4, Sums = 0;
    static constexpr bool Writes = true, Pad = false;
    inline __attribute__((always_inline)) Floats operator()(const Floats* x, const Floats* p, Floats*) const {
        const Floats t = x[0] + p[0];
        return t * where(t > Floats{}, p[2], p[1]) + p[3];
    }
};

struct PiecewiseBackward {  // sums: of the gradient, of g, and of g t on either side
    static constexpr int Inputs = 2, Params = 3, Sums = 4;
    static constexpr bool Writes = true, Pad = false;
    bool flat_at_zero;
    inline __attribute__((always_inline)) Floats operator()(const Floats* in, const Floats* p, Floats* sums) const {
        const Floats g = in[0], t = in[1] + p[0], zero = {};
        const Ints above = t > zero;
        const Floats below = flat_at_zero ? where(t == zero, zero, p[1]) : p[1];
        const Floats gx = g * where(above, p[2], below), gt = g * t;
        sums[0] += gx;
        sums[1] += g;
        sums[2] += where(above, zero, gt);
        sums[3] += where(above, gt, zero);
        return gx;
    }
};

static int value_sums(int threads, const bz_values& v, const float* x, double* sums) {
    Pass<Sum> pass = {lines_of(v), {}, {x}, {}, nullptr, nullptr};
    return pass(threads, sums);
}

static int deviation_sums(int threads, const bz_values& v, const float* x, const float* threshold, double* sums) {
    Pass<Deviation> pass = {lines_of(v), {}, {x}, {{threshold, true, 0.0f}}, nullptr, nullptr};
    return pass(threads, sums);
}

static int signs(int threads, const bz_values& v, const float* x, const bz_signs& s, float* y) {
    Pass<Signs> pass = {
        lines_of(v), {}, {x}, {{s.threshold, s.per_image != 0, 0.0f}, {s.magnitude, s.per_image != 0, 1.0f}}, y, nullptr};
    return pass(threads, nullptr);
}

static int signs_backward(int threads, const bz_values& v, const float* g, const float* x, const bz_signs& s, float* gx,
                          double* sums) {
    Pass<SignsBackward> pass = {
        lines_of(v), {},      {g, x}, {{s.threshold, s.per_image != 0, 0.0f}, {s.magnitude, s.per_image != 0, 1.0f}},
        gx,          nullptr,
    };
    return pass(threads, sums);
}

static int piecewise(int threads, const bz_values& v, const float* x, const bz_pieces& p, float* y) {
    Pass<Piecewise> pass = {lines_of(v),
                            {},
                            {x},
                            {{p.before, false, 0.0f},
                             {p.negative, false, 0.0f},
                             {p.positive, false, 1.0f},
                             {p.after, false, 0.0f}},
                            y,
                            nullptr};
    return pass(threads, nullptr);
}

static int piecewise_backward(int threads, const bz_values& v, const float* g, const float* x, const bz_pieces& p,
                              float* gx, double* sums) {
    Pass<PiecewiseBackward> pass = {lines_of(v),
                                    {p.flat_at_zero != 0},
                                    {g, x},
                                    {{p.before, false, 0.0f}, {p.negative, false, 0.0f}, {p.positive, false, 1.0f}},
                                    gx,
                                    nullptr};
    return pass(threads, sums);
}

// y[j] += the mean of `count` values `channels` apart, from x[j] on.
static void add_means(const float* x, int64_t channels, int64_t count, float* y) {
    constexpr int kChunk = 64;
    for (int64_t j0 = 0; j0 < channels; j0 += kChunk) {
        const int64_t n = channels - j0 < kChunk ? channels - j0 : kChunk;
        float sums[kChunk];
        memcpy(sums, x + j0, size_t(n) * sizeof *sums);
        for (int64_t i = 1; i < count; ++i)
            for (int64_t j = 0; j < n; ++j) sums[j] += x[i * channels + j0 + j];
        for (int64_t j = 0; j < n; ++j) y[j0 + j] += sums[j] / float(count);
    }
}

static float mean_of_row(const float* x, int64_t count) {
    float sum = 0;
    for (int64_t c = 0; c < count; ++c) sum += x[c];
    return sum / float(count);
}

static void bypass(int threads, int64_t positions, int64_t in, int64_t out, const float* x, float* y) {
    const int64_t copies = out / in, merged = out % in;
    const int64_t size = merged > 1 ? in / merged : 0, strided = merged > 1 ? size * (merged - 1) : 0;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t p = 0; p < positions; ++p) {
        const float* const from = x + p * in;
        float* to = y + p * out;
        for (int64_t r = 0; r < copies; ++r, to += in)
            for (int64_t c = 0; c < in; ++c) to[c] += from[c];
        if (!merged) continue;
        if (merged > 1) add_means(from, merged - 1, size, to);
        to[merged - 1] += mean_of_row(from + strided, in - strided);
    }
}

static void bypass_backward(int threads, int64_t positions, int64_t in, int64_t out, const float* g, float* gx) {
    const int64_t copies = out / in, merged = out % in;
    const int64_t size = merged > 1 ? in / merged : 0, strided = merged > 1 ? size * (merged - 1) : 0;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t p = 0; p < positions; ++p) {
        const float* from = g + p * out;
        float* const to = gx + p * in;
        memset(to, 0, size_t(in) * sizeof *to);
        for (int64_t r = 0; r < copies; ++r, from += in)
            for (int64_t c = 0; c < in; ++c) to[c] += from[c];
        if (!merged) continue;
        for (int64_t i = 0; i < size; ++i)
            for (int64_t j = 0; j < merged - 1; ++j) to[i * (merged - 1) + j] += from[j] / float(size);
        for (int64_t c = strided; c < in; ++c) to[c] += from[merged - 1] / float(in - strided);
    }
}

}  // namespace BZ_NS
}  // namespace bz
