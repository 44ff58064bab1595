#pragma once

#include "scaled_look_up.h"

namespace bz {
namespace BZ_NS {

static void sum_scaled(int positions, int blocks, const uint16_t* at, int64_t step, const int64_t* offsets,
                       int64_t entries, const uint16_t* words, const int16_t* tables, int32_t (*sums)[128]) {
    look_up(positions, blocks, at, step, offsets, entries, words, tables, sums);
}

static void sum_scaled(int positions, int blocks, const uint16_t* at, int64_t step, const int64_t* offsets,
                       int64_t entries, const uint16_t* words, const float* tables, float (*sums)[128]) {
    look_up(positions, blocks, at, step, offsets, entries, words, tables, sums);
}

}  // namespace BZ_NS
}  // namespace bz
