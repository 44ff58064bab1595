// Attention: a block of queries meets all keys of its head, and the scores never leave the caches nearby.
//
// Keys and values are packed once for each part of a head's queries, some columns side by side; then a block of queries
// has its products with the keys, its softmax, and its products with the values. Each result is one chain of
// multiply-adds of its own, so neither blocks nor tiles nor threads change it. What is divided by the sum of a row is
// the result, which is shorter than the row.
#pragma once

#include "copy.h"
#include "rows.h"

namespace bz {
namespace BZ_NS {

#if BZ_VEC_BYTES == 64
constexpr int kTileQueries = 6, kTileVectors = 4;
#elif BZ_VEC_BYTES == 32
constexpr int kTileQueries = 6, kTileVectors = 2;
#else
constexpr int kTileQueries = 2, kTileVectors = 4;
#endif
constexpr int64_t kPanel = kTileVectors * kLanes;  // columns side by side
constexpr int64_t kQueryBlock = 24;
constexpr int64_t kQueryPart = 48;               // queries that are worth the packing of their keys
constexpr int64_t kAttentionScratch = 1 << 28;  // floats

BZ_INLINE int64_t up_to(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

// Rows of a matrix times packed columns, [columns / kPanel][length][kPanel].
struct Products {
    const float* x;
    int64_t x_row, length;
    const float* panels;
    float* to;
    int64_t to_row, columns;
    const float* divisors;  // one for each row, or null
};

template <int P, int J>
static void attention_tile(const Products& g, int64_t row, int64_t column) {
    const float *const x = g.x + row * g.x_row, *const panel = g.panels + column * g.length;
    Floats sum[P][J] = {};
    for (int64_t k = 0; k < g.length; ++k) {
        Floats values[J];
        BZ_UNROLL for (int j = 0; j < J; ++j) values[j] = load<Floats>(panel + k * kPanel + j * kLanes);
        BZ_UNROLL for (int p = 0; p < P; ++p) {
            const Floats factor = splat(x[p * g.x_row + k]);
            BZ_UNROLL for (int j = 0; j < J; ++j) sum[p][j] = multiply_add(factor, values[j], sum[p][j]);
        }
    }
    float* const to = g.to + row * g.to_row + column;
    const int64_t last = g.columns - column - (J - 1) * kLanes;  // columns of the last vector
    BZ_UNROLL for (int p = 0; p < P; ++p) {
        if (g.divisors)
            BZ_UNROLL for (int j = 0; j < J; ++j) sum[p][j] /= splat(g.divisors[row + p]);
        BZ_UNROLL for (int j = 0; j < J; ++j) {
            float* const place = to + p * g.to_row + j * kLanes;
            if (j < J - 1 || last >= kLanes)
                store(place, sum[p][j]);
            else
                store_part(place, sum[p][j], last);
        }
    }
}

typedef void (*AttentionTile)(const Products&, int64_t, int64_t);

#if BZ_VEC_BYTES == 32
#define BZ_ROW(P) {attention_tile<P, 1>, attention_tile<P, 2>}
#else
#define BZ_ROW(P) {attention_tile<P, 1>, attention_tile<P, 2>, attention_tile<P, 3>, attention_tile<P, 4>}
#endif
static const AttentionTile kAttentionTiles[kTileQueries][kTileVectors] = {
    BZ_ROW(1), BZ_ROW(2),
#if BZ_VEC_BYTES >= 32
    BZ_ROW(3), BZ_ROW(4), BZ_ROW(5), BZ_ROW(6)
#endif
};
#undef BZ_ROW

static void attention_products(const Products& g, int64_t rows) {
    const int64_t tiles = (rows + kTileQueries - 1) / kTileQueries;
    for (int64_t column = 0; column < g.columns; column += kPanel) {
        const int64_t left = g.columns - column;
        const int64_t vectors = left < kPanel ? (left + kLanes - 1) / kLanes : kTileVectors;
        for (int64_t t = 0; t < tiles; ++t) {
            const int64_t first = rows * t / tiles, last = rows * (t + 1) / tiles;
            kAttentionTiles[last - first - 1][vectors - 1](g, first, column);
        }
    }
}

BZ_INLINE float largest_lane(Floats v) {  // NaN aside
#if BZ_VEC_BYTES >= 32
#if BZ_VEC_BYTES == 64
    const __m256 half =
        _mm256_max_ps(_mm512_castps512_ps256((__m512)v), (__m256)_mm512_extractf64x4_pd((__m512d)v, 1));
#else
    const __m256 half = (__m256)v;
#endif
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
#else
    float most = v[0];
    for (int i = 1; i < kLanes; ++i) most = v[i] > most ? v[i] : most;
    return most;
#endif
}

// The first `count` lanes, -inf in the others.
BZ_INLINE Floats first_lanes(Floats v, int64_t count) {
    Ints place;
    BZ_UNROLL for (int i = 0; i < kLanes; ++i) place[i] = i;
    return place < int32_t(count) ? v : splat(-__builtin_inff());
}

// factor * x + the biases, B of them, with -inf behind the last column; returns the largest, which a NaN is not always.
template <int B>
BZ_INLINE float attention_scores(float* x, int64_t columns, float factor, const float* const* bias) {
    Floats most = splat(-__builtin_inff());
    const Floats times = splat(factor);
    int64_t i = 0;
    for (; i + kLanes <= columns; i += kLanes) {
        Floats v = load<Floats>(x + i) * times;
        BZ_UNROLL for (int b = 0; b < B; ++b) v += load<Floats>(bias[b] + i);
        store(x + i, v);
        most = at_least(v, most);
    }
    if (i < columns) {
        Floats v = load<Floats>(x + i) * times;
        BZ_UNROLL for (int b = 0; b < B; ++b) v += read_part(bias[b] + i, columns - i);
        v = first_lanes(v, columns - i);
        store(x + i, v);
        most = at_least(v, most);
    }
    return largest_lane(most);
}

// x = e^(x - top) of whole vectors; returns the sum. A NaN makes it one.
static float attention_weights(float* x, int64_t wide, float top) {
    Floats sum[2] = {};
    int64_t i = 0;
    for (; i + 2 * kLanes <= wide; i += 2 * kLanes)
        BZ_UNROLL for (int j = 0; j < 2; ++j) {
            const Floats v = exponential_or_zero(load<Floats>(x + i + j * kLanes) - top);
            store(x + i + j * kLanes, v);
            sum[j] += v;
        }
    if (i < wide) {
        const Floats v = exponential_or_zero(load<Floats>(x + i) - top);
        store(x + i, v);
        sum[0] += v;
    }
    return sum_lanes(sum[0] + sum[1]);
}

// One head of one window; its first bias is there if the second one is.
struct Head {
    const float *q, *k, *v, *bias[2];
    float* out;
    int64_t bias_row[2];
};

static Head head_of(const bz_attention_step& s, int64_t item) {
    const int64_t head = item % s.heads, window = item / s.heads % s.windows, image = item / s.heads / s.windows;
    const auto at_head = [&](const bz_heads& m) {
        return m.data ? m.data + image * m.image + window * m.window + head * m.head : nullptr;
    };
    const int first = s.bias[0].data ? 0 : 1;
    const bz_heads &a = s.bias[first], &b = s.bias[1 - first];
    return {at_head(s.q), at_head(s.k), at_head(s.v), {at_head(a), at_head(b)}, at_head(s.out), {a.row, b.row}};
}

// Row `i` of the scores becomes weights; returns what their products with values are to be divided by.
static float attention_row(const bz_attention_step& s, const Head& h, int64_t i, float* x) {
    const float* bias[2] = {};
    for (int n = 0; n < 2; ++n)
        if (h.bias[n]) bias[n] = h.bias[n] + i * h.bias_row[n];
    const float top = h.bias[1]   ? attention_scores<2>(x, s.columns, s.factor, bias)
                      : h.bias[0] ? attention_scores<1>(x, s.columns, s.factor, bias)
                                  : attention_scores<0>(x, s.columns, s.factor, bias);
    const int64_t wide = up_to(s.columns, kLanes);
    if (s.masked_is_zero && top == -__builtin_inff()) {
        bool masked = true;
        for (int64_t k = 0; k < s.columns; ++k) masked = masked && x[k] == -__builtin_inff();
        if (masked) {
            memset(x, 0, sizeof(float) * size_t(wide));
            return 1.0f;
        }
    }
    return attention_weights(x, wide, top);
}

struct AttentionScratch {
    float *keys, *values, *scores;
};

// Keys and values as `Products` reads them; zeros behind the last column.
static void pack_head(const bz_attention_step& s, const Head& h, const AttentionScratch& to) {
    for (int64_t c = 0; c < s.columns; c += kPanel) {
        float* const panel = to.keys + c * s.depth;
        const int64_t some = s.columns - c < kPanel ? s.columns - c : kPanel;
        if (some < kPanel) memset(panel, 0, sizeof(float) * size_t(kPanel * s.depth));
        transpose(h.k + c * s.k.row, s.k.row, panel, kPanel, s.depth, some);
    }
    for (int64_t c = 0; c < s.values; c += kPanel) {
        float* const panel = to.values + c * s.columns;
        const int64_t some = s.values - c < kPanel ? s.values - c : kPanel;
        if (some < kPanel) memset(panel, 0, sizeof(float) * size_t(kPanel * s.columns));
        for (int64_t i = 0; i < s.columns; ++i) copy_run(panel + i * kPanel, h.v + i * s.v.row + c, some);
    }
}

// Queries [begin, end).
static void attend(const bz_attention_step& s, const Head& h, const AttentionScratch& scratch, int64_t begin,
                   int64_t end) {
    const int64_t wide = up_to(s.columns, kLanes), blocks = (end - begin + kQueryBlock - 1) / kQueryBlock;
    float sums[kQueryBlock];
    for (int64_t b = 0; b < blocks; ++b) {
        const int64_t first = begin + (end - begin) * b / blocks, rows = begin + (end - begin) * (b + 1) / blocks - first;
        attention_products(
            {h.q + first * s.q.row, s.q.row, s.depth, scratch.keys, scratch.scores, wide, wide, nullptr}, rows);
        for (int64_t i = 0; i < rows; ++i) sums[i] = attention_row(s, h, first + i, scratch.scores + i * wide);
        attention_products({scratch.scores, wide, s.columns, scratch.values, h.out + first * s.out.row, s.out.row,
                            s.values, sums}, rows);
    }
}

static int attention(int threads, const bz_attention_step& s) {
    const int64_t keys = up_to(s.columns, kPanel) * s.depth, values = up_to(s.values, kPanel) * s.columns;
    const int64_t size = up_to(keys + values + kQueryBlock * up_to(s.columns, kLanes), 16);
    if (size > kAttentionScratch) return BZ_UNSUPPORTED;
    const int64_t heads = int64_t(s.images) * s.windows * s.heads;
    const int some = threads_for(threads, heads * s.rows * s.columns);
    // few heads: each one's queries are shared out, and its keys are packed for each part
    int64_t parts = some > 1 && heads < 4 * some ? (4 * some + heads - 1) / heads : 1;
    if (parts > s.rows / kQueryPart) parts = s.rows < kQueryPart ? 1 : s.rows / kQueryPart;
    bool failed = false;
#pragma omp parallel num_threads(some) reduction(| : failed) if (some > 1)
    {
        float* const memory = static_cast<float*>(aligned_alloc(64, size_t(size) * sizeof(float)));
        const AttentionScratch scratch = {memory, memory + keys, memory + keys + values};
        failed = !memory;
#pragma omp for schedule(static)
        for (int64_t item = 0; item < heads * parts; ++item) {
            if (!memory) continue;
            const Head h = head_of(s, item / parts);
            const int64_t part = item % parts;
            pack_head(s, h, scratch);
            attend(s, h, scratch, s.rows * part / parts, s.rows * (part + 1) / parts);
        }
        free(memory);
    }
    return failed ? BZ_NO_MEMORY : BZ_OK;
}

}  // namespace BZ_NS
}  // namespace bz
