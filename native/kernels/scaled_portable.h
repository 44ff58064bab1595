// Sums of entries, one output after the other.
#pragma once

#include "scaled_look_up.h"

namespace bz {
namespace BZ_NS {

// The indices of a position: of a group's words, whose first piece is number `first`, and zeros up to `all`.
BZ_INLINE void put_indices(Index* to, int64_t first, const uint32_t* words, int channels, int64_t all) {
    const int64_t pieces = bz_ceil_div(channels, kPiece), last_word = (channels - 1) / 32;
    for (int64_t i = 0; i < pieces; ++i) {
        const int64_t bit = i * kPiece, word = bit / 32;
        uint64_t pair = words[word];
        if (word < last_word) pair |= uint64_t(words[word + 1]) << 32;
        to[i] = Index(1 + (first + i) * 32 + int64_t(pair >> bit % 32 & 31));
    }
    for (int64_t i = pieces; i < all; ++i) to[i] = kOutside;
}

template <class Entry>
static void put_table(Entry* tables, int64_t piece, const Entry* by_match) {
    for (int a = 0; a < 32; ++a)
        for (int w = 0; w < 32; ++w) tables[(1 + piece * 32 + a) * 32 + w] = by_match[~(a ^ w) & 31];
}

// sums[p][o] for o < 32 * blocks: over all entries, table[index][weights' five bits].
template <class Entry, class Sum>
static void look_up(int positions, int blocks, const Index* at, int64_t step, const int64_t* offsets, int64_t entries,
                    const uint16_t* words, const Entry* tables, Sum (*sums)[128]) {
    for (int p = 0; p < positions; ++p)
        for (int b = 0; b < blocks; ++b) {
            Sum sum[32] = {};
            const uint16_t* w = words + b * entries * 32;
            for (int64_t k = 0; k < entries; ++k, w += 32) {
                const Index* index = at + p * step + offsets[k];
                const Entry *t0 = tables + index[0] * 32, *t1 = tables + index[1] * 32, *t2 = tables + index[2] * 32;
                for (int o = 0; o < 32; ++o)
                    sum[o] = sum[o] + Sum(t0[w[o] & 31]) + Sum(t1[w[o] >> 5 & 31]) + Sum(t2[w[o] >> 10 & 31]);
            }
            memcpy(sums[p] + 32 * b, sum, sizeof sum);
        }
}

template <class Entry, class Sum>
static void sum_scaled(int positions, int blocks, const Index* at, int64_t step, const int64_t* offsets, int64_t rows,
                       int64_t, const uint16_t* words, const Entry* tables, Sum (*sums)[128]) {
    look_up(positions, blocks, at, step, offsets, rows, words, tables, sums);
}

}  // namespace BZ_NS
}  // namespace bz
