// How an output is walked through: lines, chunks of them, and which class of border a position belongs to.
#pragma once

#include "simd.h"

namespace bz {
namespace BZ_NS {

constexpr int kAnyNumber = 1 << 24;  // of positions of a line
constexpr int kChunk = 96;  // positions per piece of work: weights of a block stay in the first cache meanwhile

BZ_INLINE float* at(const bz_map& m, int64_t n, int64_t y, int64_t x) {
    return m.data + n * m.image + y * m.row + x * m.pixel;
}

// Lines of positions that lie evenly spaced in plane and maps. A pointwise convolution's image is one line.
struct Lines {
    int64_t images, lines, width, chunks;
    int64_t items() const { return images * lines * chunks; }
};

struct Piece {
    int64_t image, line, begin, end;
};

BZ_INLINE bool gapless(const bz_map& m, const bz_conv_shape& s) {
    return !m.data || m.row == s.out_w * m.pixel;
}
BZ_INLINE bool gapless_images(const bz_map& m, const bz_conv_shape& s) {
    return !m.data || m.image == s.out_h * m.row;
}

[[maybe_unused]] static Lines lines_of(const bz_conv_shape& s, const bz_epilogue* e) {
    const bz_plane_shape& in = s.input;
    Lines l = {in.images, s.out_h, s.out_w, 1};
    const bool pointwise = bz_taps(s) == 1 && s.stride_h == 1 && s.stride_w == 1 && s.pad_top == 0 &&
                           s.pad_left == 0 && s.out_h == in.height && s.out_w == in.width && in.border_w == 0;
    const bz_map* const out = !e ? nullptr : e->tail.channels ? &e->tail.out : &e->out;
    const bool resized = e && e->bypass_resize.height;  // made row by row
    if (pointwise && !resized && (!e || (gapless(*out, s) && gapless(e->bypass, s) && gapless(e->residual, s)))) {
        l.lines = 1;
        l.width = int64_t(s.out_h) * s.out_w;
        const bool images = !e || (!e->sample_scale && !e->sums && gapless_images(*out, s) &&
                                   gapless_images(e->bypass, s) && gapless_images(e->residual, s));
        if (in.border_h == 0 && images) {
            l.images = 1;
            l.width *= in.images;
        }
    }
    l.chunks = (l.width + kChunk - 1) / kChunk;
    return l;
}

BZ_INLINE Piece piece_of(const Lines& l, int64_t item) {
    const int64_t chunk = item % l.chunks, line = item / l.chunks;
    return {line / l.lines, line % l.lines, l.width * chunk / l.chunks, l.width * (chunk + 1) / l.chunks};
}

// Offset in words of the first tap of an output position.
BZ_INLINE int64_t first_tap(const bz_conv_shape& s, int64_t n, int64_t y, int64_t x) {
    const bz_plane_shape& in = s.input;
    return n * bz_image_words(in) + (y * s.stride_h - s.pad_top + in.border_h) * bz_row_words(in) +
           (x * s.stride_w - s.pad_left + in.border_w) * bz_pixel_words(in);
}

// The sum of a position is base - 2 * mismatches, where the taps in the border count their +1 weights as mismatches
// (their bits are 0): base = channels * (taps inside) + 2 * sum of counts over the taps outside. Positions with the
// same taps outside share a class.
struct Border {
    int32_t *row, *col;  // class of each output row and column
    int64_t classes, cols, length;  // classes: row classes * cols
    int32_t* base;  // [row classes * cols][length]
    int32_t* taps;  // [row classes * cols]: taps inside

    bool uniform;   // one class only, whatever the position (and so for lines that run over rows)
    void* memory;

