// Look-ups in registers: vpshufb picks 32 of 16 bytes by four bits of each index. So tables are of four channels, one
// for all activations: an index is the weights' bits xor the inverted activations'. Weights have two pieces in 8 bits.
//
// An entry of 16 bits is two bytes, looked up one after the other. Low bytes are summed as pairs of neighbouring
// outputs, even + 256 * odd, and once more for the odd ones alone, so that nothing has to be unpacked on the way; of the
// sums of high bytes only the lowest eight bits count.
#pragma once

#include "simd.h"

namespace bz {
namespace BZ_NS {

constexpr int kPiece = 4, kPieces = 2, kScaledTile = 4;
constexpr int kScaledBatch = 12;  // rows of weights whose entries a 16-bit sum can hold
constexpr int kRowWords = 16;     // 16-bit words of a row of weights: 32 outputs
constexpr int64_t kMostPieces = int64_t(1) << 40;

typedef uint32_t Index;  // four bits, the same in each byte
constexpr Index kOutside = 0x80808080u;  // picks zeros

// The indices of a position: of a group's words, and zeros up to `all`.
BZ_INLINE void put_indices(Index* to, int64_t, const uint32_t* words, int channels, int64_t all) {
    const int64_t pieces = bz_ceil_div(channels, kPiece);
    const __m256i shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28), four_bits = _mm256_set1_epi32(15);
    const __m256i quads = _mm256_setr_epi64x(0x0404040400000000, 0x0c0c0c0c08080808, 0x0404040400000000,
                                             0x0c0c0c0c08080808);  // the first byte of each four, four times
    int64_t i = 0;
    for (; i + 8 <= pieces; i += 8) {
        const __m256i fours = _mm256_srlv_epi32(_mm256_set1_epi32(int(~words[i / 8])), shifts);
        const __m256i bytes = _mm256_shuffle_epi8(_mm256_and_si256(fours, four_bits), quads);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), bytes);
    }
    for (; i < pieces; ++i) to[i] = (~words[i / 8] >> i % 8 * 4 & 15) * 0x01010101u;
    for (; i < all; ++i) to[i] = kOutside;
}

static int64_t table_entries(int64_t pieces) { return pieces * 16; }

static void put_table(float* tables, int64_t piece, const float* by_match) {
    memcpy(tables + piece * 16, by_match, 16 * sizeof(float));
}

static void put_table(int16_t* tables, int64_t piece, const int16_t* by_match) {
    uint8_t* const bytes = reinterpret_cast<uint8_t*>(tables + piece * 16);
    for (int m = 0; m < 16; ++m) {
        bytes[m] = uint8_t(uint16_t(by_match[m]) & 255);
        bytes[16 + m] = uint8_t(uint16_t(by_match[m]) >> 8);
    }
}

// Those of the group whose first piece this is.
template <class Entry>
BZ_INLINE const Entry* tables_of_group(const Entry* tables, int64_t piece) {
    return tables + piece * 16;
}

