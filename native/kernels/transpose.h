// Transposes in tiles that fit into registers.
#pragma once

#include "simd.h"

namespace bz {
namespace BZ_NS {

#if BZ_VEC_BYTES >= 32
constexpr int kTileSide = 8;
static void transpose_tile(const float* x, int64_t from, float* y, int64_t to) {
    __m256 r[8], s[8];
    BZ_UNROLL for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(x + i * from);
    BZ_UNROLL for (int i = 0; i < 4; ++i) {
        s[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        s[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    BZ_UNROLL for (int i = 0; i < 2; ++i) {
        r[4 * i] = _mm256_shuffle_ps(s[4 * i], s[4 * i + 2], 0x44);
        r[4 * i + 1] = _mm256_shuffle_ps(s[4 * i], s[4 * i + 2], 0xee);
        r[4 * i + 2] = _mm256_shuffle_ps(s[4 * i + 1], s[4 * i + 3], 0x44);
        r[4 * i + 3] = _mm256_shuffle_ps(s[4 * i + 1], s[4 * i + 3], 0xee);
    }
    BZ_UNROLL for (int i = 0; i < 4; ++i) {
        _mm256_storeu_ps(y + i * to, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(y + (i + 4) * to, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}
#else
constexpr int kTileSide = 4;
static void transpose_tile(const float* x, int64_t from, float* y, int64_t to) {
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) y[i * to + j] = x[j * from + i];
}
#endif

// Few channels next to each other: compilers make vectors of this.
template <int W>
static void interleave(const float* __restrict x, int64_t from, float* __restrict y, int64_t high) {
    for (int64_t a = 0; a < high; ++a)
        BZ_UNROLL for (int b = 0; b < W; ++b) y[a * W + b] = x[a + b * from];
}

template <int H>
static void deinterleave(const float* __restrict x, float* __restrict y, int64_t to, int64_t wide) {
    for (int64_t b = 0; b < wide; ++b)
        BZ_UNROLL for (int a = 0; a < H; ++a) y[a * to + b] = x[a + b * H];
}

// y[a * to + b] = x[a + b * from], a < high, b < wide
static void transpose(const float* x, int64_t from, float* y, int64_t to, int64_t high, int64_t wide) {
    if (to == wide && wide == 2) return interleave<2>(x, from, y, high);
    if (to == wide && wide == 3) return interleave<3>(x, from, y, high);
    if (from == high && high == 2) return deinterleave<2>(x, y, to, wide);
    if (from == high && high == 3) return deinterleave<3>(x, y, to, wide);
    const int64_t tall = high / kTileSide * kTileSide, broad = wide / kTileSide * kTileSide;
    for (int64_t a = 0; a < tall; a += kTileSide) {
        for (int64_t b = 0; b < broad; b += kTileSide) transpose_tile(x + a + b * from, from, y + a * to + b, to);
        for (int64_t i = a; i < a + kTileSide; ++i)
            for (int64_t b = broad; b < wide; ++b) y[i * to + b] = x[i + b * from];
    }
    for (int64_t b = 0; b < wide; ++b)
        for (int64_t a = tall; a < high; ++a) y[a * to + b] = x[a + b * from];
}

}  // namespace BZ_NS
}  // namespace bz
