// Float linear layers: tiles of rows times outputs in registers, one chain of multiply-adds per output.
//
// Weights are read where their owner keeps them, [outputs][inputs], who may change them between two calls: each piece is
// transposed into the first cache, which hides behind the reading of memory. Copies in bfloat16 lie in the order in which
// they are read, and are widened there. Sums wait in the result between two pieces of the inputs, so chains are the same
// as in one piece.
#pragma once

#include "ops.h"
#include "products.h"
#include "runs.h"
#include "transpose.h"

namespace bz {
namespace BZ_NS {

#if BZ_VEC_BYTES == 64
constexpr int kLinearRows = 6, kLinearSixteens = 4;
#elif BZ_VEC_BYTES == 32
constexpr int kLinearRows = 6, kLinearSixteens = 4;  // of a single row; of more than two one
#else
constexpr int kLinearRows = 2, kLinearSixteens = 1;
#endif
constexpr int64_t kLinearBlock = 120, kLinearPiece = 128;  // rows, inputs

BZ_INLINE int sixteens_of(int64_t rows) {
    if (BZ_VEC_BYTES != 32) return kLinearSixteens;
    return rows == 1 ? 4 : rows == 2 ? 2 : 1;
}

struct LinearPart {
    const bz_linear_step& s;
    int64_t row, rows, first, inputs;  // inputs [first, first + inputs)
    bool begins, ends;                 // with the first and the last input
    float* weights;                    // scratch: blocks of 16 outputs, [inputs][16] each
};

template <int J>
BZ_INLINE void load_first(Floats (&values)[J], const float* from, int count) {
    BZ_UNROLL for (int j = 0; j < J; ++j) {
        const int some = count - j * kLanes;
        values[j] = some >= kLanes ? load<Floats>(from + j * kLanes) : some > 0 ? read_part(from + j * kLanes, some)
                                                                                : Floats{};
    }
}

// Rows [row, row + P) times `S` blocks of 16 outputs from `block` on.
template <int P, int S>
static void linear_tile(const LinearPart& part, int64_t row, int64_t block) {
    constexpr int J = S * kVectors;
    const bz_linear_step& s = part.s;
    const int64_t o = block * 16;
    const int count = int(s.outputs - o < S * 16 ? s.outputs - o : S * 16);
    float* const y = s.y + row * s.y_row + o;
    Floats sum[P][J];
    if (!part.begins) {
        BZ_UNROLL for (int p = 0; p < P; ++p) load_first(sum[p], y + p * s.y_row, count);
    } else {
        Floats first[J] = {};
        if (s.add) load_first(first, s.add + o, count);
        BZ_UNROLL for (int j = 0; j < J; ++j) {
            BZ_UNROLL for (int p = 0; p < P; ++p) sum[p][j] = first[j];
        }
    }
    add_products<P, S>(sum, s.x + row * s.x_row + part.first, s.x_row, part.inputs,
                       part.weights, part.inputs * 16);
    if (part.ends && s.op != BZ_OP_COPY) {
        alignas(64) float made[P][S * 16];
        BZ_UNROLL for (int p = 0; p < P; ++p)
            BZ_UNROLL for (int j = 0; j < J; ++j) store(made[p] + j * kLanes, sum[p][j]);
        run_op(s.op, made[0], made[0], nullptr, nullptr, s.p, s.q, P * S * 16);
        for (int p = 0; p < P; ++p) memcpy(y + p * s.y_row, made[p], sizeof(float) * size_t(count));
        return;
    }
    BZ_UNROLL for (int p = 0; p < P; ++p) store_first(y + p * s.y_row, sum[p], count);
}

typedef void (*LinearTile)(const LinearPart&, int64_t, int64_t);

#if BZ_VEC_BYTES == 64
#define BZ_ROW(P) {linear_tile<P, 1>, linear_tile<P, 2>, linear_tile<P, 3>, linear_tile<P, 4>}
#elif BZ_VEC_BYTES == 32
#define BZ_ROW(P) {linear_tile<P, 1>, linear_tile<P, 1>, linear_tile<P, 1>, linear_tile<P, 1>}
#else
#define BZ_ROW(P) {linear_tile<P, 1>}
#endif
static const LinearTile kLinearTiles[kLinearRows][kLinearSixteens] = {
#if BZ_VEC_BYTES == 64
    BZ_ROW(1), BZ_ROW(2), BZ_ROW(3), BZ_ROW(4), BZ_ROW(5), BZ_ROW(6)
#elif BZ_VEC_BYTES == 32
    {linear_tile<1, 1>, linear_tile<1, 2>, linear_tile<1, 3>, linear_tile<1, 4>},
    {linear_tile<2, 1>, linear_tile<2, 2>, linear_tile<2, 2>, linear_tile<2, 2>},
    BZ_ROW(3), BZ_ROW(4), BZ_ROW(5), BZ_ROW(6)
#else
    BZ_ROW(1), BZ_ROW(2)
#endif
};
#undef BZ_ROW

// The weights of some outputs lie in so many places that the processor does not see which ones come next.
BZ_INLINE void fetch_weights(const bz_linear_step& s, int64_t block, int64_t first, int64_t inputs) {
    for (int64_t o = block * 16; o < block * 16 + 16 && o < s.outputs; ++o)
        for (int64_t i = first; i < first + inputs; i += 16)
            __builtin_prefetch(s.weights + o * s.weights_row + i, 0, 2);
}

// Weights of `count` blocks of 16 outputs from `block` on, zeros behind the last output. Meanwhile the next ones are
// fetched: of the next inputs, or of the next outputs. From copies in bfloat16:
static void widen_weights(const LinearPart& part, int64_t block, int64_t count) {
    const int64_t length = part.inputs * 16, row = int64_t(part.s.inputs) * 16;
    for (int64_t b = 0; b < count; ++b) {
        const uint16_t* const from = part.s.bf16_weights + (block + b) * row + part.first * 16;
        const uint16_t* const next = part.ends ? from + count * row - part.first * 16 : from + length;
        float* const to = part.weights + b * length;
        for (int64_t i = 0; i < length; i += 16) {
            if (i % 32 == 0) __builtin_prefetch(next + i, 0, 2);
            for (int k = 0; k < 16; k += kLanes) store(to + i + k, read(from + i + k));
        }
    }
}

// From the weights themselves:
static void transpose_weights(const LinearPart& part, int64_t block, int64_t count) {
    const bz_linear_step& s = part.s;
    const int64_t first = part.ends ? 0 : part.first + part.inputs, next = part.ends ? count : 0;
    const int64_t rest = s.inputs - first, inputs = rest < kLinearPiece ? rest : kLinearPiece;
    for (int64_t b = block; b < block + count; ++b) {
        fetch_weights(s, b + next, first, inputs);
        float* const to = part.weights + (b - block) * part.inputs * 16;
        const int64_t some = s.outputs - b * 16 < 16 ? s.outputs - b * 16 : 16;
        if (some < 16) memset(to, 0, sizeof(float) * size_t(part.inputs) * 16);
        transpose(s.weights + b * 16 * s.weights_row + part.first, s.weights_row, to, 16, part.inputs, some);
    }
}

// `some` blocks of 16 outputs from `block` on.
static void linear_part(const LinearPart& part, int64_t block, int64_t some) {
    const int64_t tiles = (part.rows + kLinearRows - 1) / kLinearRows;
    part.s.bf16_weights ? widen_weights(part, block, some) : transpose_weights(part, block, some);
    for (int64_t t = 0; t < tiles; ++t) {
        const int64_t first = part.rows * t / tiles, last = part.rows * (t + 1) / tiles;
        kLinearTiles[last - first - 1][some - 1](part, part.row + first, block);
    }
}

static int linear(int threads, const bz_linear_step& s) {
    const int64_t sixteens = bz_ceil_div(s.outputs, 16), most = sixteens_of(s.rows);
    const int64_t blocks = (s.rows + kLinearBlock - 1) / kLinearBlock;
    const int some = threads_for(threads, int64_t(s.inputs) * s.outputs);
    const int64_t groups = (sixteens + most - 1) / most;
    int64_t parts = some > 1 && blocks < 4 * some ? 4 * some / blocks : 1;  // few rows: outputs are shared out, too
    if (parts > groups) parts = groups;
#pragma omp parallel for schedule(static) num_threads(some) if (some > 1)
    for (int64_t item = 0; item < blocks * parts; ++item) {
        const int64_t block = item / parts, part = item % parts;
        const int64_t row = s.rows * block / blocks, rows = s.rows * (block + 1) / blocks - row;
        const int64_t begin = groups * part / parts * most, end = groups * (part + 1) / parts * most;
        alignas(64) float weights[kLinearSixteens * 16 * kLinearPiece];
        // all inputs of some outputs before the next outputs: each one's weights lie in pages of their own
        for (int64_t b = begin; b < end && b < sixteens; b += most) {
            const int64_t count = sixteens - b < most ? sixteens - b : most;
            for (int64_t first = 0; first < s.inputs; first += kLinearPiece) {
                const int64_t inputs = s.inputs - first < kLinearPiece ? s.inputs - first : kLinearPiece;
                linear_part({s, row, rows, first, inputs, first == 0, first + inputs == s.inputs, weights}, b, count);
            }
        }
    }
    return BZ_OK;
}

}  // namespace BZ_NS
}  // namespace bz
