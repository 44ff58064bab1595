// Look-ups in registers: a table of 32 16-bit entries is one, vpermw picks 32 of them by the lowest five bits of each
// index; a table of 32 floats is two, vpermi2ps picks 16.
#pragma once

#include "scaled_look_up.h"

namespace bz {
namespace BZ_NS {

template <int P, int J>
static void scaled_tile(const Index* at, int64_t step, const int64_t* offsets, int64_t entries,
                        const uint16_t* words, const int16_t* tables, int32_t (*sums)[128]) {
    for (int p = 0; p < P; ++p) memset(sums[p], 0, sizeof(int32_t) * 32 * J);
    for (int64_t begin = 0; begin < entries; begin += kScaledBatch) {
        const int64_t end = begin + kScaledBatch < entries ? begin + kScaledBatch : entries;
        __m512i sum[P][J];
        BZ_UNROLL for (int p = 0; p < P; ++p)
            BZ_UNROLL for (int j = 0; j < J; ++j) sum[p][j] = _mm512_setzero_si512();
        for (int64_t k = begin; k < end; ++k) {
            const Index* index = at + offsets[k];
            __m512i w[J];
            BZ_UNROLL for (int j = 0; j < J; ++j) w[j] = _mm512_loadu_si512(words + (j * entries + k) * 32);
            BZ_UNROLL for (int q = 0; q < 3; ++q) {
                BZ_UNROLL for (int p = 0; p < P; ++p) {
                    const __m512i table = _mm512_load_si512(tables + int64_t(index[p * step + q]) * 32);
                    BZ_UNROLL for (int j = 0; j < J; ++j) {
                        sum[p][j] = _mm512_add_epi16(sum[p][j], _mm512_permutexvar_epi16(w[j], table));
                        BZ_KEEP(sum[p][j]);
                    }
                }
                if (q < 2) BZ_UNROLL for (int j = 0; j < J; ++j) w[j] = _mm512_srli_epi16(w[j], 5);
            }
        }
        BZ_FENCE;
        BZ_UNROLL for (int p = 0; p < P; ++p)
            BZ_UNROLL for (int j = 0; j < J; ++j) {
                int32_t* to = sums[p] + 32 * j;
                const __m512i low = _mm512_cvtepi16_epi32(_mm512_castsi512_si256(sum[p][j]));
                const __m512i high = _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(sum[p][j], 1));
                _mm512_storeu_si512(to, _mm512_add_epi32(_mm512_loadu_si512(to), low));
                _mm512_storeu_si512(to + 16, _mm512_add_epi32(_mm512_loadu_si512(to + 16), high));
            }
    }
}

typedef void (*ScaledTile)(const Index*, int64_t, const int64_t*, int64_t, const uint16_t*, const int16_t*,
                           int32_t (*)[128]);

#define BZ_ROW(P) {scaled_tile<P, 1>, scaled_tile<P, 2>, scaled_tile<P, 3>, scaled_tile<P, 4>}
static const ScaledTile kScaledTiles[kScaledTile][4] = {BZ_ROW(1), BZ_ROW(2), BZ_ROW(3),
                                                        BZ_ROW(4), BZ_ROW(5), BZ_ROW(6)};
#undef BZ_ROW

static void sum_scaled(int positions, int blocks, const Index* at, int64_t step, const int64_t* offsets,
                       int64_t entries, int64_t, const uint16_t* words, const int16_t* tables,
                       int32_t (*sums)[128]) {
    kScaledTiles[positions - 1][blocks - 1](at, step, offsets, entries, words, tables, sums);
}

// J: sixteens of outputs.
template <int P, int J>
static void exact_tile(const Index* at, int64_t step, const int64_t* offsets, int64_t entries, const uint16_t* words,
                       const float* tables, float (*sums)[128]) {
    __m512 sum[P][J];
    BZ_UNROLL for (int p = 0; p < P; ++p)
        BZ_UNROLL for (int j = 0; j < J; ++j) sum[p][j] = _mm512_setzero_ps();
    for (int64_t k = 0; k < entries; ++k) {
        const Index* index = at + offsets[k];
        __m512i w[J];
        BZ_UNROLL for (int j = 0; j < J; ++j) {
            const uint16_t* of_block = words + (j / 2 * entries + k) * 32 + j % 2 * 16;
            w[j] = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)of_block));
        }
        BZ_UNROLL for (int q = 0; q < 3; ++q) {
            BZ_UNROLL for (int p = 0; p < P; ++p) {
                const float* table = tables + int64_t(index[p * step + q]) * 32;
                const __m512 low = _mm512_load_ps(table), high = _mm512_load_ps(table + 16);
                BZ_UNROLL for (int j = 0; j < J; ++j) {
                    sum[p][j] = _mm512_add_ps(sum[p][j], _mm512_permutex2var_ps(low, w[j], high));
                    BZ_KEEP(sum[p][j]);
                }
            }
            if (q < 2) BZ_UNROLL for (int j = 0; j < J; ++j) w[j] = _mm512_srli_epi32(w[j], 5);
        }
    }
    BZ_UNROLL for (int p = 0; p < P; ++p)
        BZ_UNROLL for (int j = 0; j < J; ++j) _mm512_storeu_ps(sums[p] + 16 * j, sum[p][j]);
}

typedef void (*ExactTile)(const Index*, int64_t, const int64_t*, int64_t, const uint16_t*, const float*,
                          float (*)[128]);

#define BZ_ROW(P) {exact_tile<P, 2>, exact_tile<P, 4>}
static const ExactTile kExactTiles[kScaledTile][2] = {BZ_ROW(1), BZ_ROW(2), BZ_ROW(3), BZ_ROW(4), BZ_ROW(5), BZ_ROW(6)};
#undef BZ_ROW

static void sum_scaled(int positions, int blocks, const Index* at, int64_t step, const int64_t* offsets,
                       int64_t entries, int64_t, const uint16_t* words, const float* tables, float (*sums)[128]) {
    for (int b = 0; b < blocks; b += 2) {
        const int some = blocks - b < 2 ? 1 : 2;
        kExactTiles[positions - 1][some - 1](at, step, offsets, entries, words + int64_t(b) * entries * 32, tables,
                                             reinterpret_cast<float(*)[128]>(sums[0] + 32 * b));
    }
}

}  // namespace BZ_NS
}  // namespace bz
