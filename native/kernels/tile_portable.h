// One position x 16 outputs in four vectors of 16 bytes: xor, popcount per byte, add; bytes are widened in time.
#pragma once

#include "simd.h"

namespace bz {
namespace BZ_NS {

constexpr int kTile = 4;
constexpr int kBatch = 31;  // words whose mismatches a byte can count: 31 * 8 <= 255

typedef uint8_t Bytes __attribute__((vector_size(16)));

BZ_INLINE Words popcount_bytes(Words x) {
#if defined(__aarch64__)
    return (Words)vcntq_u8((uint8x16_t)x);
#else
    x = x - ((x >> 1) & 0x55555555u);
    x = (x & 0x33333333u) + ((x >> 2) & 0x33333333u);
    return (x + (x >> 4)) & 0x0f0f0f0fu;
#endif
}

BZ_INLINE Words sum_bytes(Words x) {
    const Words pairs = (x & 0x00ff00ffu) + ((x >> 8) & 0x00ff00ffu);
    return (pairs & 0xffffu) + (pairs >> 16);
}

static void count_sixteen(const uint32_t* a, const int64_t* offsets, int64_t length, const uint32_t* w,
                          int32_t* counts) {
    Words total[4] = {};
    for (int64_t begin = 0; begin < length; begin += kBatch) {
        const int64_t end = begin + kBatch < length ? begin + kBatch : length;
        Bytes sum[4] = {};
        for (int64_t k = begin; k < end; ++k) {
            const Words x = splat_word(a[offsets[k]]);
            BZ_UNROLL for (int q = 0; q < 4; ++q)
                sum[q] += (Bytes)popcount_bytes(x ^ load<Words>(w + k * 16 + 4 * q));
        }
        BZ_UNROLL for (int q = 0; q < 4; ++q) total[q] += sum_bytes((Words)sum[q]);
    }
    BZ_UNROLL for (int q = 0; q < 4; ++q) store(counts + 4 * q, total[q]);
}

BZ_INLINE void count_mismatches(int positions, int sixteens, const uint32_t* a, int64_t step, const int64_t* offsets,
                                int64_t length, const uint32_t* words, int32_t (*counts)[64]) {
    for (int j = 0; j < sixteens; ++j)
        for (int p = 0; p < positions; ++p)
            count_sixteen(a + p * step, offsets, length, words + j * length * 16, counts[p] + 16 * j);
}

static double peak(int64_t rounds) {
    Bytes sum[4] = {};
    Words x = splat_word(0x1234567u), w = splat_word(0x7654321u);
    for (int64_t r = 0; r < rounds; ++r)
        BZ_UNROLL for (int q = 0; q < 4; ++q) {
#if defined(__aarch64__)
            asm volatile("" : "+w"(x));
#elif defined(__x86_64__)
            asm volatile("" : "+x"(x));
#else
            asm volatile("" : "+m"(x));
#endif
            sum[q] += (Bytes)popcount_bytes(x ^ w);
        }
    uint8_t last = 0;
    for (int q = 0; q < 4; ++q) last = uint8_t(last + sum[q][0]);
    volatile uint8_t kept = last;
    (void)kept;
    return double(rounds) * 4 * 128;
}

}  // namespace BZ_NS
}  // namespace bz
