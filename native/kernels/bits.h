// The next layer's bits from values that an epilogue has just left in the cache.
#pragma once

#include "epilogue.h"
#include "pack.h"

namespace bz {
namespace BZ_NS {

// The border and the words behind the plane; the rest is written with the values.
static void clear_border(const bz_bits& bits) {
    const bz_plane_shape& s = bits.shape;
    const int64_t row = bz_row_words(s), side = int64_t(s.border_w) * bz_pixel_words(s), rows = s.border_h * row;
    uint32_t* to = bits.plane;
    for (int32_t n = 0; n < s.images; ++n) {
        memset(to, 0, size_t(rows) * sizeof *to);
        to += rows;
        for (int32_t y = 0; side && y < s.height; ++y) {
            memset(to + y * row, 0, size_t(side) * sizeof *to);
            memset(to + (y + 1) * row - side, 0, size_t(side) * sizeof *to);
        }
        to += s.height * row;
        memset(to, 0, size_t(rows) * sizeof *to);
        to += rows;
    }
    memset(to, 0, BZ_SLACK * sizeof *to);
}

// values: of position piece.begin; `step` floats from one position to the next. A line may run over rows and images.
static void put_bits(const bz_bits& bits, const Piece& piece, const float* values, int64_t step) {
    const bz_plane_shape& s = bits.shape;
    const int pixel = bz_pixel_words(s), group = s.channels / s.groups;
    const auto pack_some = pack_channels_of<float>(bits.mul, bits.add, false);
    int64_t position = (piece.image * s.height + piece.line) * s.width + piece.begin;
    int64_t x = position % s.width, y = position / s.width % s.height, n = position / s.width / s.height;
    for (int64_t i = piece.begin; i < piece.end; ++i, values += step) {
        uint32_t* const to = bits.plane + n * bz_image_words(s) + (y + s.border_h) * bz_row_words(s) +
                             (x + s.border_w) * pixel;
        pack_groups(pack_some, values, s.groups, group, {bits.mul, bits.add, nullptr}, to);
        if (++x < s.width) continue;
        x = 0;
        if (++y < s.height) continue;
        y = 0, ++n;
    }
}

}  // namespace BZ_NS
}  // namespace bz
