// Scales for groups of neighbouring channels: a group's mismatches are counted as those of a layer, and its sums are
// scaled before they are added, in floats and in the order of the groups.
//
// sum = sum over g of scale[g] * (base[g] - 2 * mismatches[g]); all terms without mismatches are added up once per
// image and class of border.
#pragma once

#include "walk.h"
#include "sums.h"

namespace bz {
namespace BZ_NS {

struct ScaleGroups {
    int count;            // 0: none
    const float* scales;  // [images][count]
    float* base;          // [images][classes][padded outputs]; to be freed
    int64_t padded;
};

// counts: [taps][groups][padded]. Returns a bz_status.
static int take_scale_groups(ScaleGroups& to, const bz_conv_shape& s, const float* scales, const int32_t* counts,
                             int64_t padded) {
    to = {bz_scale_groups(s), scales, nullptr, padded};
    const int64_t length = to.count * padded, images = s.input.images;
    Border border;
    const int status = make_border(border, s, counts, 0, length);
    if (status != BZ_OK) return status;
    to.base = static_cast<float*>(calloc(size_t(images * border.classes * padded), sizeof(float)));
    for (int64_t i = 0; to.base && i < images * border.classes; ++i)
        for (int g = 0; g < to.count; ++g) {
            const int64_t c = i % border.classes;
            const int last = g + 1 == to.count ? s.input.channels : 32 * bz_scale_word(s, g + 1);
            const int32_t products = (last - 32 * bz_scale_word(s, g)) * border.taps[c];
            const float scale = scales[i / border.classes * to.count + g];
            const int32_t* const outside = border.base + c * length + g * padded;
            for (int64_t o = 0; o < padded; ++o) to.base[i * padded + o] += scale * float(products + outside[o]);
        }
    free(border.memory);
    return to.base ? BZ_OK : BZ_NO_MEMORY;
}

// sums -= 2 * scale * mismatches, of `outputs` (a multiple of kLanes) neighbouring outputs.
template <class Count>
BZ_INLINE void subtract_scaled(float* sums, const Count* mismatches, float scale, int outputs) {
    const Floats twice = splat(2 * scale);
    for (int j = 0; j < outputs; j += kLanes)
        store(sums + j, load<Floats>(sums + j) - __builtin_convertvector(widen(mismatches + j), Floats) * twice);
}

struct ScaledSums {
    const float* sums;
    inline __attribute__((always_inline)) Floats operator()(int j) const { return load<Floats>(sums + j); }
};

template <int Outputs>
struct ScaledSumsOfLine {
    const float (*sums)[Outputs];  // of position x0
    int64_t x0;
    inline __attribute__((always_inline)) ScaledSums operator()(int64_t x) const { return {sums[x - x0]}; }
};

}  // namespace BZ_NS
}  // namespace bz
