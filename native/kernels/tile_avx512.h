// 6 positions x 64 outputs: 24 of the 32 registers count, 4 hold weights.
#pragma once

#include "simd.h"

namespace bz {
namespace BZ_NS {

constexpr int kTile = 6;

template <int P, int J>
static void count_tile(const uint32_t* a, int64_t step, const int64_t* offsets, int64_t length, const uint32_t* words,
                       int32_t (*counts)[64]) {
    __m512i sum[P][J];
    BZ_UNROLL for (int p = 0; p < P; ++p)
        BZ_UNROLL for (int j = 0; j < J; ++j) sum[p][j] = _mm512_setzero_si512();
    const uint32_t* w = words;
    for (int64_t k = 0; k < length; ++k, w += 16) {
        const uint32_t* at = a + offsets[k];
        __m512i weights[J];
        BZ_UNROLL for (int j = 0; j < J; ++j) weights[j] = _mm512_loadu_si512(w + j * length * 16);
        BZ_UNROLL for (int p = 0; p < P; ++p) {
            const __m512i x = _mm512_set1_epi32(int(at[p * step]));
            BZ_UNROLL for (int j = 0; j < J; ++j)
                sum[p][j] = _mm512_add_epi32(sum[p][j], _mm512_popcnt_epi32(_mm512_xor_si512(x, weights[j])));
        }
    }
    BZ_UNROLL for (int p = 0; p < P; ++p)
        BZ_UNROLL for (int j = 0; j < J; ++j) _mm512_storeu_si512(counts[p] + 16 * j, sum[p][j]);
}

typedef void (*CountTile)(const uint32_t*, int64_t, const int64_t*, int64_t, const uint32_t*, int32_t (*)[64]);

#define BZ_ROW(P) {count_tile<P, 1>, count_tile<P, 2>, count_tile<P, 3>, count_tile<P, 4>}
static const CountTile kCountTiles[kTile][4] = {BZ_ROW(1), BZ_ROW(2), BZ_ROW(3), BZ_ROW(4), BZ_ROW(5), BZ_ROW(6)};
#undef BZ_ROW

BZ_INLINE void count_mismatches(int positions, int sixteens, const uint32_t* a, int64_t step, const int64_t* offsets,
                                int64_t length, const uint32_t* words, int32_t (*counts)[64]) {
    kCountTiles[positions - 1][sixteens - 1](a, step, offsets, length, words, counts);
}

// Rows of sums in registers, with operands that the compiler cannot know.
static double peak(int64_t rounds) {
    __m512i sum[5][4], x[5], w[4];
    BZ_UNROLL for (int p = 0; p < 5; ++p) {
        x[p] = _mm512_set1_epi32(p * 0x1234567);
        BZ_UNROLL for (int j = 0; j < 4; ++j) sum[p][j] = _mm512_setzero_si512();
    }
    BZ_UNROLL for (int j = 0; j < 4; ++j) w[j] = _mm512_set1_epi32(j * 0x7654321);
    for (int64_t r = 0; r < rounds; ++r) {
        BZ_UNROLL for (int j = 0; j < 4; ++j) asm volatile("" : "+" BZ_REGISTER(w[j]));
        BZ_UNROLL for (int p = 0; p < 5; ++p)
            BZ_UNROLL for (int j = 0; j < 4; ++j)
                sum[p][j] = _mm512_add_epi32(sum[p][j], _mm512_popcnt_epi32(_mm512_xor_si512(x[p], w[j])));
    }
    BZ_UNROLL for (int p = 0; p < 5; ++p)
        BZ_UNROLL for (int j = 0; j < 4; ++j) asm volatile("" : : BZ_REGISTER(sum[p][j]));
    return double(rounds) * 5 * 4 * 512;
}

}  // namespace BZ_NS
}  // namespace bz
