// Sums of table entries, one output after the other: without AVX-512.
#pragma once

#include "simd.h"

namespace bz {
namespace BZ_NS {

constexpr int kScaledTile = 6;
constexpr int kScaledBatch = 10;  // triples of entries that a 16-bit sum can hold

// sums[p][o] for o < 32 * blocks: over all entries, table[index][weights' five bits], three pieces per word.
template <class Entry, class Sum>
static void look_up(int positions, int blocks, const uint16_t* at, int64_t step, const int64_t* offsets,
                    int64_t entries, const uint16_t* words, const Entry* tables, Sum (*sums)[128]) {
    for (int p = 0; p < positions; ++p)
        for (int b = 0; b < blocks; ++b) {
            Sum sum[32] = {};
            const uint16_t* w = words + b * entries * 32;
            for (int64_t k = 0; k < entries; ++k, w += 32) {
                const uint16_t* index = at + p * step + offsets[k];
                const Entry *t0 = tables + index[0] * 32, *t1 = tables + index[1] * 32, *t2 = tables + index[2] * 32;
                for (int o = 0; o < 32; ++o)
                    sum[o] = sum[o] + Sum(t0[w[o] & 31]) + Sum(t1[w[o] >> 5 & 31]) + Sum(t2[w[o] >> 10 & 31]);
            }
            memcpy(sums[p] + 32 * b, sum, sizeof sum);
        }
}

}  // namespace BZ_NS
}  // namespace bz