    int64_t class_of(int64_t y, int64_t x) const { return uniform ? 0 : row[y] * cols + col[x]; }
};

struct Range {
    int32_t low, high;
};

BZ_INLINE Range taps_inside(int64_t out, int32_t kernel, int32_t stride, int32_t pad, int32_t dilation, int32_t in) {
    Range r = {0, 0};
    while (r.low < kernel && out * stride - pad + int64_t(r.low) * dilation < 0) ++r.low;
    r.high = r.low;
    while (r.high < kernel && out * stride - pad + int64_t(r.high) * dilation < in) ++r.high;
    return r;
}

static int32_t classify(int32_t out, int32_t kernel, int32_t stride, int32_t pad, int32_t dilation, int32_t in,
                        int32_t* classes, Range* ranges) {
    int32_t found = 0;
    for (int32_t i = 0; i < out; ++i) {
        const Range r = taps_inside(i, kernel, stride, pad, dilation, in);
        int32_t c = found - 1;  // most often that of the neighbour
        while (c >= 0 && (ranges[c].low != r.low || ranges[c].high != r.high)) --c;
        if (c < 0) ranges[c = found++] = r;
        classes[i] = c;
    }
    return found;
}

// length 0: without the table `base`. Returns a bz_status; free(border.memory) later.
[[maybe_unused]] static int make_border(Border& b, const bz_conv_shape& s, const int32_t* counts, int32_t channels,
                                        int64_t length) {
    const bz_plane_shape& in = s.input;
    b.length = length;
    const size_t outs = size_t(s.out_h) + size_t(s.out_w);
    char* memory = static_cast<char*>(malloc(outs * (sizeof(int32_t) + sizeof(Range))));
    b.memory = nullptr;
    if (!memory) return BZ_NO_MEMORY;
    Range* ranges = reinterpret_cast<Range*>(memory);
    int32_t* classes = reinterpret_cast<int32_t*>(ranges + outs);
    Range* const columns = ranges + s.out_h;
    const int32_t rows =
        classify(s.out_h, s.kernel_h, s.stride_h, s.pad_top, s.dilation_h, in.height, classes, ranges);
    const int32_t cols = classify(s.out_w, s.kernel_w, s.stride_w, s.pad_left, s.dilation_w, in.width,
                                  classes + s.out_h, columns);
    b.classes = int64_t(rows) * cols;
    b.cols = cols;
    b.uniform = int64_t(rows) * cols == 1;
    const size_t table = size_t(rows) * size_t(cols) * size_t(length);
    const size_t lists = outs + size_t(rows) * size_t(cols), ahead = (lists + 15) / 16 * 16;  // whole cache lines
    int32_t* all = static_cast<int32_t*>(aligned_alloc(64, ((ahead + table + 15) / 16 * 16) * sizeof(int32_t)));
    if (!all) {
        free(memory);
        return BZ_NO_MEMORY;
    }
    memcpy(all, classes, outs * sizeof(int32_t));
    b.memory = all;
    b.row = all;
    b.col = all + s.out_h;
    b.taps = all + outs;
    b.base = all + ahead;
    for (int32_t r = 0; r < rows; ++r)
        for (int32_t c = 0; c < cols; ++c) {
            const Range v = ranges[r], h = columns[c];
            const int32_t inside = (v.high - v.low) * (h.high - h.low);
            b.taps[r * cols + c] = inside;
            if (length == 0) continue;
            int32_t* base = b.base + (int64_t(r) * cols + c) * length;
            for (int64_t i = 0; i < length; ++i) base[i] = channels * inside;
            for (int32_t ky = 0; ky < s.kernel_h; ++ky)
                for (int32_t kx = 0; kx < s.kernel_w; ++kx) {
                    if (ky >= v.low && ky < v.high && kx >= h.low && kx < h.high) continue;
                    const int32_t* count = counts + (int64_t(ky) * s.kernel_w + kx) * length;
                    for (int64_t i = 0; i < length; ++i) base[i] += 2 * count[i];
                }
        }
    free(memory);
    return BZ_OK;
}

// sums[n][c] from partial sums [images][pieces per image][groups * padded], in a fixed order.
static void reduce(const float* partial, int64_t images, int64_t pieces, int64_t groups, int64_t outputs,
                   int64_t padded, float* sums) {
    for (int64_t n = 0; n < images; ++n)
        for (int64_t g = 0; g < groups; ++g)
            for (int64_t c0 = 0; c0 < outputs; c0 += 64) {
                const int64_t count = outputs - c0 < 64 ? outputs - c0 : 64;
                double total[64] = {};
                for (int64_t p = 0; p < pieces; ++p) {
                    const float* row = partial + ((n * pieces + p) * groups + g) * padded + c0;
                    for (int64_t c = 0; c < count; ++c) total[c] += row[c];
                }
                for (int64_t c = 0; c < count; ++c) sums[(n * groups + g) * outputs + c0 + c] = float(total[c]);
            }
}

}  // namespace BZ_NS
}  // namespace bz
