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
    static constexpr int kMost = kAnyNumber;
    const Border& border;
    int64_t y, at;
    const Count* mismatches;  // of position x0
    int64_t x0, step;

    inline __attribute__((always_inline)) Sums<Count> operator()(int64_t x) const {
        return {border.base + border.class_of(y, x) * border.length + at, mismatches + (x - x0) * step};
    }
    // Whether `count` positions from x on have the same taps outside; then `beside` gives the i-th from the first.
    bool alike(int64_t x, int count) const {
        bool same = true;
        for (int i = 1; i < count && !border.uniform; ++i) same = same && border.col[x] == border.col[x + i];
        return same;
    }
    inline __attribute__((always_inline)) Sums<Count> beside(const Sums<Count>& first, int64_t i) const {
        return {first.base, first.mismatches + i * step};
    }
};

}  // namespace BZ_NS
}  // namespace bz
