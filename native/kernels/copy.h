// Strided copies: dimensions that lie alike in both are one; runs where both are dense, tiles of a transpose where each
// is dense in another dimension.
#pragma once

#include "runs.h"
#include "transpose.h"

namespace bz {
namespace BZ_NS {

struct Dim {
    int64_t size, from, to;
};

struct CopyPlan {
    Dim dims[BZ_COPY_DIMS + 2];  // the last two are those of a block; those in front are walked through
    int outer;
    bool transposed;  // from of the last but one, to of the last are 1
    const float* x;
    float* y;
    float value;
};

// A call of memcpy would take longer than to copy a short run.
BZ_INLINE void copy_run(float* to, const float* from, int64_t count) {
    if (count > 256) {
        memcpy(to, from, sizeof(float) * size_t(count));
        return;
    }
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) store(to + i, load<Floats>(from + i));
    for (; i < count; ++i) to[i] = from[i];
}

// Two dimensions, the second one the inner.
static void copy_block(const CopyPlan& p, const float* x, float* y, const Dim& outer, const Dim& inner) {
    if (p.transposed) return transpose(x, inner.from, y, outer.to, outer.size, inner.size);
    const bool dense = inner.to == 1 && (inner.from == 1 || !p.x);
    for (int64_t i = 0; i < outer.size; ++i) {
        float* const to = y + i * outer.to;
        if (!p.x) {
            for (int64_t k = 0; k < inner.size; ++k) to[k * inner.to] = p.value;
            continue;
        }
        const float* const from = x + i * outer.from;
        if (dense)
            copy_run(to, from, inner.size);
        else
            for (int64_t k = 0; k < inner.size; ++k) to[k * inner.to] = from[k * inner.from];
    }
}

// The dimensions by falling strides of y, without those of one element, neighbours merged.
static int sorted_dims(const bz_copy_step& s, Dim* dims) {
    int count = 0;
    for (int i = 0; i < s.dims; ++i) {
        if (s.size[i] == 1) continue;
        const Dim d = {s.size[i], s.x ? s.from[i] : 0, s.to[i]};
        int at_place = count++;
        for (; at_place > 0 && dims[at_place - 1].to < d.to; --at_place) dims[at_place] = dims[at_place - 1];
        dims[at_place] = d;
    }
    int kept = 0;
    for (int i = 0; i < count; ++i) {
        Dim* const last = kept ? &dims[kept - 1] : nullptr;
        const Dim d = dims[i];
        if (last && last->to == d.to * d.size && last->from == d.from * d.size)
            *last = {last->size * d.size, d.from, d.to};
        else
            dims[kept++] = d;
    }
    return kept;
}

static void plan_copy(CopyPlan& p, const bz_copy_step& s) {
    Dim* const dims = p.dims;
    int count = sorted_dims(s, dims);
    while (count < 2) {  // in front
        for (int i = count; i > 0; --i) dims[i] = dims[i - 1];
        dims[0] = {1, 0, 0};
        ++count;
    }
    const Dim inner = dims[count - 1];
    if (s.x && inner.to == 1 && inner.from != 1)
        for (int i = count - 2; i >= 0; --i) {
            if (dims[i].from != 1 || dims[i].size == 1) continue;
            const Dim d = dims[i];
            for (int k = i; k + 2 < count; ++k) dims[k] = dims[k + 1];
            dims[count - 2] = d;
            p.transposed = true;
            break;
        }
    p.outer = count - 2;
}

static int copy(int threads, const bz_copy_step& s) {
    CopyPlan p = {{}, 0, false, s.x, s.y, s.value};
    plan_copy(p, s);
    const Dim rows = p.dims[p.outer], columns = p.dims[p.outer + 1];
    int64_t outer = 1;
    for (int i = 0; i < p.outer; ++i) outer *= p.dims[i].size;
    const int some = threads_for(threads, outer * rows.size * columns.size);
    // pieces of a block, for several threads: of its longer dimension, by whole cache lines
    const bool by_rows = rows.size >= columns.size;
    const int64_t longer = by_rows ? rows.size : columns.size;
    int64_t pieces = some > 1 && outer < 4 * some ? 4 * some / outer : 1;
    if (pieces > (longer + 63) / 64) pieces = (longer + 63) / 64;
#pragma omp parallel for schedule(static) num_threads(some) if (some > 1)
    for (int64_t item = 0; item < outer * pieces; ++item) {
        const float* x = p.x;
        float* y = p.y;
        for (int64_t i = p.outer - 1, rest = item / pieces; i >= 0; rest /= p.dims[i--].size) {
            const int64_t index = rest % p.dims[i].size;
            if (x) x += index * p.dims[i].from;
            y += index * p.dims[i].to;
        }
        const int64_t piece = item % pieces, units = (longer + 15) / 16;
        const int64_t begin = units * piece / pieces * 16, end = units * (piece + 1) / pieces * 16;
        const int64_t length = (end < longer ? end : longer) - begin;
        Dim high = rows, wide = columns;
        Dim& cut = by_rows ? high : wide;
        cut.size = length;
        copy_block(p, x ? x + begin * cut.from : x, y + begin * cut.to, high, wide);
    }
    return BZ_OK;
}

}  // namespace BZ_NS
}  // namespace bz