// rows: of weights, for a position; of one tap: `tap_rows`, one after the other as the tables.
template <int P>
static void scaled_tile(const Index* at, int64_t step, const int64_t* offsets, int64_t rows, int64_t tap_rows,
                        const uint16_t* words, const int16_t* tables, int32_t (*sums)[128]) {
    const __m256i four_bits = _mm256_set1_epi8(15);
    int64_t row = 0, begin = 0;
    do {  // once where there are no taps, too
        const int64_t end = begin + kScaledBatch < rows ? begin + kScaledBatch : rows;
        __m256i pair[P], odd[P], high[P];
        BZ_UNROLL for (int p = 0; p < P; ++p) pair[p] = odd[p] = high[p] = _mm256_setzero_si256();
        for (int64_t k = begin; k < end; ++k) {
            const Index* const index = at + offsets[k];
            const __m128i* const table = reinterpret_cast<const __m128i*>(tables + row * (kPieces * 16));
            row = row + 1 == tap_rows ? 0 : row + 1;
            __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words + k * kRowWords));
            BZ_UNROLL for (int q = 0; q < kPieces; ++q) {
                const __m256i four = _mm256_and_si256(w, four_bits);
                const __m256i low_bytes = _mm256_broadcastsi128_si256(_mm_load_si128(table + 2 * q));
                const __m256i high_bytes = _mm256_broadcastsi128_si256(_mm_load_si128(table + 2 * q + 1));
                BZ_UNROLL for (int p = 0; p < P; ++p) {
                    const __m256i at = _mm256_xor_si256(four, _mm256_set1_epi32(int(index[p * step + q])));
                    const __m256i low = _mm256_shuffle_epi8(low_bytes, at);
                    pair[p] = _mm256_add_epi16(pair[p], low);
                    BZ_KEEP(pair[p]);
                    odd[p] = _mm256_add_epi16(odd[p], _mm256_srli_epi16(low, 8));
                    BZ_KEEP(odd[p]);
                    high[p] = _mm256_add_epi8(high[p], _mm256_shuffle_epi8(high_bytes, at));
                    BZ_KEEP(high[p]);
                }
                if (q + 1 < kPieces) w = _mm256_srli_epi16(w, 4);
            }
        }
        BZ_FENCE;
        BZ_UNROLL for (int p = 0; p < P; ++p) {
            const __m256i even = _mm256_add_epi16(pair[p], _mm256_slli_epi16(_mm256_sub_epi16(high[p], odd[p]), 8));
            const __m256i odds = _mm256_add_epi16(odd[p], _mm256_andnot_si256(_mm256_set1_epi16(255), high[p]));
            const __m256i first = _mm256_unpacklo_epi16(even, odds), second = _mm256_unpackhi_epi16(even, odds);
            const __m128i eights[] = {_mm256_castsi256_si128(first), _mm256_castsi256_si128(second),
                                      _mm256_extracti128_si256(first, 1), _mm256_extracti128_si256(second, 1)};
            BZ_UNROLL for (int i = 0; i < 4; ++i) {
                __m256i* const to = reinterpret_cast<__m256i*>(sums[p] + 8 * i);
                const __m256i wide = _mm256_cvtepi16_epi32(eights[i]);
                _mm256_store_si256(to, begin ? _mm256_add_epi32(_mm256_load_si256(to), wide) : wide);
            }
        }
        begin = end;
    } while (begin < rows);
}

typedef void (*ScaledTile)(const Index*, int64_t, const int64_t*, int64_t, int64_t, const uint16_t*, const int16_t*,
                           int32_t (*)[128]);
static const ScaledTile kScaledTiles[kScaledTile] = {scaled_tile<1>, scaled_tile<2>, scaled_tile<3>, scaled_tile<4>};

static void sum_scaled(int positions, int blocks, const Index* at, int64_t step, const int64_t* offsets, int64_t rows,
                       int64_t tap_rows, const uint16_t* words, const int16_t* tables, int32_t (*sums)[128]) {
    for (int b = 0; b < blocks; ++b)
        kScaledTiles[positions - 1](at, step, offsets, rows, tap_rows, words + b * rows * kRowWords, tables,
                                    reinterpret_cast<int32_t(*)[128]>(sums[0] + 32 * b));
}

// Exact sums, one output after the other.
static void sum_scaled(int positions, int blocks, const Index* at, int64_t step, const int64_t* offsets, int64_t rows,
                       int64_t tap_rows, const uint16_t* words, const float* tables, float (*sums)[128]) {
    for (int p = 0; p < positions; ++p)
        for (int b = 0; b < blocks; ++b) {
            float* const sum = sums[p] + 32 * b;
            memset(sum, 0, 32 * sizeof *sum);
            const uint8_t* w = reinterpret_cast<const uint8_t*>(words + b * rows * kRowWords);
            for (int64_t k = 0; k < rows; ++k, w += 32) {
                const Index* const index = at + p * step + offsets[k];
                const float* const table = tables + k % tap_rows * (kPieces * 16);
                for (int q = 0; q < kPieces; ++q) {
                    if (index[q] == kOutside) continue;
                    for (int o = 0; o < 32; ++o) sum[o] += table[q * 16 + ((w[o] >> 4 * q & 15) ^ (index[q] & 15))];
                }
            }
        }
}

}  // namespace BZ_NS
}  // namespace bz
