// How a convolution is divided into blocks of positions and strips of outputs, for AMX.
#pragma once

#include "stage.h"

namespace bz {
namespace BZ_NS {

constexpr int kRows = 16;       // positions of a tile, and outputs of one
constexpr int kStep = 64;       // products per position and output that one instruction adds
constexpr int kStrip = 32;      // outputs that are multiplied together: two tiles
constexpr int64_t kTileBytes = kRows * kStep;
constexpr int64_t kStripBytes = 20 << 10;  // of expanded weights that are used together, from the first cache
constexpr int kBase = 64, kMost = 127 * kBase, kPairBase = 8192;
constexpr int64_t kMostPositions = 256;         // of a block
constexpr int64_t kActivationBytes = 512 << 10;  // of a block, at about
constexpr int64_t kSumBytes = 768 << 10;

// A convolution, and how it is divided.
struct MatrixPlan {
    bz_conv_shape s;
    const uint32_t *plane, *words;
    const bz_epilogue* e;
    int32_t* out_int;
    Parameters parameters;
    float* partial;  // [blocks][padded outputs of all groups], or null
    Resizer resizer;
    Lines lines;
    bool whole;  // lines run over rows: every position is inside
    int64_t image;  // of the scales, or -1: all have the same
    // values of activations
    int digits, passes;  // digits of a pass; passes have accumulators of their own
    const int8_t *positive, *negative;  // [passes][groups][steps of a tap][64]
    const float* largest;               // [groups], scale
    int group_words;
    // Expanded activations lie step by step: [groups][passes][steps of a tap][positions][64]
    int64_t steps_of_tap, positions;
    int64_t block_lines, block_width;  // lines of a block, or positions of one if a line is divided
    int64_t blocks_y, blocks_x;
    bool flat;            // all lines of a block are one run of positions
    int rows;             // of a tile
    // sums_pitch: from one line's sums to the next, in positions
    int64_t tap_rows, buffer_rows, buffer_cols, sums_pitch, sums_positions;
    int64_t* offsets;     // [taps], in bytes
    int64_t activation_bytes, weight_bytes, sums_ints;  // of one thread
    int64_t chunk;        // steps whose weights are expanded together

    int64_t items() const { return lines.images * blocks_y * blocks_x; }
};

static int64_t ceil_to(int64_t a, int64_t step) { return (a + step - 1) / step * step; }

// Positions [x0, x1) of lines [y0, y1); image n of the results, and `image` of the plane.
struct Block {
    int64_t n, image, y0, y1, x0, x1;
};

static MatrixPlan plan_of(const bz_conv_shape& s, const uint32_t* plane, const uint32_t* words, const bz_epilogue* e,
                          int digits, int passes) {
    MatrixPlan p = {};
    p.s = s, p.plane = plane, p.words = words, p.e = e;
    p.group_words = bz_group_words(s.input);
    p.digits = digits;
    p.passes = passes;
    p.steps_of_tap = bz_ceil_div(digits * p.group_words, 2);
    p.image = -1;
    p.lines = lines_of(s, e);
    p.whole = p.lines.lines != s.out_h || p.lines.width != s.out_w;
    return p;
}

// How positions are divided into blocks, and what a thread needs for one.
static void make_blocks(MatrixPlan& p) {
    const bz_conv_shape& s = p.s;
    const bz_plane_shape& in = s.input;
    const int64_t width = p.lines.width, reach = s.kernel_w > 0 ? int64_t(s.kernel_w - 1) * s.dilation_w : 0;
    const int64_t pixel = in.groups * p.passes * p.steps_of_tap * kStep;
    const bool whole = p.e && is_staged(*p.e);
    const int64_t strips = whole ? in.groups * bz_ceil_div(p.parameters.outputs, kStrip) : kBlock / kStrip;
    const int64_t of_sums = strips * kStrip * int64_t(sizeof(int32_t)) * p.passes;
    int64_t most = kMostPositions;
    if (most > kActivationBytes / pixel) most = kActivationBytes / pixel;
    if (most > kSumBytes / of_sums) most = kSumBytes / of_sums;
    if (most < kRows) most = kRows;
    p.blocks_x = (width + most - 1) / most;
    p.block_width = (width + p.blocks_x - 1) / p.blocks_x;
    // Positions between two lines cost as much as others, and so do those that fill up a line's last tile.
    const int64_t with_border = width + reach;
    p.flat = p.blocks_x == 1 && s.stride_w == 1 && s.stride_h == 1 && with_border <= ceil_to(width, kRows);
    const int64_t of_line = p.flat ? with_border : width;
    int64_t lines = p.blocks_x > 1 ? 1 : most / of_line;
    if (lines < 1) lines = 1;
    if (lines > p.lines.lines) lines = p.lines.lines;
    p.blocks_y = (p.lines.lines + lines - 1) / lines;
    p.block_lines = (p.lines.lines + p.blocks_y - 1) / p.blocks_y;
    const int64_t tiles = (p.block_width + kRows - 1) / kRows;
    p.rows = p.flat ? kRows : int((p.block_width + tiles - 1) / tiles);
    const int64_t some = (p.block_lines - 1) * s.stride_h + 1;
    p.tap_rows = s.dilation_h < some ? s.dilation_h : some;
    p.buffer_rows = (s.kernel_h > 0 ? s.kernel_h - 1 : 0) * p.tap_rows + some;
    p.buffer_cols = (p.block_width - 1) * s.stride_w + reach + 1;
    p.sums_pitch = p.flat ? p.buffer_cols : tiles * p.rows;
    int64_t tap = 0;
    for (int ky = 0; ky < s.kernel_h; ++ky)
        for (int kx = 0; kx < s.kernel_w; ++kx)
            p.offsets[tap++] = (ky * p.tap_rows * p.buffer_cols + int64_t(kx) * s.dilation_w) * kStep;
    // behind the last position, those that fill up its tile
    p.positions = p.buffer_rows * p.buffer_cols + kRows * s.stride_w;
    p.activation_bytes = p.positions * pixel;
    const int64_t all = bz_taps(s) * p.steps_of_tap, kept = kStripBytes / (2 * kTileBytes);
    p.chunk = all < kept ? all : bz_taps(s) < kept ? kept / bz_taps(s) * bz_taps(s) : kept;
    p.weight_bytes = p.chunk * 2 * kTileBytes;
    p.sums_positions = p.block_lines * p.sums_pitch + kRows;
    p.sums_ints = p.passes * p.sums_positions * strips * kStrip;
}

}  // namespace BZ_NS
}  // namespace bz
