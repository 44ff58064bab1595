// Tables of five channels for each of the 32 values of their activation bits, entries by the weights' five bits; weights
// have three pieces in 16 bits.
#pragma once

#include "simd.h"

namespace bz {
namespace BZ_NS {

constexpr int kPiece = 5, kPieces = 3, kScaledTile = 6;
constexpr int kScaledBatch = 8;   // rows of weights whose entries a 16-bit sum can hold
constexpr int kRowWords = 32;     // 16-bit words of a row of weights: 32 outputs
constexpr int64_t kMostPieces = 65535 / 32;

typedef uint16_t Index;  // the number of a table
constexpr Index kOutside = 0;

static int64_t table_entries(int64_t pieces) { return (1 + pieces * 32) * 32; }

// Indices of a group have the numbers of its tables.
template <class Entry>
BZ_INLINE const Entry* tables_of_group(const Entry* tables, int64_t) {
    return tables;
}

}  // namespace BZ_NS
}  // namespace bz
