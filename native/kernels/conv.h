// Convolution by xor and popcount: a tile of neighbouring positions times up to 64 outputs at a time.
//
// Whatever the kernel, its words are one list of offsets from a position's first tap: no im2col, and kernel size,
// dilation and groups cost nothing in the inner loop.
#pragma once

#include "epilogue.h"
#include "tile.h"
#include "walk.h"

namespace bz {
namespace BZ_NS {

constexpr int kOutputs = 64;  // of one block of a convolution

// Sums as floats: base - 2 * mismatches.
template <class Count>
struct Sums {
    const int32_t* base;
    const Count* mismatches;

    BZ_INLINE Ints wide(const Count* p) {
        typedef Count Narrow __attribute__((vector_size(kLanes * sizeof(Count))));
        return __builtin_convertvector(load<Narrow>(p), Ints);
    }
    inline __attribute__((always_inline)) Floats operator()(int j) const {
        return __builtin_convertvector(load<Ints>(base + j) - 2 * wide(mismatches + j), Floats);
    }
};

struct ConvPlan {
    bz_conv_shape s;
    const uint32_t *plane, *words;
    const bz_epilogue* e;
    int32_t* out_int;
    float* partial;  // sums of each piece, or null
    const int64_t* offsets;
    int64_t length;  // words per output
    Border border;
    Lines lines;
    int blocks;  // per group
};

static void conv_piece(const ConvPlan& p, int64_t item, int block_begin, int block_end) {
    const bz_conv_shape& s = p.s;
    const int outputs = bz_group_outputs(s), padded = bz_padded_outputs(s), group_words = bz_group_words(s.input);
    const Piece piece = piece_of(p.lines, item);
    const int64_t step = int64_t(s.stride_w) * bz_pixel_words(s.input), n = piece.image, y = piece.line;
    const int64_t tiles = (piece.end - piece.begin + kTile - 1) / kTile;
    int32_t counts[kTile][kOutputs];
    float sums[kOutputs];
    Channels channels;
    for (int b = block_begin; b < block_end; ++b) {
        const int g = b / p.blocks, first = b % p.blocks * kOutputs;
        const int count = outputs - first < kOutputs ? outputs - first : kOutputs;
        const int sixteens = (count + 15) / 16;
        const uint32_t* words = p.words + (int64_t(g) * padded + first) * p.length;
        const int32_t* base = p.border.base + g * padded + first;
        if (p.e) take_channels(channels, *p.e, g * outputs + first, count);
        if (p.partial) memset(sums, 0, sizeof sums);
        for (int64_t t = 0; t < tiles; ++t) {
            const int64_t width = piece.end - piece.begin;
            const int64_t x0 = piece.begin + width * t / tiles, x1 = piece.begin + width * (t + 1) / tiles;
            count_mismatches(int(x1 - x0), sixteens, p.plane + first_tap(s, n, y, x0) + int64_t(g) * group_words,
                             step, p.offsets, p.length, words, counts);
            for (int64_t x = x0; x < x1; ++x) {
                const int32_t* of_class = base + p.border.class_of(y, x) * p.border.length;
                if (p.e) {
                    finish(channels, s, *p.e, Sums<int32_t>{of_class, counts[x - x0]}, n, y, x,
                           p.partial ? sums : nullptr);
                } else {
                    const int64_t position = (n * p.lines.lines + y) * p.lines.width + x;
                    int32_t* out = p.out_int + position * s.out_channels + g * outputs + first;
                    for (int i = 0; i < count; ++i) out[i] = of_class[i] - 2 * counts[x - x0][i];
                }
            }
        }
        if (p.partial)
            memcpy(p.partial + item * s.out_channels + g * outputs + first, sums, sizeof(float) * size_t(count));
    }
}

static int conv(int threads, const bz_conv_shape& s, const uint32_t* plane, const uint32_t* words,
                const int32_t* counts, const bz_epilogue* e, int32_t* out_int) {
    ConvPlan p = {s, plane, words, e, out_int, nullptr, nullptr, 0, {}, lines_of(s, e), 0};
    const bz_plane_shape& in = s.input;
    const int group_words = bz_group_words(in);
    p.length = int64_t(bz_taps(s)) * group_words;
    p.blocks = bz_ceil_div(bz_group_outputs(s), kOutputs);
    const int64_t padded = int64_t(in.groups) * bz_padded_outputs(s);
    int status = make_border(p.border, s, counts, in.channels / in.groups, padded);
    if (status != BZ_OK) return status;
    int64_t* offsets = static_cast<int64_t*>(malloc(size_t(p.length + 1) * sizeof(int64_t)));
    const int64_t items = p.lines.items();
    const bool summed = e && e->sums;
    if (summed) p.partial = static_cast<float*>(malloc(size_t(items) * size_t(s.out_channels) * sizeof(float)));
    if (offsets && (p.partial || !summed)) {
        int64_t k = 0;
        for (int ky = 0; ky < s.kernel_h; ++ky)
            for (int kx = 0; kx < s.kernel_w; ++kx)
                for (int w = 0; w < group_words; ++w)
                    offsets[k++] = ky * s.dilation_h * bz_row_words(in) +
                                   int64_t(kx) * s.dilation_w * bz_pixel_words(in) + w;
        p.offsets = offsets;
        const int blocks = in.groups * p.blocks;
        const int64_t parts = items < 4 * int64_t(threads) && threads > 1 ? blocks : 1;  // few positions: split outputs
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
        for (int64_t i = 0; i < items * parts; ++i) {
            const int part = int(i % parts);
            conv_piece(p, i / parts, parts == 1 ? 0 : part, parts == 1 ? blocks : part + 1);
        }
        if (summed) reduce(p.partial, p.lines.images, p.lines.lines * p.lines.chunks, s.out_channels, e->sums);
    } else {
        status = BZ_NO_MEMORY;
    }
    free(p.partial);
    free(offsets);
    free(p.border.memory);
    return status;
}

}  // namespace BZ_NS
}  // namespace bz
