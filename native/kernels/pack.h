// From floats to bits, and sums over positions.
#pragma once

#include "resize.h"

namespace bz {
namespace BZ_NS {

constexpr int kAhead = 2048;  // bytes: a map that the second cache does not hold is fetched before it is needed

struct Packing {
    const float *mul, *add;  // of the channels at hand, or null
    float* abs_sums;         // added to, or null
};

BZ_INLINE uint32_t pack_scalar(float x, const Packing& p, int c) {
    if (p.mul) x *= p.mul[c];
    if (p.add) x += p.add[c];
    if (p.abs_sums) p.abs_sums[c] += __builtin_fabsf(x);
    return x >= 0;
}

// `count` neighbouring channels of one position.
template <class T, bool Mul, bool Add, bool Abs>
static void pack_channels(const T* x, int count, const Packing& p, uint32_t* words) {
    const float *const mul = p.mul, *const add = p.add;
    float* const abs_sums = p.abs_sums;
    const auto some = [&](int c, const auto& extent) __attribute__((always_inline)) {
        Floats v = extent.get(x + c);
        if (Mul) v *= extent.get(mul + c);
        if (Add) v += extent.get(add + c);
        if (Abs) extent.put(abs_sums + c, extent.get(abs_sums + c) + absolute(v));
        return not_negative(v);
    };
    int c0 = 0;
    for (; c0 + 32 <= count; c0 += 32) {
        __builtin_prefetch(x + c0 + kAhead / sizeof(T));
        uint32_t bits = 0;
        BZ_UNROLL for (int c = 0; c < 32; c += kLanes) bits |= some(c0 + c, Whole{}) << c;
        *words++ = bits;
    }
    if (c0 == count) return;
    uint32_t bits = 0;
    int c = c0;
    for (; c + kLanes <= count; c += kLanes) bits |= some(c, Whole{}) << (c - c0);
    if (c < count) bits |= (some(c, Part{count - c}) & ((1u << (count - c)) - 1)) << (c - c0);
    *words = bits;
}

template <class T>
using PackChannels = void (*)(const T*, int, const Packing&, uint32_t*);
template <class T>
static PackChannels<T> pack_channels_of(bool mul, bool add, bool abs) {
    static const PackChannels<T> all[2][2][2] = {
        {{pack_channels<T, false, false, false>, pack_channels<T, false, false, true>},
         {pack_channels<T, false, true, false>, pack_channels<T, false, true, true>}},
        {{pack_channels<T, true, false, false>, pack_channels<T, true, false, true>},
         {pack_channels<T, true, true, false>, pack_channels<T, true, true, true>}}};
    return all[mul][add][abs];
}

// The channels of all groups of one position, which are neighbours, into the words of each group. Groups that do not
// fill vectors are packed together first, and their bits are moved to their words.
template <class T>
static void pack_groups(PackChannels<T> pack_some, const T* x, int groups, int group, const Packing& p,
                        uint32_t* words) {
    constexpr int kTogetherChannels = 1024;
    const int group_words = bz_ceil_div(group, 32);
    const auto from = [&](int c) {
        return Packing{p.mul ? p.mul + c : nullptr, p.add ? p.add + c : nullptr, p.abs_sums ? p.abs_sums + c : nullptr};
    };
    if (groups == 1 || group % kLanes == 0 || group > kTogetherChannels) {
        for (int g = 0; g < groups; ++g)
            pack_some(x + g * group, group, from(g * group), words + g * group_words);
        return;
    }
    uint32_t bits[kTogetherChannels / 32 + 1] = {};
    const int some = kTogetherChannels / group;
    for (int first = 0; first < groups; first += some) {
        const int count = groups - first < some ? groups - first : some;
        pack_some(x + first * group, count * group, from(first * group), bits);
        for (int g = 0; g < count; ++g)
            for (int w = 0; w < group_words; ++w) {
                const int at = g * group + w * 32, length = group - w * 32 < 32 ? group - w * 32 : 32;
                uint64_t pair;
                memcpy(&pair, bits + at / 32, sizeof pair);
                *words++ = uint32_t(pair >> at % 32 & ((uint64_t(1) << length) - 1));
            }
    }
}

// One row of a map whose positions are neighbours in memory: `count` channels, `step` floats apart, into words that
// lie `pixel` words apart.
static void pack_planar(const float* x, int64_t step, int width, int count, const Packing& p, uint32_t* words,
                        int pixel) {
    for (int c0 = 0; c0 < count; c0 += 32) {
        const int channels = count - c0 < 32 ? count - c0 : 32;
        Floats sums[32] = {};
        int i = 0;
        for (; i + kLanes <= width; i += kLanes) {
            Words bits = {};
            for (int c = 0; c < channels; ++c) {
                Floats v = load<Floats>(x + (c0 + c) * step + i);
                if (p.mul) v *= splat(p.mul[c0 + c]);
                if (p.add) v += splat(p.add[c0 + c]);
                if (p.abs_sums) sums[c] += absolute(v);
                bits |= (Words)(v >= Floats{}) & splat_word(1u << c);
            }
            for (int lane = 0; lane < kLanes; ++lane) words[int64_t(i + lane) * pixel + c0 / 32] = bits[lane];
        }
        if (p.abs_sums)
            for (int c = 0; c < channels; ++c)
                for (int lane = 0; lane < kLanes; ++lane) p.abs_sums[c0 + c] += sums[c][lane];
        for (; i < width; ++i) {
            uint32_t bits = 0;
            for (int c = 0; c < channels; ++c)
                bits |= pack_scalar(x[(c0 + c) * step + i], p, c0 + c) << c;
            words[int64_t(i) * pixel + c0 / 32] = bits;
        }
    }
}

constexpr int kRun = 64;  // positions summed in float before the sum goes on in double

[[maybe_unused]] static int pack(int threads, const bz_plane_shape& s, const bz_map& x, const bz_resize* resize,
                                 const float* mul, const float* add, int64_t add_stride, uint32_t* plane,
                                 float* abs_sums) {
    const int pixel = bz_pixel_words(s), group_words = bz_group_words(s), group = s.channels / s.groups;
    const int64_t row_words = bz_row_words(s), rows = s.height + 2 * int64_t(s.border_h);
    const int64_t runs = (s.width + kRun - 1) / kRun;
    float* partial = nullptr;
    if (abs_sums) {
        partial = static_cast<float*>(
            calloc(size_t(s.images) * size_t(s.height) * size_t(runs) * size_t(s.channels), sizeof(float)));
        if (!partial) return BZ_NO_MEMORY;
    }
    Resizer r = {};
    int status = resize ? make_resizer(r, x, *resize, s.channels, s.height, s.width) : BZ_OK;
    if (status != BZ_OK) {
        free(partial);
        return status;
    }
    const auto pack_floats = pack_channels_of<float>(mul, add, abs_sums);
    const auto pack_halves = pack_channels_of<uint16_t>(mul, add, abs_sums);
#pragma omp parallel for schedule(static) num_threads(threads) reduction(| : status) if (threads > 1)
    for (int64_t item = 0; item < s.images * rows; ++item) {
        const int64_t n = item / rows, y = item % rows - s.border_h;
        uint32_t* to = plane + item * row_words;
        if (y < 0 || y >= s.height) {
            memset(to, 0, size_t(row_words) * sizeof *to);
            continue;
        }
        const size_t side = size_t(s.border_w) * size_t(pixel);
        memset(to, 0, side * sizeof *to);
        memset(to + row_words - side, 0, side * sizeof *to);
        to += side;
        float* const made = r.rows ? static_cast<float*>(malloc(sizeof(float) * size_t(kRun * s.channels))) : nullptr;
        if (r.rows && !made) {
            status |= BZ_NO_MEMORY;
            continue;
        }
        for (int64_t run = 0; run < runs; ++run) {
            const int64_t begin = run * kRun, end = begin + kRun < s.width ? begin + kRun : s.width;
            if (made) resize_run(r, n, y, begin, end, made, s.channels);
            // of position 0; x.channel is 1 if positions are made
            const int64_t step = made ? s.channels : x.pixel, line = n * x.image + y * x.row;
            const float* const from = made ? made - begin * step : x.data + line;
            float* const sums = partial ? partial + ((n * s.height + y) * runs + run) * s.channels : nullptr;
            const Packing all = {mul, add ? add + n * add_stride : nullptr, sums};
            if (x.bf16 && !made) {
                const uint16_t* const halves = reinterpret_cast<const uint16_t*>(x.data) + line;
                for (int64_t i = begin; i < end; ++i)
                    pack_groups(pack_halves, halves + i * step, s.groups, group, all, to + i * pixel);
                continue;
            }
            if (x.channel == 1) {
                for (int64_t i = begin; i < end; ++i)
                    pack_groups(pack_floats, from + i * step, s.groups, group, all, to + i * pixel);
                continue;
            }
            for (int g = 0; g < s.groups; ++g) {
                const int first = g * group;
                const Packing p = {mul ? mul + first : nullptr, all.add ? all.add + first : nullptr,
                                   sums ? sums + first : nullptr};
                pack_planar(from + first * x.channel + begin, x.channel, int(end - begin), group, p,
                            to + g * group_words + begin * pixel, pixel);
            }
        }
        free(made);
    }
    free(r.rows);
    memset(plane + s.images * bz_image_words(s), 0, BZ_SLACK * sizeof *plane);
    if (abs_sums) reduce(partial, s.images, s.height * runs, 1, s.channels, s.channels, abs_sums);
    free(partial);
    return status;
}

// Sums over `positions`, `step` numbers apart.
template <class T>
static void sum_positions(const T* from, int64_t step, int64_t positions, int channels, float* to) {
    int c = 0;
    for (; c + 4 * kLanes <= channels; c += 4 * kLanes) {
        Floats sum[4] = {};
        for (int64_t i = 0; i < positions; ++i)
            BZ_UNROLL for (int q = 0; q < 4; ++q) sum[q] += read(from + i * step + c + q * kLanes);
        BZ_UNROLL for (int q = 0; q < 4; ++q) store(to + c + q * kLanes, sum[q]);
    }
    const auto one = [&](const auto& extent) __attribute__((always_inline)) {
        Floats sum = {};
        for (int64_t i = 0; i < positions; ++i) sum += extent.get(from + i * step + c);
        extent.put(to + c, sum);
    };
    for (; c + kLanes <= channels; c += kLanes) one(Whole{});
    if (c < channels) one(Part{channels - c});
}

[[maybe_unused]] static int channel_sums(int threads, const bz_plane_shape& s, const bz_map& x,
                                         const bz_resize* resize, float* sums) {
    if (resize) {
        Resizer r;
        int status = make_resizer(r, x, *resize, s.channels, s.height, s.width);
        if (status == BZ_OK) status = resized_sums(r, *resize, s.images, sums);
        free(r.rows);
        return status;
    }
    const int64_t runs = (s.width + kRun - 1) / kRun, pieces = s.height * runs;
    float* partial = static_cast<float*>(
        malloc(size_t(s.images) * size_t(pieces) * size_t(s.channels) * sizeof(float)));
    if (!partial) return BZ_NO_MEMORY;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t item = 0; item < s.images * pieces; ++item) {
        const int64_t n = item / pieces, y = item % pieces / runs, begin = item % runs * kRun;
        const int64_t end = begin + kRun < s.width ? begin + kRun : s.width;
        const int64_t offset = n * x.image + y * x.row + begin * x.pixel;
        float* const to = partial + item * s.channels;
        if (x.bf16)
            sum_positions(reinterpret_cast<const uint16_t*>(x.data) + offset, x.pixel, end - begin, s.channels, to);
        else
            sum_positions(x.data + offset, x.pixel, end - begin, s.channels, to);
    }
    reduce(partial, s.images, pieces, 1, s.channels, s.channels, sums);
    free(partial);
    return BZ_OK;
}

}  // namespace BZ_NS
}  // namespace bz
