// 4 positions x 64 outputs, by table look-up: AVX2 has no popcount, but a byte shuffle that looks up 32 times four
// bits. For each half byte of activations there is a table that gives, for four weight bits, the number of
// mismatches: xor and popcount in one instruction. Rows of weights are [4 bytes of the word][16 outputs].
#pragma once

#include "simd.h"

namespace bz {
namespace BZ_NS {

constexpr int kTile = 4;
constexpr int kBatch = 7;  // words whose mismatches a byte can count: 7 * 8 half bytes * 4 <= 255

struct Tables {
    alignas(32) uint8_t of[256][2][16];  // [activation byte][half][four weight bits]
};

constexpr Tables make_tables() {
    Tables t = {};
    for (int byte = 0; byte < 256; ++byte)
        for (int half = 0; half < 2; ++half)
            for (int w = 0; w < 16; ++w) {
                int bits = (half ? byte >> 4 : byte & 15) ^ w, count = 0;
                for (; bits; bits >>= 1) count += bits & 1;
                t.of[byte][half][w] = uint8_t(count);
            }
    return t;
}

static constexpr Tables kTables = make_tables();

// Mismatches of words [begin, end), at most kBatch of them, as bytes. J pairs of sixteens; without the second of the last
// pair its place is filled by the first.
template <int P, int J>
BZ_INLINE void count_batch(__m256i (&sum)[P][J], const uint32_t* a, int64_t step, const int64_t* offsets,
                           const uint8_t* const (&rows)[2 * J], int64_t begin, int64_t end) {
    const __m256i low = _mm256_set1_epi8(15);
    BZ_UNROLL for (int p = 0; p < P; ++p)
        BZ_UNROLL for (int j = 0; j < J; ++j) sum[p][j] = _mm256_setzero_si256();
    for (int64_t k = begin; k < end; ++k) {
        const uint8_t* at = reinterpret_cast<const uint8_t*>(a + offsets[k]);
        BZ_UNROLL for (int i = 0; i < 4; ++i) {
            __m256i first[J], second[J];
            BZ_UNROLL for (int j = 0; j < J; ++j) {
                const int64_t row = k * 64 + i * 16;
                const __m256i w = _mm256_inserti128_si256(
                    _mm256_castsi128_si256(_mm_loadu_si128((const __m128i*)(rows[2 * j] + row))),
                    _mm_loadu_si128((const __m128i*)(rows[2 * j + 1] + row)), 1);
                first[j] = _mm256_and_si256(w, low);
                second[j] = _mm256_and_si256(_mm256_srli_epi16(w, 4), low);
            }
            BZ_UNROLL for (int p = 0; p < P; ++p) {
                const uint8_t(*table)[16] = kTables.of[at[p * step * 4 + i]];
                const __m256i t0 = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i*)table[0]));
                const __m256i t1 = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i*)table[1]));
                BZ_UNROLL for (int j = 0; j < J; ++j) {
                    sum[p][j] = _mm256_add_epi8(sum[p][j], _mm256_shuffle_epi8(t0, first[j]));
                    BZ_KEEP(sum[p][j]);
                    sum[p][j] = _mm256_add_epi8(sum[p][j], _mm256_shuffle_epi8(t1, second[j]));
                    BZ_KEEP(sum[p][j]);
                }
            }
        }
    }
}

template <int J>
BZ_INLINE void rows_of(const uint8_t* (&rows)[2 * J], bool odd, const uint32_t* words, int64_t length) {
    const uint8_t* const bytes = reinterpret_cast<const uint8_t*>(words);
    for (int j = 0; j < 2 * J; ++j) rows[j] = bytes + (odd && j == 2 * J - 1 ? j - 1 : j) * length * 64;
}

