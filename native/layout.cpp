// Sizes of packed tensors and the packing of weights: run once per layer, so written plainly.
#include <string.h>

#include "checks.h"

using namespace bz;

namespace {

bool bit_of(const float* weights, const bz_conv_shape& s, int out, int channel, int tap) {
    const int per_group = s.input.channels / s.input.groups;
    return weights[(int64_t(out) * per_group + channel) * bz_taps(s) + tap] >= 0;
}

int scale_group_of(const bz_conv_shape& s, int word) {
    int g = 0;
    while (bz_scale_word(s, g + 1) <= word) ++g;
    return g;
}

// Weights of scaled layers: rows of 32 outputs, for each tap and some neighbouring channels: three pieces of five
// channels in 16 bits, or two of four in 8.
struct ScaledRows {
    int channels, bytes;
    int64_t per_tap, per_block;
    ScaledRows(const Kernels& kernels, const bz_conv_shape& s)
        : channels(kernels.row_channels), bytes(kernels.row_bytes),
          per_tap(bz_ceil_div(s.input.channels / s.input.groups, channels)), per_block(bz_taps(s) * per_tap) {}
};

// counts: or null
void pack_signs(const Kernels& kernels, const bz_conv_shape& s, const float* weights, uint32_t* words,
                int32_t* counts) {
    const int outputs = bz_group_outputs(s), padded = bz_padded_outputs(s), taps = bz_taps(s);
    const int per_group = s.input.channels / s.input.groups, parts = s.input.groups * bz_scale_groups(s);
    const int64_t blocks = padded / 16;
    for (int g = 0; g < s.input.groups; ++g)
        for (int o = 0; o < outputs; ++o)
            for (int tap = 0; tap < taps; ++tap)
                for (int c = 0; c < per_group; ++c) {
                    if (!bit_of(weights, s, g * outputs + o, c, tap)) continue;
                    const int q = scale_group_of(s, c / 32), part = g * bz_scale_groups(s) + q;
                    const int first = bz_scale_word(s, q), words_of = bz_scale_word(s, q + 1) - first;
                    const int64_t before = int64_t(g) * bz_group_words(s.input) + first;  // words of earlier parts
                    const int64_t row =
                        taps * (before * blocks + o / 16 * int64_t(words_of)) + tap * words_of + c / 32 - first;
                    if (kernels.byte_rows) {
                        uint8_t* bytes = reinterpret_cast<uint8_t*>(words + row * 16);
                        bytes[(c % 32) / 8 * 16 + o % 16] |= uint8_t(1u << (c % 8));
                    } else {
                        words[row * 16 + o % 16] |= 1u << (c % 32);
                    }
                    if (counts) ++counts[(int64_t(tap) * parts + part) * padded + o];
                }
}

}  // namespace

