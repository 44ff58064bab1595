// From the mismatches that kernels count to sums of +-1 products.
#pragma once

#include "walk.h"

namespace bz {
namespace BZ_NS {

BZ_INLINE Ints widen(const int32_t* p) { return load<Ints>(p); }
BZ_INLINE Ints widen(const uint8_t* p) {
#if BZ_VEC_BYTES == 64
    return (Ints)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p));
#elif BZ_VEC_BYTES == 32
    return (Ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p));
#else
    return Ints{p[0], p[1], p[2], p[3]};
#endif
}

// Sums as floats: base - 2 * mismatches.
template <class Count>
struct Sums {
    const int32_t* base;
    const Count* mismatches;

    inline __attribute__((always_inline)) Floats operator()(int j) const {
        return __builtin_convertvector(load<Ints>(base + j) - 2 * widen(mismatches + j), Floats);
    }
};

// The sums of neighbouring positions of a line.
template <class Count>
struct SumsOfLine {
    const Border& border;
    int64_t y, at;
    const Count* mismatches;  // of position x0
    int64_t x0, step;

    inline __attribute__((always_inline)) Sums<Count> operator()(int64_t x) const {
        return {border.base + border.class_of(y, x) * border.length + at, mismatches + (x - x0) * step};
    }
};

}  // namespace BZ_NS
}  // namespace bz
