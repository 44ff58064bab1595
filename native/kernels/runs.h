// How the maps of a step are walked through: runs of neighbouring positions, the same for any number of threads.
#pragma once

#include "walk.h"

namespace bz {
namespace BZ_NS {

constexpr int kStepRun = 64;  // positions summed in float before the sum goes on in double

struct Runs {
    int64_t images, lines, width, length, per_line;  // length: most positions of a run
    int64_t items() const { return images * lines * per_line; }
};

// Rows that follow each other without a gap become one line, images likewise if `images_merge`.
static Runs make_runs(int64_t images, int64_t height, int64_t width, const bz_map* const* maps, int count,
                      bool images_merge, int64_t length) {
    bool rows = true, all = images_merge;
    for (int i = 0; i < count; ++i) {
        rows = rows && (height == 1 || maps[i]->row == width * maps[i]->pixel);
        all = all && (images == 1 || maps[i]->image == height * (height == 1 ? width * maps[i]->pixel : maps[i]->row));
    }
    Runs r = {images, height, width, length, 1};
    if (rows) r.lines = 1, r.width = height * width;
    if (rows && all) r.images = 1, r.width *= images;
    r.per_line = (r.width + length - 1) / length;
    return r;
}

BZ_INLINE Piece run_of(const Runs& r, int64_t item) {
    const int64_t line = item / r.per_line, begin = item % r.per_line * r.length;
    return {line / r.lines, line % r.lines, begin, begin + r.length < r.width ? begin + r.length : r.width};
}

// Threads that are worth starting for a step that touches so many floats.
BZ_INLINE int threads_for(int threads, int64_t floats) {
    const int64_t most = floats / 8192 + 1;
    return int(threads < most ? threads : most);
}

// sums[c] += the values of `positions`, which lie `step` floats apart.
static void add_positions(float* sums, const float* values, int64_t step, int64_t positions, int64_t channels) {
    int64_t c = 0;
    if (channels < kLanes && step == channels) {  // vectors whose lanes take the channels in turn
        Floats sum[kLanes] = {};
        const int64_t block = channels * kLanes, blocks = positions * channels / block;
        for (int64_t b = 0; b < blocks; ++b)
            for (int64_t j = 0; j < channels; ++j) sum[j] += load<Floats>(values + b * block + j * kLanes);
        for (int64_t i = 0; blocks && i < block; ++i) sums[i % channels] += sum[i / kLanes][i % kLanes];
        for (int64_t i = blocks * block; i < positions * channels; ++i) sums[i % channels] += values[i];
        return;
    }
    for (; c + 4 * kLanes <= channels; c += 4 * kLanes) {
        Floats sum[4];
        BZ_UNROLL for (int q = 0; q < 4; ++q) sum[q] = load<Floats>(sums + c + q * kLanes);
        for (int64_t i = 0; i < positions; ++i)
            BZ_UNROLL for (int q = 0; q < 4; ++q) sum[q] += load<Floats>(values + i * step + c + q * kLanes);
        BZ_UNROLL for (int q = 0; q < 4; ++q) store(sums + c + q * kLanes, sum[q]);
    }
    for (; c + kLanes <= channels; c += kLanes) {
        Floats sum = load<Floats>(sums + c);
        for (int64_t i = 0; i < positions; ++i) sum += load<Floats>(values + i * step + c);
        store(sums + c, sum);
    }
    for (; c < channels; ++c)
        for (int64_t i = 0; i < positions; ++i) sums[c] += values[i * step + c];
}

// Partial sums of a step's runs: [items][channels].
static float* partial_sums(const float* wanted, const Runs& r, int64_t channels) {
    if (!wanted) return nullptr;
    return static_cast<float*>(calloc(size_t(r.items()) * size_t(channels), sizeof(float)));
}

}  // namespace BZ_NS
}  // namespace bz
