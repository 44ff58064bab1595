// A float 1x1 convolution of values that an epilogue has just left in the cache.
#pragma once

#include "epilogue.h"
#include "products.h"
#include "walk.h"

namespace bz {
namespace BZ_NS {

// Positions and blocks of 16 outputs whose sums stay in registers.
#if BZ_VEC_BYTES == 64
constexpr int kTailPositions = 5, kTailSixteens = 5;
#elif BZ_VEC_BYTES == 32
constexpr int kTailPositions = 5, kTailSixteens = 1;
#else
constexpr int kTailPositions = 2, kTailSixteens = 1;
#endif

// `count` outputs, of the last block of 16 perhaps a part, at `to` + p * to_step.
template <int P, int S>
static void tail_tile(const float* x, int64_t step, int64_t length, const float* weights, const float* add, float* to,
                      int64_t to_step, int count) {
    constexpr int J = S * kVectors;
    Floats sum[P][J];
    BZ_UNROLL for (int j = 0; j < J; ++j) {
        const Floats first = add ? load<Floats>(add + j * kLanes) : Floats{};
        BZ_UNROLL for (int p = 0; p < P; ++p) sum[p][j] = first;
    }
    add_products<P, S>(sum, x, step, length, weights, length * 16);
    BZ_UNROLL for (int p = 0; p < P; ++p) store_first(to + p * to_step, sum[p], count);
}

typedef void (*TailTile)(const float*, int64_t, int64_t, const float*, const float*, float*, int64_t, int);

#if BZ_VEC_BYTES == 64
#define BZ_ROW(P) {tail_tile<P, 1>, tail_tile<P, 2>, tail_tile<P, 3>, tail_tile<P, 4>, tail_tile<P, 5>}
static const TailTile kTailTiles[kTailPositions][kTailSixteens] = {BZ_ROW(1), BZ_ROW(2), BZ_ROW(3), BZ_ROW(4),
                                                                   BZ_ROW(5)};
#undef BZ_ROW
#elif BZ_VEC_BYTES == 32
static const TailTile kTailTiles[kTailPositions][kTailSixteens] = {
    {tail_tile<1, 1>}, {tail_tile<2, 1>}, {tail_tile<3, 1>}, {tail_tile<4, 1>}, {tail_tile<5, 1>}};
#else
static const TailTile kTailTiles[kTailPositions][kTailSixteens] = {{tail_tile<1, 1>}, {tail_tile<2, 1>}};
#endif

// values: of position piece.begin, `length` of them, `step` floats from one position to the next.
static void run_tail(const bz_tail& t, int64_t length, const float* values, int64_t step, const Piece& piece) {
    const int sixteens = bz_ceil_div(t.channels, 16), blocks = bz_ceil_div(sixteens, kTailSixteens);
    for (int64_t x = piece.begin; x < piece.end; x += kTailPositions) {
        const int positions = int(piece.end - x < kTailPositions ? piece.end - x : kTailPositions);
        float* const to = at(t.out, piece.image, piece.line, x);
        for (int b = 0; b < blocks; ++b) {  // of equal size, as far as possible
            const int begin = sixteens * b / blocks, end = sixteens * (b + 1) / blocks;
            const int count = (t.channels < end * 16 ? t.channels : end * 16) - begin * 16;
            kTailTiles[positions - 1][end - begin - 1](values + (x - piece.begin) * step, step, length,
                                                       t.weights + begin * length * 16,
                                                       t.add ? t.add + begin * 16 : nullptr, to + begin * 16,
                                                       t.out.pixel, count);
        }
    }
}

}  // namespace BZ_NS
}  // namespace bz
