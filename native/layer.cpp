// A layer as a step of a program.
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

// Words of the plane, of a dab's scratch and scales, and of mul and offset of a depthwise layer with scales.
int64_t scratch_words(const bz_plane_shape& in) {
    const int64_t words = bz_plane_words(&in);
    return words < 0 ? -1 : words + 5 * int64_t(in.images) * in.channels;
}

// Scales of a depthwise layer as factors: [2][channels] at `to`.
void scale_depthwise(bz_epilogue& e, const float* scales, int64_t channels, float* to) {
    float *const mul = to, *const offset = to + channels;
    for (int64_t c = 0; c < channels; ++c) {
        mul[c] = e.mul ? e.mul[c] * scales[c] : scales[c];
        offset[c] = e.offset ? e.offset[c] * scales[c] : 0.0f;
    }
    e.mul = mul;
    if (e.offset) e.offset = offset;
}

// Of one image, from those of groups.
const float* channel_scales(const bz_plane_shape& in, int32_t groups, const float* scales, float* to) {
    for (int32_t g = 0; g < groups; ++g)
        for (int64_t c = scale_group_begin(in, groups, g); c < scale_group_begin(in, groups, g + 1); ++c)
            to[c] = scales[g];
    return to;
}

int run(int isa, int threads, const bz_layer_step& s, uint32_t* memory) {
    const bz_layer& layer = *s.layer;
    const bz_plane_shape& in = layer.conv.input;
    const bz_dab* const dab = layer.dab;
    const int64_t channels = int64_t(in.images) * in.channels;
    const bool scaled = dab && (dab->a || dab->plain), per_channel = scaled && !dab->groups;
    float* const scratch = reinterpret_cast<float*>(memory + bz_plane_words(&in));
    float* const scales = scratch + 2 * channels;
    bz_map map = layer.x;
    map.data = const_cast<float*>(s.x);
    const bz_resize* const resize = s.resize.height ? &s.resize : nullptr;
    int status = BZ_OK;
    if (!s.plane)
        status = dab ? bz_pack_dab(isa, threads, &in, &map, resize, dab, s.sums_of_x, memory, scratch, scales)
                     : bz_pack(isa, threads, &in, &map, resize, layer.mul, layer.add, 0, memory, nullptr);

    bz_epilogue e = layer.epilogue;
    e.bypass.data = const_cast<float*>(s.bypass);
    e.residual = s.residual;
    e.out.data = s.out;
    e.sums = s.sums;
    e.tail = s.tail;
    e.bits = s.bits;
    e.sample_scale = scaled && !per_channel ? scales : nullptr;
    if (status == BZ_OK && layer.kind == BZ_LAYER_SCALED && !finite(scales, channels)) status = BZ_NOT_FINITE;
    if (status == BZ_OK && layer.kind == BZ_LAYER_DEPTHWISE && scaled && dab->groups != 1) {
        const float* of_channels = scales;
        if (dab->groups) of_channels = channel_scales(in, dab->groups, scales, scratch);
        scale_depthwise(e, of_channels, channels, scales + channels);
        e.sample_scale = nullptr;
    }
    return status == BZ_OK ? convolve(isa, threads, layer, s.plane ? s.plane : memory, scales, e) : status;
}

}  // namespace

namespace bz {

int layer_step(int isa, int threads, const bz_layer_step* step) {
    if (!step) return BZ_BAD_ARGUMENT;
    const bz_layer_step& s = *step;
    const bz_layer* const layer = s.layer;
    if (!layer || layer->kind < BZ_LAYER_CONV || layer->kind > BZ_LAYER_SCALED) return BZ_BAD_ARGUMENT;
    const bz_plane_shape& in = layer->conv.input;
    const bz_dab* const dab = layer->dab;
    const int64_t words = scratch_words(in);
    if (words < 0 || (s.plane && dab)) return BZ_BAD_ARGUMENT;
    const bool scaled = dab && (dab->a || dab->plain), per_channel = scaled && !dab->groups;
    if ((layer->kind == BZ_LAYER_SCALED) != (per_channel && layer->kind != BZ_LAYER_DEPTHWISE)) return BZ_BAD_ARGUMENT;
    const bool several = scaled && dab->groups != 1;  // scales per image
    if (several && layer->kind == BZ_LAYER_DEPTHWISE && in.images != 1) return BZ_BAD_ARGUMENT;
    const int32_t groups = several && layer->kind == BZ_LAYER_CONV ? dab->groups : 1;
    if (bz_scale_groups(layer->conv) != groups) return BZ_BAD_ARGUMENT;
    if (s.scratch || s.plane) return run(isa, threads, s, static_cast<uint32_t*>(s.scratch));
    uint32_t* const memory = static_cast<uint32_t*>(malloc(sizeof(uint32_t) * size_t(words)));
    if (!memory) return BZ_NO_MEMORY;
    const int status = run(isa, threads, s, memory);
    free(memory);
    return status;
}

}  // namespace bz

extern "C" int64_t bz_layer_scratch(const bz_layer* layer) {
    const int64_t words = layer ? scratch_words(layer->conv.input) : -1;
    return words < 0 ? -1 : words * int64_t(sizeof(uint32_t));
}
