// Convolution with one activation scale per image and channel: scales do not factor out of a popcount.
//
// A few channels (a piece) at a time are looked up: tables hold, for activation bits a and weight bits w of a piece,
// the sum of +-alpha, T[a][w] = sum_c alpha_c * (a_c == w_c ? 1 : -1). Tables are made per image, entries rounded to
// 16-bit integers of a step for each group such that 24 of them can be summed before they are widened to 32 bits. A
// position in the border looks up zeros: its contribution is exactly 0. How many channels a piece has and how tables
// and weights lie is up to the instruction set: scaled_avx512.h, scaled_avx2.h, scaled_portable.h.
#pragma once

#include "conv.h"
#if BZ_VEC_BYTES == 64
#include "scaled_avx512.h"
#elif BZ_VEC_BYTES == 32
#include "scaled_avx2.h"
#else
#include "scaled_portable.h"
#endif

namespace bz {
namespace BZ_NS {

struct ScaledFloats {
    const float* sums;
    float step;  // not used
    inline __attribute__((always_inline)) Floats operator()(int j) const { return load<Floats>(sums + j); }
};

struct ScaledInts {
    const int32_t* sums;
    float step;
    inline __attribute__((always_inline)) Floats operator()(int j) const {
        return __builtin_convertvector(load<Ints>(sums + j), Floats) * splat(step);
    }
};

template <class Of, class Value>
struct ScaledOfLine {
    static constexpr int kMost = kScaledTile;
    const Value (*values)[kBlock];
    int64_t x0;
    float step;
    inline __attribute__((always_inline)) Of operator()(int64_t x) const { return Of{values[x - x0], step}; }
    bool alike(int64_t, int) const { return true; }
    inline __attribute__((always_inline)) Of beside(Of first, int64_t i) const {
        first.sums += i * kBlock;
        return first;
    }
};

struct ScaledPlan {
    bz_conv_shape s;
    const uint32_t* plane;
    const uint16_t* words;
    const bz_epilogue* e;
    Parameters parameters;
    float* partial;
    Resizer resizer;
    int64_t tap_rows;       // rows of weights per group and tap, `kPieces` pieces each
    int64_t rows;           // taps * tap_rows
    int64_t pixel;          // pieces per position: groups * tap_rows * kPieces
    Index* indices;         // [positions of the plane's rows that a band of output lines reads][pixel]
    int64_t first_row;      // of the plane, in `indices`
    int64_t* offsets;       // [rows]: of a row's first index from that of a position's first tap
    int16_t* tables;        // [pixel]
    float* float_tables;    // the same, exact
    float* steps;           // [groups]: what one unit of a group's tables is
    bool exact;
    int64_t image;
};

// Bytes of indices for each thread: a band of lines reads them from the cache they were written to.
constexpr int64_t kBandBytes = 512 << 10;

// The plane's row that the first tap of an output line reads.
static int64_t first_row(const bz_conv_shape& s, int64_t line) {
    return line * s.stride_h - s.pad_top + s.input.border_h;
}

// Table numbers of one plane row of the image.
static void index_row(const ScaledPlan& p, int64_t row) {
    const bz_plane_shape& in = p.s.input;
    const int64_t width = in.width + 2 * int64_t(in.border_w), pixel_words = bz_pixel_words(in);
    const int channels = in.channels / in.groups, group_words = bz_group_words(in);
    const int64_t of_group = p.tap_rows * kPieces;
    Index* to = p.indices + (row - p.first_row) * width * p.pixel;
    const bool outside = row < in.border_h || row >= in.border_h + in.height;
    const uint32_t* from = p.plane + p.image * bz_image_words(in) + row * bz_row_words(in);
    for (int64_t x = 0; x < width; ++x, to += p.pixel) {
        if (outside || x < in.border_w || x >= in.border_w + in.width) {
            for (int64_t i = 0; i < p.pixel; ++i) to[i] = kOutside;
            continue;
        }
        for (int g = 0; g < in.groups; ++g)
            put_indices(to + g * of_group, g * of_group, from + x * pixel_words + g * group_words, channels,
                        of_group);
    }
}

// The tables of a group of channels, whose scales share a step.
static void make_tables(ScaledPlan& p, int g, const float* alpha) {
    const bz_plane_shape& in = p.s.input;
    const int group = in.channels / in.groups;
    const int64_t first = int64_t(g) * p.tap_rows * kPieces, past = first + p.tap_rows * kPieces;
    const float* const scales = alpha + p.image * in.channels + int64_t(g) * group;
    const auto scale_of = [&](int64_t piece, int c) {
        const int64_t channel = (piece - first) * kPiece + c;
        return channel < group ? scales[channel] : 0.0f;
    };
    float largest = 0;
    for (int64_t i = first; i < past; ++i) {
        float sum = 0;
        for (int c = 0; c < kPiece; ++c) sum += __builtin_fabsf(scale_of(i, c));
        if (sum > largest) largest = sum;
    }
    const float most = 32767 / (kScaledBatch * kPieces);
    p.steps[g] = largest > 0 ? largest / most : 1.0f;
    const float inverse = 1.0f / p.steps[g];
    constexpr int kMatches = 1 << kPiece;
    for (int64_t i = first; i < past; ++i) {
        float by_match[kMatches] = {};  // bit c set: channel c counts +alpha
        int16_t rounded[kMatches];
        for (int c = 0; c < kPiece; ++c) {
            const float scale = scale_of(i, c);
            for (int m = 0; m < 1 << c; ++m) {
                by_match[m + (1 << c)] = by_match[m] + scale;
                by_match[m] -= scale;
            }
        }
        for (int m = 0; m < kMatches; ++m) {
            const float units = by_match[m] * inverse;
            rounded[m] = int16_t(int(units + (units < 0 ? -0.5f : 0.5f)));
        }
        if (p.exact)
            put_table(p.float_tables, i, by_match);
        else
            put_table(p.tables, i, rounded);
    }
}

static void scaled_tiles(const ScaledPlan& p, const bz_epilogue& e, const Piece& piece, int64_t item) {
    const bz_conv_shape& s = p.s;
    const bz_plane_shape& in = s.input;
    const int outputs = bz_group_outputs(s), words_blocks = bz_ceil_div(outputs, 32);
    const int64_t y = piece.line, row = (in.width + 2 * int64_t(in.border_w)) * p.pixel;
    const int64_t tiles = (piece.end - piece.begin + kScaledTile - 1) / kScaledTile;
    alignas(64) union {
        int32_t ints[kScaledTile][kBlock];
        float floats[kScaledTile][kBlock];
    } out;
    const int64_t all = int64_t(in.groups) * p.parameters.padded, step = s.stride_w * p.pixel;
    for (int64_t t = 0; t < tiles; ++t) {
        const int64_t width = piece.end - piece.begin;
        const int64_t x0 = piece.begin + width * t / tiles, x1 = piece.begin + width * (t + 1) / tiles;
        const Index* position = p.indices + (first_row(s, y) - p.first_row) * row +
                                (x0 * s.stride_w - s.pad_left + in.border_w) * p.pixel;
        for (int g = 0; g < in.groups; ++g)
            for (int first = 0; first < outputs; first += kBlock) {
                const Channels channels = channels_of(p.parameters, &e, g, first, kBlock);
                const uint16_t* words = p.words + (int64_t(g) * words_blocks + first / 32) * p.rows * kRowWords;
                const int64_t piece = int64_t(g) * p.tap_rows * kPieces;
                const Index* at = position + piece;
                const int blocks = (channels.count + 31) / 32;
                if (p.exact)
                    sum_scaled(int(x1 - x0), blocks, at, step, p.offsets, p.rows, p.tap_rows, words,
                               tables_of_group(p.float_tables, piece), out.floats);
                else
                    sum_scaled(int(x1 - x0), blocks, at, step, p.offsets, p.rows, p.tap_rows, words,
                               tables_of_group(p.tables, piece), out.ints);
                float* const sums = p.partial ? p.partial + item * all + channels.at : nullptr;
                if (p.exact)
                    finish(channels, p.parameters, e,
                           ScaledOfLine<ScaledFloats, float>{out.floats, x0, 1.0f}, p.image, y, x0, x1, sums);
                else
                    finish(channels, p.parameters, e,
                           ScaledOfLine<ScaledInts, int32_t>{out.ints, x0, p.steps[g]}, p.image, y, x0, x1, sums);
            }
    }
}

static int scaled_piece(const ScaledPlan& p, const Lines& lines, int64_t item) {
    Piece piece = piece_of(lines, item);
    piece.image = p.image;
    if (!is_staged(*p.e)) {
        scaled_tiles(p, *p.e, piece, item);
        return BZ_OK;
    }
    return staged(*p.e, p.s, p.resizer, piece, [&](const bz_epilogue& e) { scaled_tiles(p, e, piece, item); });
}

static int scaled(int threads, const bz_conv_shape& s, const uint32_t* plane, const uint16_t* words,
                  const float* alpha, bool exact, const bz_epilogue& e) {
    const bz_plane_shape& in = s.input;
    ScaledPlan p = {};
    p.s = s, p.plane = plane, p.words = words, p.e = &e, p.exact = exact;
    p.tap_rows = bz_ceil_div(bz_ceil_div(in.channels / in.groups, kPiece), kPieces);
    p.rows = int64_t(bz_taps(s)) * p.tap_rows;
    p.pixel = int64_t(in.groups) * p.tap_rows * kPieces;
    if (p.pixel > kMostPieces) return BZ_UNSUPPORTED;
    Lines lines = {1, s.out_h, s.out_w, (s.out_w + kChunk - 1) / kChunk};
    const int64_t width = in.width + 2 * int64_t(in.border_w);
    const size_t entry = exact ? sizeof(float) : sizeof(int16_t);
    const size_t table_bytes = (size_t(table_entries(p.pixel)) * entry + 63) / 64 * 64;
    const int64_t extent = int64_t(s.kernel_h - 1) * s.dilation_h + 1, of_row = width * p.pixel * int64_t(sizeof(Index));
    const int64_t in_bytes = (kBandBytes * threads / of_row - extent) / s.stride_h + 1;
    const int64_t band = in_bytes < 1 ? 1 : in_bytes > s.out_h ? s.out_h : in_bytes;  // output lines
    p.indices = static_cast<Index*>(malloc(size_t(((band - 1) * s.stride_h + extent) * of_row)));
    p.offsets = static_cast<int64_t*>(malloc(size_t(p.rows + 1) * sizeof(int64_t)));
    p.steps = static_cast<float*>(malloc(size_t(in.groups) * sizeof(float)));
    void* tables = aligned_alloc(64, table_bytes);
    const int padded = bz_padded_outputs(s);
    const size_t partial = size_t(lines.items()) * size_t(in.groups) * size_t(padded) * sizeof(float);
    if (e.sums) p.partial = static_cast<float*>(malloc(partial));
    int status = take_parameters(p.parameters, s, &e, padded);
    if (status == BZ_OK) status = make_bypass_resizer(p.resizer, s, &e);
    const bool all = p.indices && p.offsets && p.steps && tables && (p.partial || !e.sums);
    if (status == BZ_OK && !all) status = BZ_NO_MEMORY;
    if (status == BZ_OK) {
        memset(tables, 0, table_bytes < 32 * entry ? table_bytes : 32 * entry);  // that of zeros, if there is one
        if (e.bits) clear_border(*e.bits);
        p.tables = static_cast<int16_t*>(tables);
        p.float_tables = static_cast<float*>(tables);
        int64_t k = 0;
        for (int ky = 0; ky < s.kernel_h; ++ky)
            for (int kx = 0; kx < s.kernel_w; ++kx)
                for (int64_t t = 0; t < p.tap_rows; ++t)
                    p.offsets[k++] = (ky * s.dilation_h * width + int64_t(kx) * s.dilation_w) * p.pixel + t * kPieces;
        for (p.image = 0; p.image < in.images; ++p.image) {
            for (int g = 0; g < in.groups; ++g) make_tables(p, g, alpha);
            if (p.partial) memset(p.partial, 0, partial);
            for (int64_t begin = 0; begin < s.out_h; begin += band) {
                const int64_t end = begin + band < s.out_h ? begin + band : s.out_h;
                const int64_t past = first_row(s, end - 1) + extent;
                p.first_row = first_row(s, begin);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
                for (int64_t row = p.first_row; row < past; ++row) index_row(p, row);
#pragma omp parallel for schedule(static) num_threads(threads) reduction(| : status) if (threads > 1)
                for (int64_t item = begin * lines.chunks; item < end * lines.chunks; ++item) {
                    status |= scaled_piece(p, lines, item);
                    if (p.parameters.past) settle();
                }
            }
            if (e.sums)
                reduce(p.partial, 1, lines.lines * lines.chunks, in.groups, p.parameters.outputs, padded,
                       e.sums + p.image * s.out_channels);
        }
    }
    free(p.resizer.rows);
    free(p.partial);
    free(p.parameters.memory);
    free(tables);
    free(p.steps);
    free(p.offsets);
    free(p.indices);
    return status;
}

}  // namespace BZ_NS
}  // namespace bz
