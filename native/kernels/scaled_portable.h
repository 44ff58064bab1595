#pragma once

#include "scaled_look_up.h"

namespace bz {
namespace BZ_NS {

template <class Entry, class Sum>
static void sum_scaled(int positions, int blocks, const Index* at, int64_t step, const int64_t* offsets, int64_t rows,
                       int64_t, const uint16_t* words, const Entry* tables, Sum (*sums)[128]) {
    look_up(positions, blocks, at, step, offsets, rows, words, tables, sums);
}

}  // namespace BZ_NS
}  // namespace bz
