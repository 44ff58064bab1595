// The distribution-adaptive binarizer in one call: for small maps, what stands between the passes costs more than they.
#include <stddef.h>
#include <string.h>

#include "checks.h"
#include "dab.h"

using namespace bz;

namespace {

float value(const bz_map& x, int64_t i) {
    if (!x.bf16) return x.data[i];
    const uint32_t word = uint32_t(reinterpret_cast<const uint16_t*>(x.data)[i]) << 16;
    float found;
    memcpy(&found, &word, sizeof found);
    return found;
}

// The mean of a channel whose sum is NaN because parts of it overflowed to both infinities: NaN if a value is.
float mean_of(const bz_plane_shape& shape, const bz_map& x, int64_t n, int64_t c) {
    double sum = 0.0;
    for (int64_t row = 0; row < shape.height; ++row)
        for (int64_t pixel = 0; pixel < shape.width; ++pixel)
            sum += value(x, n * x.image + row * x.row + pixel * x.pixel + c);
    return float(sum / (double(shape.height) * shape.width));
}

}  // namespace

namespace bz {

int64_t scale_group_begin(const bz_plane_shape& shape, int32_t groups, int32_t g) {
    return g == groups ? shape.channels : int64_t(32) * bz_scale_word(bz_ceil_div(shape.channels, 32), groups, g);
}

}  // namespace bz

extern "C" int bz_pack_dab(int isa, int threads, const bz_plane_shape* shape, const bz_map* x,
                           const bz_resize* resize, const bz_dab* dab, const float* sums, uint32_t* plane,
                           float* scratch, float* scales) {
    if (threads < 1 || !good_plane(shape) || !x || !x->data || x->channel != 1 || !good_resize(resize))
        return BZ_BAD_ARGUMENT;
    if (!dab || !plane || !scratch || ((dab->a || dab->plain) && !scales)) return BZ_BAD_ARGUMENT;
    const bool grouped = dab->groups > 1;
    if (dab->groups < 0 || (grouped && (shape->groups > 1 || dab->groups > bz_ceil_div(shape->channels, 32))))
        return BZ_BAD_ARGUMENT;
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
        const float* const sums_of = deviation + n * channels;
        const auto scale = [&](float mean, int64_t i) {
            mean = limited(mean);
            return dab->plain ? mean : scale_of(dab->a[i] * (mean - 1.0f));
        };
        if (!dab->groups)
            for (int64_t c = 0; c < channels; ++c) scales[n * channels + c] = scale(sums_of[c] / positions, c);
        for (int32_t g = 0; g < dab->groups; ++g) {
            const int64_t first = scale_group_begin(*shape, dab->groups, g);
            const int64_t end = scale_group_begin(*shape, dab->groups, g + 1);
            double whole = 0.0;
            for (int64_t c = first; c < end; ++c) whole += sums_of[c] / positions;
            scales[n * dab->groups + g] = scale(float(whole / double(end - first)), g);
        }
    }
    return BZ_OK;
}
