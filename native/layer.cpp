// A layer in one call.
#include <stdlib.h>
#include <string.h>

#include "checks.h"

using namespace bz;

namespace {

bool finite(const float* x, int64_t count) {
    bool all = true;
    for (int64_t i = 0; i < count; ++i) all &= x[i] - x[i] == 0.0f;
    return all;
}

int convolve(int isa, int threads, const bz_layer& l, const uint32_t* plane, float* scales, const bz_epilogue& e) {
    switch (l.kind) {
        case BZ_LAYER_SCALED:
            return bz_conv_scaled(isa, threads, &l.conv, plane, static_cast<const uint16_t*>(l.words), scales, l.exact,
                                  &e);
        case BZ_LAYER_DEPTHWISE:
            return bz_depthwise(isa, threads, &l.conv, plane, static_cast<const uint32_t*>(l.words), l.counts, &e);
        default:
            return bz_conv(isa, threads, &l.conv, plane, static_cast<const uint32_t*>(l.words), l.counts, &e);
    }
}

}  // namespace

extern "C" int bz_layer_run(int isa, int threads, const bz_layer* layer, const float* x, const float* sums_of_x,
                            const float* bypass, float* out, float* sums) {
    if (!layer || layer->kind < BZ_LAYER_CONV || layer->kind > BZ_LAYER_SCALED) return BZ_BAD_ARGUMENT;
    const bz_plane_shape& in = layer->conv.input;
    const bz_dab* const dab = layer->dab;
    const int64_t words = bz_plane_words(&in);
    if (words < 0) return BZ_BAD_ARGUMENT;
    const int64_t channels = int64_t(in.images) * in.channels;
    const bool scaled = dab && (dab->a || dab->plain), per_channel = scaled && !dab->layer;
    if ((layer->kind == BZ_LAYER_SCALED) != (per_channel && layer->kind != BZ_LAYER_DEPTHWISE)) return BZ_BAD_ARGUMENT;
    if (per_channel && layer->kind == BZ_LAYER_DEPTHWISE && in.images != 1) return BZ_BAD_ARGUMENT;

    // the plane; a dab's scratch and scales; mul and offset of a depthwise layer with scales
    uint32_t* const plane = static_cast<uint32_t*>(malloc(sizeof(float) * size_t(words + 5 * channels)));
    if (!plane) return BZ_NO_MEMORY;
    float* const scratch = reinterpret_cast<float*>(plane + words);
    float* const scales = scratch + 2 * channels;
    bz_map map = layer->x;
    map.data = const_cast<float*>(x);
    int status = dab ? bz_pack_dab(isa, threads, &in, &map, nullptr, dab, sums_of_x, plane, scratch, scales)
                     : bz_pack(isa, threads, &in, &map, nullptr, layer->mul, layer->add, 0, plane, nullptr);

    bz_epilogue e = layer->epilogue;
    e.bypass.data = const_cast<float*>(bypass);
    e.out.data = out;
    e.sums = sums;
    e.sample_scale = scaled && !per_channel ? scales : nullptr;
    if (status == BZ_OK && layer->kind == BZ_LAYER_SCALED && !finite(scales, channels)) status = BZ_NOT_FINITE;
    if (status == BZ_OK && layer->kind == BZ_LAYER_DEPTHWISE && per_channel) {
        float *const mul = scales + channels, *const offset = mul + channels;
        for (int64_t c = 0; c < channels; ++c) {
            mul[c] = e.mul ? e.mul[c] * scales[c] : scales[c];
            offset[c] = e.offset ? e.offset[c] * scales[c] : 0.0f;
        }
        e.mul = mul;
        if (e.offset) e.offset = offset;
    }
    if (status == BZ_OK) status = convolve(isa, threads, *layer, plane, scales, e);
    free(plane);
    return status;
}
