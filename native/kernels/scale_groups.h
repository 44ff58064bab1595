// Scales for groups of neighbouring channels: a group's mismatches are counted as those of a layer, and its sums, whole
// numbers, are scaled before they are added, in floats and in the order of the groups.
#pragma once

#include "sums.h"

namespace bz {
namespace BZ_NS {

// The bases of all groups, [classes][groups][padded], from those that have only the taps outside (`channels` 0).
[[maybe_unused]] static void add_products(Border& b, const bz_conv_shape& s, int64_t padded) {
    const int groups = bz_scale_groups(s);
    for (int64_t c = 0; c < b.classes; ++c)
        for (int g = 0; g < groups; ++g) {
            const int last = g + 1 == groups ? s.input.channels : 32 * bz_scale_word(s, g + 1);
            const int32_t products = (last - 32 * bz_scale_word(s, g)) * b.taps[c];
            int32_t* const base = b.base + c * b.length + g * padded;
            for (int64_t o = 0; o < padded; ++o) base[o] += products;
        }
}

// sums = or += scale * (base - 2 * mismatches), of `outputs` neighbouring outputs and those up to a whole vector.
template <class Count>
BZ_INLINE void add_scaled(float* sums, const Sums<Count>& of_group, float scale, int outputs, bool first) {
    const Floats factor = splat(scale);
    for (int j = 0; j < outputs; j += kLanes) {
        const Floats scaled = of_group(j) * factor;
        store(sums + j, first ? scaled : load<Floats>(sums + j) + scaled);
    }
}

struct ScaledSums {
    const float* sums;
    inline __attribute__((always_inline)) Floats operator()(int j) const { return load<Floats>(sums + j); }
};

template <int Outputs>
struct ScaledSumsOfLine {
    static constexpr int kMost = kAnyNumber;
    const float (*sums)[Outputs];  // of position x0
    int64_t x0;
    inline __attribute__((always_inline)) ScaledSums operator()(int64_t x) const { return {sums[x - x0]}; }
    bool alike(int64_t, int) const { return true; }
    inline __attribute__((always_inline)) ScaledSums beside(const ScaledSums& first, int64_t i) const {
        return {first.sums + i * Outputs};
    }
};

}  // namespace BZ_NS
}  // namespace bz
