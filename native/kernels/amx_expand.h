// From bits to int8: activations as the values that they stand for, weights as +-1 (and +-64).
#pragma once

#include "amx_plan.h"

namespace bz {
namespace BZ_NS {

// Which products of a step have a weight of 1: 64 channels, or 32 for each of two digits.
BZ_INLINE uint64_t bits_of_step(const MatrixPlan& p, const uint32_t* words, int64_t k) {
    if (p.digits == 2) return words[k] * UINT64_C(0x100000001);
    return 2 * k + 1 < p.group_words ? load<uint64_t>(words + 2 * k) : words[2 * k];
}

// The signs of `count` positions as the values that they stand for.
static void expand_positions(const MatrixPlan& p, const uint32_t* from, int64_t count, int8_t* to) {
    const int64_t words = bz_pixel_words(p.s.input), all = p.s.input.groups * p.steps_of_tap;
    for (int g = 0; g < p.s.input.groups; ++g, from += p.group_words)
        for (int pass = 0; pass < p.passes; ++pass)
            for (int64_t k = 0; k < p.steps_of_tap; ++k, to += p.positions * kStep) {
                const int64_t at = (pass * all + g * p.steps_of_tap + k) * kStep;
                const __m512i positive = _mm512_loadu_si512(p.positive + at);
                const __m512i negative = _mm512_loadu_si512(p.negative + at);
                for (int64_t x = 0; x < count; ++x) {
                    const uint64_t ones = bits_of_step(p, from + x * words, k);
                    _mm512_store_si512(to + x * kStep, _mm512_mask_blend_epi8(ones, negative, positive));
                }
            }
}

static void clear_positions(const MatrixPlan& p, int64_t count, int8_t* to) {
    for (int64_t i = 0; i < p.s.input.groups * p.passes * p.steps_of_tap; ++i, to += p.positions * kStep)
        memset(to, 0, size_t(count * kStep));
}

// The activations that a block reads: [buffer_rows][buffer_cols] positions, the first of them that of the first tap of
// position x0 of line y0.
static void expand_block(const MatrixPlan& p, int64_t n, int64_t y0, int64_t x0, int64_t lines, int64_t width,
                         int8_t* to) {
    const bz_conv_shape& s = p.s;
    const bz_plane_shape& in = s.input;
    const int64_t words = bz_pixel_words(in);
    const int64_t some = (lines - 1) * s.stride_h + 1, rows = (s.kernel_h - 1) * p.tap_rows + some;
    const int64_t cols = (width - 1) * s.stride_w + int64_t(s.kernel_w - 1) * s.dilation_w + 1;
    const int64_t top = y0 * s.stride_h - s.pad_top, left = x0 * s.stride_w - s.pad_left;  // in the map
    for (int64_t r = 0; r < rows; ++r, to += p.buffer_cols * kStep) {
        // where taps lie further apart than lines, the rows between them are left out
        const int64_t tap = p.tap_rows < s.dilation_h ? r / p.tap_rows : 0;
        const int64_t y = top + r + tap * (s.dilation_h - p.tap_rows);
        const uint32_t* from = p.plane + n * bz_image_words(in) + (y + in.border_h) * bz_row_words(in) +
                               (left + in.border_w) * words;
        int64_t begin = 0, end = cols;  // inside
        if (!p.whole) {
            if (left < 0) begin = -left;
            if (left + cols > in.width) end = in.width - left;
            if (y < 0 || y >= in.height || begin >= end) begin = end = cols;
        }
        if (begin) clear_positions(p, begin, to);
        if (begin < end) expand_positions(p, from + begin * words, end - begin, to + begin * kStep);
        if (end < cols) clear_positions(p, cols - end, to + end * kStep);
    }
}

// Weights of B * 16 outputs for steps [begin, end), as +-1, and for the first of two digits as +-64: [steps][B] tiles.
// A tile is [16 times four products][16 outputs][4].
template <int B>
static void expand_weights(const MatrixPlan& p, int g, int64_t sixteen, int64_t begin, int64_t end, int8_t* to) {
    const int64_t taps = bz_taps(p.s), length = taps * p.group_words, blocks = p.parameters.padded / 16;
    const bool two = p.digits == 2;
    // of each pair of outputs' words in 64 bits, the eight bits from these on: their lowest is a weight
    const __m512i first = _mm512_set1_epi64(0x2322212003020100), next = _mm512_set1_epi8(4);
    const __m512i one = _mm512_set1_epi8(1), minus = _mm512_set1_epi8(-1);
    const __m512i high = _mm512_set1_epi8(kBase), minus_high = _mm512_set1_epi8(-kBase);
    for (int64_t i = begin; i < end; ++i)
        for (int b = 0; b < B; ++b, to += kTileBytes) {
            const int64_t k = i / taps, tap = i % taps;
            const uint32_t* of_tap =
                p.words + ((int64_t(g) * blocks + sixteen + b) * length + tap * p.group_words) * 16;
            const __m512i word = _mm512_loadu_si512(of_tap + (two ? k : 2 * k) * 16);
            const bool more = !two && 2 * k + 1 < p.group_words;
            const __m512i other = more ? _mm512_loadu_si512(of_tap + (2 * k + 1) * 16) : word;
            __m512i bits = first;
            for (int r = 0; r < 8; ++r, bits = _mm512_add_epi8(bits, next)) {
                const __mmask64 ones = _mm512_test_epi8_mask(_mm512_multishift_epi64_epi8(bits, word), one);
                if (two) {
                    _mm512_store_si512(to + r * 64, _mm512_mask_blend_epi8(ones, minus_high, high));
                    _mm512_store_si512(to + 512 + r * 64, _mm512_mask_blend_epi8(ones, minus, one));
                    continue;
                }
                const __mmask64 others = _mm512_test_epi8_mask(_mm512_multishift_epi64_epi8(bits, other), one);
                _mm512_store_si512(to + r * 64, _mm512_mask_blend_epi8(ones, minus, one));
                _mm512_store_si512(to + 512 + r * 64, _mm512_mask_blend_epi8(others, minus, one));
            }
        }
}

}  // namespace BZ_NS
}  // namespace bz
