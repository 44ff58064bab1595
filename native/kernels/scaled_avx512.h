// Look-ups in registers: a table of 32 16-bit entries is one, vpermw picks 32 of them by the lowest five bits of each
// index; a table of 32 floats is two, vpermi2ps picks 16.
#pragma once

#include "scaled_look_up.h"

namespace bz {
namespace BZ_NS {

BZ_INLINE __mmask8 first_of(int64_t count) { return __mmask8(count < 8 ? (1 << count) - 1 : 255); }

// The indices of a position: eight pieces are five bytes. Bits past a group's channels may be anything: their scales
// are 0, so that all entries they choose between are the same. The words after a plane may be read.
BZ_INLINE void put_indices(Index* to, int64_t first, const uint32_t* plane, int channels, int64_t all) {
    const int64_t pieces = bz_ceil_div(channels, kPiece);
    const __m512i shifts = _mm512_setr_epi64(0, 5, 10, 15, 20, 25, 30, 35), bits = _mm512_set1_epi64(31);
    const __m512i places = _mm512_setr_epi64(0, 32, 64, 96, 128, 160, 192, 224);
    const uint8_t* from = reinterpret_cast<const uint8_t*>(plane);
    int64_t number = 1 + first * 32, i = 0;
    for (; i < pieces; i += 8, from += 5, number += 256) {
        int64_t eight;
        memcpy(&eight, from, sizeof eight);
        const __m512i five = _mm512_and_si512(_mm512_srlv_epi64(_mm512_set1_epi64(eight), shifts), bits);
        const __m512i index = _mm512_add_epi64(five, _mm512_add_epi64(_mm512_set1_epi64(number), places));
        const __m128i words = _mm512_maskz_cvtepi64_epi16(first_of(pieces - i), index);
        if (i + 8 <= all)
            _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), words);
        else  // not by the conversion: its masked store is slow
            _mm_mask_storeu_epi16(to + i, first_of(all - i), words);
    }
    for (; i < all; ++i) to[i] = kOutside;
}

alignas(64) static const int16_t kMatchesOfNone[32] = {31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16,
                                                      15, 14, 13, 12, 11, 10, 9,  8,  7,  6,  5,  4,  3,  2,  1,  0};

// Entry w of the table for activations a is that of the channels where a and w match, ~(a ^ w).
static void put_table(int16_t* tables, int64_t piece, const int16_t* by_match) {
    const __m512i entries = _mm512_loadu_si512(by_match), matches = _mm512_load_si512(kMatchesOfNone);
    for (int a = 0; a < 32; ++a)
        _mm512_store_si512(tables + (1 + piece * 32 + a) * 32,
                           _mm512_permutexvar_epi16(_mm512_xor_si512(matches, _mm512_set1_epi16(int16_t(a))), entries));
}

static void put_table(float* tables, int64_t piece, const float* by_match) {
    const __m512 low = _mm512_loadu_ps(by_match), high = _mm512_loadu_ps(by_match + 16);
    const __m512i matches = _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i*)kMatchesOfNone));
    for (int a = 0; a < 32; ++a) {
        const __m512i first = _mm512_xor_si512(matches, _mm512_set1_epi32(a));  // weights 0 to 15
        const __m512i second = _mm512_xor_si512(first, _mm512_set1_epi32(16));
        float* const table = tables + (1 + piece * 32 + a) * 32;
        _mm512_store_ps(table, _mm512_permutex2var_ps(low, first, high));
        _mm512_store_ps(table + 16, _mm512_permutex2var_ps(low, second, high));
    }
}

// An addition whose result stays in the register of its first operand. Without this, GCC gives each partial sum a new
// register, runs out of registers and stores sums to memory in the inner loop.
BZ_INLINE void add_in_place(__m512i& sum, __m512i words) {
#if defined(BZ_EMULATE_AVX512)
    sum = _mm512_add_epi16(sum, words);
#else
    asm volatile("vpaddw %1, %0, %0" : "+v"(sum) : "v"(words));
#endif
}

BZ_INLINE void add_in_place(__m512& sum, __m512 floats) {
#if defined(BZ_EMULATE_AVX512)
    sum = _mm512_add_ps(sum, floats);
#else
    asm volatile("vaddps %1, %0, %0" : "+v"(sum) : "v"(floats));
#endif
}

// Where the indices of a tile's positions begin, in registers of their own: GCC otherwise keeps multiples of the step,
// more than there are, and moves them from vector registers before each look-up.
template <int P>
BZ_INLINE void positions_of(const Index* (&of)[P], const Index* at, int64_t step) {
    BZ_UNROLL for (int p = 0; p < P; ++p) {
        of[p] = at + p * step;
        asm("" : "+r"(of[p]));
    }
}