extern "C" {

int64_t bz_plane_words(const bz_plane_shape* shape) {
    if (!good_plane(shape)) return -1;
    return shape->images * bz_image_words(*shape) + BZ_SLACK;
}

int64_t bz_weight_words(const bz_conv_shape* s) {
    if (!good_conv(s)) return -1;
    return int64_t(s->input.groups) * bz_padded_outputs(*s) * bz_taps(*s) * bz_group_words(s->input);
}

int64_t bz_weight_counts(const bz_conv_shape* s) {
    if (!good_conv(s)) return -1;
    return int64_t(bz_taps(*s)) * s->input.groups * bz_scale_groups(*s) * bz_padded_outputs(*s);
}

int bz_pack_weights(int isa, const bz_conv_shape* shape, const float* weights, uint32_t* words, int32_t* counts) {
    if (!good_conv(shape)) return BZ_BAD_ARGUMENT;
    const Kernels* kernels = kernels_of(isa);
    if (!kernels) return BZ_NO_ISA;
    const bz_conv_shape& s = *shape;
    if (bz_taps(s) == 0) return BZ_OK;
    if (!weights || !words || !counts) return BZ_BAD_ARGUMENT;
    memset(words, 0, size_t(bz_weight_words(shape)) * sizeof *words);
    memset(counts, 0, size_t(bz_weight_counts(shape)) * sizeof *counts);
    pack_signs(*kernels, s, weights, words, counts);
    return BZ_OK;
}

int64_t bz_depthwise_words(const bz_conv_shape* s) {
    if (!good_depthwise(s)) return -1;
    return int64_t(bz_taps(*s)) * (bz_pixel_words(s->input) + BZ_SLACK);
}

int64_t bz_depthwise_counts(const bz_conv_shape* s) {
    if (!good_depthwise(s)) return -1;
    return int64_t(bz_taps(*s)) * bz_pixel_words(s->input) * 32;
}

int bz_pack_depthwise(const bz_conv_shape* shape, const float* weights, uint32_t* words, int32_t* counts) {
    if (!good_depthwise(shape)) return BZ_BAD_ARGUMENT;
    const bz_conv_shape& s = *shape;
    if (bz_taps(s) == 0) return BZ_OK;
    if (!weights || !words || !counts) return BZ_BAD_ARGUMENT;
    const int pixel = bz_pixel_words(s.input), length = pixel + BZ_SLACK;
    memset(words, 0, size_t(bz_depthwise_words(shape)) * sizeof *words);
    memset(counts, 0, size_t(bz_depthwise_counts(shape)) * sizeof *counts);
    for (int tap = 0; tap < bz_taps(s); ++tap) {
        uint32_t* row = words + int64_t(tap) * length;
        for (int c = 0; c < s.input.channels; ++c)
            if (weights[int64_t(c) * bz_taps(s) + tap] >= 0) {
                row[c / 32] |= 1u << (c % 32);
                counts[int64_t(tap) * pixel * 32 + c] = 1;
            }
        for (int i = pixel; i < length; ++i) row[i] = row[i - pixel];
    }
    return BZ_OK;
}

int64_t bz_scaled_words(int isa, const bz_conv_shape* s) {
    const Kernels* kernels = kernels_of(isa);
    if (!good_conv(s) || !kernels) return -1;
    if (!kernels->row_channels) return 2 * bz_weight_words(s);
    const ScaledRows rows(*kernels, *s);
    return int64_t(s->input.groups) * bz_ceil_div(bz_group_outputs(*s), 32) * 16 * rows.bytes * rows.per_block;
}

int bz_pack_scaled(int isa, const bz_conv_shape* shape, const float* weights, uint16_t* words) {
    if (!good_conv(shape)) return BZ_BAD_ARGUMENT;
    const Kernels* kernels = kernels_of(isa);
    if (!kernels) return BZ_NO_ISA;
    const bz_conv_shape& s = *shape;
    if (bz_taps(s) == 0) return BZ_OK;
    if (!weights || !words) return BZ_BAD_ARGUMENT;
    memset(words, 0, size_t(bz_scaled_words(isa, shape)) * sizeof *words);
    if (!kernels->row_channels) {
        pack_signs(*kernels, s, weights, reinterpret_cast<uint32_t*>(words), nullptr);
        return BZ_OK;
    }
    uint8_t* const bytes = reinterpret_cast<uint8_t*>(words);
    const ScaledRows rows(*kernels, s);
    const int outputs = bz_group_outputs(s), blocks = bz_ceil_div(outputs, 32);
    const int per_group = s.input.channels / s.input.groups;
    for (int g = 0; g < s.input.groups; ++g)
        for (int o = 0; o < outputs; ++o)
            for (int tap = 0; tap < bz_taps(s); ++tap)
                for (int c = 0; c < per_group; ++c)
                    if (bit_of(weights, s, g * outputs + o, c, tap)) {
                        const int64_t block = (int64_t(g) * blocks + o / 32) * rows.per_block;
                        const int64_t at = (block + tap * rows.per_tap + c / rows.channels) * 32 + o % 32;
                        const int bit = c % rows.channels;
                        if (rows.bytes == 1)
                            bytes[at] |= uint8_t(1u << bit);
                        else
                            words[at] |= uint16_t(1u << bit);
                    }
    return BZ_OK;
}

}  // extern "C"
