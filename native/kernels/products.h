// Sums of float products in registers: P positions times S blocks of 16 outputs.
#pragma once

#include "simd.h"

namespace bz {
namespace BZ_NS {

constexpr int kVectors = 16 / kLanes;  // of a block

// sum[p][j] += sum over k < length of x[p * step + k] * weights[k * 16 + ...]; the next block's weights lie `block`
// floats behind the first one's. One chain of multiply-adds per sum.
template <int P, int S>
BZ_INLINE void add_products(Floats (&sum)[P][S * kVectors], const float* x, int64_t step, int64_t length,
                            const float* weights, int64_t block) {
    constexpr int J = S * kVectors;
    for (int64_t k = 0; k < length; ++k) {
        Floats row[J];
        BZ_UNROLL for (int j = 0; j < J; ++j)
            row[j] = load<Floats>(weights + k * 16 + j / kVectors * block + j % kVectors * kLanes);
        BZ_UNROLL for (int p = 0; p < P; ++p) {
            const Floats value = splat(x[p * step + k]);
            BZ_UNROLL for (int j = 0; j < J; ++j) sum[p][j] = multiply_add(value, row[j], sum[p][j]);
        }
    }
}

// The first `count` floats of some vectors, as the type of `to`.
template <class T, int J>
BZ_INLINE void store_first(T* to, const Floats (&values)[J], int count) {
    const int whole = count / kLanes;
    BZ_UNROLL for (int j = 0; j < J; ++j) {
        if (j < whole)
            write(to + j * kLanes, values[j]);
        else if (j == whole && count % kLanes)
            write_part(to + j * kLanes, values[j], count % kLanes);
    }
}

}  // namespace BZ_NS
}  // namespace bz
