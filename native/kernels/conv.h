// Convolution by xor and popcount: a tile of neighbouring positions times up to 64 outputs at a time.
//
// Whatever the kernel, its words are one list of offsets from a position's first tap: no im2col, and kernel size,
// dilation and groups cost nothing in the inner loop.
#pragma once

#include "epilogue.h"
#include "scale_groups.h"
#include "stage.h"
#include "sums.h"
#include "tile.h"
#include "values.h"
#include "walk.h"

namespace bz {
namespace BZ_NS {

constexpr int kOutputs = 64;  // of one block of a convolution
constexpr int kTogetherTiles = 4;  // that go through the epilogue together, which then starts less often

struct ConvPlan {
    bz_conv_shape s;
    const uint32_t *plane, *words;
    const bz_epilogue* e;
    int32_t* out_int;
    Parameters parameters;
    const Channels* channels;  // [groups * blocks]
    float* partial;  // [pieces][padded outputs of all groups]: sums of each piece, or null
    const int64_t* offsets;
    int64_t length;  // words per output
    Border border;
    Lines lines;
    int blocks;  // per group
    Values values;
    const int32_t* window_sums;  // [positions][groups] if there are values
    Resizer resizer;       // of the bypass, if that is of another size
    int scale_groups;      // 0: none
    const float* scales;   // [images][scale_groups]
};

// What is counted together: all words of a position, or those of a group of scales.
struct WordList {
    const int64_t* offsets;
    int64_t length;
    const uint32_t* weights;
};

static WordList all_words(const ConvPlan& p) { return {p.offsets, p.length, p.words}; }

static WordList words_of_group(const ConvPlan& p, int g) {
    const int64_t taps = bz_taps(p.s), first = taps * bz_scale_word(p.s, g);
    return {p.offsets + first, taps * bz_scale_word(p.s, g + 1) - first, p.words + first * p.parameters.padded};
}

// The tiles of a piece: positions of almost equal number.
struct Tiles {
    Piece piece;
    int64_t count;
    int64_t begin(int64_t t) const { return piece.begin + (piece.end - piece.begin) * t / count; }
};

// The mismatches of tiles [first, last) of a piece in one block of outputs.
template <class Count>
BZ_INLINE void count_tiles(const ConvPlan& p, const WordList& words, const Tiles& tiles, int64_t first, int64_t last,
                           int b, Count (*counts)[kOutputs]) {
    const bz_conv_shape& s = p.s;
    const int64_t x0 = tiles.begin(first);
    const Channels& channels = p.channels[b];
    for (int64_t t = first; t < last; ++t) {
        const int64_t x = tiles.begin(t);
        count_mismatches(int(tiles.begin(t + 1) - x), (channels.count + 15) / 16,
                         p.plane + first_tap(s, tiles.piece.image, tiles.piece.line, x) +
                             int64_t(b / p.blocks) * bz_group_words(s.input),
                         int64_t(s.stride_w) * bz_pixel_words(s.input), words.offsets, words.length,
                         words.weights + channels.at * words.length, counts + (x - x0));
    }
}

// The sums of tiles in one block of outputs, each group of channels with its scale.
static void sum_groups(const ConvPlan& p, const Tiles& tiles, int64_t first, int64_t last, int b,
                       float (*sums)[kOutputs]) {
    const int64_t n = tiles.piece.image, y = tiles.piece.line, x0 = tiles.begin(first), x1 = tiles.begin(last);
    const Channels& channels = p.channels[b];
    const int64_t padded = p.parameters.padded;
    alignas(64) int32_t counts[kTogetherTiles * kTile][kOutputs];
    for (int g = 0; g < p.scale_groups; ++g) {
        const WordList words = words_of_group(p, g);
        const float scale = p.scales[n * p.scale_groups + g];
        const auto add = [&](const auto& of_line) {
            for (int64_t x = x0; x < x1; ++x) add_scaled(sums[x - x0], of_line(x), scale, channels.count, g == 0);
        };
        const int64_t at = g * padded + channels.at;
#if BZ_VEC_BYTES == 32
        if (words.length <= kBatch) {
            alignas(64) uint8_t few[kTogetherTiles * kTile][kOutputs];
            count_tiles(p, words, tiles, first, last, b, few);
            add(SumsOfLine<uint8_t>{p.border, y, at, few[0], x0, kOutputs});
            continue;
        }
#endif
        count_tiles(p, words, tiles, first, last, b, counts);
        add(SumsOfLine<int32_t>{p.border, y, at, counts[0], x0, kOutputs});
    }
}

// Tiles [first, last) of a piece, at most kTogetherTiles, times one block of outputs.
static void conv_tiles(const ConvPlan& p, const bz_epilogue* e, const Tiles& tiles, int64_t item, int64_t first,
                       int64_t last, int b) {
    const bz_conv_shape& s = p.s;
    const int64_t n = tiles.piece.image, y = tiles.piece.line, x0 = tiles.begin(first), x1 = tiles.begin(last);
    const Channels& channels = p.channels[b];
    const int64_t all = int64_t(s.input.groups) * p.parameters.padded;
    float* const sums = p.partial ? p.partial + item * all + channels.at : nullptr;
    if (p.scale_groups) {
        alignas(64) float scaled[kTogetherTiles * kTile][kOutputs];
        sum_groups(p, tiles, first, last, b, scaled);
        finish(channels, p.parameters, *e, ScaledSumsOfLine<kOutputs>{scaled, x0}, n, y, x0, x1, sums);
        return;
    }
#if BZ_VEC_BYTES == 32
    if (p.length <= kBatch && e && !p.values.used) {
        alignas(64) uint8_t few[kTogetherTiles * kTile][kOutputs];
        count_tiles(p, all_words(p), tiles, first, last, b, few);
        finish(channels, p.parameters, *e,
               SumsOfLine<uint8_t>{p.border, y, channels.at, few[0], x0, kOutputs}, n, y, x0, x1, sums);
        return;
    }
#endif
    alignas(64) int32_t counts[kTogetherTiles * kTile][kOutputs];
    count_tiles(p, all_words(p), tiles, first, last, b, counts);
    const SumsOfLine<int32_t> of_line = {p.border, y, channels.at, counts[0], x0, kOutputs};
    if (p.values.used) {
        const int64_t group = b / p.blocks, line = (n * p.lines.lines + y) * p.lines.width;
        const WindowSumsOfGroup window_sums = {p.window_sums + line * s.input.groups + group, s.input.groups};
        finish(channels, p.parameters, *e,
               ValueSumsOfLine<int32_t, WindowSumOfGroup, WindowSumsOfGroup>{of_line, p.values, window_sums}, n, y, x0,
               x1, sums);
        return;
    }
    if (e) {
        finish(channels, p.parameters, *e, of_line, n, y, x0, x1, sums);
        return;
    }
    int32_t* out = p.out_int + ((n * p.lines.lines + y) * p.lines.width + x0) * s.out_channels + channels.first;
    for (int64_t x = x0; x < x1; ++x, out += s.out_channels) {
        const Sums<int32_t> of_position = of_line(x);
        for (int i = 0; i < channels.count; ++i) out[i] = of_position.base[i] - 2 * of_position.mismatches[i];
    }
}

// Weights that fit the second cache are streamed past a few tiles at a time, so that a position's outputs are written
// one after the other; larger ones stay with a block while the tiles of a piece pass.
constexpr int64_t kStreamed = 384 * 1024;

static void conv_blocks(const ConvPlan& p, const bz_epilogue* e, const Piece& piece, int64_t item, int block_begin,
                        int block_end) {
    const Tiles tiles = {piece, (piece.end - piece.begin + kTile - 1) / kTile};
    const int64_t bytes = int64_t(block_end - block_begin) * kOutputs * p.length * 4;
    const auto some = [&](int64_t t, int b) {
        const int64_t last = t + kTogetherTiles;
        conv_tiles(p, e, tiles, item, t, last < tiles.count ? last : tiles.count, b);
    };
    if (bytes <= kStreamed) {
        for (int64_t t = 0; t < tiles.count; t += kTogetherTiles)
            for (int b = block_begin; b < block_end; ++b) some(t, b);
    } else {
        for (int b = block_begin; b < block_end; ++b)
            for (int64_t t = 0; t < tiles.count; t += kTogetherTiles) some(t, b);
    }
}

static int conv_piece(const ConvPlan& p, int64_t item, int block_begin, int block_end) {
    const Piece piece = piece_of(p.lines, item);
    if (!p.e || !is_staged(*p.e)) {
        conv_blocks(p, p.e, piece, item, block_begin, block_end);
        return BZ_OK;
    }
    return staged(*p.e, p.s, p.resizer, piece,
                  [&](const bz_epilogue& e) { conv_blocks(p, &e, piece, item, block_begin, block_end); });
}

static int conv(int threads, const bz_conv_shape& s, const uint32_t* plane, const uint32_t* words,
                const int32_t* counts, const bz_epilogue* e, int32_t* out_int) {
    ConvPlan p = {s, plane, words, e, out_int, {}, nullptr, nullptr, nullptr, 0, {},
                  lines_of(s, e), 0, {}, nullptr, {}, 0, nullptr};
    const bz_plane_shape& in = s.input;
    const int group_words = bz_group_words(in);
    p.length = int64_t(bz_taps(s)) * group_words;
    p.blocks = bz_ceil_div(bz_group_outputs(s), kOutputs);
    const int64_t padded = int64_t(in.groups) * bz_padded_outputs(s);
    const bool grouped = bz_scale_groups(s) > 1;
    bz_epilogue unscaled;  // groups have had their scales
    int status = make_border(p.border, s, counts, grouped ? 0 : in.channels / in.groups,
                             bz_scale_groups(s) * padded);
    if (grouped) {
        if (status == BZ_OK) add_products(p.border, s, padded);
        p.scale_groups = bz_scale_groups(s);
        p.scales = e->sample_scale;
        unscaled = *e;
        unscaled.sample_scale = nullptr;
        p.e = e = &unscaled;
    }
    if (status == BZ_OK) status = take_parameters(p.parameters, s, e, bz_padded_outputs(s));
    int32_t* window_sums = nullptr;
    if (status == BZ_OK && is_step(e)) midpoint_base(p.border, s, *e, counts);
    if (status == BZ_OK && has_values(e)) {
        status = take_values(p.values, p.parameters, s, *e, p.border, counts, in.channels / in.groups);
        p.window_sums = window_sums = make_window_sums(threads, s, plane);
        if (!window_sums) status = BZ_NO_MEMORY;
    }
    if (status == BZ_OK) status = make_bypass_resizer(p.resizer, s, e);
    int64_t* offsets = static_cast<int64_t*>(malloc(size_t(p.length + 1) * sizeof(int64_t)));
    const int blocks = in.groups * p.blocks;
    Channels* channels = static_cast<Channels*>(malloc(size_t(blocks) * sizeof(Channels)));
    const int64_t items = p.lines.items();
    const bool summed = e && e->sums;
    if (summed) p.partial = static_cast<float*>(calloc(size_t(items) * size_t(padded), sizeof(float)));
    if (status == BZ_OK && offsets && channels && (p.partial || !summed)) {
        int64_t k = 0;
        for (int g = 0; g < bz_scale_groups(s); ++g)
            for (int tap = 0; tap < bz_taps(s); ++tap) {
                const int ky = tap / s.kernel_w, kx = tap % s.kernel_w;
                for (int w = bz_scale_word(s, g); w < bz_scale_word(s, g + 1); ++w)
                    offsets[k++] = ky * s.dilation_h * bz_row_words(in) +
                                   int64_t(kx) * s.dilation_w * bz_pixel_words(in) + w;
            }
        p.offsets = offsets;
        for (int b = 0; b < blocks; ++b)
            channels[b] = channels_of(p.parameters, e, b / p.blocks, b % p.blocks * kOutputs, kOutputs);
        p.channels = channels;
        if (e && e->bits) clear_border(*e->bits);
        const bool whole = e && is_staged(*e);  // a position's outputs and bypass are made once
        const int64_t parts = items < 4 * int64_t(threads) && threads > 1 && !whole ? blocks : 1;
        int failed = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(| : failed) if (threads > 1)
        for (int64_t i = 0; i < items * parts; ++i) {  // few positions: outputs are shared out, too
            const int part = int(i % parts);
            failed |= conv_piece(p, i / parts, parts == 1 ? 0 : part, parts == 1 ? blocks : part + 1);
            if (p.parameters.past) settle();
        }
        status = failed;
        if (summed)
            reduce(p.partial, p.lines.images, p.lines.lines * p.lines.chunks, in.groups, p.parameters.outputs,
                   p.parameters.padded, e->sums);
    } else {
        status = BZ_NO_MEMORY;
    }
    free(p.resizer.rows);
    free(p.partial);
    free(window_sums);
    free(p.values.memory);
    free(p.parameters.memory);
    free(channels);
    free(offsets);
    free(p.border.memory);
    return status;
}

}  // namespace BZ_NS
}  // namespace bz