template <int P, int J>
static void count_tile(bool odd, const uint32_t* a, int64_t step, const int64_t* offsets, int64_t length,
                       const uint32_t* words, int32_t (*counts)[64]) {
    const uint8_t* rows[2 * J];
    rows_of<J>(rows, odd, words, length);
    for (int p = 0; p < P; ++p) memset(counts[p], 0, sizeof(int32_t) * 32 * J);
    for (int64_t begin = 0; begin < length; begin += kBatch) {
        __m256i sum[P][J];
        count_batch<P, J>(sum, a, step, offsets, rows, begin, begin + kBatch < length ? begin + kBatch : length);
        BZ_FENCE;
        BZ_UNROLL for (int p = 0; p < P; ++p)
            BZ_UNROLL for (int j = 0; j < J; ++j) {
                alignas(32) uint8_t narrow[32];
                _mm256_store_si256((__m256i*)narrow, sum[p][j]);
                BZ_UNROLL for (int q = 0; q < 4; ++q) {
                    __m256i* to = (__m256i*)(counts[p] + 32 * j + 8 * q);
                    const __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(narrow + 8 * q)));
                    _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), wide));
                }
            }
    }
}

// The same for few words, left as bytes.
template <int P, int J>
static void count_few(bool odd, const uint32_t* a, int64_t step, const int64_t* offsets, int64_t length,
                      const uint32_t* words, uint8_t (*counts)[64]) {
    const uint8_t* rows[2 * J];
    rows_of<J>(rows, odd, words, length);
    __m256i sum[P][J];
    count_batch<P, J>(sum, a, step, offsets, rows, 0, length);
    BZ_UNROLL for (int p = 0; p < P; ++p)
        BZ_UNROLL for (int j = 0; j < J; ++j) _mm256_storeu_si256((__m256i*)(counts[p] + 32 * j), sum[p][j]);
}

typedef void (*CountTile)(bool, const uint32_t*, int64_t, const int64_t*, int64_t, const uint32_t*, int32_t (*)[64]);

static const CountTile kCountTiles[kTile][2] = {{count_tile<1, 1>, count_tile<1, 2>},
                                                {count_tile<2, 1>, count_tile<2, 2>},
                                                {count_tile<3, 1>, count_tile<3, 2>},
                                                {count_tile<4, 1>, count_tile<4, 2>}};

BZ_INLINE void count_mismatches(int positions, int sixteens, const uint32_t* a, int64_t step, const int64_t* offsets,
                                int64_t length, const uint32_t* words, int32_t (*counts)[64]) {
    const CountTile tile = kCountTiles[positions - 1][(sixteens - 1) / 2];
    tile(sixteens % 2, a, step, offsets, length, words, counts);
}

typedef void (*CountFew)(bool, const uint32_t*, int64_t, const int64_t*, int64_t, const uint32_t*, uint8_t (*)[64]);

static const CountFew kCountFew[kTile][2] = {{count_few<1, 1>, count_few<1, 2>},
                                             {count_few<2, 1>, count_few<2, 2>},
                                             {count_few<3, 1>, count_few<3, 2>},
                                             {count_few<4, 1>, count_few<4, 2>}};

// Up to kBatch words: an epilogue widens bytes as it reads them.
BZ_INLINE void count_mismatches(int positions, int sixteens, const uint32_t* a, int64_t step, const int64_t* offsets,
                                int64_t length, const uint32_t* words, uint8_t (*counts)[64]) {
    const CountFew tile = kCountFew[positions - 1][(sixteens - 1) / 2];
    tile(sixteens % 2, a, step, offsets, length, words, counts);
}

static double peak(int64_t rounds) {
    __m256i sum[8], w[2], table = _mm256_set1_epi8(3);
    BZ_UNROLL for (int i = 0; i < 8; ++i) sum[i] = _mm256_setzero_si256();
    BZ_UNROLL for (int j = 0; j < 2; ++j) w[j] = _mm256_set1_epi8(char(j));
    for (int64_t r = 0; r < rounds; ++r) {
        BZ_UNROLL for (int i = 0; i < 4; ++i) {
            asm volatile("" : "+x"(table));
            BZ_UNROLL for (int j = 0; j < 2; ++j)
                sum[2 * i + j] = _mm256_add_epi8(sum[2 * i + j], _mm256_shuffle_epi8(table, w[j]));
        }
    }
    BZ_UNROLL for (int i = 0; i < 8; ++i) asm volatile("" : : "x"(sum[i]));
    return double(rounds) * 8 * 128;
}

}  // namespace BZ_NS
}  // namespace bz