template <int P, int J>
static void scaled_tile(const Index* at, int64_t step, const int64_t* offsets, int64_t entries,
                        const uint16_t* words, const int16_t* tables, int32_t (*sums)[128]) {
    const __m512i eleven_bits = _mm512_set1_epi16(1 << 11);
    const Index* of[P];
    positions_of<P>(of, at, step);
    int64_t begin = 0;
    do {  // once where there are no taps, too
        const int64_t end = begin + kScaledBatch < entries ? begin + kScaledBatch : entries;
        __m512i sum[P][J];
        BZ_UNROLL for (int p = 0; p < P; ++p)
            BZ_UNROLL for (int j = 0; j < J; ++j) sum[p][j] = _mm512_setzero_si512();
        for (int64_t k = begin; k < end; ++k) {
            const int64_t offset = offsets[k];
            __m512i w[J];
            BZ_UNROLL for (int j = 0; j < J; ++j) w[j] = _mm512_loadu_si512(words + (j * entries + k) * 32);
            BZ_UNROLL for (int q = 0; q < 3; ++q) {
                BZ_UNROLL for (int p = 0; p < P; ++p) {
                    const __m512i table = _mm512_load_si512(tables + int64_t(of[p][offset + q]) * 32);
                    BZ_UNROLL for (int j = 0; j < J; ++j) {
                        add_in_place(sum[p][j], _mm512_permutexvar_epi16(w[j], table));
                    }
                }
                // a shift to the right by five bits; shifts would take the port of the look-ups
                if (q < 2) BZ_UNROLL for (int j = 0; j < J; ++j) w[j] = _mm512_mulhi_epu16(w[j], eleven_bits);
            }
        }
        BZ_FENCE;
        BZ_UNROLL for (int p = 0; p < P; ++p)
            BZ_UNROLL for (int j = 0; j < J; ++j) {
                int32_t* to = sums[p] + 32 * j;
                const __m512i low = _mm512_cvtepi16_epi32(_mm512_castsi512_si256(sum[p][j]));
                const __m512i high = _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(sum[p][j], 1));
                _mm512_storeu_si512(to, begin ? _mm512_add_epi32(_mm512_loadu_si512(to), low) : low);
                _mm512_storeu_si512(to + 16, begin ? _mm512_add_epi32(_mm512_loadu_si512(to + 16), high) : high);
            }
        begin += kScaledBatch;
    } while (begin < entries);
}

typedef void (*ScaledTile)(const Index*, int64_t, const int64_t*, int64_t, const uint16_t*, const int16_t*,
                           int32_t (*)[128]);

#define BZ_ROW(P) {scaled_tile<P, 1>, scaled_tile<P, 2>, scaled_tile<P, 3>, scaled_tile<P, 4>}
static const ScaledTile kScaledTiles[kScaledTile][4] = {BZ_ROW(1), BZ_ROW(2), BZ_ROW(3),
                                                        BZ_ROW(4), BZ_ROW(5), BZ_ROW(6)};
#undef BZ_ROW

static void sum_scaled(int positions, int blocks, const Index* at, int64_t step, const int64_t* offsets,
                       int64_t entries, int64_t, const uint16_t* words, const int16_t* tables,
                       int32_t (*sums)[128]) {
    kScaledTiles[positions - 1][blocks - 1](at, step, offsets, entries, words, tables, sums);
}

// J: sixteens of outputs.
template <int P, int J>
static void exact_tile(const Index* at, int64_t step, const int64_t* offsets, int64_t entries, const uint16_t* words,
                       const float* tables, float (*sums)[128]) {
    __m512 sum[P][J];
    BZ_UNROLL for (int p = 0; p < P; ++p)
        BZ_UNROLL for (int j = 0; j < J; ++j) sum[p][j] = _mm512_setzero_ps();
    const Index* of[P];
    positions_of<P>(of, at, step);
    for (int64_t k = 0; k < entries; ++k) {
        const int64_t offset = offsets[k];
        __m512i w[J];
        BZ_UNROLL for (int j = 0; j < J; ++j) {
            const uint16_t* of_block = words + (j / 2 * entries + k) * 32 + j % 2 * 16;
            w[j] = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)of_block));
        }
        BZ_UNROLL for (int q = 0; q < 3; ++q) {
            BZ_UNROLL for (int p = 0; p < P; ++p) {
                const float* table = tables + int64_t(of[p][offset + q]) * 32;
                const __m512 low = _mm512_load_ps(table), high = _mm512_load_ps(table + 16);
                BZ_UNROLL for (int j = 0; j < J; ++j) {
                    add_in_place(sum[p][j], _mm512_permutex2var_ps(low, w[j], high));
                }
            }
            if (q < 2) BZ_UNROLL for (int j = 0; j < J; ++j) w[j] = _mm512_srli_epi32(w[j], 5);
        }
    }
    BZ_UNROLL for (int p = 0; p < P; ++p)
        BZ_UNROLL for (int j = 0; j < J; ++j) _mm512_storeu_ps(sums[p] + 16 * j, sum[p][j]);
}

typedef void (*ExactTile)(const Index*, int64_t, const int64_t*, int64_t, const uint16_t*, const float*,
                          float (*)[128]);

#define BZ_ROW(P) {exact_tile<P, 2>, exact_tile<P, 4>}
static const ExactTile kExactTiles[kScaledTile][2] = {BZ_ROW(1), BZ_ROW(2), BZ_ROW(3), BZ_ROW(4), BZ_ROW(5), BZ_ROW(6)};
#undef BZ_ROW

static void sum_scaled(int positions, int blocks, const Index* at, int64_t step, const int64_t* offsets,
                       int64_t entries, int64_t, const uint16_t* words, const float* tables, float (*sums)[128]) {
    for (int b = 0; b < blocks; b += 2) {
        const int some = blocks - b < 2 ? 1 : 2;
        kExactTiles[positions - 1][some - 1](at, step, offsets, entries, words + int64_t(b) * entries * 32, tables,
                                             reinterpret_cast<float(*)[128]>(sums[0] + 32 * b));
    }
}

}  // namespace BZ_NS
}  // namespace bz
