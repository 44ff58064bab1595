// One pass over maps of floats, with numbers per channel or per image and channel, and sums over positions.
//
// A map is lines of floats over which its channels repeat: one line per image if the channels are neighbours, else one
// per image and channel. An operation sees vectors; the numbers of a line's channels are laid out beside them in periods
// of whole vectors. Sums are made in float over runs of kRunPeriods periods, then in double, in an order that depends on
// nothing but the map.
#pragma once

#include "simd.h"

namespace bz {
namespace BZ_NS {

constexpr int kRunPeriods = 64;
constexpr int kLeastPeriod = 64;  // floats: shorter ones wait for their own sums

struct LineShape {
    int64_t count, length;    // length in floats
    int64_t width, channels;  // channels of a line, and of the map
    int64_t period, runs;     // floats; runs of a line
};

static int64_t common_divisor(int64_t a, int64_t b) { return b ? common_divisor(b, a % b) : a; }

static LineShape lines_of(const bz_values& v) {
    LineShape l = {};
    l.channels = v.channels;
    l.width = v.channels_last ? v.channels : 1;
    l.count = v.images * (v.channels / l.width);
    l.length = v.positions * l.width;
    l.period = l.width / common_divisor(l.width, kLanes) * kLanes;
    if (l.period < kLeastPeriod) l.period *= (kLeastPeriod + l.period - 1) / l.period;
    const int64_t run = l.period * kRunPeriods;
    l.runs = (l.length + run - 1) / run;
    return l;
}

// Numbers of channels: data[c], or data[n * channels + c]; null: `missing` everywhere.
struct Numbers {
    const float* data;
    bool per_image;
    float missing;
};

// What an operation reads and gives: Inputs maps, Params numbers, Sums sums, and with Writes a map.
//     Floats operator()(const Floats* in, const Floats* params, Floats* sums) const
// Positions behind the end of a map are given as zeros (Pad: as their first number); what they add to sums has to be 0.
template <class Op>
struct Pass {
    LineShape lines;
    Op op;
    const float* in[Op::Inputs];
    Numbers numbers[Op::Params ? Op::Params : 1];
    float* out;       // may be one of `in`
    double* partial;  // [lines][runs][Sums][width]

    // floats that one thread needs: numbers, sums, and one period of all maps
    int64_t scratch() const { return (Op::Params + Op::Sums + Op::Inputs + 1) * lines.period; }

    inline __attribute__((always_inline)) void vectors(const float* const* from, const float* const* params,
                                                       float* sums, float* to, int64_t floats) const {
        for (int64_t j = 0; j < floats; j += kLanes) {
            Floats x[Op::Inputs], p[Op::Params ? Op::Params : 1], s[Op::Sums ? Op::Sums : 1];
            BZ_UNROLL for (int i = 0; i < Op::Inputs; ++i) x[i] = load<Floats>(from[i] + j);
            BZ_UNROLL for (int i = 0; i < Op::Params; ++i) p[i] = load<Floats>(params[i] + j);
            BZ_UNROLL for (int i = 0; i < Op::Sums; ++i) s[i] = load<Floats>(sums + i * lines.period + j);
            const Floats y = op(x, p, s);
            BZ_UNROLL for (int i = 0; i < Op::Sums; ++i) store(sums + i * lines.period + j, s[i]);
            if (Op::Writes) store(to + j, y);
        }
    }

    const float* laid_out(const Numbers& n, int64_t line, float* memory) const {
        const float* data = n.data;
        if (data) data += n.per_image ? line * lines.width : line * lines.width % lines.channels;
        if (data && lines.period == lines.width) return data;
        const float alone = data ? data[0] : n.missing;
        if (!data || lines.width == 1)
            for (int64_t j = 0; j < lines.period; j += kLanes) store(memory + j, splat(alone));
        else
            for (int64_t j = 0; j < lines.period; j += lines.width)
                memcpy(memory + j, data, size_t(lines.width) * sizeof(float));
        return memory;
    }

    void run(int64_t item, float* memory) const {
        const int64_t line = item / lines.runs, length = lines.period * kRunPeriods;
        const int64_t begin = item % lines.runs * length, start = line * lines.length + begin;
        const int64_t floats = length < lines.length - begin ? length : lines.length - begin;
        const float* params[Op::Params ? Op::Params : 1];
        for (int i = 0; i < Op::Params; ++i, memory += lines.period) params[i] = laid_out(numbers[i], line, memory);
        float* const sums = memory;
        memory += Op::Sums * lines.period;
        memset(sums, 0, size_t(Op::Sums * lines.period) * sizeof *sums);
        const float* from[Op::Inputs];
        int64_t done = 0;
        for (; done + lines.period <= floats; done += lines.period) {
            for (int i = 0; i < Op::Inputs; ++i) from[i] = in[i] + start + done;
            vectors(from, params, sums, Op::Writes ? out + start + done : nullptr, lines.period);
        }
        if (done < floats) {
            const size_t rest = size_t(floats - done) * sizeof(float);
            for (int i = 0; i < Op::Inputs; ++i, memory += lines.period) {
                if (Op::Pad) memcpy(memory, params[0], size_t(lines.period) * sizeof(float));
                else memset(memory, 0, size_t(lines.period) * sizeof(float));
                memcpy(memory, in[i] + start + done, rest);
                from[i] = memory;
            }
            vectors(from, params, sums, memory, (floats - done + kLanes - 1) / kLanes * kLanes);
            if (Op::Writes) memcpy(out + start + done, memory, rest);
        }
        double* const to = partial + item * Op::Sums * lines.width;
        for (int i = 0; i < Op::Sums; ++i)
            for (int64_t j = 0; j < lines.width; ++j) {
                double sum = 0;
                for (int64_t k = j; k < lines.period; k += lines.width) sum += double(sums[i * lines.period + k]);
                to[i * lines.width + j] = sum;
            }
    }

    // sums: [Sums][images][channels], or null if there are none.
    int operator()(int threads, double* sums) {
        const int64_t items = lines.count * lines.runs, line = Op::Sums * lines.width;
        const int64_t share = (scratch() + 15) / 16 * 16;
        float* const memory = static_cast<float*>(malloc(size_t(share * threads) * sizeof(float)));
        partial = static_cast<double*>(malloc(size_t(items * line + 1) * sizeof(double)));
        if (memory && partial) {
#pragma omp parallel for schedule(static, 1) num_threads(threads) if (threads > 1)
            for (int t = 0; t < threads; ++t)
                for (int64_t item = items * t / threads; item < items * (t + 1) / threads; ++item)
                    run(item, memory + t * share);
            for (int64_t n = 0; n < lines.count; ++n)
                for (int kind = 0; kind < Op::Sums; ++kind)
                    for (int64_t j = 0; j < lines.width; ++j) {
                        const double* from = partial + n * lines.runs * line + kind * lines.width + j;
                        double sum = 0;
                        for (int64_t r = 0; r < lines.runs; ++r) sum += from[r * line];
                        sums[(kind * lines.count + n) * lines.width + j] = sum;
                    }
        }
        const int status = memory && partial ? BZ_OK : BZ_NO_MEMORY;
        free(memory);
        free(partial);
        return status;
    }
};

}  // namespace BZ_NS
}  // namespace bz
