// The distribution-adaptive binarizer in one call: for small maps, what stands between the passes costs more than they.
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "checks.h"

using namespace bz;

namespace {

// Limits of binarize/functional/dab.py: finite inputs give finite scales, whatever their sums are.
constexpr float kLargestStatistic = 1e18f, kLargestExponent = 22.0f;

// NaN stays NaN, which fminf and fmaxf would make a number of.
float limited(float statistic) {
    if (statistic > kLargestStatistic) return kLargestStatistic;
    return statistic < -kLargestStatistic ? -kLargestStatistic : statistic;
}

float scale_of(float exponent) { return expf(exponent > kLargestExponent ? kLargestExponent : exponent); }

// The mean of a channel whose sum is NaN because parts of it overflowed to both infinities: NaN if a value is.
float mean_of(const bz_plane_shape& shape, const bz_map& x, int64_t n, int64_t c) {
    double sum = 0.0;
    for (int64_t row = 0; row < shape.height; ++row)
        for (int64_t pixel = 0; pixel < shape.width; ++pixel)
            sum += x.data[n * x.image + row * x.row + pixel * x.pixel + c];
    return float(sum / (double(shape.height) * shape.width));
}

}  // namespace

extern "C" int bz_pack_dab(int isa, int threads, const bz_plane_shape* shape, const bz_map* x,
                           const bz_resize* resize, const bz_dab* dab, const float* sums, uint32_t* plane,
                           float* scratch, float* scales) {
    if (threads < 1 || !good_plane(shape) || !x || !x->data || x->channel != 1 || !good_resize(resize))
        return BZ_BAD_ARGUMENT;
    if (!dab || !plane || !scratch || ((dab->a || dab->plain) && !scales)) return BZ_BAD_ARGUMENT;
    const Kernels* kernels = kernels_of(isa);
    if (!kernels) return BZ_NO_ISA;
    const int64_t channels = shape->channels, images = shape->images;
    const float positions = float(int64_t(shape->height) * shape->width);
    float *add = scratch, *deviation = scratch + images * channels;
    if (dab->k) {
        const int status = sums ? BZ_OK : kernels->sums(threads, *shape, *x, resize, add);
        if (status != BZ_OK) return status;
        if (sums) memcpy(add, sums, sizeof(float) * size_t(images * channels));
    }
    for (int64_t n = 0; n < images; ++n)
        for (int64_t c = 0; c < channels; ++c) {
            float mean = dab->k ? add[n * channels + c] / positions : 0.0f;
            if (mean != mean && !resize) mean = mean_of(*shape, *x, n, c);
            float threshold = dab->k ? dab->k[c] * limited(mean) : 0.0f;
            if (dab->b) threshold += dab->b[c];
            add[n * channels + c] = -threshold;
        }
    const bool shifted = dab->k || dab->b, scaled = dab->a || dab->plain;
    const int status = kernels->pack(threads, *shape, *x, resize, nullptr, shifted ? add : nullptr, channels, plane,
                                     scaled ? deviation : nullptr);
    if (status != BZ_OK || !scaled) return status;
    for (int64_t n = 0; n < images; ++n) {
        double whole = 0.0;
        for (int64_t c = 0; c < channels; ++c) {
            const float mean = deviation[n * channels + c] / positions;
            if (dab->layer)
                whole += mean;
            else
                scales[n * channels + c] = dab->plain ? limited(mean) : scale_of(dab->a[c] * (limited(mean) - 1.0f));
        }
        if (dab->layer) {
            const float mean = limited(float(whole / double(channels)));
            scales[n] = dab->plain ? mean : scale_of(dab->a[0] * (mean - 1.0f));
        }
    }
    return BZ_OK;
}
